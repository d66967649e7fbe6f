"""``/services/{id}/logs``, ``/tasks/{id}/logs``, ``/containers/{id}/logs``: lines of tasks wherever they ran.

Frames are Docker's: eight bytes (stream, length), then the line, which with ``details=1`` begins with the ids
of its node, service and task. A service with a TTY has a raw stream. What cannot be had (a node that does not
answer) appears as a line of the error stream, so that a client shows what there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

from aiohttp import web
from msgspec.structs import replace

from manager.api import requests
from manager.api.container_refs import ContainerRef, find_container, run_order
from manager.api.container_shapes import spec_of
from manager.api.context import Api
from manager.api.control import ClusterAccess, LogBatch, LogLine, LogSelector
from manager.api.docker_json import rfc3339
from manager.api.lookup import find
from manager.api.streams import is_gone, open_stream, parse_moment
from manager.log_merge import merged
from swarmpy.errors import InvalidArgument, SwarmError, Unavailable
from swarmpy.limits import API_STREAM_IDLE_S
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.objects import Service, Task
from swarmpy.model.specs import TaskSpec

TAIL_DIGITS_MAX: Final = 10
LOG_LATE_S: Final = 0.5
"""So long after the last moment that is asked for its lines may still be under way."""
STDERR: Final = 2
SYSTEM_ERROR: Final = 3
MULTIPLEXED: Final = "application/vnd.docker.multiplexed-stream"
RAW: Final = "application/vnd.docker.raw-stream"


class Logs:
    def __init__(self, api: Api) -> None:
        self._api = api

    def routes(self) -> tuple[web.RouteDef, ...]:
        return (
            web.get("/services/{id}/logs", self.of_service),
            web.get("/tasks/{id}/logs", self.of_task),
            web.get("/containers/{id}/logs", self.of_container),
        )

    async def of_service(self, request: web.Request) -> web.StreamResponse:
        selector = _selector(request)
        service = find(await self._api.read(request), Service, request.match_info["id"])
        return await self._send(
            request, replace(selector, service_id=service.id), is_raw=_is_tty(service.spec.task_template)
        )

    async def of_task(self, request: web.Request) -> web.StreamResponse:
        selector = _selector(request)
        view = await self._api.read(request)
        task = find(view, Task, request.match_info["id"])
        revision = view.revision(task.revision_id)
        is_raw = revision is not None and _is_tty(revision.spec.task_template)
        return await self._send(request, replace(selector, task_id=task.id), is_raw=is_raw)

    async def of_container(self, request: web.Request) -> web.StreamResponse:
        """Of one that was started by hand: of all its runs, the last of which may be followed."""
        selector = _selector(request, is_lenient=True)
        view = await self._api.read(request)
        here = self._api.control.local().node_id
        container = find_container(view, request.match_info["id"], here=here)
        shape = _shape_of(request, is_raw=spec_of(view, container).tty, has_ids=False)
        batches = container_logs(self._api.cluster(), container, selector)
        return await self._stream(request, selector, batches, shape)

    async def _send(self, request: web.Request, selector: LogSelector, *, is_raw: bool) -> web.StreamResponse:
        batches = self._api.cluster().logs(selector)
        if not selector.task_id:
            batches = merged(batches, self._api.env.clock)
        return await self._stream(request, selector, batches, _shape_of(request, is_raw=is_raw))

    async def _stream(
        self, request: web.Request, selector: LogSelector, batches: AsyncIterator[LogBatch], shape: _Shape
    ) -> web.StreamResponse:
        is_raw = shape.is_raw
        until = self._deadline(selector)
        async with open_stream(self._api, request, RAW if is_raw else MULTIPLEXED) as response:
            warnings: list[str] = []
            try:
                async for batch in _until_gone(request, batches, until=until):
                    if selector.is_following and batch.warnings:
                        await response.write(shape.told(batch.warnings))  # it may never end
                    else:
                        warnings.extend(batch.warnings)
                    if batch.lines:
                        await response.write(shape.batch(batch))
            except SwarmError as error:
                warnings.append(str(error))
            if warnings:
                await response.write(shape.incomplete(warnings))
        return response

    def _deadline(self, selector: LogSelector) -> float | None:
        """When, by the loop's clock, no line can come any more that is wanted; None: never."""
        if not selector.until or not selector.is_following:
            return None
        left_s = (selector.until - self._api.now()) / SECOND_NS
        return asyncio.get_running_loop().time() + max(left_s, 0.0) + LOG_LATE_S


