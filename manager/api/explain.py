"""``/swarmpy/explain``: ours. Why a task or a service is as it is, in sentences and node by node."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from manager import explain
from manager.api.context import Api
from manager.api.docker_json import shape
from manager.api.lookup import find, find_or_none
from swarmpy.errors import NotFound
from swarmpy.model.objects import Service, Task


class Explanations:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.get("/swarmpy/explain/{name}", self.explain),)

    async def explain(self, request: web.Request) -> web.StreamResponse:
        """A service by id or name, ``SERVICE.SLOT``, or a task by its id; ids also by a unique prefix."""
        name = request.match_info["name"]
        view = await self._api.read(request)
        now = self._api.now()
        service = find_or_none(view, Service, name)
        if service is not None:
            return self._api.answer(shape(explain.explain_service(view, service, now)))
        title, _, slot = name.rpartition(".")
        in_slot = find_or_none(view, Service, title) if slot.isdecimal() else None
        task = explain.task_in_slot(view, in_slot, int(slot)) if in_slot is not None else None
        if task is None:
            try:
                task = find(view, Task, name)
            except NotFound:
                raise NotFound(f"no such task or service: {name}") from None
        return self._api.answer(shape(explain.explain_task(view, task, now)))
