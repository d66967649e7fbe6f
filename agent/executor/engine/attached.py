"""Being attached to a task that is an engine's container: its output each byte once, its input while it runs.

Output comes out of the engine's log: that has all of it, from the beginning, for as many clients as there
are and however slow, and never holds the task up. Podman's has each byte at once. Docker's has a line once
it has ended: so a terminal is listened to live, behind what the log has, and so is a client that comes before
its task's start or wants nothing of the past. Who lags behind what comes live and came from the start goes on
in the log; any other is let go of. Docker's task waits for those who wish it to; Podman's need not.

Engines close a task's input with the first client that leaves. So it is fed past them, through the pipe that
the container's monitor holds; that a client has left without a word then means nothing, and the engine is
told only of an end that was asked for. A terminal, whose input has no end, is fed through the engine.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

from agent.executor.base import Attachment, Output
from agent.executor.engine.client import Engine, Hijacked
from agent.executor.engine.commands import frames_of
from agent.executor.engine.groups import groups_of
from agent.executor.engine.limits import (
    ATTACHED_BACKLOG_BYTES_MAX,
    ATTACHED_OVERLAP_BYTES_MAX,
    ENGINE_BREAK_S,
)
from agent.executor.engine.logs import Logs, Source
from agent.executor.engine.task import EngineTask
from agent.executor.limits import ATTACH_POLL_S
from agent.executor.native.inside import not_running
from swarmpy.errors import NotFound, TaskRejected, Unavailable

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
_PROC: Final = Path("/proc")
_OUTPUT: Final = {"stream": "1", "stdout": "1", "stderr": "1"}
_INPUT: Final = {"stream": "1", "stdin": "1"}


async def attach(engine: Engine, task: EngineTask, wish: Attachment, *, logs: Logs, run: Run) -> Attached:
    """NotRunning of one that does not run, unless it is yet to be started or has a past to tell."""
    has_past = task.started is not None or task.end is not None
    if not task.container or not (task.is_running or wish.replays):
        raise not_running(task.record.task_id)
    if not has_past and engine.flavour == "podman":
        raise not_running(task.record.task_id)  # its log is read from the beginning once there is one
    live = None
    is_behind = wish.replays and has_past
    if engine.flavour == "docker" and task.end is None and (not is_behind or task.record.tty):
        params = {**_OUTPUT, **(_INPUT if task.record.tty and task.record.open_stdin else {})}
        try:
            live = Live(
                await engine.hijack(f"/containers/{task.container}/attach", params=params),
                is_terminal=task.record.tty,
                is_waited_for=wish.is_waited_for,
            )
            if not has_past:
                await _require_unstarted(engine, task, live)
        except NotFound:
            raise not_running(task.record.task_id) from None
    source = logs.source(task)
    if live is None and not wish.replays:
        try:
            await source.skip()
        except BaseException:
            source.close()
            raise
    return Attached(source, wish, live=live, is_whole=not has_past, parts=(engine, logs, run))


async def _require_unstarted(engine: Engine, task: EngineTask, live: Live) -> None:
    """Only who is there before the start hears the first byte. NotRunning: in a moment its log has it."""
    try:
        state = await engine.call("GET", f"/containers/{task.container}/json")
        if (state.get("State") or {}).get("Status") != "created":
            raise not_running(task.record.task_id)
    except BaseException:
        await live.close()
        raise


class Live:
    """What an engine sends of a task from now on. ``is_waited_for``: it is read as it is taken."""

    def __init__(self, connection: Hijacked, *, is_terminal: bool, is_waited_for: bool) -> None:
        self.connection: Final = connection
        self._is_terminal = is_terminal
        self._is_waited_for = is_waited_for
        self._backlog: deque[Output] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._has_ended = False
        self.has_lagged = False
        self._pump = None if is_waited_for else asyncio.create_task(self._take())

    async def output(self) -> AsyncIterator[Output]:
        if self._pump is None:
            async for part in frames_of(self.connection, is_terminal=self._is_terminal):
                yield part
            return
        while True:
            while self._backlog:
                part = self._backlog.popleft()
                self._bytes -= len(part.data)
                yield part
            if self._has_ended:
                return
            self._news.clear()
            await self._news.wait()

    def pending(self) -> bytes:
        """What has come and was not taken yet."""
        return b"".join(part.data for part in self._backlog)

    def drop(self, count: int) -> None:
        """Of what is pending, the first bytes."""
        while count and self._backlog:
            part = self._backlog.popleft()
            self._bytes -= min(count, len(part.data))
            if len(part.data) > count:
                self._backlog.appendleft(Output(part.stream, part.data[count:]))
            count -= min(count, len(part.data))

    async def close(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        await self.connection.close()

    async def _take(self) -> None:
        """Docker has the task wait for a client who does not read: so it is always read."""
        try:
            async for part in frames_of(self.connection, is_terminal=self._is_terminal):
                if self._bytes + len(part.data) > ATTACHED_BACKLOG_BYTES_MAX:
                    self.has_lagged = True
                    await self.connection.close()
                    break
                self._backlog.append(part)
                self._bytes += len(part.data)
                self._news.set()
        finally:
            self._has_ended = True
            self._news.set()


class Attached:
    """A ``Channel``. ``source``: where the log is read from. ``is_whole``: what comes live begins with the
    task's first byte."""

    def __init__(
        self,
        source: Source,
        wish: Attachment,
        *,
        live: Live | None,
        is_whole: bool,
        parts: tuple[Engine, Logs, Run],
    ) -> None:
        self._source = source
        self._task = task = source.task
        self._wish = wish
        self._live = live
        self._is_whole = is_whole
        self._engine, self._logs, self._run = parts
        self._logs.readers.enter(task.record.task_id)
        self._input = Input(self._engine, task, live, self._run)
        self._is_closed = False
        self._has_broken = False

    @property
    def pid(self) -> int:
        return 0

    async def output(self) -> AsyncIterator[Output]:
        if self._live is None:
            async for part in self._from_log({}, is_following=True):
                yield part
            return
        if self._wish.replays and not self._is_whole:
            said = b""
            async for part in self._from_log({}, is_following=False):
                said = (said + part.data)[-ATTACHED_OVERLAP_BYTES_MAX:]
                yield part
            self._live.drop(overlap(said, self._live.pending()[:ATTACHED_OVERLAP_BYTES_MAX]))
        passed = {1: 0, 2: 0}
        async for part in self._live.output():
            passed[part.stream] += len(part.data)
            yield part
        if self._is_closed:
            return
        if self._is_whole:
            # that it has ended or that the engine broke off looks the same from here: the log has the rest
            async for part in self._from_log(passed, is_following=True):
                yield part
        elif self._live.has_lagged or not await self._wait_ended():
            self._has_broken = True

    async def _wait_ended(self) -> bool:
        """What ends with its task ends a moment before this is told."""
        try:
            async with asyncio.timeout(ENGINE_BREAK_S):
                await self._task.ended.wait()
        except TimeoutError:
            return False
        return True

    async def _from_log(self, passed: dict[int, int], *, is_following: bool) -> AsyncIterator[Output]:
        """To the task's end, without what was passed on already."""
        left = dict(passed)
        words = self._logs.words(self._source, follows=is_following, is_over=self._is_over)
        async with aclosing(words):
            async for stream, data in words:
                skipped = min(left.get(stream, 0), len(data))
                left[stream] = left.get(stream, 0) - skipped
                if skipped < len(data):
                    yield Output(stream, data[skipped:])

    def _is_over(self) -> bool:
        return self._is_closed

    async def write(self, data: bytes) -> None:
        await self._input.write(data)

    async def close_input(self) -> None:
        await self._input.finish()

    async def resize(self, *, rows: int, columns: int) -> None:
        try:
            await self._engine.call(
                "POST",
                f"/containers/{self._task.container}/resize",
                params={"h": str(rows), "w": str(columns)},
            )
        except (TaskRejected, NotFound):
            return  # it has ended, or has no terminal

    async def exit_code(self) -> int:
        if self._is_closed:
            raise Unavailable("the task was let go of")
        if self._has_broken:
            raise Unavailable(f"{self._engine.flavour} let go of the task: be attached to it again")
        await self._task.ended.wait()
        if self._task.end is None:
            raise Unavailable("the task was removed before it was known how it ended")
        return self._task.end.exit.code

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._logs.readers.leave(self._task.record.task_id)
        self._input.close()
        self._source.close()
        if self._live is not None:
            await self._live.close()


