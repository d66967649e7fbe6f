"""``/networks``: list, create, inspect, remove, prune; connect and disconnect running tasks.

A node outside of a swarm, or a worker, has the predefined networks alone.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from aiohttp import web

from manager.api import network_joins, network_plan, network_shapes, predefined, requests
from manager.api.container_refs import find_container
from manager.api.context import Api
from manager.api.docker_json import Json
from manager.api.lookup import find
from manager.api.network_joins import ContainerRequest, Joining
from manager.api.network_plan import NetworkRequest
from manager.api.predefined import PREDEFINED, Predefined, find_predefined
from manager.api.streams import parse_moment
from manager.store.view import View
from swarmpy.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Rejected,
)
from swarmpy.limits import NETWORK_RELEASE_S
from swarmpy.model import quantities
from swarmpy.model.changes import Change
from swarmpy.model.ids import NetworkId, Timestamp
from swarmpy.model.objects import Network, Task

FILTERS: Final = frozenset({"id", "name", "label", "driver", "scope", "type", "dangling"})
PRUNE_FILTERS: Final = frozenset({"label", "label!", "until"})
_TYPES: Final = frozenset({"custom", "builtin"})
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}
_GO_FLAG: Final = re.compile(r"1|t|T|TRUE|true|True|0|f|F|FALSE|false|False")


class Networks:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._joining = Joining(api)

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/networks", self.list),
            web.post("/networks/create", self.create),
            web.post("/networks/prune", self.prune),
            web.get("/networks/", self.list),
            web.get("/networks/{id:.+}", self.inspect),
            web.delete("/networks/{id:.+}", self.remove),
            web.post("/networks/{id}/connect", self.connect),
            web.post("/networks/{id}/disconnect", self.disconnect),
        )

    async def list(self, request: web.Request) -> web.StreamResponse:
        wanted = requests.filters(request, FILTERS)
        is_dangling = _checked(wanted)
        shapes: list[Json] = []
        if self._api.control.cluster() is not None:
            view = await self._api.read(request)
            unused = None if is_dangling is None else {item.id for item in network_plan.unused(view)}
            shapes = [
                network_shapes.network(item)
                for item in view.networks()
                if unused is None or (item.id in unused) is is_dangling
            ]
        if not is_dangling:
            shapes += [predefined.shape(each) for each in PREDEFINED.values()]
        return await self._api.answer_list([each for each in shapes if _is_wanted(each, wanted)], _same)

    async def create(self, request: web.Request) -> web.StreamResponse:
        wish = await requests.read_body(request, NetworkRequest)
        self._api.cluster()
        network_id = self._api.new_id()

        def plan(view: View) -> tuple[Change, ...]:
            return network_plan.create(view, wish, network_id)

        await self._api.decide(plan)
        return self._api.answer({"Id": network_id, "Warning": ""}, status=201)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        verbose = request.query.get("verbose", "")
        if verbose and not _GO_FLAG.fullmatch(verbose):
            raise InvalidArgument(
                f"invalid value for verbose: {verbose}: "
                f'strconv.ParseBool: parsing "{verbose}": invalid syntax'
            )
        reference, scope = request.match_info["id"], request.query.get("scope", "")
        found = await self._find(request, reference, scope=scope)
        if isinstance(found, Predefined):
            return self._api.answer(predefined.shape(found, scope=scope or "local"))
        view = self._api.cluster().view
        node_id = self._api.control.local().node_id
        is_verbose = verbose[:1] in ("1", "t", "T")
        return self._api.answer(network_shapes.inspected(view, found, node_id=node_id, is_verbose=is_verbose))

    async def remove(self, request: web.Request) -> web.StreamResponse:
        reference = request.match_info["id"]
        found = await self._find(request, reference)
        if isinstance(found, Predefined):
            raise PermissionDenied(f"{found.name} is a pre-defined network and cannot be removed")

        def plan(view: View) -> tuple[Change, ...]:
            return network_plan.remove(view, find(view, Network, found.id))

        await self._released(found.id)
        await self._api.decide(plan)
        return web.Response(status=204)

    async def _released(self, id_: NetworkId) -> None:
        """Tasks of services that are gone let go of it within moments: ``docker stack rm`` removes networks
        right behind the services. If the leader does not get to it, the tasks are in the way after all."""
        access = self._api.cluster()
        with access.watch() as watch, suppress(TimeoutError):
            async with asyncio.timeout(NETWORK_RELEASE_S):
                while network_plan.is_being_released(access.view, id_):
                    watch.take()
                    await watch.wait()

    async def prune(self, request: web.Request) -> web.StreamResponse:
        """Each for itself: a network that is taken into use meanwhile stays."""
        wanted = requests.filters(request, PRUNE_FILTERS)
        until = [self._moment(text) for text in wanted.get("until", ())]
        if len(until) > 1:
            raise InvalidArgument("more than one until filter specified")
        view = await self._api.read(request)
        removed = []
        for network in network_plan.unused(view):
            labels = network.spec.labels
            if not requests.matches_labels(wanted, "label", labels):
                continue
            if "label!" in wanted and requests.matches_labels(wanted, "label!", labels):
                continue
            if any(network.created_at >= moment for moment in until):
                continue
            try:
                await self._api.commit(network_plan.remove(view, network))
            except Rejected:
                continue
            removed.append(network.spec.name)
        return self._api.answer({"NetworksDeleted": removed or None})

    def _moment(self, text: str) -> Timestamp:
        """``10m`` ago, or a moment."""
        try:
            return Timestamp(self._api.now() - quantities.duration_ns(text))
        except InvalidArgument:
            pass
        try:
            return parse_moment(text) or Timestamp(0)
        except InvalidArgument:
            raise InvalidArgument(f'failed to parse value as time or duration: "{text}"') from None

    # --- running tasks

    async def connect(self, request: web.Request) -> web.StreamResponse:
        wish, found, task = await self._pair(request)
        network = network_joins.check_attachable(found)
        place = network_joins.wish_of(network, wish.endpoint_config)
        await self._joining.connect(task.id, network, place)
        return web.Response()

    async def disconnect(self, request: web.Request) -> web.StreamResponse:
        wish, found, task = await self._pair(request)
        await self._joining.disconnect(task.id, found, is_forced=wish.force)
        return web.Response()

    async def _pair(self, request: web.Request) -> tuple[ContainerRequest, Network | Predefined, Task]:
        wish = await requests.read_body(request, ContainerRequest)
        if not wish.container:
            raise InvalidArgument('invalid name or ID supplied: ""')
        view = await self._api.read(request)
        container = find_container(view, wish.container, here=self._api.control.local().node_id)
        found = await self._find(request, request.match_info["id"])
        if isinstance(found, Predefined) and found.name == "host":
            raise InvalidArgument(
                "container cannot be disconnected from host network or connected to host network"
            )
        if container.task is None:
            raise AlreadyExists(f"Container {container.id} is not running")
        return wish, found, container.task

    async def _find(self, request: web.Request, reference: str, *, scope: str = "") -> Network | Predefined:
        """By id, name, or the unique beginning of an id; the swarm's own first."""
        own = find_predefined(reference)
        if own is not None and own.is_in(scope):
            return own
        if self._api.control.cluster() is not None:
            network = find(await self._api.read(request), Network, reference)
            if scope in ("", network.spec.scope or "swarm"):
                return network
        raise NotFound(f"network {reference} not found")


