"""Reading a task's log: the last lines, the lines since a time, and following it to the task's end.

The format and the numbering of files are ``shim/log_writer``'s. Rotation only ever appends files and drops
the oldest, so a reader goes from number to number; one that was overtaken goes on at the oldest that is
left. A torn record (the shim was killed while writing) is passed over.

Logs outlive a change of executor: what conmon wrote is understood, too. There a line may be in pieces.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from agent.executor.base import LogLine, LogQuery
from agent.executor.native.shim.log_writer import file_name, file_numbers
from swarmpy.limits import LOG_FOLLOW_PERIOD_S, LOG_READ_BYTES, LOG_TAIL_LINES_MAX
from swarmpy.model.ids import SECOND_NS, Timestamp

_WHOLE, _PIECE = ord("F"), ord("P")
_CONMON_STREAMS: Final = {b"stdout": 1, b"stderr": 2}
_CONMON_HEAD: Final = re.compile(
    rb"(?P<whole>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(?P<fraction>\d{9})(?P<zone>[+-]\d\d:\d\d) "
    rb"(?P<stream>stdout|stderr) (?P<mark>[FP]) "
)
_CONMON_HEAD_BYTES_MAX: Final = 45


class Place(NamedTuple):
    """A byte of a log: the number of its file, and how many bytes of that come before."""

    number: int
    offset: int


BEGINNING = Place(0, 0)


def parse_record(record: bytes) -> LogLine | None:
    """One line of a log file, without its line end. None if it is damaged."""
    return parse_own_record(record) or parse_conmon_record(record)


def parse_own_record(record: bytes) -> LogLine | None:
    """One of native's own."""
    stamp, _, rest = record.partition(b" ")
    if len(rest) < 3 or rest[2] != 0x20 or rest[1] not in (_WHOLE, _PIECE) or not stamp.isdigit():
        return None
    data = rest[3:] + b"\n" if rest[1] == _WHOLE else rest[3:]
    return LogLine(timestamp=Timestamp(int(stamp)), stream=rest[0] - 0x30, data=data)


def parse_conmon_record(record: bytes) -> LogLine | None:
    """``<RFC 3339> <stream> <mark> <data>``, the marks as above. What a full disk has left of the head of the
    one before may stand in front."""
    head = _CONMON_HEAD.search(record, 0, 2 * _CONMON_HEAD_BYTES_MAX)
    if head is None:
        return None
    try:
        seconds = int(datetime.fromisoformat((head["whole"] + head["zone"]).decode()).timestamp())
    except ValueError:
        return None
    data = record[head.end() :]
    return LogLine(
        timestamp=Timestamp(seconds * SECOND_NS + int(head["fraction"])),
        stream=_CONMON_STREAMS[head["stream"]],
        data=data + b"\n" if head["mark"] == b"F" else data,
    )


def matches(line: LogLine, query: LogQuery) -> bool:
    if line.timestamp < query.since or (query.until and line.timestamp > query.until):
        return False
    return query.stdout if line.stream == 1 else query.stderr