class Input:
    """What feeds a task. Nothing happens if it has no input, or has ended."""

    def __init__(self, engine: Engine, task: EngineTask, live: Live | None, run: Run) -> None:
        self._engine = engine
        self._task = task
        self._run = run
        self._connection = live.connection if live is not None and task.record.tty else None
        self._is_own = False
        """Whether the connection is for this alone."""
        self._pipe = -1
        self._lock = threading.Lock()
        """Of the pipe: a thread opens it."""
        self._is_over = not task.record.open_stdin

    async def write(self, data: bytes) -> None:
        if self._is_over:
            return
        if self._pipe < 0 and self._connection is None:
            await self._open()
        if self._connection is not None:
            await self._connection.write(data)
        elif self._pipe >= 0:
            await self._feed(data)

    async def finish(self) -> None:
        """No more comes from anybody. A terminal's input has no end."""
        if self._is_over or self._task.record.tty or not self._task.is_running:
            return
        self._is_over = True
        connection = self._connection
        if connection is None:
            try:
                connection = await self._open_connection()
            except (TaskRejected, NotFound):
                return  # it has ended
        await connection.close()
        self.close()

    def close(self) -> None:
        self._is_over = True
        if self._is_own and self._connection is not None:
            self._connection.writer.close()
        with self._lock:
            pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            asyncio.get_running_loop().remove_writer(pipe)
            os.close(pipe)

    async def _open(self) -> None:
        """The task has to run by now: what is said to one that is about to start waits for it."""
        while self._task.started is None and not self._task.ended.is_set() and not self._is_over:
            await asyncio.sleep(ATTACH_POLL_S)
        started = self._task.started
        if started is not None and not self._task.record.tty:
            await self._run(lambda: self._open_pipe(started.pid))
        if self._pipe < 0 and not self._is_over:
            self._connection = await self._open_connection()
            self._is_own = True

    def _open_pipe(self, pid: int) -> None:
        """Kept from here: who has asked for it may not wait for it any more. Blocks."""
        pipe = open_input(pid, self._task.container)
        with self._lock:
            if not self._is_over and self._pipe < 0:
                pipe, self._pipe = -1, pipe
        if pipe >= 0:
            os.close(pipe)

    async def _open_connection(self) -> Hijacked:
        state = await self._engine.call("GET", f"/containers/{self._task.container}/json")
        if not (state.get("State") or {}).get("Running"):
            raise not_running(self._task.record.task_id)  # Podman would make an ended one ready again
        return await self._engine.hijack(f"/containers/{self._task.container}/attach", params=_INPUT)

    async def _feed(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        while data and self._pipe >= 0:
            try:
                data = data[os.write(self._pipe, data) :]
            except BlockingIOError:
                writable = loop.create_future()
                pipe = self._pipe
                loop.add_writer(pipe, writable.set_result, None)
                try:
                    await writable
                finally:
                    if pipe == self._pipe:  # else it was closed meanwhile
                        loop.remove_writer(pipe)
            except OSError:
                return  # it has closed its input, or has ended


def open_input(pid: int, container: str) -> int:
    """The pipe that a container's monitor feeds it through, to write to; -1 if it is not seen. Blocks.

    A task may put anything in the place of its input: only what its monitor holds, too, is the one.
    """
    if not pid or groups_of(pid, container) is None:
        return -1
    try:
        place = _PROC / str(pid) / "fd/0"
        found = os.stat(place)
        if not stat.S_ISFIFO(found.st_mode):
            return -1
        parent = int((_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        for fd in os.listdir(_PROC / str(parent) / "fd"):
            held = os.stat(_PROC / str(parent) / "fd" / fd)
            if (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino):
                return _open_same(place, found)
    except OSError:
        return -1  # it has ended meanwhile
    return -1


def _open_same(place: Path, wanted: os.stat_result) -> int:
    fd = os.open(place, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(fd)
    if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
        return fd
    os.close(fd)
    return -1


def overlap(said: bytes, coming: bytes) -> int:
    """How many of the first bytes of ``coming`` are the last of ``said``. Pure."""
    return next((n for n in range(min(len(said), len(coming)), 0, -1) if said.endswith(coming[:n])), 0)
