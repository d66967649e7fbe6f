"""``Logs``: the logs of tasks that are containers of an engine, while there is a container and afterwards.

While there is one, its log is the engine's: Podman's is a file, read like a native task's; Docker's is asked
for, again and again from where it was read to (``log_forms.Cursor``), so that an engine that is started anew
costs nobody a line. An engine drops a log with its container. So before that, ``keep`` writes it down in the
form and within the bounds of native's logs: beside its place first, and then renamed. Whatever breaks that
off, the container is still there, and it is done again from the beginning.

Lines are the same either way; only what has no line end yet is told at the task's end.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import structlog

from agent.executor.base import Attachment, Channel, LogLine, LogQuery
from agent.executor.engine.client import Engine, Flavour
from agent.executor.engine.limits import ENGINE_LOG_OVERLAP_NS
from agent.executor.engine.log_forms import (
    Cursor,
    Garbled,
    Joiner,
    MessageReader,
    Piece,
    has_last_ended,
    parse_k8s,
    start_of_last,
)
from agent.executor.engine.task import EngineTask
from agent.executor.limits import ATTACH_POLL_S
from agent.executor.native import folders
from agent.executor.native.attached import Readers, of_removed
from agent.executor.native.log_reader import matches, read_log
from agent.executor.native.shim.log_writer import LogWriter
from swarmpy.errors import Conflict, NotFound, Unavailable
from swarmpy.limits import (
    LOG_FILE_BYTES_MAX,
    LOG_FILES_MAX,
    LOG_FOLLOW_PERIOD_S,
    LOG_LINE_BYTES_MAX,
    LOG_READ_BYTES,
    LOG_TAIL_LINES_MAX,
)
from swarmpy.model.ids import SECOND_NS, TaskId

log = structlog.get_logger(__name__)

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
_HALF_KEPT: Final = ".new-"


def log_config(flavour: Flavour) -> dict[str, Any]:
    """How a container is to log: within the bounds of a native task's log, and exact to the byte.

    Docker's own default writes text only: bytes that are none it replaces.
    """
    if flavour == "podman":
        # one file, and a full one is dropped as a whole
        return {"Type": "k8s-file", "Config": {"max-size": f"{LOG_FILES_MAX * LOG_FILE_BYTES_MAX >> 20}m"}}
    bounds = {"max-size": f"{LOG_FILE_BYTES_MAX >> 20}m", "max-file": str(LOG_FILES_MAX), "compress": "false"}
    return {"Type": "local", "Config": bounds}


class Logs:
    """``find`` says None for a task that was removed; ``know`` whether one has a container, Unavailable while
    the engine does not say it; ``run`` calls what blocks in a thread."""

    def __init__(
        self,
        engine: Engine,
        find: Callable[[TaskId], EngineTask | None],
        *,
        logs_dir: Path,
        know: Callable[[EngineTask], Awaitable[bool]],
        run: Run,
    ) -> None:
        self._engine = engine
        self._find = find
        self._know = know
        self._logs_dir = logs_dir
        self._run = run
        self.readers = Readers()

    def prepare(self) -> None:
        """Drop what a crash left half kept. Blocks."""
        for folder in self._logs_dir.glob(f"{_HALF_KEPT}*"):
            folders.remove_tree(folder)

    async def read(self, task_id: TaskId, query: LogQuery) -> AsyncIterator[LogLine]:
        task = self._find(task_id)
        kept = self._logs_dir / task_id
        if task is None or await self._run(kept.is_dir) or not await self._know(task):
            async for line in read_log(kept, query, has_ended=lambda: True, run=self._run):
                yield line
            return
        self.readers.enter(task_id)
        try:
            lines = self.lines(task, query)
            async with aclosing(lines):
                async for line in lines:
                    yield line
        finally:
            self.readers.leave(task_id)

    async def lines(self, task: EngineTask, query: LogQuery) -> AsyncGenerator[LogLine]:
        """Out of the engine's log."""
        source = Source(self._engine, task, self._run, since=query.since)
        joiner = self._joiner()
        try:
            if query.tail >= 0:
                for line in await self._last(source, joiner, query, task):
                    yield line
            while True:
                has_ended = task.ended.is_set()
                is_final = has_ended or not query.is_following
                async for pieces in source.read(follows=not is_final):
                    for line in joiner.feed(pieces):
                        if matches(line, query):
                            yield line
                        if 0 < query.until < line.timestamp:
                            return
                if is_final:
                    break
                await asyncio.sleep(LOG_FOLLOW_PERIOD_S)
            for line in await self._last_words(source, joiner) if has_ended else ():
                if matches(line, query):
                    yield line
        finally:
            source.close()

    def source(self, task: EngineTask) -> Source:
        return Source(self._engine, task, self._run)

    async def words(
        self, source: Source, *, follows: bool, is_over: Callable[[], bool]
    ) -> AsyncGenerator[tuple[int, bytes]]:
        """What the task says, by stream, as soon as the engine's log has it."""
        task = source.task
        joiner = self._joiner() if self._engine.flavour == "docker" else None
        while True:
            has_ended = task.ended.is_set()
            is_final = has_ended or not follows or is_over()
            async for pieces in source.read(follows=not is_final):
                for part in _in_a_row(joiner.feed(pieces) if joiner is not None else pieces):
                    yield part
            if is_final:
                break
            await asyncio.sleep(ATTACH_POLL_S)
        words = await self._last_words(source, joiner) if joiner is not None and has_ended else []
        for part in _in_a_row(words):
            yield part

    def _joiner(self) -> Joiner:
        return Joiner(ends_by_time=self._engine.flavour == "docker")

    async def _last(
        self, source: Source, joiner: Joiner, query: LogQuery, task: EngineTask
    ) -> Iterable[LogLine]:
        """The tail counts lines that the query lets through."""
        wanted = min(query.tail, LOG_TAIL_LINES_MAX)
        has_ended = task.ended.is_set()
        kept: deque[LogLine] = deque(maxlen=wanted)
        # all that is let through is at the end of what is there, so it need not be read whole
        hint = wanted if query.stdout and query.stderr and not query.until else -1
        async for pieces in source.read(follows=False, tail=hint):
            kept.extend(line for line in joiner.feed(pieces) if matches(line, query))
        if has_ended:
            kept.extend(line for line in await self._last_words(source, joiner) if matches(line, query))
        return kept

    async def _last_words(self, source: Source, joiner: Joiner) -> list[LogLine]:
        """Of a task that has ended."""
        found: list[LogLine] = []
        for stream in joiner.doubtful():
            if await source.has_last_ended(stream):
                found += joiner.end(stream)
        return [*found, *joiner.finish()]

    # --- what stays of a task

    async def keep(self, task: EngineTask) -> None:
        """Write down the log of a task that has ended, before its container goes. May be repeated."""
        task_id = task.record.task_id
        place, fresh = self._logs_dir / task_id, self._logs_dir / f"{_HALF_KEPT}{task_id}"
        if await self._run(place.is_dir) or not await self._know(task):
            return
        await self.readers.wait_gone(task_id)
        try:
            await self._write_down(task, fresh)
            await self._run(partial(os.rename, fresh, place))
        except OSError as error:  # a full disk, say: what is to be removed would make room on it
            log.warning("task_log_not_kept", task_id=task_id, reason=str(error))

    async def _write_down(self, task: EngineTask, folder: Path) -> None:
        await self._run(partial(folders.remove_tree, folder))
        writer: LogWriter = await self._run(partial(_writer, folder))
        source, joiner = Source(self._engine, task, self._run), self._joiner()
        try:
            async for pieces in source.read(follows=False):
                await self._run(partial(_write, writer, list(joiner.feed(pieces))))
            await self._run(partial(_write, writer, await self._last_words(source, joiner)))
            await self._run(partial(writer.finish, source.newest))
        finally:
            source.close()
            writer.close()

    def of_removed(self, task_id: TaskId, wish: Attachment) -> Channel:
        """To be attached to what was kept. NotRunning if there is nothing, or none of it is wished."""
        return of_removed(self._logs_dir, task_id, wish, readers=self.readers, run=self._run)

    async def forget(self, task_id: TaskId) -> None:
        """The log goes for good."""
        if folders.is_task_id(task_id):
            await self.readers.wait_gone(task_id)
            await self._run(lambda: folders.remove_tree(self._logs_dir / task_id))


