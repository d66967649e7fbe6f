"""The logs of engines, made into lines: no byte is lost, doubled or changed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.executor.engine.limits import ENGINE_LOG_OVERLAP_NS
from agent.executor.engine.log_forms import (
    Cursor,
    Garbled,
    Joiner,
    MessageReader,
    Piece,
    has_last_ended,
    parse_k8s,
    parse_time,
    start_of_last,
)
from agent.executor.engine.logs import K8sFile, Source, log_config
from swarmpy.errors import Conflict, NotFound, SwarmError

STAMP = b"2026-11-22T00:24:37.%09dZ "
AT = parse_time(b"2026-11-22T00:24:37Z")
MOST = 16_384


def test_times() -> None:
    assert parse_time(b"1970-01-01T00:00:01Z") == 1_000_000_000
    assert parse_time(b"1970-01-01T00:00:01.5Z") == 1_500_000_000
    assert parse_time(b"1970-01-01T02:00:01.000000007+02:00") == 1_000_000_007
    assert parse_time(b"yesterday") == parse_time(b"") == parse_time(b"1970-01-01T00:00:01.Z") == -1


def test_podmans_records() -> None:
    stamp = b"1970-01-01T00:00:01.000000002+00:00"
    assert parse_k8s(stamp + b" stdout F a b ") == Piece(1_000_000_002, 1, b"a b \n")
    assert parse_k8s(stamp + b" stderr P \xff") == Piece(1_000_000_002, 2, b"\xff")
    for torn in (b"", stamp, stamp + b" stdout F", stamp + b" stdin F x", b"now stdout F x"):
        assert parse_k8s(torn) is None


def k8s(lines: list[tuple[int, bytes, bool]]) -> bytes:
    stamp = b"1970-01-01T00:00:01.%09d+00:00 %b %b %b\n"
    names = (b"stdout", b"stderr")
    return b"".join(
        stamp % (at, names[stream - 1], b"F" if is_whole else b"P", data)
        for at, (stream, data, is_whole) in enumerate(lines)
    )


_RECORDS = st.lists(
    st.tuples(
        st.sampled_from((1, 2)), st.sampled_from((b"", b"a", b" stdout F ", b"x stderr P y")), st.booleans()
    ),
    max_size=12,
)


@given(_RECORDS, st.integers(0, 5))
def test_the_last_lines_are_whole(records: list[tuple[int, bytes, bool]], wanted: int) -> None:
    data = k8s(records)

    def ended(content: bytes) -> list[bytes]:
        pieces = [piece for line in content.splitlines() if (piece := parse_k8s(line)) is not None]
        return [line.data for line in Joiner().feed(pieces)]

    everything = ended(data)
    last = ended(data[start_of_last(data, wanted) :])
    count = min(wanted, len(everything))
    assert last[len(last) - count :] == everything[len(everything) - count :]


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 50))
def test_frames_in_any_pieces(contents: list[bytes], size: int) -> None:
    messages = [(1 + at % 2, STAMP % at + content) for at, content in enumerate(contents)]
    data = b"".join(bytes((stream, 0, 0, 0)) + len(each).to_bytes(4) + each for stream, each in messages)
    reader = MessageReader(is_terminal=False)
    found = [piece for at in range(0, len(data), size) for piece in reader.feed(data[at : at + size])]
    assert found == [Piece(AT + at, 1 + at % 2, content) for at, content in enumerate(contents)]


def test_streams_out_of_order_are_put_in_order() -> None:
    told = [(1, 5), (2, 4), (2, 6), (1, 3), (1, 7)]
    data = b"".join(bytes((stream, 0, 0, 0, 0, 0, 0, 32)) + STAMP % at + b"\n" for stream, at in told)
    found = [(piece.stream, piece.at - AT) for piece in MessageReader(is_terminal=False).feed(data)]
    assert found == [(2, 4), (1, 5), (1, 3), (2, 6), (1, 7)]  # a clock that was set back stays so


def test_a_terminals_messages_have_no_frames() -> None:
    long = b"a" * MOST
    told = [
        (1, b"one\r\n"),
        (2, long),
        (2, long),
        (2, b"a\r"),
        (3, b"two\r\n"),
        (4, long),
        (4, b"\r"),
        (5, b"end"),
    ]
    data = b"".join(STAMP % at + content for at, content in told)
    for size in (1_000, 31, len(data)):
        reader = MessageReader(is_terminal=True)
        found = [piece for at in range(0, len(data), size) for piece in reader.feed(data[at : at + size])]
        assert [*found, *reader.finish()] == [Piece(AT + at, 1, content) for at, content in told]


def test_what_is_no_log() -> None:
    with pytest.raises(Garbled):
        MessageReader(is_terminal=False).feed(b"no such container, and no frames")
    with pytest.raises(Garbled):
        MessageReader(is_terminal=False).feed(bytes((1, 0, 0, 0, 0, 0, 0, 3)) + b"abc")


def test_lines_of_pieces() -> None:
    joiner = Joiner()
    found = list(
        joiner.feed([Piece(1, 1, b"a"), Piece(2, 2, b"err\n"), Piece(3, 1, b"b\n"), Piece(4, 1, b"last")])
    )
    assert [(line.timestamp, line.stream, line.data) for line in found] == [(2, 2, b"err\n"), (3, 1, b"ab\n")]
    assert [(line.timestamp, line.data) for line in joiner.finish()] == [(4, b"last")]
    assert list(joiner.finish()) == []
    long = list(Joiner().feed([Piece(1, 1, b"x" * 40_000 + b"\n")]))
    assert [len(line.data) for line in long] == [MOST, MOST, 40_000 - 2 * MOST + 1]


def test_docker_does_not_send_the_end_of_a_line_in_pieces() -> None:
    joiner = Joiner(ends_by_time=True)
    told = [
        Piece(1, 1, b"x" * MOST),
        Piece(1, 1, b"y"),
        Piece(2, 1, b"next\n"),
        Piece(3, 1, b"z" * MOST),
        Piece(3, 1, b""),
    ]
    assert b"".join(line.data for line in joiner.feed(told)) == b"x" * MOST + b"y\n" + b"next\n"
    assert joiner.doubtful() == [1]
    assert b"".join(line.data for line in joiner.end(1)) == b"z" * MOST + b"\n"
    assert joiner.doubtful() == []
    alone = Joiner(ends_by_time=True)
    assert list(alone.feed([Piece(1, 1, b"no end")])) == []
    assert alone.doubtful() == []


def entry(name: bytes, line: bytes, *, last: bool | None = None) -> bytes:
    """As docker's ``local`` driver writes it."""
    message = b"\x0a" + bytes((len(name),)) + name + b"\x10\x80\x01" + b"\x1a" + bytes((len(line),)) + line
    if last is not None:
        piece = (b"\x08\x01" if last else b"") + b"\x12\x02id"
        message += b"\x20\x01\x2a" + bytes((len(piece),)) + piece
    return len(message).to_bytes(4) + message + len(message).to_bytes(4)


