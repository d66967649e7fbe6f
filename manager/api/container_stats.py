"""``/containers/{id}/stats``, and ours for all tasks at once: what containers use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aiohttp import web

from manager.api import requests
from manager.api.container_refs import ContainerRef, ContainerState, by_hand, find_container, state_of
from manager.api.context import Api
from manager.api.docker_json import encode
from manager.api.stats_shapes import chosen, nothing_shape, stats_shape
from manager.api.streams import is_gone, open_stream
from manager.store.view import View
from swarmpy.errors import InvalidArgument, SwarmError
from swarmpy.limits import STATS_PERIOD_S, STATS_TASKS_MAX
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Task
from swarmpy.model.states import TaskState
from swarmpy.pb import streams_pb2 as pb

_ALIVE = (TaskState.STARTING, TaskState.RUNNING)


class ContainerStats:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/containers/{id}/stats", self.stats),
            web.get("/swarmpy/stats", self.stats_of_all),
        )

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """One row, or one a second; ``one-shot`` spares the second that a rate takes."""
        view = await self._api.read(request)
        here = self._api.control.local().node_id
        container = find_container(view, request.match_info["id"], here=here)
        is_stream = request.query.get("stream", "1").lower() not in ("0", "false")
        if not is_stream:
            is_once = requests.flag(request, "one-shot")
            return self._api.answer(await self._one(view, container, is_once=is_once))
        async with open_stream(self._api, request, "application/json") as response:
            previous = None
            access = self._api.cluster()
            while not is_gone(request):
                # a client may watch a container that does not run: it is told of nothing until it does
                task = _running(_now(access.view, container))
                current = await self._of(task) if task is not None else None
                if task is None or current is None:
                    row = nothing_shape(view, container)
                else:
                    row = stats_shape(access.view, container, task, current, previous)
                await response.write(encode(row) + b"\n")
                if not _is_there(access.view, container):
                    break
                previous = current
                await asyncio.sleep(STATS_PERIOD_S)
        return response

    async def _one(self, view: View, container: ContainerRef, *, is_once: bool) -> dict[str, object]:
        task = _running(container)
        if task is None:
            return nothing_shape(view, container)
        previous = None
        if not is_once:
            previous = await self._of(task)
            await asyncio.sleep(STATS_PERIOD_S)
        current = await self._of(task)
        return stats_shape(view, container, task, current, previous)

    async def stats_of_all(self, request: web.Request) -> web.StreamResponse:
        """Ours: one row for each task that runs, of the services and tasks named, or of all; and the nodes
        that could not be asked."""
        view = await self._api.read(request)
        wanted = requests.filters(request, frozenset({"service", "task"}))
        here = self._api.control.local().node_id
        found = chosen(view, wanted, here)
        tasks = [task for task in found if task.node_id and task.status.state in _ALIVE]
        if len(tasks) > STATS_TASKS_MAX:
            raise InvalidArgument(
                f"these are {len(tasks)} tasks, and {STATS_TASKS_MAX} can be shown: name services or tasks"
            )
        by_node: dict[NodeId, list[str]] = {}
        for task in tasks:
            by_node.setdefault(task.node_id, []).append(task.id)
        async with asyncio.TaskGroup() as asking:
            answers = [asking.create_task(self._ask(node_id, ids)) for node_id, ids in by_node.items()]
        rows = {row.task_id: row for answer in answers for row in answer.result()[0]}
        shapes = [
            stats_shape(view, find_container(view, task.id, here=here), task, rows[task.id], None)
            for task in tasks
            if task.id in rows
        ]
        return self._api.answer(
            {"Tasks": shapes, "Warnings": [answer.result()[1] for answer in answers if answer.result()[1]]}
        )

    async def _ask(self, node_id: NodeId, task_ids: list[str]) -> tuple[list[pb.TaskStats], str]:
        body = pb.StatsStart(task_ids=task_ids).SerializeToString()
        try:
            answer = await self._api.streams.call(node_id, "task.stats", body)
        except SwarmError as error:
            return [], str(error)
        return list(pb.StatsResult.FromString(answer).tasks), ""

    async def _of(self, task: Task) -> pb.TaskStats:
        body = pb.StatsStart(task_ids=[task.id]).SerializeToString()
        answer = await self._api.streams.call(task.node_id, "task.stats", body)
        rows = pb.StatsResult.FromString(answer).tasks
        return rows[0] if rows else pb.TaskStats(task_id=task.id)


def _running(container: ContainerRef | None) -> Task | None:
    if container is None or state_of(container) is not ContainerState.RUNNING:
        return None
    return container.task


def _now(view: View, container: ContainerRef) -> ContainerRef | None:
    """The container as it has become; None if it is gone."""
    if container.service is not None:
        service = view.service(container.service.id)
        return None if service is None else by_hand(view, service)
    task = view.task(container.task.id) if container.task is not None else None
    return None if task is None else ContainerRef(task=task)


def _is_there(view: View, container: ContainerRef) -> bool:
    if container.service is not None:
        return view.service(container.service.id) is not None
    return container.task is not None and view.task(container.task.id) is not None