class LogReader:
    """A place in one task's log. ``read`` returns what has come since; blocking. ``end``: no further.

    ``is_overtaken``: a file went before it was read to its end, as far as one can tell.
    """

    def __init__(self, folder: Path, *, start: Place = BEGINNING, end: Place | None = None) -> None:
        self._folder = folder
        self._number, self._offset = start
        self._end = end
        self._rest = b""
        self.is_overtaken = False

    def read(self) -> list[bytes]:
        """The next records, a bounded number of bytes; empty when there is nothing new now."""
        while True:
            data = self._read_bytes()
            if data:
                *records, self._rest = (self._rest + data).split(b"\n")
                if records:
                    return records
                continue
            last = self._end.number if self._end is not None else None
            numbers = file_numbers(str(self._folder))
            following = [n for n in numbers if n > self._number and (last is None or n <= last)]
            if not following:
                return []
            # more may have been written to this file between our read and its rotation
            if self._number and (data := self._read_bytes()):
                *records, self._rest = (self._rest + data).split(b"\n")
                if records:
                    return records
                continue
            if self._number and self._number not in numbers:
                self.is_overtaken = True
            self._number, self._offset, self._rest = following[0], 0, b""

    def seek_last(self, lines: int) -> None:
        """Stand before the last ``lines`` lines of any stream."""
        numbers = file_numbers(str(self._folder))
        if lines <= 0:
            if numbers:
                self._number = numbers[-1]
                self._offset = self._size(numbers[-1])
            return
        wanted = min(lines, LOG_TAIL_LINES_MAX)
        for number in reversed(numbers):
            try:
                data = (self._folder / file_name(number)).read_bytes()
            except FileNotFoundError:
                continue
            offset, wanted = _offset_of_last(data, wanted)
            self._number, self._offset = number, offset
            if not wanted:
                return

    def _size(self, number: int) -> int:
        try:
            return (self._folder / file_name(number)).stat().st_size
        except FileNotFoundError:
            return 0

    def _read_bytes(self) -> bytes:
        if not self._number:
            return b""
        wanted = LOG_READ_BYTES
        if self._end is not None and self._number == self._end.number:
            wanted = min(wanted, self._end.offset - self._offset)
        try:
            with open(self._folder / file_name(self._number), "rb") as file:
                file.seek(self._offset)
                data = file.read(max(wanted, 0))
        except FileNotFoundError:
            return b""
        self._offset += len(data)
        return data


def _offset_of_last(data: bytes, wanted: int) -> tuple[int, int]:
    """Where the last ``wanted`` records begin, and how many of them were not in ``data``."""
    end = len(data)
    if end and not data.endswith(b"\n"):
        end = data.rfind(b"\n") + 1  # a torn record counts for nothing
    position = end
    while wanted and position > 0:
        position = data.rfind(b"\n", 0, position - 1) + 1
        wanted -= 1
    return (position, wanted) if position else (0, wanted)


async def read_log(
    folder: Path,
    query: LogQuery,
    *,
    has_ended: Callable[[], bool],
    run: Callable[[Callable[[], list[bytes]]], Awaitable[list[bytes]]],
) -> AsyncIterator[LogLine]:
    """The lines that ``query`` asks for. ``run`` carries a blocking call out in a thread."""
    reader = LogReader(folder)
    pending: list[LogLine] = []
    if query.tail >= 0:
        pending = await _last_lines(reader, query, run)
        for last in pending:
            yield last
    async for line in follow(reader, query, has_ended=has_ended, run=run):
        yield line


async def follow(
    reader: LogReader,
    query: LogQuery,
    *,
    has_ended: Callable[[], bool],
    run: Callable[[Callable[[], list[bytes]]], Awaitable[list[bytes]]],
) -> AsyncIterator[LogLine]:
    """From where the reader stands: to the end of the log, or if the query follows, of the task."""
    is_over = False
    while True:
        is_final = not query.is_following or has_ended()
        records = await run(reader.read)
        for record in records:
            line = parse_record(record)
            if line is not None and matches(line, query):
                yield line
            is_over = is_over or (line is not None and 0 < query.until < line.timestamp)
        if records and not is_over:
            continue
        if is_final or is_over:
            return
        await asyncio.sleep(LOG_FOLLOW_PERIOD_S)


async def _last_lines(
    reader: LogReader,
    query: LogQuery,
    run: Callable[[Callable[[], list[bytes]]], Awaitable[list[bytes]]],
) -> list[LogLine]:
    """The tail counts lines that the query lets through, so one stream alone reads further back."""
    both = query.stdout and query.stderr and not query.until

    def seek() -> list[bytes]:
        if both or not query.tail:
            reader.seek_last(query.tail)
        return []

    await run(seek)
    if not query.tail:
        return []
    kept: list[LogLine] = []
    while records := await run(reader.read):
        lines = (parse_record(record) for record in records)
        kept += [line for line in lines if line is not None and matches(line, query)]
        kept = kept[-query.tail :]
    return kept