async def container_logs(
    access: ClusterAccess, container: ContainerRef, selector: LogSelector
) -> AsyncGenerator[LogBatch]:
    """Of every run, oldest first. A tail goes back over as many runs as it takes."""
    tasks = [container.task] if container.task is not None else []
    if container.service is not None:
        tasks = sorted(access.view.tasks_of_service(container.service.id), key=run_order)
    if not tasks:
        return
    *former, last = tasks
    left = selector.tail
    if left >= 0 and former:
        own = replace(selector, task_id=last.id, is_following=False)
        left = max(left - len([line async for line in log_lines(access.logs(own))]), 0)
    kept: list[LogBatch] = []
    for task in reversed(former):
        if not left:
            break
        own = replace(selector, task_id=task.id, is_following=False, tail=left)
        batches = [batch async for batch in access.logs(own)]
        kept = batches + kept
        if left > 0:
            left = max(left - sum(len(batch.lines) for batch in batches), 0)
    for batch in kept:
        yield batch
    async with aclosing(access.logs(replace(selector, task_id=last.id))) as rest:
        async for batch in rest:
            yield batch


async def log_lines(batches: AsyncIterator[LogBatch]) -> AsyncGenerator[LogLine]:
    """The lines alone. Unavailable if some cannot be had."""
    async for batch in batches:
        if batch.warnings:
            raise Unavailable("; ".join(batch.warnings))
        for line in batch.lines:
            yield line


class _Shape:
    """How a line is written for this client. ``has_ids``: its details are whose it is; else it has none."""

    def __init__(self, *, is_raw: bool, has_details: bool, has_timestamps: bool, has_ids: bool) -> None:
        self.is_raw = is_raw
        self._has_ids = has_ids
        self._has_details = has_details
        self._has_timestamps = has_timestamps

    def batch(self, batch: LogBatch) -> bytes:
        return b"".join(self._frame(line.stream, self._line(line)) for line in batch.lines)

    def _line(self, line: LogLine) -> bytes:
        prefix = ""
        if self._has_timestamps:
            prefix += rfc3339(line.timestamp) + " "
        if self._has_details and not self._has_ids:
            prefix += " "
        elif self._has_details:
            prefix += (
                f"com.docker.swarm.node.id={line.node_id},com.docker.swarm.service.id={line.service_id},"
                f"com.docker.swarm.task.id={line.task_id} "
            )
        return prefix.encode() + line.data

    def told(self, warnings: tuple[str, ...]) -> bytes:
        """In the middle of a stream that goes on: lines of the error stream, of no task."""
        return b"".join(self._frame(STDERR, f"warning: {text}\n".encode()) for text in warnings)

    def incomplete(self, warnings: list[str]) -> bytes:
        reasons = "; ".join(warnings)
        return self.error(
            "warning: incomplete log stream. some logs could not be retrieved for the following reasons: "
            + reasons
        )

    def error(self, text: str) -> bytes:
        """Docker's clients end with this text, so it is the last frame."""
        return self._frame(SYSTEM_ERROR, text.encode())

    def _frame(self, stream: int, data: bytes) -> bytes:
        return data if self.is_raw else bytes((stream, 0, 0, 0)) + len(data).to_bytes(4) + data


def _shape_of(request: web.Request, *, is_raw: bool, has_ids: bool = True) -> _Shape:
    return _Shape(
        is_raw=is_raw,
        has_details=requests.flag(request, "details"),
        has_timestamps=requests.flag(request, "timestamps"),
        has_ids=has_ids,
    )


async def _until_gone(
    request: web.Request, batches: AsyncIterator[LogBatch], *, until: float | None
) -> AsyncIterator[LogBatch]:
    """The batches, as long as the client is there; a follower of a silent service may leave at any time."""
    clock = asyncio.get_running_loop().time
    iterator = aiter(batches)
    pending: asyncio.Task[LogBatch] | None = None
    try:
        while True:
            pending = asyncio.ensure_future(anext(iterator))
            while not pending.done():
                await asyncio.wait([pending], timeout=API_STREAM_IDLE_S)
                if is_gone(request) or (until is not None and clock() > until):
                    return
            try:
                batch = pending.result()
            except StopAsyncIteration:
                return
            yield batch
    finally:
        if pending is not None and not pending.done():
            pending.cancel()
            await asyncio.wait([pending])
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()


def _selector(request: web.Request, *, is_lenient: bool = False) -> LogSelector:
    """``is_lenient``: a tail that makes no sense means all lines, as docker has it of containers."""
    stdout, stderr = requests.flag(request, "stdout"), requests.flag(request, "stderr")
    if not stdout and not stderr:
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    return LogSelector(
        since=parse_moment(request.query.get("since", "")) or Timestamp(0),
        until=parse_moment(request.query.get("until", "")) or Timestamp(0),
        tail=_tail(request.query.get("tail", "all"), is_lenient=is_lenient),
        is_following=requests.flag(request, "follow"),
        stdout=stdout,
        stderr=stderr,
    )


def _tail(text: str, *, is_lenient: bool) -> int:
    """-1 for all of them."""
    if text in ("", "all"):
        return -1
    if not text.isascii() or not text.isdigit() or len(text) >= TAIL_DIGITS_MAX:
        if is_lenient:
            return -1
        raise InvalidArgument('tail value must be a positive integer or "all"')
    return int(text)


def _is_tty(template: TaskSpec) -> bool:
    return template.container_spec is not None and template.container_spec.tty
