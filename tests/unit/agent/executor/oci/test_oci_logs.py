"""Logs in conmon's form: records, lines out of pieces, files and their numbers."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.executor.base import LogLine, LogQuery
from agent.executor.native.attached import Readers, Watched
from agent.executor.oci import logs
from agent.executor.oci.attached import LogChannel
from agent.executor.oci.logs import Joiner, Record
from swarmpy.errors import Unavailable
from swarmpy.limits import LOG_FILES_MAX, LOG_LINE_BYTES_MAX
from swarmpy.model.ids import TaskId, Timestamp

AT = "2026-01-31T23:59:59.123456789+00:00"
NS = Timestamp(1769903999123456789)


def record(data: bytes, *, stream: str = "stdout", mark: str = "F", at: str = AT) -> bytes:
    return f"{at} {stream} {mark} ".encode() + data


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (record(b"a b"), Record(NS, 1, True, b"a b\n")),
        (record(b"", stream="stderr"), Record(NS, 2, True, b"\n")),
        (record(b"half", mark="P"), Record(NS, 1, False, b"half")),
        (record(b"east", at="2026-02-01T01:59:59.123456789+02:00"), Record(NS, 1, True, b"east\n")),
        (b"17 2F of native's", Record(Timestamp(17), 2, True, b"of native's\n")),
        (b"17 2F " + record(b"x"), Record(Timestamp(17), 2, True, record(b"x\n"))),
        (record(record(b"x", stream="stderr")), Record(NS, 1, True, record(b"x\n", stream="stderr"))),
        (record(b"")[:20] + record(b"x"), Record(NS, 1, True, b"x\n")),
        (b"", None),
        (record(b"x", at="2026-01-31"), None),
        (record(b"x", at="2026-01-31T23:59:59.12345678x+00:00"), None),
        (record(b"x", at="2026-13-31T23:59:59.123456789+00:00"), None),
        (b"no head" * 20 + record(b"x"), None),
    ],
)
def test_records(raw: bytes, expected: Record | None) -> None:
    assert logs.parse_record(raw) == expected


def test_pieces_of_two_streams() -> None:
    joiner = Joiner()
    lines = joiner.feed(
        [record(b"o1", mark="P"), record(b"e1", mark="P", stream="stderr"), record(b"o2")],
    )
    assert [(line.stream, line.data) for line in lines] == [(1, b"o1o2\n")]
    assert [(line.stream, line.data) for line in joiner.finish()] == [(2, b"e1")]
    assert joiner.finish() == []


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stdout", "stderr"]), st.booleans(), st.integers(0, 2 * LOG_LINE_BYTES_MAX + 9)
        ),
        max_size=6,
    )
)
def test_every_byte_once_and_no_line_too_long(pieces: list[tuple[str, bool, int]]) -> None:
    raw = [
        record(b"x" * size, stream=stream, mark="F" if is_whole else "P") for stream, is_whole, size in pieces
    ]
    joiner = Joiner()
    lines = [line for one in raw for line in joiner.feed([one])] + joiner.finish()
    for number, stream in ((1, "stdout"), (2, "stderr")):
        said = b"".join(
            b"x" * size + (b"\n" if is_whole else b"") for of, is_whole, size in pieces if of == stream
        )
        assert b"".join(line.data for line in lines if line.stream == number) == said
    assert all(len(line.data) <= LOG_LINE_BYTES_MAX + 1 for line in lines)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=30)), max_size=6),
    st.integers(0, 6),
    st.integers(0, 80),
)
def test_what_a_full_disk_tears_costs_no_line_but_its_own(
    said: list[tuple[str, bytes]], at: int, length: int
) -> None:
    """conmon goes on behind what it could write of a record. The line is lost, or run into the next one."""
    whole = [record(data.replace(b"\n", b"."), stream=stream) + b"\n" for stream, data in said]
    torn = record(b"lost, whatever it was, and so much of it that no head is within")[:length]
    raw = b"".join([*whole[:at], torn, *whole[at:]]).split(b"\n")
    lines = Joiner().feed(raw)
    expected = [(1 if stream == "stdout" else 2, data.replace(b"\n", b".") + b"\n") for stream, data in said]
    found = [(line.stream, line.data) for line in lines]
    assert found[: min(at, len(said))] == expected[:at]
    assert found[len(found) - len(expected[at + 1 :]) :] == expected[at + 1 :]
    if length < len(record(b"")):
        assert found == expected, "no more of it than of its head is of no harm to others"


# --- files


def write(folder: Path, *raw: bytes) -> None:
    with open(folder / logs.CURRENT, "ab") as file:
        file.write(b"".join(each + b"\n" for each in raw))


def replace_current(folder: Path) -> None:
    """As conmon begins another file."""
    (folder / "current.tmp").write_bytes(b"")
    os.replace(folder / "current.tmp", folder / logs.CURRENT)


async def run(call: object) -> object:
    assert callable(call)
    return call()


async def read(folder: Path, query: LogQuery | None = None) -> list[bytes]:
    found: list[LogLine] = [
        line async for line in logs.read_log(folder, query or LogQuery(), has_ended=lambda: True, run=run)
    ]
    return [line.data for line in found]


async def test_a_file_that_is_replaced_keeps_its_number(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    logs.begin(folder)
    write(folder, record(b"one"), record(b"tw", mark="P"))
    replace_current(folder)
    write(folder, record(b"o"), record(b"three"))
    assert await read(folder) == [b"one\n", b"two\n", b"three\n"]
    logs.give_number(folder)
    logs.give_number(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["00000001.log", "00000002.log", "current"]


async def test_the_oldest_go(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    logs.begin(folder)
    for number in range(LOG_FILES_MAX + 2):
        write(folder, record(b"%d" % number))
        replace_current(folder)
        logs.give_number(folder)
    write(folder, record(b"last"))
    kept = [b"%d\n" % number for number in range(LOG_FILES_MAX + 2)][1 - LOG_FILES_MAX :]
    assert await read(folder) == [*kept, b"last\n"]


@pytest.mark.parametrize("tail", range(7))
async def test_the_last_lines_over_files_and_pieces(tmp_path: Path, tail: int) -> None:
    folder = tmp_path / "log"
    logs.begin(folder)
    write(folder, record(b"one"), record(b"tw", mark="P"))
    replace_current(folder)
    logs.give_number(folder)
    write(folder, record(b"o"), record(b"thr", mark="P"), record(b"ee"), record(b"fo", mark="P"))
    lines = [b"one\n", b"two\n", b"three\n", b"fo"]
    assert await read(folder, LogQuery(tail=tail)) == (lines[-tail:] if tail else [])


async def test_a_former_attempt_is_kept_apart(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    logs.begin(folder)
    write(folder, record(b"torn", mark="P"))
    logs.begin(folder)
    write(folder, record(b"fresh"))
    assert (await read(folder))[-1].endswith(b"fresh\n")
    assert sorted(path.name for path in folder.iterdir()) == ["00000001.log", "00000002.log", "current"]


async def test_no_room_for_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has a number is read; the rest follows once there is room."""
    folder = tmp_path / "log"
    logs.begin(folder)
    write(folder, record(b"one"))
    replace_current(folder)
    write(folder, record(b"two"))

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", fails)
        assert await read(folder) == [b"one\n"]
    assert await read(folder) == [b"one\n", b"two\n"]


