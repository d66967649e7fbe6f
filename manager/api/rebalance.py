"""``POST /swarmpy/services/{id}/rebalance``: spread a service's tasks evenly, once.

It only records the wish; the leader moves the tasks one by one and takes the wish back when nothing is left
to gain. How it stands is told by the service's ``Rebalance``.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from msgspec.structs import replace

from manager.api import texts
from manager.api.context import Api
from manager.api.lookup import find
from manager.store.view import View
from swarmpy.model.changes import Change, Update
from swarmpy.model.defaults import is_replicated
from swarmpy.model.objects import Service
from swarmpy.model.states import PlacementStrategy


class Rebalancing:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.post("/swarmpy/services/{id}/rebalance", self.rebalance),)

    async def rebalance(self, request: web.Request) -> web.StreamResponse:
        now = self._api.now()

        def plan(view: View) -> tuple[Change, ...]:
            service = find(view, Service, request.match_info["id"])
            check_rebalance(service)
            return (Update(object=replace(service, rebalance_asked_at=now)),)

        await self._api.decide(plan)
        return web.Response()


def check_rebalance(service: Service) -> None:
    spec = service.spec
    if not is_replicated(spec):
        raise texts.precondition(
            f"service {spec.name} is not replicated: only tasks of replicated services can be moved"
        )
    placement = spec.task_template.placement
    if placement is not None and placement.strategy is PlacementStrategy.BINPACK:
        raise texts.precondition(
            f"service {spec.name} is packed (placement strategy binpack): it has no even spread to restore"
        )
