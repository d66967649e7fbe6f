"""Compacting the log in a thread while it goes on: nothing is lost, whenever the machine goes down."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manager.raft.codec import Entry
from manager.raft.journal import Identity, Journal
from manager.raft.proposer import Member
from manager.raft.sealing import NoSealer
from swarmpy.sim.disk import Crash, SimDisk

PATH = Path("/raft/raft.wal")
CUT_AT = 3
ME = Member(raft_id="n0", address="10.0.0.1:2377")


class Thread(Executor):
    """Runs what it was given when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run(self) -> None:
        while self.waiting:
            future, work = self.waiting.pop(0)
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001 - as an executor does
                future.set_exception(error)


def entry(index: int, term: int = 1) -> Entry:
    return (b"\x00%d" % index * 5, index, term)


def make(disk: SimDisk, thread: Thread, entries: int = 30) -> Journal:
    Journal.create(disk, PATH, Identity(raft_id="n0", members=(ME,)), NoSealer())
    journal = Journal(disk, PATH, NoSealer())
    journal.compact_in(thread)
    for index in range(2, entries + 1):
        journal.add(entry(index))
    journal.sync()
    return journal


def reload(disk: SimDisk) -> Journal:
    return Journal(disk, PATH, NoSealer())


@pytest.fixture
def disk() -> SimDisk:
    return SimDisk(random.Random(1))


def test_the_file_shrinks_once_the_thread_is_done(disk: SimDisk) -> None:
    thread = Thread()
    journal = make(disk, thread)
    size = len(disk.read(PATH))
    journal.cut_before(20)
    assert journal.first == 21
    journal.sync()
    assert len(disk.read(PATH)) == size, "the old file serves until then"
    thread.run()
    journal.sync()
    assert len(disk.read(PATH)) < size / 2
    assert reload(disk).entries == journal.entries


def test_what_came_meanwhile_is_kept(disk: SimDisk) -> None:
    thread = Thread()
    journal = make(disk, thread)
    journal.cut_before(20)
    journal.cut_from(7)  # a conflict: 28 to 30 were never committed
    journal.add(entry(28, term=4))
    journal.add(entry(29, term=4))
    journal.set_term(4, "n0")
    thread.run()
    journal.add(entry(30, term=4))
    journal.set_commit(29)
    journal.sync()
    again = reload(disk)
    assert again.entries == journal.entries
    assert [each[2] for each in again.entries] == [1] * 7 + [4] * 3
    assert (again.term, again.vote, again.commit) == (4, "n0", 29)
    journal.add(entry(31, term=4))
    journal.sync()
    assert reload(disk).last == 31


def test_a_second_compaction_and_a_new_beginning_meanwhile(disk: SimDisk) -> None:
    thread = Thread()
    journal = make(disk, thread)
    journal.cut_before(10)
    journal.cut_before(10)
    thread.run()
    journal.sync()
    assert reload(disk).entries[-10:] == journal.entries == [entry(index) for index in range(21, 31)]
    journal.cut_before(5)
    journal.start_over([entry(50), entry(51)])
    thread.run()
    journal.sync()
    assert reload(disk).entries == journal.entries == [entry(50), entry(51)]


def test_a_full_disk_in_the_thread_costs_nothing_but_the_room(disk: SimDisk) -> None:
    thread = Thread()
    journal = make(disk, thread)
    journal.cut_before(20)
    disk.fill_up(50)
    thread.run()
    disk.fill_up(None)
    journal.add(entry(31))
    journal.sync()
    assert reload(disk).entries[-11:] == journal.entries
    journal.cut_before(2)
    thread.run()
    journal.sync()
    assert reload(disk).entries == journal.entries


def test_all_that_was_kept_may_be_cut_meanwhile(disk: SimDisk) -> None:
    thread = Thread()
    journal = make(disk, thread)
    journal.cut_before(20)
    for index in range(31, 60):
        journal.add(entry(index))
    journal.cut_before(25)
    assert journal.first == 46
    for _ in range(2):
        thread.run()
        journal.sync()
        again = reload(disk)
        assert again.entries[-14:] == journal.entries
    assert again.first == 46


def test_one_that_was_given_up_touches_nothing_of_the_next(disk: SimDisk) -> None:
    first, second = Thread(), Thread()
    journal = make(disk, first)
    journal.cut_before(5)
    journal.start_over([entry(index) for index in range(50, 70)])
    journal.sync()
    journal.compact_in(second)
    journal.cut_before(10)
    second.run()
    first.run()
    journal.sync()
    assert reload(disk).entries == journal.entries == [entry(index) for index in range(60, 70)]


def test_the_end_of_the_manager_gives_a_compaction_up(disk: SimDisk) -> None:
    thread = Thread()
    journal = make(disk, thread)
    journal.cut_before(20)
    for future, _ in thread.waiting:
        future.cancel()
    journal.add(entry(31))
    journal.close()
    assert reload(disk).last == 31


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32), crash_after=st.integers(0, 60), run_at=st.integers(0, 5))
def test_what_was_synced_survives_a_crash_anywhere(seed: int, crash_after: int, run_at: int) -> None:
    disk = SimDisk(random.Random(seed))
    thread = Thread()
    journal = make(disk, thread)
    synced: list[Entry] = list(journal.entries)
    step = 0
    disk.crash_after(crash_after)
    try:
        for step in range(8):
            if step == 1:
                journal.cut_before(20)
            if step == CUT_AT:
                journal.cut_from(journal.entries.index(entry(28)) + 1)
            if step == run_at + 2:
                thread.run()
            journal.add(entry(journal.last + 1, term=step + 1))
            journal.sync()
            synced = list(journal.entries)
    except Crash:
        pass
    disk.crash()
    again = reload(disk.reopen())
    by_index = {each[1]: each for each in again.entries}
    # in the middle of the cut, what it was about to drop may be gone or not
    kept = [each for each in synced if each[1] <= 28 or step != CUT_AT]
    assert all(by_index.get(each[1]) == each for each in kept)
