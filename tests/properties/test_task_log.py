"""Whatever a task says, in whatever pieces, its log gives back byte for byte, within its bounds."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.executor.native.log_reader import LogReader, parse_record
from agent.executor.native.shim.log_writer import LogWriter

_LINE_MAX = 40
_FILE_MAX = 200
_words = st.binary(max_size=90) | st.sampled_from([b"\n", b"\n\n", b"x" * 41, b"1 1F y\n", b"\r\n", b"\0"])
_pieces = st.lists(st.tuples(st.sampled_from([1, 2]), _words), max_size=60)


def _write(folder: str, pieces: list[tuple[int, bytes]], *, files_max: int) -> None:
    log = LogWriter(folder, file_bytes_max=_FILE_MAX, files_max=files_max, line_bytes_max=_LINE_MAX)
    for moment, (stream, data) in enumerate(pieces):
        log.feed(stream, data, moment)
    log.finish(len(pieces))
    log.close()


def _read(folder: str) -> list[tuple[int, int, bytes]]:
    reader = LogReader(Path(folder))
    found: list[tuple[int, int, bytes]] = []
    while records := reader.read():
        lines = [parse_record(record) for record in records]
        found += [(line.timestamp, line.stream, line.data) for line in lines if line is not None]
        assert None not in lines
    return found


@given(_pieces)
def test_nothing_is_lost_or_changed(pieces: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _write(folder, pieces, files_max=10_000)
        found = _read(folder)
        for stream in (1, 2):
            said = b"".join(data for number, data in pieces if number == stream)
            assert b"".join(data for _, number, data in found if number == stream) == said
        assert all(len(data) <= _LINE_MAX + 1 for _, _, data in found)
        assert [moment for moment, _, _ in found] == sorted(moment for moment, _, _ in found)
        assert all(file.stat().st_size <= _FILE_MAX for file in Path(folder).iterdir())


@given(_pieces, st.integers(1, 4))
def test_what_is_kept_is_the_end(pieces: list[tuple[int, bytes]], files_max: int) -> None:
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as bounded:
        _write(whole, pieces, files_max=10_000)
        _write(bounded, pieces, files_max=files_max)
        everything, kept = _read(whole), _read(bounded)
        assert everything[len(everything) - len(kept) :] == kept
        assert len(list(Path(bounded).iterdir())) <= files_max


@given(_pieces, st.integers(0, 70))
def test_the_tail_is_the_end(pieces: list[tuple[int, bytes]], lines: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _write(folder, pieces, files_max=10_000)
        everything = _read(folder)
        reader, found = LogReader(Path(folder)), []
        reader.seek_last(lines)
        while records := reader.read():
            found += [parse_record(record) for record in records]
        expected = everything[max(0, len(everything) - lines) :]
        assert [(line.timestamp, line.stream, line.data) for line in found if line] == expected


@given(_pieces, st.integers(1, 30))
def test_a_torn_end_is_passed_over(pieces: list[tuple[int, bytes]], cut: int) -> None:
    """The machine stopped in the middle of a write; a later life of the task writes on."""
    with tempfile.TemporaryDirectory() as folder:
        _write(folder, pieces, files_max=10_000)
        everything = _read(folder)
        last = max(Path(folder).iterdir())
        last.write_bytes(last.read_bytes()[:-cut])
        before = _read(folder)
        assert everything[: len(before)] == before
        _write(folder, [(1, b"again\n")], files_max=10_000)
        assert [data for _, _, data in _read(folder)] == [data for _, _, data in before] + [b"again\n"]
