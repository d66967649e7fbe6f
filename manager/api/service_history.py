"""``/swarmpy/services/{id}/…``: a service's kept revisions, the return to one of them, and paused updates.

Docker knows one previous spec and no way to let a paused update go on but another update; those work as well
(``services.py``).
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from manager.api import requests, service_plan
from manager.api.context import Api
from manager.api.docker_json import Json, rfc3339, shape
from manager.api.lookup import find
from manager.store.view import View
from swarmpy.errors import InvalidArgument
from swarmpy.limits import REVISIONS_KEPT
from swarmpy.model.objects import Revision, Service
from swarmpy.model.states import TaskState


class ServiceHistory:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/swarmpy/services/{id}/history", self.history),
            web.post("/swarmpy/services/{id}/rollback", self.rollback),
            web.post("/swarmpy/services/{id}/resume", self.resume),
        )

    async def history(self, request: web.Request) -> web.StreamResponse:
        view = await self._api.read(request)
        service = find(view, Service, request.match_info["id"])
        revisions = sorted(view.revisions_of(service.id), key=lambda revision: revision.number)
        return self._api.answer(
            {
                "ID": service.id,
                "Name": service.spec.name,
                "Version": {"Index": service.version},
                "Kept": REVISIONS_KEPT,
                "Revisions": [_revision(view, service, revision) for revision in revisions],
            }
        )

    async def rollback(self, request: web.Request) -> web.StreamResponse:
        """``to``: the number of a kept revision; without it, to the previous one."""
        base_version = requests.version(request, of="service")
        number = _number(request.query.get("to", ""))

        def plan(view: View) -> service_plan.Changes:
            service = find(view, Service, request.match_info["id"])
            now = self._api.now()
            if number is None:
                return service_plan.rollback(view, service, base_version=base_version, now=now)
            return service_plan.rollback_to(view, service, number, base_version=base_version, now=now)

        await self._api.decide(plan, is_guarded=True)
        return self._api.answer({})

    async def resume(self, request: web.Request) -> web.StreamResponse:
        base_version = requests.version(request, of="service")

        def plan(view: View) -> service_plan.Changes:
            service = find(view, Service, request.match_info["id"])
            return service_plan.resume(view, service, base_version=base_version, now=self._api.now())

        await self._api.decide(plan, is_guarded=True)
        return self._api.answer({})


def _number(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise InvalidArgument(f"invalid revision '{text}': give the number of one that is kept")
    return int(text)


def _revision(view: View, service: Service, revision: Revision) -> Json:
    running = sum(
        task.status.state is TaskState.RUNNING and task.desired_state <= TaskState.RUNNING
        for task in view.tasks_of_revision(revision.id)
    )
    return {
        "Number": revision.number,
        "ID": revision.id,
        "CreatedAt": rfc3339(revision.created_at),
        "Current": revision.id == service.revision_id,
        "Previous": revision.id == service.previous_id,
        "RunningTasks": running,
        "Spec": shape(revision.spec),
    }
