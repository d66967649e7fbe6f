"""``/volumes``: the named volumes of one node; the daemon's own, or with ``?node=`` (ours) any other.

Volumes are their node's, not the cluster's: nothing of them is in the store but what nodes report, so every
request is a call to the node that is meant. Cluster volumes (CSI) have an object model and no more yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec
from aiohttp import web

from manager.api import requests
from manager.api.context import Api
from manager.api.docker_json import Json, rfc3339
from manager.api.lookup import find
from swarmpy.errors import InvalidArgument, Unimplemented
from swarmpy.model.objects import Node, NodeVolume
from swarmpy.model.volumes import (
    VOLUME_CREATE,
    VOLUME_INSPECT,
    VOLUME_LIST,
    VOLUME_PRUNE,
    VOLUME_REMOVE,
    VolumeAnswer,
    VolumeQuery,
    VolumeRequest,
)

FILTERS: Final = frozenset({"dangling", "driver", "label", "name"})
PRUNE_FILTERS: Final = frozenset({"label", "label!", "all"})
NO_CLUSTER_VOLUMES: Final = (
    "cluster volumes (CSI) are not supported yet: create a volume of the driver local on each node"
)
_PRUNE_KEEPS_NAMED_SINCE: Final = (1, 42)
_TRUE: Final = ("1", "true")
_FALSE: Final = ("0", "false")


class Volumes:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/volumes", self.list),
            web.post("/volumes/create", self.create),
            web.post("/volumes/prune", self.prune),
            web.get("/volumes/{name:.+}", self.inspect),
            web.delete("/volumes/{name:.+}", self.remove),
            web.put("/volumes/{name:.+}", self.update),
        )

    async def list(self, request: web.Request) -> web.StreamResponse:
        wanted = requests.filters(request, FILTERS)
        _check_dangling(wanted)
        found = await self._call(request, VOLUME_LIST, VolumeQuery())
        chosen = [volume for volume in found.volumes if _is_wanted(volume, wanted, found.used)]
        return self._api.answer({"Volumes": [shape_of(volume) for volume in chosen], "Warnings": None})

    async def create(self, request: web.Request) -> web.StreamResponse:
        wish = await requests.read_body(request, VolumeRequest)
        if wish.cluster_volume_spec is not None:
            raise Unimplemented(NO_CLUSTER_VOLUMES)
        made = await self._call(request, VOLUME_CREATE, wish)
        return self._api.answer(shape_of(made.volumes[0]), status=201)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        found = await self._call(request, VOLUME_INSPECT, VolumeQuery(name=request.match_info["name"]))
        return self._api.answer(shape_of(found.volumes[0]))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        query = VolumeQuery(name=request.match_info["name"], is_forced=requests.flag(request, "force"))
        await self._call(request, VOLUME_REMOVE, query)
        return web.Response(status=204)

    async def prune(self, request: web.Request) -> web.StreamResponse:
        wanted = requests.filters(request, PRUNE_FILTERS)
        is_all = any(value.lower() in _TRUE for value in wanted.get("all", ()))
        query = VolumeQuery(
            is_all=is_all or _is_older_client(request),
            labels=wanted.get("label", ()),
            no_labels=wanted.get("label!", ()),
        )
        done = await self._call(request, VOLUME_PRUNE, query)
        return self._api.answer({"VolumesDeleted": [*done.removed], "SpaceReclaimed": done.size_bytes})

    async def update(self, request: web.Request) -> web.StreamResponse:
        raise Unimplemented(NO_CLUSTER_VOLUMES)

    async def _call(self, request: web.Request, name: str, body: VolumeQuery | VolumeRequest) -> VolumeAnswer:
        """On the node that is meant: this one, unless the client names another."""
        data = msgspec.json.encode(body)
        reference = request.query.get("node", "")
        if not reference:
            return _answer(await self._api.control.volume_call(name, data))
        node = find(await self._api.read(request), Node, reference)
        if node.id == self._api.control.local().node_id:
            return _answer(await self._api.control.volume_call(name, data))
        return _answer(await self._api.streams.call(node.id, name, data))


def _answer(data: bytes) -> VolumeAnswer:
    return msgspec.json.decode(data, type=VolumeAnswer)


def _check_dangling(wanted: requests.Filters) -> None:
    values = wanted.get("dangling", ())
    if any(value.lower() not in (*_TRUE, *_FALSE) for value in values):
        raise InvalidArgument(f"invalid filter 'dangling=[{' '.join(values)}]'")


def _is_wanted(volume: NodeVolume, wanted: requests.Filters, used: tuple[str, ...]) -> bool:
    def dangles(value: str) -> bool:
        return (volume.name not in used) == (value.lower() in _TRUE)

    return (
        requests.matches(wanted, "dangling", dangles)
        and requests.matches(wanted, "driver", lambda value: volume.driver == value)
        and requests.matches(wanted, "name", lambda value: value in volume.name)
        and requests.matches_labels(wanted, "label", volume.labels)
    )


def _is_older_client(request: web.Request) -> bool:
    """Clients before API 1.42 mean every volume that is not in use."""
    match = re.fullmatch(r"(\d+)\.(\d+)", request.match_info.get("version", ""))
    return match is not None and (int(match[1]), int(match[2])) < _PRUNE_KEEPS_NAMED_SINCE


def shape_of(volume: NodeVolume) -> Json:
    return {
        "CreatedAt": rfc3339(volume.created_at),
        "Driver": volume.driver,
        "Labels": volume.labels or None,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": volume.options or None,
        "Scope": "local",
    }
