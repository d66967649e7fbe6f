"""The logs of engines as they write or send them, and the lines that these are pieces of. Pure.

Podman's monitor writes a file in the form of Kubernetes: time, stream, a mark, data; ``F`` ends a line, ``P``
does not. Docker sends messages: each has its time before it, and its line's end behind it unless it is but a
piece; they come in frames that name the stream, of a terminal one after the other. Pieces of one line have
one time, and Docker 20.10 does not send the end behind the last of several. ``Joiner`` makes lines of either,
as native's log has them: bytes are never changed, and a line that is too long comes in several.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from heapq import merge
from typing import Final, NamedTuple

from agent.executor.base import LogLine
from agent.executor.engine.limits import ENGINE_LOG_OVERLAP_NS
from swarmpy.limits import LOG_LINE_BYTES_MAX
from swarmpy.model.ids import SECOND_NS, Timestamp

_STREAMS: Final = {b"stdout": 1, b"stderr": 2}
_NAMES: Final = (b"stdout", b"stderr")
_FRAME_HEAD_BYTES: Final = 8
_STAMP_BYTES: Final = 30
"""Of a time as Docker writes it: nine digits after the point, and Z."""
_STAMP: Final = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")
_MESSAGE_BYTES_MAX: Final = 16_384
"""What Docker takes of one line at a time."""


_LENGTH_BYTES: Final = 4
_BYTES: Final = 2
"""Protobuf's kind of a field that says its length."""


class Garbled(Exception):
    """The engine sent what is no log."""


class Piece(NamedTuple):
    """``data`` has the line's end if it is there."""

    at: int
    stream: int
    data: bytes


def parse_time(text: bytes) -> int:
    """RFC 3339 to nanoseconds; -1 if it is none."""
    seconds, point, rest = text.partition(b".")
    if not point:
        zone = text[19:]
        return _seconds(text[:19] + zone) * SECOND_NS if len(text) > 19 else -1
    digits = len(rest) - len(rest.lstrip(b"0123456789"))
    whole = _seconds(seconds + rest[digits:])
    return -1 if whole < 0 or not digits else whole * SECOND_NS + int(rest[:9][:digits].ljust(9, b"0"))


@lru_cache(maxsize=64)
def _seconds(text: bytes) -> int:
    try:
        return int(datetime.fromisoformat(text.decode("ascii").replace("Z", "+00:00")).timestamp())
    except ValueError:
        return -1


def parse_k8s(record: bytes) -> Piece | None:
    """One line of Podman's file, without its end. None if it is damaged."""
    words = record.split(b" ", 3)
    if len(words) < 4 or words[1] not in _STREAMS or words[2] not in (b"F", b"P"):
        return None
    at, data = parse_time(words[0]), words[3] + b"\n" if words[2] == b"F" else words[3]
    return Piece(at, _STREAMS[words[1]], data) if at >= 0 else None


def start_of_last(data: bytes, lines: int) -> int:
    """Where in Podman's file to begin to read in order to have the last ``lines`` lines whole."""
    position = data.rfind(b"\n") + 1
    counted = 0
    while position > 0 and counted < lines:
        position = data.rfind(b"\n", 0, position - 1) + 1
        counted += data[position : position + 64].split(b" ", 3)[2:3] == [b"F"]
    # before it there may be pieces of a line that ends behind it
    for name in _NAMES:
        ending, piece = _last_with(data, name, b"F", position), _last_with(data, name, b"P", position)
        while piece > ending:
            position = piece
            piece = _last_with(data, name, b"P", piece)
    return position


def _last_with(data: bytes, name: bytes, mark: bytes, end: int) -> int:
    """Where the last record of this stream with this mark begins, before ``end``; -1 if there is none."""
    sought = b" %b %b " % (name, mark)
    found = data.rfind(sought, 0, end)
    while found >= 0:
        start = data.rfind(b"\n", 0, found) + 1
        if b" " not in data[start:found]:
            return start
        found = data.rfind(sought, 0, found)
    return -1


