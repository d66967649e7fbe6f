"""The simulated disk loses what it may and nothing else."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from swarmpy.runtime import Disk, SystemDisk
from swarmpy.sim.disk import Crash, SimDisk

PATH = Path("/data/file")
OTHER = Path("/data/other")


def make(seed: int = 0) -> SimDisk:
    return SimDisk(random.Random(seed))


def as_disk(disk: SimDisk) -> Disk:
    """Checked by mypy: the fake keeps the seam."""
    return disk


def test_synced_bytes_survive_and_unsynced_ones_may_not() -> None:
    kept = set()
    for seed in range(50):
        disk = make(seed)
        file = disk.append(PATH)
        file.write(b"synced")
        file.sync()
        file.write(b"unsynced")
        disk.crash()
        content = disk.reopen().read(PATH)
        assert content.startswith(b"synced")
        kept.add(len(content))
    assert min(kept) == 6
    assert max(kept) == 14


def test_after_a_crash_only_the_next_incarnation_works() -> None:
    disk = make()
    file = disk.append(PATH)
    disk.crash()
    with pytest.raises(Crash):
        file.write(b"late")
    with pytest.raises(Crash):
        disk.write_atomic(PATH, b"late")
    disk.reopen().write_atomic(PATH, b"fine")


def test_a_crash_comes_at_the_operation_it_was_set_for() -> None:
    disk = make()
    disk.crash_after(3)
    file = disk.append(PATH)
    file.write(b"one")
    with pytest.raises(Crash):
        file.sync()
    assert disk.is_down


def test_a_full_disk_writes_a_part_and_says_so() -> None:
    disk = make()
    file = disk.append(PATH)
    disk.fill_up(4)
    with pytest.raises(OSError, match="No space left") as caught:
        file.write(b"too much")
    assert caught.value.errno == errno.ENOSPC
    assert disk.read(PATH) == b"too "
    with pytest.raises(OSError, match="No space left"):
        disk.write_atomic(OTHER, b"x")
    assert not disk.exists(OTHER)


@pytest.mark.parametrize("kind", ["real", "simulated"])
def test_both_disks_do_the_same(kind: str, tmp_path: Path) -> None:
    disk: Disk = SystemDisk() if kind == "real" else make()
    path, other = tmp_path / "a", tmp_path / "b"
    disk.make_dirs(tmp_path)
    assert not disk.exists(path)
    file = disk.append(path)
    file.write(b"hello ")
    file.write(b"world")
    file.sync()
    assert file.size() == 11
    file.truncate(5)
    file.close()
    reading = disk.open(path)
    assert (reading.read(3), reading.read(10), reading.read(1)) == (b"hel", b"lo", b"")
    reading.close()
    disk.write_atomic(other, b"whole")
    disk.replace(other, path)
    assert disk.read(path) == b"whole"
    assert not disk.exists(other)
    disk.remove(path)
    disk.remove(path)
    with pytest.raises(FileNotFoundError):
        disk.read(path)


def test_a_tree_goes_whole_or_stays_whole_in_a_crash() -> None:
    left = []
    for operation in (1, 2):
        disk = SimDisk(random.Random(1))
        for name in ("raft/log", "raft/deep/more", "raft.key"):
            disk.write_atomic(Path("/data") / name, b"x")
        disk.crash_after(operation)
        with pytest.raises(Crash):
            disk.remove_tree(Path("/data/raft"))
        disk.crash()
        after = disk.reopen()
        names = ("raft/log", "raft/deep/more", "raft.key")
        left.append([name for name in names if after.exists(Path("/data") / name)])
        after.remove_tree(Path("/data/raft"))
        after.remove_tree(Path("/data/raft"))
        assert [name for name in names if after.exists(Path("/data") / name)] == ["raft.key"]
    assert left == [["raft/log", "raft/deep/more", "raft.key"], ["raft.key"]]