def _in_a_row(pieces: Iterable[Piece | LogLine]) -> Iterator[tuple[int, bytes]]:
    """What pieces of one stream say together: to a client, a line alone costs as much as many."""
    for stream, row in groupby(pieces, key=lambda piece: piece.stream):
        yield stream, b"".join(piece.data for piece in row)


def _writer(folder: Path) -> LogWriter:
    return LogWriter(
        str(folder),
        file_bytes_max=LOG_FILE_BYTES_MAX,
        files_max=LOG_FILES_MAX,
        line_bytes_max=LOG_LINE_BYTES_MAX,
    )


def _write(writer: LogWriter, lines: Iterable[LogLine]) -> None:
    for line in lines:
        writer.feed(line.stream, line.data, line.timestamp)


class Source:
    """One reader's place in the engine's log of one task. ``read`` brings what has come since; ``close`` it.

    ``since``: what is older need not be brought.
    """

    def __init__(self, engine: Engine, task: EngineTask, run: Run, *, since: int = 0) -> None:
        self.task = task
        self._engine = engine
        self._run = run
        self._file: K8sFile | None = None
        self._cursor = Cursor()
        self._oldest = max(since - ENGINE_LOG_OVERLAP_NS, 0)
        self.newest = 0

    async def read(self, *, follows: bool, tail: int = -1) -> AsyncIterator[list[Piece]]:
        """To the end of what there is now; with ``follows`` perhaps on, perhaps not. ``tail``: at the first
        time, so many lines at least, if there are so many, are enough."""
        read = self._of_podman if self._engine.flavour == "podman" else self._of_docker
        async for pieces in read(follows=follows, tail=tail):
            if pieces:
                self.newest = max(self.newest, pieces[-1].at)
                yield pieces

    async def has_last_ended(self, stream: int) -> bool:
        """Docker does not send the end of a last line that came in pieces; its file has it, if it is seen."""
        root = str((await self._engine.call("GET", "/info") or {}).get("DockerRootDir") or "/nonexistent")
        path = Path(root, "containers", self.task.container, "local-logs", "container.log")
        return has_last_ended(await self._run(partial(_end_of, path)), stream)

    async def skip(self) -> None:
        """Stand at the end of what there is now."""
        async for _ in self.read(follows=False, tail=0):
            continue

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    async def _of_podman(self, *, follows: bool, tail: int) -> AsyncIterator[list[Piece]]:
        del follows  # to be asked again is as good
        if self._file is None:
            try:
                self._file = K8sFile(await log_path(self._engine, self.task))
            except NotFound:
                return  # as below
            if tail >= 0:
                await self._run(partial(self._file.seek_last, tail))
        reader = self._file
        while pieces := await self._run(reader.read):
            yield pieces

    async def _of_docker(self, *, follows: bool, tail: int) -> AsyncIterator[list[Piece]]:
        since = max(self._cursor.rewind(), self._oldest if tail < 0 else 0)
        params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if follows else "0"}
        if since:
            params["since"] = f"{since // SECOND_NS}.{since % SECOND_NS:09d}"
        elif tail >= 0:
            found = await self._tail(params, tail)
            if found is not None:
                yield self._cursor.admit(found)
                since = self._cursor.rewind()
                params["since"] = f"{since // SECOND_NS}.{since % SECOND_NS:09d}"
                window = [piece async for pieces in self._messages(params) for piece in pieces]
                yield self._cursor.adopt(window)
                return
        async for pieces in self._messages(params):
            yield self._cursor.admit(pieces)

    async def _tail(self, params: dict[str, str], tail: int) -> list[Piece] | None:
        """None if more has to be read: of long lines Docker counts each piece."""
        found: list[Piece] = []
        async for pieces in self._messages({**params, "tail": str(max(tail, 1))}):
            found += pieces
        return found if all(piece.data.endswith(b"\n") for piece in found) else None

    async def _messages(self, params: dict[str, str]) -> AsyncIterator[list[Piece]]:
        path = f"/containers/{self.task.container}/logs"
        reader = MessageReader(is_terminal=self.task.record.tty)
        try:
            async with self._engine.stream("GET", path, params=params) as content:
                async for chunk in self._engine.chunks(content):
                    yield reader.feed(chunk)
            yield reader.finish()
        except (NotFound, Conflict):
            return  # somebody else has removed the container, or is at it: what was read is all there will be
        except Garbled as error:
            raise Unavailable(f"docker's log of task {self.task.record.task_id}: {error}") from None


