"""``/system/df``: what images, containers and volumes of this node take on its disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from aiohttp import web

from manager.api import image_shapes, requests
from manager.api.containers import Containers
from manager.api.context import Api
from manager.api.docker_json import Json
from manager.api.volumes import shape_of
from swarmpy.errors import InvalidArgument
from swarmpy.model.volumes import VOLUME_LIST, VolumeAnswer, VolumeQuery

_TYPES: Final[tuple[str, ...]] = ("container", "image", "volume", "build-cache")
_TYPES_SINCE: Final = (1, 42)
_BUILDER_SIZE_UNTIL: Final = (1, 41)


class DiskUsage:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._containers = Containers(api)

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.get("/system/df", self.usage),)

    async def usage(self, request: web.Request) -> web.StreamResponse:
        version = requests.api_version(request)
        types = _TYPES
        if version >= _TYPES_SINCE and (asked := request.query.getall("type", [])):
            unknown = next((name for name in asked if name not in _TYPES), None)
            if unknown is not None:
                raise InvalidArgument(f"unknown object type: {unknown}")
            types = tuple(asked)
        store = self._api.control.image_store
        images = await store.list()
        shape: Json = {}
        if "image" in types:
            shape["LayersSize"] = await store.usage()
            shape["Images"] = [
                image_shapes.summary(image, version, is_shared_size=True, users=len(image.users))
                for image in images
            ]
        if "container" in types:
            shape["Containers"] = await self._containers_of(request)
        if "volume" in types:
            shape["Volumes"] = await self._volumes()
        if "build-cache" in types:
            shape["BuildCache"] = None  # nothing is built here
        if version <= _BUILDER_SIZE_UNTIL:
            shape["BuilderSize"] = 0
        return self._api.answer(shape)

    async def _containers_of(self, request: web.Request) -> Sequence[Json]:
        """None on a node that has no store to find them in."""
        if self._api.control.cluster() is None:
            return []
        return await self._containers.with_sizes(await self._api.read(request))

    async def _volumes(self) -> list[Json]:
        query = msgspec.json.encode(VolumeQuery(is_measured=True))
        answer = await self._api.control.volume_call(VOLUME_LIST, query)
        found = msgspec.json.decode(answer, type=VolumeAnswer)
        return [
            {
                **shape_of(volume),
                "UsageData": {
                    "RefCount": found.counts.get(volume.name, 0),
                    "Size": found.sizes.get(volume.name, -1),
                },
            }
            for volume in found.volumes
        ]
