"""``AttachedChannel``: all that a task prints, each byte once, out of its log and its shim's socket.

The shim says where the log stands when it admits a client: what was printed before is read from the log up
to there, what comes after arrives on the socket. Should the shim let go of the client (it was slow, or the
task has ended and its last words could not wait), the channel goes on in the log, behind what it has passed
on already; so the order of two streams may be lost there, their bytes are not. What rotation has taken from
the log is gone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from agent.executor.base import Attachment, NotRunning, Output
from agent.executor.limits import ATTACHED_LAST_WORDS_S
from agent.executor.native import folders
from agent.executor.native.channel import SocketChannel
from agent.executor.native.job import ExitRecord
from agent.executor.native.log_reader import BEGINNING, LogReader, Place, parse_record
from agent.executor.native.shim import frames
from swarmpy.errors import Unavailable
from swarmpy.limits import LOG_FOLLOW_PERIOD_S
from swarmpy.model.ids import TaskId

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
UNKNOWN_CODE = -1
"""Of a task of which nothing but its log is left."""
_UNKNOWN = ExitRecord(code=UNKNOWN_CODE, is_oom_killed=False, at=0, message="", kind="ended")
_STREAMS = (frames.STDOUT, frames.STDERR)


class Readers:
    """Who is attached to which task: its log is not removed under them, for a while."""

    def __init__(self) -> None:
        self._counts: dict[TaskId, int] = {}
        self._news = asyncio.Event()

    def enter(self, task_id: TaskId) -> None:
        self._counts[task_id] = self._counts.get(task_id, 0) + 1

    def leave(self, task_id: TaskId) -> None:
        self._counts[task_id] -= 1
        if not self._counts[task_id]:
            del self._counts[task_id]
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def wait_gone(self, task_id: TaskId) -> None:
        """Not longer than for last words."""
        try:
            async with asyncio.timeout(ATTACHED_LAST_WORDS_S):
                while task_id in self._counts:
                    await self._news.wait()
        except TimeoutError:
            return


@dataclass(frozen=True, slots=True)
class Watched:
    """What the executor knows of the task. ``exit`` is None while its end has not come."""

    task_id: TaskId
    exit: Callable[[], ExitRecord | None]
    ended: asyncio.Event
    readers: Readers

    async def exit_code(self) -> int:
        """Once it has ended."""
        await self.ended.wait()
        found = self.exit()
        if found is None:
            raise Unavailable("the task was removed before it was known how it ended")
        return found["code"]


class AttachedChannel:
    """``socket`` None: the task has ended, and its log is all there is. To be closed."""

    def __init__(
        self, folder: Path, *, wish: Attachment, socket: SocketChannel | None, task: Watched, run: Run
    ) -> None:
        self._folder = folder
        self._wish = wish
        self._socket = socket
        self._task = task
        self._run = run
        self._place, self._rests = _place_of(socket)
        self._passed = {stream: len(rest) for stream, rest in self._rests.items()}
        self._is_closed = False
        task.readers.enter(task.task_id)

    @property
    def pid(self) -> int:
        return 0

    async def start(self) -> None:
        """Have the task wait, if that is wished for and its shim can."""
        if self._socket is not None and self._place is not None and self._wish.is_waited_for:
            await self._socket.hold()

    async def output(self) -> AsyncIterator[Output]:
        if self._socket is None:
            async for part in self._from_log(BEGINNING, {}):
                yield part
            return
        if self._wish.replays and self._place is not None:
            reader = LogReader(self._folder, end=self._place)
            while records := await self._run(reader.read):
                for part in joined(records):
                    yield part
            for stream, rest in self._rests.items():
                if rest:
                    yield Output(stream, rest)
        async for part in self._socket.output():
            self._passed[part.stream] = self._passed.get(part.stream, 0) + len(part.data)
            yield part
        if not self._socket.has_ended and self._place is not None and not self._is_closed:
            async for part in self._from_log(self._place, self._passed):
                yield part

    async def _from_log(self, start: Place, passed: dict[int, int]) -> AsyncIterator[Output]:
        """To the task's end, without what was passed on already."""
        left = dict(passed)
        reader = LogReader(self._folder, start=start)
        while True:
            is_final = self._has_ended()
            records = await self._run(reader.read)
            for part in joined(records):
                skipped = min(left.get(part.stream, 0), len(part.data))
                left[part.stream] = left.get(part.stream, 0) - skipped
                if skipped < len(part.data):
                    yield Output(part.stream, part.data[skipped:])
            if not records and is_final:
                return
            if not records:
                await asyncio.sleep(LOG_FOLLOW_PERIOD_S)

    def _has_ended(self) -> bool:
        return self._is_closed or self._task.exit() is not None

    async def write(self, data: bytes) -> None:
        if self._socket is not None:
            await self._socket.write(data)

    async def close_input(self) -> None:
        if self._socket is not None:
            await self._socket.close_input()

    async def resize(self, *, rows: int, columns: int) -> None:
        if self._socket is not None:
            await self._socket.resize(rows=rows, columns=columns)

    async def exit_code(self) -> int:
        if self._socket is not None and (self._socket.has_ended or self._place is None):
            return await self._socket.exit_code()
        if self._is_closed:
            raise Unavailable("the task was let go of")
        return await self._task.exit_code()

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._task.readers.leave(self._task.task_id)
        if self._socket is not None:
            await self._socket.close()


def joined(records: Iterable[bytes]) -> Iterator[Output]:
    """What lines in a row of one stream say together: to a client, a line alone costs as much as many."""
    lines = (line for record in records if (line := parse_record(record)) is not None)
    for stream, row in groupby(lines, key=lambda line: line.stream):
        yield Output(stream, b"".join(line.data for line in row))


def _place_of(socket: SocketChannel | None) -> tuple[Place | None, dict[int, bytes]]:
    """What the shim said; None of one that is older than this."""
    if socket is None or not socket.greeting:
        return None, {}
    told = json.loads(socket.greeting)
    rests = {int(stream): rest.encode("latin-1") for stream, rest in told["rests"].items()}
    return Place(told["number"], told["offset"]), {stream: rests.get(stream, b"") for stream in _STREAMS}


def of_removed(
    logs_dir: Path, task_id: TaskId, wish: Attachment, *, readers: Readers, run: Run
) -> AttachedChannel:
    """The log that was kept of a task that has ended and was taken down. NotRunning if there is none."""
    folder = logs_dir / task_id
    if not wish.replays or not folders.is_task_id(task_id) or not folder.is_dir():
        raise NotRunning(f"Container {task_id} is not running")
    over = Watched(task_id, lambda: _UNKNOWN, asyncio.Event(), readers)
    over.ended.set()
    return AttachedChannel(folder, wish=wish, socket=None, task=over, run=run)
