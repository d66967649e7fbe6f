"""``/containers/{id}/attach``: a container's own streams, over a connection taken over, or a WebSocket.

Who is attached to a container that does not run sees its next run from its first byte: the connection is
taken over at once, and its node is asked as soon as the run has a node, before it has started. That is how
``docker run`` begins. A run that could not be started ends the connection without a word: the answer to the
start has the reason.

Bytes come in the order of their streams, each once; a leader that changes ends the connection, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from aiohttp import WSMsgType, web

from manager.api import requests
from manager.api.carry import Client, End, carry
from manager.api.container_refs import ContainerRef, ContainerState, find_container, run_order, state_of
from manager.api.container_shapes import asked_for, spec_of
from manager.api.context import Api
from manager.api.control import LogSelector
from manager.api.detach_keys import DEFAULT, parse_keys
from manager.api.hijack import MULTIPLEXED, RAW, done, hijack
from manager.api.logs import log_lines
from manager.store.view import View
from swarmpy.errors import InvalidArgument, NotFound, SwarmError
from swarmpy.limits import API_STREAM_IDLE_S
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import Task
from swarmpy.model.states import TaskState, is_terminal
from swarmpy.pb import streams_pb2 as pb

_UNSTARTED_S = 2.0
"""So long a run that ended without having been seen to start may still have something to say."""


@dataclass(frozen=True, kw_only=True)
class _Wish:
    has_logs: bool
    has_stream: bool
    end: End


class Attaching:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> Iterable[web.RouteDef]:
        return (
            web.post("/containers/{id}/attach", self.attach),
            web.get("/containers/{id}/attach/ws", self.attach_ws, allow_head=False),
        )

    async def attach(self, request: web.Request) -> web.StreamResponse:
        try:
            view, container, wish = await self._asked(request, is_raw=False)
            await request.read()
        except (NotFound, InvalidArgument) as error:
            # of this path alone docker writes errors as text
            return web.Response(
                status=error.http_status, body=f"{error}\r\n".encode(), headers={"Content-Type": RAW}
            )
        content_type = RAW if wish.end.is_terminal else MULTIPLEXED
        async with hijack(self._api, request, content_type) as client:
            await self._serve(view, container, wish, client)
        return done()

    async def attach_ws(self, request: web.Request) -> web.StreamResponse:
        view, container, wish = await self._asked(request, is_raw=True)
        self._api.begin_stream()
        try:
            socket = web.WebSocketResponse(heartbeat=API_STREAM_IDLE_S * 30)
            await socket.prepare(request)
            try:
                await self._serve(view, container, wish, _WebSocket(socket))
            except ConnectionResetError:
                pass  # the client has left
            await socket.close()
        finally:
            self._api.end_stream()
        return socket

    async def _asked(self, request: web.Request, *, is_raw: bool) -> tuple[View, ContainerRef, _Wish]:
        view = await self._api.read(request)
        here = self._api.control.local().node_id
        container = find_container(view, request.match_info["id"], here=here)
        spec = spec_of(view, container)
        keys = request.query.get("detachKeys", "")
        names = ((1, "stdout"), (2, "stderr"))
        wanted = [stream for stream, name in names if requests.flag(request, name)]
        end = End(
            is_terminal=spec.tty,
            is_raw=is_raw,
            takes_input=requests.flag(request, "stdin") and spec.open_stdin,
            streams=frozenset(wanted),
            closes_input=asked_for(container).stdin_once and not spec.tty,
            detach_keys=(parse_keys(keys) if keys else DEFAULT) if spec.tty or keys else b"",
        )
        wish = _Wish(
            has_logs=requests.flag(request, "logs"), has_stream=requests.flag(request, "stream"), end=end
        )
        return view, container, wish

    async def _serve(self, view: View, container: ContainerRef, wish: _Wish, client: Client) -> None:
        if not wish.end.streams and not wish.end.takes_input:
            return
        runs = sorted(_runs(view, container), key=run_order)
        current = runs[-1] if runs and state_of(container) is ContainerState.RUNNING else None
        if wish.has_logs:
            for task in runs:
                if not wish.has_stream or task is not current:
                    await self._send_log(task, wish.end, client)
        if not wish.has_stream:
            return
        if current is not None:
            await self._follow(current, wish, client, replays=wish.has_logs)
        elif container.is_by_hand or not is_terminal(runs[-1].status.state):
            known = frozenset(task.id for task in runs if is_terminal(task.status.state))
            coming = await self._next_run(container, known, client)
            if coming is not None:
                await self._follow(coming, wish, client, replays=True)

    async def _send_log(self, task: Task, end: End, client: Client) -> None:
        selector = LogSelector(task_id=task.id, stdout=1 in end.streams, stderr=2 in end.streams)
        async with aclosing(log_lines(self._api.cluster().logs(selector))) as lines:
            async for line in lines:
                await client.write(end.shape(line.stream, line.data))

    async def _next_run(
        self, container: ContainerRef, known: frozenset[TaskId], client: Client
    ) -> Task | None:
        """The first that is none of the known; None if the client leaves or the container is removed."""
        access = self._api.cluster()
        gone = asyncio.create_task(client.wait_gone())
        try:
            while not gone.done():
                number = access.history.changes.next
                fresh = [task for task in _runs(access.view, container) if task.id not in known]
                if placed := [task for task in fresh if task.node_id]:
                    return min(placed, key=run_order)
                if not fresh and not _is_there(access.view, container):
                    return None
                news = asyncio.create_task(access.history.changes.wait_beyond(number))
                try:
                    await asyncio.wait([gone, news], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
            return None
        finally:
            gone.cancel()
            await asyncio.wait([gone])

    async def _follow(self, task: Task, wish: _Wish, client: Client, *, replays: bool) -> None:
        """To the end of this run."""
        end = wish.end
        start = pb.TaskStart(
            task_id=task.id,
            replays=replays,
            waits_for_start=task.status.state < TaskState.RUNNING,
            is_waited_for=self._is_by_hand(task),
            closes_input=end.takes_input and end.closes_input,
        )
        begun = asyncio.Event()
        following = asyncio.create_task(self._carried(task, start, client, end, begun))
        watching = [
            asyncio.create_task(self._wait_never_started(task.id)),
            asyncio.create_task(client.wait_gone()),
        ]
        try:
            await asyncio.wait([following, *watching], return_when=asyncio.FIRST_COMPLETED)
            if begun.is_set() or following.done():
                await following
        finally:
            for each in (following, *watching):
                each.cancel()
            await asyncio.wait([following, *watching])

    async def _carried(
        self, task: Task, start: pb.TaskStart, client: Client, end: End, begun: asyncio.Event
    ) -> None:
        try:
            body = start.SerializeToString()
            async with self._api.streams.open(task.node_id, "task.attach", body) as stream:
                begun.set()
                await carry(client, stream, end)
        except SwarmError as error:
            await client.write(end.trouble(str(error)))

    def _is_by_hand(self, task: Task) -> bool:
        service = self._api.cluster().view.service(task.service_id)
        return service is not None and service.spec.mode.standalone is not None

    async def _wait_never_started(self, task_id: TaskId) -> None:
        """Until the run is over, and long enough after that whoever has seen it start has said so."""
        access = self._api.cluster()
        while True:
            number = access.history.changes.next
            task = access.view.task(task_id)
            if task is None or is_terminal(task.status.state):
                await asyncio.sleep(_UNSTARTED_S)
                return
            await access.history.changes.wait_beyond(number)


def _runs(view: View, container: ContainerRef) -> Collection[Task]:
    if container.service is not None:
        return view.tasks_of_service(container.service.id)
    task = container.task and view.task(container.task.id)
    return (task,) if task is not None else ()


def _is_there(view: View, container: ContainerRef) -> bool:
    return container.service is not None and view.service(container.service.id) is not None


class _WebSocket:
    """A WebSocket as a connection of bytes."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._gone = asyncio.Event()

    async def read(self) -> bytes:
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.BINARY:
                data: bytes = message.data
            elif message.type is WSMsgType.TEXT:
                data = message.data.encode()
            else:
                self._gone.set()
                return b""
            if data:
                return data

    async def write(self, data: bytes) -> None:
        await self._socket.send_bytes(data)

    async def wait_gone(self) -> None:
        """Its end is read like its data."""
        await self._gone.wait()