async def log_path(engine: Engine, task: EngineTask) -> Path:
    """Of Podman's file."""
    inspected = await engine.call("GET", f"/containers/{task.container}/json")
    return Path(str((inspected or {}).get("LogPath") or "/nonexistent"))


def _end_of(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - LOG_READ_BYTES, 0))
            return file.read(LOG_READ_BYTES)
    except OSError:
        return b""  # it lies elsewhere: Docker's word has to do


class K8sFile:
    """A place in Podman's log file. Blocks.

    One that is full is replaced by an empty one: it is held open, and read to its end, before the next.
    Who gives up while a thread reads must not close the file under it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._is_closed = False
        self._fd = -1
        self._rest = b""

    def read(self) -> list[Piece]:
        """What has come since, a bounded number of bytes; empty when there is nothing new now."""
        with self._lock:
            while not self._is_closed and (self._fd >= 0 or self._open()):
                data = os.read(self._fd, LOG_READ_BYTES)
                if not data and not self._is_replaced():
                    return []
                if not data and not (data := os.read(self._fd, LOG_READ_BYTES)):
                    self._drop()  # more may have been written between our read and its replacement
                    continue
                *records, self._rest = (self._rest + data).split(b"\n")
                pieces = [piece for record in records if (piece := parse_k8s(record)) is not None]
                if pieces:
                    return pieces
            return []

    def seek_last(self, lines: int) -> None:
        with self._lock:
            if not self._is_closed and self._open():
                data = b"".join(iter(partial(os.read, self._fd, LOG_READ_BYTES), b""))
                os.lseek(self._fd, start_of_last(data, lines), os.SEEK_SET)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._drop()

    def _drop(self) -> None:
        self._rest = b""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> bool:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        return True

    def _is_replaced(self) -> bool:
        own = os.fstat(self._fd)
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False  # it went with its container: this one is the last
        return (found.st_ino, found.st_dev) != (own.st_ino, own.st_dev)
