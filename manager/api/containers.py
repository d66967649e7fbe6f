"""``/containers/{id}/…``: being attached to a task, its terminal, its processes, its usage.

A task's container has the task's id (``agent/environment``), so a task's id, or enough of its beginning, or
the name ``SERVICE.SLOT[.TASK]`` says which container is meant, wherever in the swarm it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from aiohttp import web

from manager.api import requests
from manager.api.carry import End, carry
from manager.api.container_shapes import (
    chosen,
    container_shape,
    container_spec,
    find_container,
    node_of,
    stats_shape,
)
from manager.api.context import Api
from manager.api.docker_json import encode
from manager.api.hijack import MULTIPLEXED, RAW, done, hijack
from manager.api.streams import is_gone, open_stream
from swarmpy.errors import InvalidArgument, SwarmError
from swarmpy.limits import STATS_PERIOD_S, STATS_TASKS_MAX
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Task
from swarmpy.model.states import TaskState
from swarmpy.pb import streams_pb2 as pb

_PS_DEFAULT: Final = ("", "-ef")
_ALIVE: Final = (TaskState.STARTING, TaskState.RUNNING)


class Containers:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.get("/containers/{id}/json", self.inspect),
            web.post("/containers/{id}/attach", self.attach),
            web.post("/containers/{id}/resize", self.resize),
            web.get("/containers/{id}/top", self.top),
            web.get("/containers/{id}/stats", self.stats),
            web.get("/swarmpy/stats", self.stats_of_all),
        )

    async def inspect(self, request: web.Request) -> web.StreamResponse:
        view = await self._api.read(request)
        return self._api.answer(container_shape(view, find_container(view, request.match_info["id"])))

    async def attach(self, request: web.Request) -> web.StreamResponse:
        view = await self._api.read(request)
        task = find_container(view, request.match_info["id"])
        container = container_spec(view, task)
        if not requests.flag(request, "stream"):
            raise InvalidArgument("only stream=1 is supported: for what was printed before, read the logs")
        await request.read()
        node_id, start = node_of(task), pb.TaskStart(task_id=task.id).SerializeToString()
        end = End(
            is_terminal=container.tty,
            takes_input=requests.flag(request, "stdin") and container.open_stdin,
            streams=frozenset(
                stream for stream, name in ((1, "stdout"), (2, "stderr")) if requests.flag(request, name)
            ),
        )
        async with (
            self._api.streams.open(node_id, "task.attach", start) as stream,
            hijack(self._api, request, RAW if container.tty else MULTIPLEXED) as client,
        ):
            await carry(client, stream, end)
        return done()

    async def resize(self, request: web.Request) -> web.StreamResponse:
        task = find_container(await self._api.read(request), request.match_info["id"])
        rows, columns = requests.terminal_size(request)
        start = pb.TaskStart(task_id=task.id, rows=rows, columns=columns)
        await self._api.streams.call(node_of(task), "task.resize", start.SerializeToString())
        return web.Response()

    async def top(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("ps_args", "") not in _PS_DEFAULT:
            raise InvalidArgument("the options of ps cannot be chosen: processes are shown as by ps -ef")
        task = find_container(await self._api.read(request), request.match_info["id"])
        start = pb.TaskStart(task_id=task.id).SerializeToString()
        table = pb.ProcessTable.FromString(await self._api.streams.call(node_of(task), "task.top", start))
        rows = [list(row.cells) for row in table.rows]
        return self._api.answer({"Titles": list(table.titles), "Processes": rows})

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """One row, or one a second; ``one-shot`` spares the second that a rate takes."""
        view = await self._api.read(request)
        task = find_container(view, request.match_info["id"])
        node_of(task)
        is_stream = request.query.get("stream", "1").lower() not in ("0", "false")
        previous = None
        if not is_stream and not requests.flag(request, "one-shot"):
            previous = await self._stats_of(task)
            await asyncio.sleep(STATS_PERIOD_S)
        current = await self._stats_of(task)
        if not is_stream:
            return self._api.answer(stats_shape(view, task, current, previous))
        async with open_stream(self._api, request, "application/json") as response:
            while current.is_running and not is_gone(request):
                await response.write(encode(stats_shape(view, task, current, previous)) + b"\n")
                await asyncio.sleep(STATS_PERIOD_S)
                previous, current = current, await self._stats_of(task)
        return response

    async def stats_of_all(self, request: web.Request) -> web.StreamResponse:
        """Ours: one row for each task that runs, of the services and tasks named, or of all; and the nodes
        that could not be asked."""
        view = await self._api.read(request)
        wanted = requests.filters(request, frozenset({"service", "task"}))
        tasks = [task for task in chosen(view, wanted) if task.node_id and task.status.state in _ALIVE]
        if len(tasks) > STATS_TASKS_MAX:
            raise InvalidArgument(
                f"these are {len(tasks)} tasks, and {STATS_TASKS_MAX} can be shown: name services or tasks"
            )
        by_node: dict[NodeId, list[str]] = {}
        for task in tasks:
            by_node.setdefault(task.node_id, []).append(task.id)
        async with asyncio.TaskGroup() as asking:
            answers = [asking.create_task(self._ask(node_id, ids)) for node_id, ids in by_node.items()]
        found = {row.task_id: row for answer in answers for row in answer.result()[0]}
        shapes = [stats_shape(view, task, found[task.id], None) for task in tasks if task.id in found]
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

    async def _stats_of(self, task: Task) -> pb.TaskStats:
        body = pb.StatsStart(task_ids=[task.id]).SerializeToString()
        answer = await self._api.streams.call(task.node_id, "task.stats", body)
        rows = pb.StatsResult.FromString(answer).tasks
        return rows[0] if rows else pb.TaskStats(task_id=task.id)
