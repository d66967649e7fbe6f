"""``/networks``: the swarm's networks, to read. Making and removing them comes with the overlay."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from manager.api import requests
from manager.api.context import Api
from manager.api.lookup import find
from swarmpy.errors import NotFound
from swarmpy.model.objects import Kind, Network

FILTERS = frozenset({"id", "name", "label", "driver", "scope", "type", "dangling"})


class Networks:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.get("/networks", self.list), web.get("/networks/{id}", self.inspect))

    async def list(self, request: web.Request) -> web.StreamResponse:
        wanted = requests.filters(request, FILTERS)
        if self._api.control.cluster() is None:
            return self._api.answer([])
        view = await self._api.read(request)
        networks = [
            network
            for network in view.all(Kind.NETWORK)
            if isinstance(network, Network) and _is_wanted(network, wanted)
        ]
        return await self._api.answer_list(networks, self._api.shapes.network)

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        reference = request.match_info["id"]
        if self._api.control.cluster() is None:
            raise NotFound(f"network {reference} not found")
        view = await self._api.read(request)
        return self._api.answer(self._api.shapes.network(find(view, Network, reference)))


def _is_wanted(network: Network, wanted: requests.Filters) -> bool:
    spec = network.spec
    return (
        requests.matches(wanted, "id", network.id.startswith)
        and requests.matches(wanted, "name", lambda name: name in spec.name)
        and requests.matches(wanted, "scope", lambda scope: scope == (spec.scope or "swarm"))
        and requests.matches_labels(wanted, "label", spec.labels)
    )
