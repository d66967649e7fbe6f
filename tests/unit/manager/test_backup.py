"""The backup's format: whatever is done to its bytes is noticed, and said."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.backup import FORMAT, Reader, Writer, make_sealer, new_sealing
from manager.raft.sealing import Sealer
from swarmpy.errors import InvalidArgument
from swarmpy.pb import store_pb2 as pb
from swarmpy.runtime import SystemEntropy

HEAD = pb.BackupHead(format=FORMAT, cluster_id="c1", node_id="n1", taken_at=7, version=42, term=3)
SLICES = [b"", b"one", b"two" * 100, bytes(range(256)) * 8]


def written(slices: list[bytes], head: pb.BackupHead = HEAD, sealer: Sealer | None = None) -> bytes:
    writer = Writer(head, sealer)
    return b"".join([writer.begin(), *map(writer.add, slices), writer.finish()])


def read(data: bytes, *, cuts: tuple[int, ...] = (), sealer: Sealer | None = None) -> list[bytes]:
    reader = Reader()
    reader.sealer = sealer
    found: list[bytes] = []
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        found += reader.feed(data[start:end])
    reader.finish()
    assert reader.head is not None
    return found


@pytest.fixture(scope="module")
def sealed() -> tuple[bytes, Sealer]:
    entropy = SystemEntropy()
    head = pb.BackupHead()
    head.CopyFrom(HEAD)
    head.sealing.CopyFrom(new_sealing(entropy))
    sealer = make_sealer(b"a passphrase", head.sealing, entropy)
    return written(SLICES, head, sealer), sealer


@given(st.lists(st.binary(max_size=300), max_size=6), st.data())
def test_what_was_written_is_read_however_it_is_cut(slices: list[bytes], data: st.DataObject) -> None:
    file = written(slices)
    cuts = data.draw(st.lists(st.integers(0, len(file)), max_size=8))
    assert read(file, cuts=tuple(cuts)) == slices


def test_every_changed_byte_is_noticed() -> None:
    file = written(SLICES)
    for place in range(len(file)):
        changed = file[:place] + bytes([file[place] ^ 1 << place % 8]) + file[place + 1 :]
        with pytest.raises(InvalidArgument, match="backup"):
            read(changed)


def test_every_shorter_file_is_noticed() -> None:
    file = written(SLICES)
    for size in range(len(file)):
        with pytest.raises(InvalidArgument, match=r"is not complete|is damaged|is no backup"):
            read(file[:size])
    with pytest.raises(InvalidArgument, match="goes on after its end"):
        read(file + b"\0")


def test_slices_in_disorder_or_left_out_are_noticed() -> None:
    whole, other = Writer(HEAD), Writer(HEAD)
    begin, first, second, end = whole.begin(), whole.add(b"1"), whole.add(b"2"), whole.finish()
    assert other.begin() == begin
    for wrong in (begin + second + first + end, begin + first + end, begin + first + first + second + end):
        with pytest.raises(InvalidArgument, match="missing, changed or in disorder"):
            read(wrong)
    with pytest.raises(InvalidArgument, match="is damaged"):
        read(begin + begin)


def test_a_newer_format_is_refused_by_its_number() -> None:
    with pytest.raises(InvalidArgument, match=f"format {FORMAT + 1}, and this version"):
        read(written([], pb.BackupHead(format=FORMAT + 1)))


def test_a_sealed_backup_needs_its_passphrase(sealed: tuple[bytes, Sealer]) -> None:
    file, sealer = sealed
    assert read(file, sealer=sealer) == SLICES
    assert b"one" not in file
    reader = Reader()
    assert reader.feed(file) == []
    assert reader.head is not None
    assert reader.head.cluster_id == "c1"
    entropy = SystemEntropy()
    with pytest.raises(InvalidArgument, match="the passphrase is not the one"):
        read(file, sealer=make_sealer(b"another one", reader.head.sealing, entropy))
    reader.sealer = make_sealer(b"a passphrase", reader.head.sealing, entropy)
    assert reader.feed(b"") == SLICES
    reader.finish()
    for bad in (b"short", b"x" * 5000):
        with pytest.raises(InvalidArgument, match="a passphrase has"):
            make_sealer(bad, reader.head.sealing, entropy)


def test_parameters_that_would_take_all_memory_are_refused() -> None:
    for log2_n, r, p in (
        (30, 8, 1),
        (64, 8, 1),
        (4_000_000_000, 8, 1),
        (15, 8, 1 << 30),
        (0, 8, 1),
        (15, 0, 1),
    ):
        sealing = pb.BackupSealing(salt=b"s", log2_n=log2_n, r=r, p=p)
        with pytest.raises(InvalidArgument, match="too much work"):
            make_sealer(b"a passphrase", sealing, SystemEntropy())


def test_a_changed_byte_of_a_sealed_backup_is_noticed(sealed: tuple[bytes, Sealer]) -> None:
    file, sealer = sealed
    for place in random.Random(1).sample(range(len(file)), 200):
        changed = file[:place] + bytes([file[place] ^ 0x10]) + file[place + 1 :]
        with pytest.raises(InvalidArgument):
            read(changed, sealer=sealer)
