"""Logs as conmon writes them, told as native's are: lines, each byte once.

conmon writes records of time, stream, mark and data, one a line: ``F`` had its line end, ``P`` is a piece
without one, of whatever was read at once. Pieces of a line are put together again here, up to the bound that
lines have.

**Files.** conmon writes ``current`` and, when told to or when it is too long, begins another under that name.
Each has a second name, a number, which it is given before conmon can replace it; so nothing is lost, readers
go from number to number as they do with native's files, and the oldest numbers go. A file that conmon began
while no daemon looked is given its number by who looks next; only one that was begun and replaced meanwhile
is lost, which takes more than ``LOG_BACKSTOP_BYTES``.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from agent.executor.base import LogLine, LogQuery
from agent.executor.native import log_reader
from agent.executor.native.log_reader import LogReader, Place
from agent.executor.native.shim.log_writer import file_name, file_numbers
from swarmpy.limits import (
    LOG_FILES_MAX,
    LOG_FOLLOW_PERIOD_S,
    LOG_LINE_BYTES_MAX,
    LOG_READ_BYTES,
    LOG_TAIL_LINES_MAX,
)
from swarmpy.model.ids import Timestamp

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
CURRENT: Final = "current"


class Record(NamedTuple):
    timestamp: Timestamp
    stream: int
    is_whole: bool
    data: bytes


def parse_record(record: bytes) -> Record | None:
    """One record without its line end; also one of native's, whose logs outlive a change of executor. None
    if it is damaged."""
    line = log_reader.parse_own_record(record)
    if line is not None:
        return Record(line.timestamp, line.stream, True, line.data)
    line = log_reader.parse_conmon_record(record)
    return Record(line.timestamp, line.stream, line.data.endswith(b"\n"), line.data) if line else None


class Joiner:
    """Puts pieces together to lines, stream by stream. A line has the time of its last piece, or of the line
    before it, if conmon put a later one there."""

    def __init__(self) -> None:
        self._rests: dict[int, tuple[Timestamp, bytes]] = {}
        self._latest = Timestamp(0)

    def feed(self, records: Iterable[bytes]) -> list[LogLine]:
        found = []
        for raw in records:
            record = parse_record(raw)
            if record is None:
                continue
            at = self._latest = max(record.timestamp, self._latest)
            data = self._rests.pop(record.stream, (0, b""))[1] + record.data
            while len(data) > LOG_LINE_BYTES_MAX + record.is_whole:
                found.append(_line(at, record.stream, data[:LOG_LINE_BYTES_MAX]))
                data = data[LOG_LINE_BYTES_MAX:]
            if record.is_whole:
                found.append(_line(at, record.stream, data))
            elif data:
                self._rests[record.stream] = at, data
        return found

    def finish(self) -> list[LogLine]:
        """The last words that had no line end."""
        rests, self._rests = self._rests, {}
        return [_line(at, stream, data) for stream, (at, data) in sorted(rests.items())]


def _line(at: Timestamp, stream: int, data: bytes) -> LogLine:
    return LogLine(timestamp=at, stream=stream, data=data)


# --- files


def begin(folder: Path) -> None:
    """A log for conmon to write to, with its number. A former attempt's is kept as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    give_number(folder)
    current = folder / CURRENT
    current.unlink(missing_ok=True)
    os.close(os.open(current, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    give_number(folder)


def give_number(folder: Path) -> None:
    """Give the present file its number, unless it has one; the oldest go if there are too many.

    May be called by several threads and processes at once: the next number is chosen before the file is
    looked at, so whoever comes second finds the number taken, or the file named.
    """
    current = folder / CURRENT
    while True:
        numbers = file_numbers(str(folder))
        following = folder / file_name(numbers[-1] + 1 if numbers else 1)
        try:
            if os.stat(current).st_nlink > 1:
                break
            os.link(current, following)
        except FileExistsError:
            continue
        except FileNotFoundError:
            break
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            break  # a full disk: what has a number can be read
    for number in file_numbers(str(folder))[:-LOG_FILES_MAX]:
        (folder / file_name(number)).unlink(missing_ok=True)


def end_of(folder: Path) -> Place:
    """The end of the last whole record."""
    give_number(folder)
    numbers = file_numbers(str(folder))
    if not numbers:
        return log_reader.BEGINNING
    try:
        with open(folder / file_name(numbers[-1]), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - LOG_READ_BYTES)
            file.seek(start)
            last = file.read(size - start).rfind(b"\n")
    except FileNotFoundError:
        return log_reader.BEGINNING
    return Place(numbers[-1], start + last + 1)


def place_of_last(folder: Path, lines: int) -> Place:
    """Before the last lines of any stream, or before the beginning of the first one's pieces."""
    wanted = min(lines, LOG_TAIL_LINES_MAX)
    numbers = file_numbers(str(folder))
    for number in reversed(numbers):
        try:
            data = (folder / file_name(number)).read_bytes()
        except FileNotFoundError:
            continue
        offset, wanted = _offset_of_last(data, wanted, is_newest=number == numbers[-1])
        if offset:
            return Place(number, offset)
    return log_reader.BEGINNING


def _offset_of_last(data: bytes, wanted: int, *, is_newest: bool) -> tuple[int, int]:
    """Where to begin to have that many lines, 0 if not in ``data``; and how many were not in it."""
    end = data.rfind(b"\n") + 1  # a torn record counts for nothing
    is_last = is_newest
    while end > 0:
        start = data.rfind(b"\n", 0, end - 1) + 1
        is_piece = data[start : start + 80].split(b" ", 3)[2:3] == [b"P"]
        if not is_piece or is_last:  # a piece belongs to the line that ends after it
            if not wanted:
                return end, 0
            wanted -= 1
        is_last = False
        end = start
    return 0, wanted


# --- reading


async def read_log(
    folder: Path, query: LogQuery, *, has_ended: Callable[[], bool], run: Run
) -> AsyncIterator[LogLine]:
    """The lines that ``query`` asks for. ``run`` carries a blocking call out in a thread."""
    await run(lambda: give_number(folder))
    reader, joiner = LogReader(folder), Joiner()
    if query.tail == 0:
        reader = LogReader(folder, start=await run(lambda: end_of(folder)))
    elif query.tail > 0:
        if query.stdout and query.stderr and not query.until:
            reader = LogReader(folder, start=await run(lambda: place_of_last(folder, query.tail)))
        kept: list[LogLine] = []
        while records := await run(reader.read):
            kept += [line for line in joiner.feed(records) if log_reader.matches(line, query)]
            kept = kept[-query.tail :]
        if not query.is_following or has_ended():
            kept = [*kept, *(line for line in joiner.finish() if log_reader.matches(line, query))][
                -query.tail :
            ]
        for line in kept:
            yield line
    async for line in _follow((reader, joiner), query, folder, has_ended=has_ended, run=run):
        yield line


async def _follow(
    at: tuple[LogReader, Joiner], query: LogQuery, folder: Path, *, has_ended: Callable[[], bool], run: Run
) -> AsyncIterator[LogLine]:
    """From where the reader stands: to the end of the log, or if the query follows, of the task."""
    reader, joiner = at

    def read() -> list[bytes]:
        give_number(folder)
        return reader.read()

    while True:
        is_final = not query.is_following or has_ended()
        records = await run(read)
        lines = joiner.feed(records)
        is_over = any(0 < query.until < line.timestamp for line in lines)
        if not records and is_final:
            lines = joiner.finish()
        for line in lines:
            if log_reader.matches(line, query):
                yield line
        if is_over or (not records and is_final):
            return
        if not records:
            await asyncio.sleep(LOG_FOLLOW_PERIOD_S)