def test_whether_dockers_last_line_has_ended() -> None:
    ended = entry(b"stdout", b"x", last=False) + entry(b"stdout", b"y", last=True)
    assert has_last_ended(ended + entry(b"stderr", b"z", last=False), 1)
    assert not has_last_ended(ended + entry(b"stderr", b"z", last=False), 2)
    assert has_last_ended(b"torn at its beginning" + entry(b"stderr", b"z"), 2)
    assert not has_last_ended(b"", 1)
    assert not has_last_ended(b"\xff" * 40, 1)


def said(*lines: tuple[int, int, bytes]) -> list[Piece]:
    return [Piece(*line) for line in lines]


def test_what_is_asked_for_again_is_told_once() -> None:
    cursor = Cursor()
    assert cursor.rewind() == 0
    base = 10 * ENGINE_LOG_OVERLAP_NS
    first = said((base, 1, b"a"), (base, 1, b"a"), (base + 5, 2, b"e\n"), (base + 3, 1, b"b\n"))
    assert cursor.admit(first) == first
    assert cursor.rewind() == base + 5 - ENGINE_LOG_OVERLAP_NS
    again = [*first, Piece(base + 3, 1, b"c\n"), Piece(base + 9, 1, b"b\n")]
    assert cursor.admit(again) == again[4:]


def test_what_is_told_twice_while_files_change() -> None:
    cursor = Cursor()
    lines = said(*((100 + at, 1, b"%d\n" % at) for at in range(9)))
    assert cursor.admit([*lines, *lines[4:], Piece(200, 1, b"on\n")]) == [*lines, Piece(200, 1, b"on\n")]


def test_a_clock_that_is_set_back_loses_nothing() -> None:
    cursor = Cursor()
    told = said(
        (5_000_000_000, 2, b"x\n"),
        (5_000_000_000, 1, b"x\n"),
        (1_000_000_000, 1, b"x\n"),
        (1_000_000_001, 1, b"y\n"),
    )
    assert cursor.admit(told) == told


def test_after_the_last_lines_alone_nothing_older_comes() -> None:
    cursor = Cursor()
    older, last, fresh = Piece(99, 1, b"older\n"), Piece(100, 2, b"last\n"), Piece(100, 1, b"fresh\n")
    assert cursor.admit([last]) == [last]
    assert cursor.adopt([older, last, fresh]) == [fresh]
    cursor.rewind()
    assert cursor.admit([older, last, fresh, Piece(101, 1, b"on\n")]) == [Piece(101, 1, b"on\n")]


@pytest.mark.parametrize("error", [NotFound("No such container: x"), Conflict("marked for removal")])
async def test_the_log_of_a_container_that_somebody_removes_is_what_was_read(error: SwarmError) -> None:
    class Docker:
        flavour = "docker"

        @asynccontextmanager
        async def stream(self, *words: str, **fields: object) -> AsyncIterator[None]:
            if self.flavour:
                raise error
            yield

    task: Any = SimpleNamespace(container="x", record=SimpleNamespace(tty=False, task_id="t"))
    engine: Any = Docker()
    run: Any = None
    assert [pieces async for pieces in Source(engine, task, run).read(follows=False)] == []


def test_podmans_file_is_read_through_its_replacement(tmp_path: Path) -> None:
    path = tmp_path / "ctr.log"
    reader = K8sFile(path)
    assert reader.read() == []
    path.write_bytes(k8s([(1, b"one", True)]))
    assert [piece.data for piece in reader.read()] == [b"one\n"]
    with path.open("ab") as file:
        file.write(k8s([(1, b"two", True)]))
    (tmp_path / "fresh").write_bytes(k8s([(2, b"three", True)]))
    os.replace(tmp_path / "fresh", path)
    assert [piece.data for piece in reader.read()] == [b"two\n"]
    assert [piece.data for piece in reader.read()] == [b"three\n"]
    path.unlink()
    assert reader.read() == []
    reader.close()


def test_logs_are_bounded() -> None:
    assert log_config("podman") == {"Type": "k8s-file", "Config": {"max-size": "30m"}}
    assert log_config("docker")["Type"] == "local"
    assert {"max-size", "max-file"} < set(log_config("docker")["Config"])