class MessageReader:
    """Docker's stream of a log, with times, in chunks as they come."""

    def __init__(self, *, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self._rest = b""
        self._is_within_line = False

    def feed(self, chunk: bytes) -> list[Piece]:
        """Docker may write two streams a little out of order; each one's own order is never touched."""
        self._rest += chunk
        if self._is_terminal:
            return list(self._raw())
        found = list(self._framed())
        streams = ([piece for piece in found if piece.stream == stream] for stream in (1, 2))
        return list(merge(*streams, key=lambda piece: piece.at))

    def finish(self) -> list[Piece]:
        """A terminal's last words have neither a frame nor an end."""
        rest, self._rest = self._rest, b""
        return [_message(1, rest)] if rest and self._is_terminal else []

    def _framed(self) -> Iterator[Piece]:
        at, data = 0, self._rest
        while len(data) - at >= _FRAME_HEAD_BYTES:
            stream = data[at]
            if stream not in (1, 2):
                raise Garbled(f"a frame of stream {stream} in a log")
            end = at + _FRAME_HEAD_BYTES + int.from_bytes(data[at + 4 : at + 8])
            if end > len(data):
                break
            yield _message(stream, data[at + _FRAME_HEAD_BYTES : end])
            at = end
        self._rest = data[at:]

    def _raw(self) -> Iterator[Piece]:
        at, data = 0, self._rest
        head = _STAMP_BYTES + 1
        while True:
            most = at + head + _MESSAGE_BYTES_MAX
            newline = data.find(b"\n", at + head, most)
            following = _STAMP.search(data, at + head, most + head) if self._is_within_line else None
            if following is not None and (newline < 0 or following.start() < newline):
                end = following.start()
            elif newline >= 0:
                end = newline + 1
            elif len(data) >= most + head:
                end = most
            else:
                break
            yield _message(1, data[at:end])
            self._is_within_line = newline + 1 != end
            at = end
        self._rest = data[at:]


def _message(stream: int, content: bytes) -> Piece:
    stamp, space, data = content[:_STAMP_BYTES], content[_STAMP_BYTES : _STAMP_BYTES + 1], content
    at = parse_time(stamp)
    if at < 0 or space != b" ":
        raise Garbled(f"a message of a log without its time: {content[:40]!r}")
    return Piece(at, stream, data[_STAMP_BYTES + 1 :])


def has_last_ended(tail: bytes, stream: int) -> bool:
    """Whether the last line of a stream has its end, by the end of the file that Docker keeps for itself.

    Entries are messages of protobuf with their length before and behind them; a piece says of itself whether
    it is its line's last one.
    """
    end = len(tail)
    while end > _LENGTH_BYTES:
        size = int.from_bytes(tail[end - _LENGTH_BYTES : end])
        start = end - _LENGTH_BYTES - size
        if start < _LENGTH_BYTES:
            return False
        fields = _fields(tail[start : end - _LENGTH_BYTES])
        if fields.get(1) == _NAMES[stream - 1]:
            piece = fields.get(5)
            return piece is None or (isinstance(piece, bytes) and _fields(piece).get(1) == 1)
        end = start - _LENGTH_BYTES
    return False


def _fields(message: bytes) -> dict[int, bytes | int]:
    """Of a message of protobuf, by number: bytes and whole numbers, which is all that these have."""
    found: dict[int, bytes | int] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == _BYTES:
            found[tag >> 3], at = message[at : at + value], at + value
        elif tag & 7 == 0:
            found[tag >> 3] = value
        else:
            break
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message):
        value |= (message[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if message[at - 1] < 0x80:
            break
    return value, at


class Joiner:
    """Lines out of pieces. A line has the time of its end. ``ends_by_time``: what has another time than the
    piece before it is another line."""

    def __init__(self, *, ends_by_time: bool = False) -> None:
        self._ends_by_time = ends_by_time
        self._rests: dict[int, list[bytes]] = {1: [], 2: []}
        self._sizes = {1: 0, 2: 0}
        self._counts = {1: 0, 2: 0}
        """Pieces of the line that has no end yet."""
        self._last = {1: 0, 2: 0}

    def feed(self, pieces: Iterable[Piece]) -> Iterator[LogLine]:
        for piece in pieces:
            at, stream, data = piece
            if self._ends_by_time and self._rests[stream] and self._last[stream] != at:
                yield from self.end(stream)
            self._last[stream] = at
            if not self._sizes[stream] and data.endswith(b"\n") and len(data) <= LOG_LINE_BYTES_MAX:
                yield LogLine(timestamp=Timestamp(at), stream=stream, data=data)
                continue
            self._rests[stream].append(data)
            self._counts[stream] += 1
            self._sizes[stream] += len(data)
            if data.endswith(b"\n") or self._sizes[stream] > LOG_LINE_BYTES_MAX:
                yield from self._cut(at, stream)

    def doubtful(self) -> list[int]:
        """Streams of which the last line came in pieces: whether it has ended is not told by these."""
        return [stream for stream, count in self._counts.items() if self._ends_by_time and count > 1]

    def end(self, stream: int) -> Iterator[LogLine]:
        self._rests[stream].append(b"\n")
        yield from self._cut(self._last[stream], stream)

    def finish(self) -> Iterator[LogLine]:
        """The last words that have no end."""
        for stream, rest in self._rests.items():
            if rest:
                yield LogLine(timestamp=Timestamp(self._last[stream]), stream=stream, data=b"".join(rest))
                rest.clear()

    def _cut(self, at: int, stream: int) -> Iterator[LogLine]:
        data = b"".join(self._rests[stream])
        body = len(data) - data.endswith(b"\n")
        start = 0
        while body - start > LOG_LINE_BYTES_MAX:
            yield LogLine(
                timestamp=Timestamp(at), stream=stream, data=data[start : start + LOG_LINE_BYTES_MAX]
            )
            start += LOG_LINE_BYTES_MAX
        rest = data[start:]
        if rest.endswith(b"\n"):
            yield LogLine(timestamp=Timestamp(at), stream=stream, data=rest)
            rest, self._counts[stream] = b"", 0
        self._rests[stream] = [rest] if rest else []
        self._sizes[stream] = len(rest)


class Cursor:
    """How far Docker's messages were read, so that asking again neither loses nor doubles any.

    Docker can be asked for messages from a time on, that time included; those of two streams may be out of
    order by a little, so it is asked for a little more. Who follows its log through a change of files is told
    some messages twice. Either way a stream's time goes back, and what is told again is passed over: it has
    to be the very same, since a clock that was set back does that, too.
    """

    def __init__(self) -> None:
        self._recent: deque[Piece] = deque()
        self._seen: Counter[Piece] = Counter()
        self._newest = {1: 0, 2: 0}
        self._again: dict[int, Counter[Piece]] = {}
        """Of streams that are told again: what there was of the newest time, whose pieces may be alike."""

    def rewind(self) -> int:
        """The time to ask from; 0: from the beginning."""
        for stream in self._newest:
            self._repeat(stream)
        return max(max(self._newest.values()) - ENGINE_LOG_OVERLAP_NS, 0)

    def admit(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Those of them that had not been read before."""
        return [piece for piece in pieces if self._is_new(piece)]

    def adopt(self, window: list[Piece]) -> list[Piece]:
        """``window`` is all of the last while, of which only the end had been read: what is new in it."""
        known = Counter(self._recent)
        last = -1
        for index, piece in enumerate(window):
            if known[piece] > 0:
                known[piece] -= 1
                last = index
        self._recent.clear()
        self._seen.clear()
        self._again.clear()
        for piece in window[: last + 1]:
            self._note(piece)
        return self.admit(window[last + 1 :])

    def _is_new(self, piece: Piece) -> bool:
        newest = self._newest[piece.stream]
        if piece.at > newest:
            self._again.pop(piece.stream, None)
        elif piece.at < newest and self._seen[piece]:
            if piece.stream not in self._again:
                self._repeat(piece.stream)
            return False
        elif piece.stream in self._again and self._again[piece.stream][piece] > 0:
            self._again[piece.stream][piece] -= 1
            return False
        self._note(piece)
        return True

    def _repeat(self, stream: int) -> None:
        newest = self._newest[stream]
        self._again[stream] = Counter(
            piece for piece in self._recent if piece.stream == stream and piece.at == newest
        )

    def _note(self, piece: Piece) -> None:
        self._newest[piece.stream] = piece.at
        self._recent.append(piece)
        self._seen[piece] += 1
        oldest = max(self._newest.values()) - 2 * ENGINE_LOG_OVERLAP_NS
        while self._recent and self._recent[0].at < oldest:
            gone = self._recent.popleft()
            self._seen[gone] -= 1
            if not self._seen[gone]:
                del self._seen[gone]
