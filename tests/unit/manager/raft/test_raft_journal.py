"""The write-ahead log: what survives, what is cut, what is refused."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manager.raft.codec import Entry
from manager.raft.journal import FIRST_ENTRY, Identity, Journal
from manager.raft.proposer import Member
from manager.raft.sealing import KEY_BYTES, AesGcmSealer, NoSealer, Sealer
from swarmpy.errors import Corrupt, DiskFailed
from swarmpy.runtime import SystemDisk, SystemEntropy
from swarmpy.sim.disk import Crash, SimDisk

PATH = Path("/raft/raft.wal")
ME = Member(raft_id="n0", address="10.0.0.1:2377")
OTHER = Member(raft_id="n1", address="10.0.0.2:2377")


def entry(index: int, term: int = 1, text: bytes = b"x") -> Entry:
    return (b"\x00" + text, index, term)


def make(disk: SimDisk, sealer: Sealer | None = None) -> Journal:
    identity = Identity(raft_id="n0", members=(ME, OTHER), is_joined=True, removed=("old",))
    Journal.create(disk, PATH, identity, sealer or NoSealer())
    return Journal(disk, PATH, sealer or NoSealer())


def reload(disk: SimDisk, sealer: Sealer | None = None) -> Journal:
    return Journal(disk, PATH, sealer or NoSealer())


@pytest.fixture
def disk() -> SimDisk:
    return SimDisk(random.Random(1))


def test_a_fresh_log_knows_whose_it_is(disk: SimDisk) -> None:
    journal = make(disk)
    assert journal.identity == Identity(raft_id="n0", members=(ME, OTHER), is_joined=True, removed=("old",))
    assert journal.entries == [FIRST_ENTRY]
    assert (journal.first, journal.last, journal.term, journal.vote) == (1, 1, 0, "")


def test_everything_synced_comes_back(disk: SimDisk) -> None:
    journal = make(disk)
    for index in range(2, 12):
        journal.add(entry(index))
    journal.cut_from(8)
    journal.add(entry(9, term=2))
    journal.set_term(7, "n1")
    journal.set_commit(5)
    journal.close()
    again = reload(disk)
    assert again.entries == journal.entries
    assert (again.term, again.vote, again.known_commit()) == (7, "n1", 5)
    assert again.entry_bytes == sum(len(command) for command, _, _ in again.entries)


def test_a_crash_loses_only_what_was_not_synced(disk: SimDisk) -> None:
    journal = make(disk)
    journal.add(entry(2))
    journal.sync()
    journal.add(entry(3))
    disk.crash()
    assert reload(disk.reopen()).last == 2


def test_the_vote_is_durable_when_set_term_returns(disk: SimDisk) -> None:
    journal = make(disk)
    journal.set_term(3, "n1")
    disk.crash()
    again = reload(disk.reopen())
    assert (again.term, again.vote) == (3, "n1")


def test_one_sync_for_a_batch_and_none_for_nothing(disk: SimDisk) -> None:
    journal = make(disk)
    for index in range(2, 50):
        journal.add(entry(index))
    journal.sync()
    journal.sync()
    assert journal.syncs == 1


def test_a_torn_tail_is_cut_and_the_log_goes_on(disk: SimDisk) -> None:
    journal = make(disk)
    journal.add(entry(2))
    journal.sync()
    disk.append(PATH).write(b"\xa7R\x02half a record")
    again = reload(disk)
    assert again.last == 2
    again.add(entry(3))
    again.close()
    assert reload(disk).last == 3


def test_a_flipped_byte_in_the_middle_is_refused_with_file_and_offset(disk: SimDisk) -> None:
    journal = make(disk)
    for index in range(2, 6):
        journal.add(entry(index, text=b"entry number %d" % index))
        journal.sync()
    offset = disk.read(PATH).index(b"entry number 3")
    disk.damage(PATH, offset)
    with pytest.raises(Corrupt, match=rf"{PATH} is damaged at byte \d+"):
        reload(disk)


def test_a_flipped_byte_is_refused_also_at_the_end_once_the_log_rested(disk: SimDisk) -> None:
    journal = make(disk)
    journal.add(entry(2, text=b"the last entry"))
    journal.sync()
    journal.note()
    disk.damage(PATH, disk.read(PATH).index(b"the last entry"))
    with pytest.raises(Corrupt, match="damaged"):
        reload(disk)


def test_a_flipped_byte_in_a_rewritten_log_is_refused(disk: SimDisk) -> None:
    journal = make(disk)
    journal.add(entry(2, text=b"the last entry"))
    journal.rewrite()
    disk.damage(PATH, disk.read(PATH).index(b"the last entry"))
    with pytest.raises(Corrupt, match="damaged"):
        reload(disk)


def test_blocks_that_reached_the_disk_out_of_order_are_a_torn_tail(disk: SimDisk) -> None:
    journal = make(disk)
    journal.add(entry(2, text=b"first of one batch"))
    journal.add(entry(3, text=b"second of one batch"))
    journal.sync()
    disk.damage(PATH, disk.read(PATH).index(b"first of one batch"))
    # As far as the file tells, this batch was never synced: nothing in it was acknowledged.
    assert reload(disk).last == 1


def test_another_kind_of_file_is_refused(disk: SimDisk) -> None:
    disk.write_atomic(PATH, b"not a log at all")
    with pytest.raises(Corrupt, match="is not a raft log"):
        reload(disk)


def test_a_full_disk_ends_the_log_for_good(disk: SimDisk) -> None:
    journal = make(disk)
    journal.add(entry(2))
    journal.sync()
    disk.fill_up(5)
    journal.add(entry(3))
    with pytest.raises(DiskFailed, match=rf"cannot write the raft log {PATH}: No space left on device"):
        journal.sync()
    disk.fill_up(None)
    journal.add(entry(4))
    with pytest.raises(DiskFailed, match="failed before"):
        journal.sync()
    journal.close()
    assert reload(disk).last == 2


def test_a_failing_sync_ends_the_log_for_good(disk: SimDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = make(disk)

    def fail(self: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("swarmpy.sim.disk.SimAppendFile.sync", fail)
    journal.add(entry(2))
    with pytest.raises(DiskFailed, match="Input/output error"):
        journal.sync()
    monkeypatch.undo()
    with pytest.raises(DiskFailed, match="failed before"):
        journal.set_term(9, "n1")


def test_a_rewrite_that_fails_leaves_the_old_log(disk: SimDisk) -> None:
    journal = make(disk)
    journal.add(entry(2))
    journal.sync()
    disk.fill_up(5)
    with pytest.raises(DiskFailed):
        journal.cut_before(1)
    disk.fill_up(None)
    assert reload(disk).entries == [FIRST_ENTRY, entry(2)]


def test_compaction_keeps_term_vote_commit_and_the_rest(disk: SimDisk) -> None:
    journal = make(disk)
    for index in range(2, 10):
        journal.add(entry(index))
    journal.set_term(4, "n1")
    journal.set_commit(8)
    journal.cut_before(6)
    again = reload(disk)
    assert [index for _, index, _ in again.entries] == [7, 8, 9]
    assert (again.term, again.vote, again.commit) == (4, "n1", 8)
    assert again.identity == journal.identity


def test_a_snapshot_install_replaces_the_log_at_the_next_sync(disk: SimDisk) -> None:
    journal = make(disk)
    journal.add(entry(2))
    journal.sync()
    journal.start_over([entry(40, term=3), entry(41, term=3)])
    assert reload(disk).last == 2
    journal.sync()
    assert reload(disk).entries == [entry(40, term=3), entry(41, term=3)]


def test_sealed_entries_are_not_in_the_file_and_need_the_key(disk: SimDisk) -> None:
    sealer = AesGcmSealer(os.urandom(KEY_BYTES), SystemEntropy())
    journal = make(disk, sealer)
    journal.add(entry(2, text=b"a very secret command"))
    journal.close()
    assert b"secret" not in disk.read(PATH)
    assert reload(disk, sealer).entries == journal.entries
    with pytest.raises(Corrupt, match=f"{PATH} can't be opened at byte .*another key"):
        reload(disk, AesGcmSealer(os.urandom(KEY_BYTES), SystemEntropy()))


def test_on_the_real_disk(tmp_path: Path) -> None:
    path = tmp_path / "raft.wal"
    Journal.create(SystemDisk(), path, Identity(raft_id="n0", members=(ME,)), NoSealer())
    journal = Journal(SystemDisk(), path, NoSealer())
    journal.add(entry(2))
    journal.sync()
    journal.cut_before(1)
    journal.add(entry(3))
    journal.close()
    again = Journal(SystemDisk(), path, NoSealer())
    assert again.entries == [entry(2), entry(3)]
    assert path.stat().st_mode & 0o777 == 0o600


Step = tuple[str, int]


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "cut", "sync", "term", "compact", "note"]), st.integers(0, 5)),
        max_size=40,
    ),
    seed=st.integers(0, 10**6),
    crash_after=st.integers(1, 60),
)
def test_a_crash_leaves_a_state_that_was_there_since_the_last_sync(
    steps: list[Step], seed: int, crash_after: int
) -> None:
    disk = SimDisk(random.Random(seed))
    journal = make(disk)
    disk.crash_after(crash_after)
    states = [picture(journal)]
    synced_at = 0
    try:
        for step in steps:
            perform(journal, step)
            states.append(picture(journal))
            if not journal.is_dirty:
                synced_at = len(states) - 1
    except Crash:
        states.append(picture(journal))
    disk.crash()
    assert picture(reload(disk.reopen())) in states[synced_at:]


def picture(journal: Journal) -> tuple[list[Entry], int, str]:
    return list(journal.entries), journal.term, journal.vote


def perform(journal: Journal, step: Step) -> None:
    kind, amount = step
    match kind:
        case "add":
            journal.add(entry(journal.last + 1, term=journal.term, text=b"%d" % amount))
        case "cut" if len(journal.entries) > amount > 1:
            journal.cut_from(len(journal.entries) - amount + 1)
        case "sync":
            journal.sync()
        case "term":
            journal.set_term(journal.term + 1, f"n{amount}")
        case "compact" if len(journal.entries) > amount:
            journal.cut_before(amount)
        case "note":
            journal.note()
