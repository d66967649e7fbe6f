"""Snapshot files: whole or refused, sealed, and passed on piece by piece."""

from __future__ import annotations

import os
import random
from pathlib import Path
from unittest import mock

import pytest
from raft_rig import InlineThread, ListMachine

from manager.raft import snapshot
from manager.raft.proposer import Member
from manager.raft.sealing import KEY_BYTES, AesGcmSealer, NoSealer, Sealer
from manager.raft.snapshot import SnapshotHead
from manager.raft.snapshotter import Chunk, Loaded, Progress, Snapshotter
from swarmpy.errors import Corrupt, DiskFailed
from swarmpy.runtime import SystemEntropy
from swarmpy.sim.disk import SimDisk

PATH = Path("/raft/raft.snapshot")
HEAD = SnapshotHead(
    last=(b"\x00last", 12, 3),
    previous=(b"\x01", 11, 3),
    members=(Member(raft_id="n0", address="a:1"), Member(raft_id="n1", address="b:1")),
    removed=("n7", "n8"),
)
SLICES = [b"slice %d" % i * 40 for i in range(30)]


def snapshotter(disk: SimDisk, sealer: Sealer | None = None) -> Snapshotter:
    return Snapshotter(disk, PATH, sealer or NoSealer(), executor=InlineThread(), rest=lambda: None)


def restore(disk: SimDisk, machine: ListMachine, sealer: Sealer | None = None) -> SnapshotHead:
    """As at the start of a manager."""
    head, state = snapshot.load(disk, PATH, sealer or NoSealer(), machine.load)
    machine.adopt(state)
    return head


def taken(disk: SimDisk, sealer: Sealer | None = None) -> Snapshotter:
    made = snapshotter(disk, sealer)
    made.take(HEAD, SLICES)
    assert made.poll(0.0) is Progress.DONE
    return made


@pytest.fixture
def disk() -> SimDisk:
    return SimDisk(random.Random(1))


def test_what_was_taken_is_restored(disk: SimDisk) -> None:
    made = taken(disk)
    machine = ListMachine()
    assert restore(disk, machine) == HEAD
    assert machine.entries == SLICES
    assert made.poll(0.0) is Progress.IDLE


def test_sealed_slices_are_not_in_the_file(disk: SimDisk) -> None:
    sealer = AesGcmSealer(os.urandom(KEY_BYTES), SystemEntropy())
    taken(disk, sealer)
    assert b"slice" not in disk.read(PATH)
    machine = ListMachine()
    restore(disk, machine, sealer)
    assert machine.entries == SLICES
    with pytest.raises(Corrupt, match="another key"):
        restore(disk, machine, AesGcmSealer(os.urandom(KEY_BYTES), SystemEntropy()))


@pytest.mark.parametrize("place", [0.02, 0.5, 0.999])
def test_damage_anywhere_is_refused_with_the_file(disk: SimDisk, place: float) -> None:
    taken(disk)
    disk.damage(PATH, int(len(disk.read(PATH)) * place))
    with pytest.raises(Corrupt, match=str(PATH)):
        restore(disk, ListMachine())


@pytest.mark.parametrize("cut", [1, 20, 5000])
def test_a_shortened_or_lengthened_file_is_refused(disk: SimDisk, cut: int) -> None:
    taken(disk)
    whole = disk.read(PATH)
    disk.write_atomic(PATH, whole[:-cut])
    with pytest.raises(Corrupt, match=str(PATH)):
        restore(disk, ListMachine())
    disk.write_atomic(PATH, whole + whole[:cut])
    with pytest.raises(Corrupt, match=str(PATH)):
        restore(disk, ListMachine())


def test_a_file_that_lacks_a_slice_is_refused(disk: SimDisk) -> None:
    frames = [frame for frame in snapshot.frames(HEAD, SLICES) if frame[1] != SLICES[4]]
    snapshot.write(disk, PATH, frames, NoSealer())
    with pytest.raises(Corrupt, match="lacks some of its slices"):
        snapshot.verify(disk, PATH, NoSealer())


def test_a_full_disk_keeps_the_old_snapshot_and_waits_before_the_next(disk: SimDisk) -> None:
    made = taken(disk)
    before = disk.read(PATH)
    disk.fill_up(100)
    made.take(HEAD, SLICES)
    assert made.poll(5.0) is Progress.FAILED
    assert disk.read(PATH) == before
    assert not made.may_take(6.0)
    assert made.may_take(60.0)


def chunks(sender: Snapshotter) -> list[Chunk]:
    found: list[Chunk] = []
    with mock.patch("manager.raft.snapshotter.RAFT_SNAPSHOT_CHUNK_BYTES", 700):
        while not found or not found[-1].is_last:
            chunk = sender.next_chunk("n1", 0.0)
            assert chunk is not None
            found.append(chunk)
    return found