async def test_no_log_at_all(tmp_path: Path) -> None:
    assert await read(tmp_path / "none") == []
    assert await read(tmp_path / "none", LogQuery(tail=3)) == []


def test_times_never_fall() -> None:
    later = "2026-02-01T00:00:00.000000001+00:00"
    lines = Joiner().feed([record(b"one", at=later), record(b"two", stream="stderr")])
    assert lines[0].timestamp == lines[1].timestamp


@pytest.mark.parametrize("rotations", [LOG_FILES_MAX - 1, LOG_FILES_MAX])
async def test_who_is_attached_and_falls_behind_the_kept_log_is_told(tmp_path: Path, rotations: int) -> None:
    folder = tmp_path / "log"
    logs.begin(folder)
    write(folder, record(b"first"))
    watched = Watched(TaskId("t"), lambda: None, asyncio.Event(), Readers())
    channel = LogChannel(folder, start=logs.end_of(folder), task=watched, task_input=None, run=run)
    write(folder, record(b"0"))
    output = channel.output()
    assert (await anext(output)).data == b"0\n"
    for number in range(1, rotations + 1):
        replace_current(folder)
        logs.give_number(folder)
        write(folder, record(b"%d" % number))
    if rotations < LOG_FILES_MAX:
        said = [(await anext(output)).data for _ in range(rotations)]
        assert said == [b"%d\n" % number for number in range(1, rotations + 1)]
    else:
        with pytest.raises(Unavailable, match="fell behind"):
            await anext(output)
    await channel.close()