def _same(shape: Json) -> Json:
    return shape


def _checked(wanted: requests.Filters) -> bool | None:
    """Whether dangling networks alone are wanted, or alone not; None for both."""
    for value in wanted.get("type", ()):
        if value not in _TYPES:
            raise InvalidArgument(f"invalid filter: 'type'='{value}'")
    chosen = set()
    for value in wanted.get("dangling", ()):
        if value not in _FLAGS:
            raise InvalidArgument(
                'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")'
            )
        chosen.add(_FLAGS[value])
    if len(wanted.get("dangling", ())) > 1:
        raise InvalidArgument('got more than one value for filter key "dangling"')
    return chosen.pop() if len(chosen) == 1 else None


def _is_wanted(shape: Json, wanted: requests.Filters) -> bool:
    kind = "builtin" if shape["Scope"] == "local" and shape["Name"] in PREDEFINED else "custom"
    return (
        requests.matches(wanted, "id", shape["Id"].startswith)
        and requests.matches(wanted, "name", lambda name: _is_like(shape["Name"], name))
        and requests.matches(wanted, "driver", lambda driver: driver == shape["Driver"])
        and requests.matches(wanted, "scope", lambda scope: scope == shape["Scope"])
        and requests.matches(wanted, "type", lambda type_: type_ == kind)
        and requests.matches_labels(wanted, "label", shape["Labels"] or {})
    )


def _is_like(name: str, pattern: str) -> bool:
    """Part of the name; ``^`` and ``$`` hold it to the ends."""
    text = pattern.removeprefix("^").removesuffix("$")
    if pattern.startswith("^") and pattern.endswith("$"):
        return name == text
    if pattern.startswith("^"):
        return name.startswith(text)
    return name.endswith(text) if pattern.endswith("$") else text in name