def load(receiver: Snapshotter, machine: ListMachine) -> Loaded | None:
    """Check and decode what was accepted, and take it if it is sound."""
    receiver.load(machine)
    loaded = receiver.loaded()
    assert not receiver.is_loading
    if loaded is not None:
        receiver.install()
        machine.adopt(loaded.state)
    return loaded


def test_a_transfer_arrives_whole_under_another_key(disk: SimDisk) -> None:
    sender = taken(disk, AesGcmSealer(os.urandom(KEY_BYTES), SystemEntropy()))
    own_disk = SimDisk(random.Random(2))
    receiver = snapshotter(own_disk, AesGcmSealer(os.urandom(KEY_BYTES), SystemEntropy()))
    pieces = chunks(sender)
    assert len(pieces) > 5
    assert all(piece.last_index == 12 for piece in pieces)
    heads = [receiver.accept(p.data, offset=p.offset, is_last=p.is_last) for p in pieces]
    assert heads[-1] == HEAD
    assert set(heads[:-1]) == {None}
    machine = ListMachine()
    loaded = load(receiver, machine)
    assert loaded is not None
    assert loaded.head == HEAD
    assert machine.entries == SLICES
    assert b"slice" not in own_disk.read(PATH)


def test_a_transfer_goes_on_with_the_file_it_began_with(disk: SimDisk) -> None:
    sender = taken(disk)
    with mock.patch("manager.raft.snapshotter.RAFT_SNAPSHOT_CHUNK_BYTES", 700):
        first = sender.next_chunk("n1", 0.0)
    assert first is not None
    assert not sender.may_take(1.0)
    assert sender.may_take(1000.0)
    sender.take(HEAD, [b"newer"])
    sender.poll(0.0)
    rest = chunks(sender)
    receiver = snapshotter(SimDisk(random.Random(2)))
    heads = [receiver.accept(p.data, offset=p.offset, is_last=p.is_last) for p in [first, *rest]]
    assert heads[-1] == HEAD


def test_a_missing_piece_spoils_the_transfer_and_a_new_one_begins_at_zero(disk: SimDisk) -> None:
    sender = taken(disk)
    receiver = snapshotter(SimDisk(random.Random(2)))
    pieces = chunks(sender)
    for piece in pieces[:2] + pieces[3:]:
        assert receiver.accept(piece.data, offset=piece.offset, is_last=piece.is_last) is None
    heads = [receiver.accept(p.data, offset=p.offset, is_last=p.is_last) for p in pieces]
    assert heads[-1] == HEAD


@pytest.mark.parametrize("damaged", [0, 2, 4])
def test_a_damaged_piece_is_not_installed(disk: SimDisk, damaged: int) -> None:
    sender = taken(disk)
    own_disk = SimDisk(random.Random(2))
    receiver = snapshotter(own_disk)
    head = None
    for number, piece in enumerate(chunks(sender)):
        data = bytearray(piece.data)
        if number == damaged:
            data[20] ^= 1
        head = receiver.accept(bytes(data), offset=piece.offset, is_last=piece.is_last)
    machine = ListMachine()
    assert head is None or load(receiver, machine) is None
    assert machine.restores == 0
    assert not own_disk.exists(PATH)


def test_while_one_is_being_loaded_the_next_is_not_listened_to(disk: SimDisk) -> None:
    sender = taken(disk)
    receiver = snapshotter(SimDisk(random.Random(2)))
    pieces = chunks(sender)
    for piece in pieces:
        receiver.accept(piece.data, offset=piece.offset, is_last=piece.is_last)
    machine = ListMachine()
    receiver.load(machine)
    assert not receiver.may_take(1000.0)
    for piece in pieces:
        assert receiver.accept(piece.data, offset=piece.offset, is_last=piece.is_last) is None
    loaded = receiver.loaded()
    assert loaded is not None
    assert loaded.head == HEAD
    assert receiver.loaded() is None, "told once"


def test_a_full_disk_while_receiving_is_fatal(disk: SimDisk) -> None:
    sender = taken(disk)
    own_disk = SimDisk(random.Random(2))
    own_disk.fill_up(300)
    receiver = snapshotter(own_disk)
    piece = sender.next_chunk("n1", 0.0)
    assert piece is not None
    with pytest.raises(DiskFailed, match=r"cannot write the raft snapshot .*No space left"):
        receiver.accept(piece.data, offset=0, is_last=True)


def test_an_older_snapshot_still_being_written_does_not_replace_an_installed_one(disk: SimDisk) -> None:
    sender = taken(SimDisk(random.Random(3)))
    receiver = taken(disk)
    receiver.take(HEAD, [b"an older state"])
    for piece in chunks(sender):
        receiver.accept(piece.data, offset=piece.offset, is_last=piece.is_last)
    machine = ListMachine()
    load(receiver, machine)
    assert receiver.poll(0.0) is Progress.IDLE
    assert machine.entries == SLICES
