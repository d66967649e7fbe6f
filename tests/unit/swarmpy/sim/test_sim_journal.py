"""The simulated journal loses its end with the power, and nothing otherwise."""

from __future__ import annotations

import random

import pytest
from agent_rig import make_revision, make_task

from agent.events import DropTask, SaveStatus, SaveTask
from agent.journal import IN_MEMORY, Content, Journal
from swarmpy.limits import JOURNAL_CHECKPOINT_COMMITS
from swarmpy.model.objects import TaskStatus
from swarmpy.model.states import TaskState
from swarmpy.sim.disk import Crash
from swarmpy.sim.journal import SimJournal

WEB = make_revision()
TASK = make_task(1, WEB)


def status(report: int) -> TaskStatus:
    return TaskStatus(state=TaskState.RUNNING, report=report)


def last_report(journal: Journal) -> int:
    (stored,) = journal.load().tasks
    return stored.status.report


def test_a_closed_journal_keeps_everything_for_the_next_daemon() -> None:
    journal = SimJournal(random.Random(1))
    journal.commit([SaveTask(TASK, False, 15), SaveStatus(TASK.id, status(7))])
    journal.save_managers(["m:1"])
    before = journal.load()
    journal.close()
    assert journal.load() == before
    assert (last_report(journal), before.managers) == (7, ("m:1",))


def test_a_power_loss_takes_some_of_the_last_commits_in_order() -> None:
    left = set()
    for seed in range(40):
        journal = SimJournal(random.Random(seed))
        journal.commit([SaveTask(TASK, False, 15)])
        for report in range(1, JOURNAL_CHECKPOINT_COMMITS + 10):
            journal.commit([SaveStatus(TASK.id, status(report))])
        journal.lose_power()
        left.add(last_report(journal))
        journal.lose_power()
        assert last_report(journal) in left, "what was found after a power loss is on the disk"
        journal.commit([DropTask(TASK.id)])
        assert journal.load() == Content()
    assert min(left) == JOURNAL_CHECKPOINT_COMMITS - 1, "the last checkpoint is surely kept"
    assert max(left) == JOURNAL_CHECKPOINT_COMMITS + 9
    assert len(left) > 5


@pytest.mark.parametrize("seed", range(20))
def test_that_a_process_is_about_to_be_started_survives_a_power_loss(seed: int) -> None:
    journal = SimJournal(random.Random(seed))
    journal.commit([SaveTask(TASK, False, 15)])
    journal.commit([SaveStatus(TASK.id, TaskStatus(state=TaskState.STARTING, report=5))])
    journal.commit([SaveStatus(TASK.id, status(6))])
    journal.lose_power()
    assert last_report(journal) >= 5


def test_a_new_journal_may_lose_all_there_is() -> None:
    left = set()
    for seed in range(20):
        journal = SimJournal(random.Random(seed))
        journal.commit([SaveTask(TASK, False, 15)])
        journal.lose_power()
        left.add((len(journal.load().tasks), journal.losses))
    assert left == {(0, 1), (1, 0)}


def test_the_machine_may_go_down_before_and_after_a_commit() -> None:
    for step, tasks in ((1, 0), (2, 1)):
        countdown = [step]

        def go_down(countdown: list[int] = countdown) -> None:
            countdown[0] -= 1
            if countdown[0] == 0:
                raise Crash

        journal = SimJournal(random.Random(1), step=go_down)
        with pytest.raises(Crash):
            journal.commit([SaveTask(TASK, False, 15)])
        assert len(journal.load().tasks) == tasks


@pytest.mark.parametrize("journal", [SimJournal(random.Random(1)), Journal(IN_MEMORY)])
def test_a_destroyed_journal_is_empty_and_can_be_used_again(journal: Journal) -> None:
    journal.commit([SaveTask(TASK, False, 15)])
    journal.save_managers(["m:1"])
    journal.destroy()
    assert journal.load() == Content()
    if isinstance(journal, SimJournal):
        journal.lose_power()
        assert journal.load() == Content()
    journal.commit([SaveTask(TASK, False, 9)])
    assert len(journal.load().tasks) == 1
