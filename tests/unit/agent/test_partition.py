"""A node that has lost all managers: it stops its tasks if it was told to, once, and not too early."""

from __future__ import annotations

from pathlib import Path

from agent_rig import NODE, FakeManager, Rig, in_virtual_time, make_revision, make_task
from core_steps import bring_up, only, started, states, tell

from agent import events
from agent.core import Core
from agent.executor.base import Exit
from agent.journal import Journal
from agent.partition import Partition
from swarmpy.model.ids import SECOND_NS, Duration, SessionId
from swarmpy.model.states import TaskState

WEB = make_revision()
TASK = make_task(1, WEB)
FIVE_MINUTES = Duration(300 * SECOND_NS)


def running(stop_after: Duration = FIVE_MINUTES) -> tuple[Core, FakeManager]:
    manager = FakeManager()
    core = started(manager)
    tell(core, events.NodeNoticed(stop_after))
    bring_up(core, manager, TASK, WEB)
    return core, manager


def test_the_machine_by_itself() -> None:
    partition = Partition()
    partition.note_loss(10.0)
    assert not partition.take_due(1e9)  # nothing was asked for
    partition.stop_after = FIVE_MINUTES
    partition.note_loss(200.0)
    assert partition.wake_at == 310.0  # still the loss of before
    assert not partition.take_due(309.9)
    assert partition.take_due(310.0)
    assert not partition.take_due(311.0)
    partition.note_session()
    partition.note_loss(400.0)
    assert partition.wake_at == 700.0


def test_tasks_are_stopped_when_the_time_is_over_and_told_of_on_return() -> None:
    core, manager = running()
    tell(core, events.SessionDown(), at=10.0)
    assert core.wake_at == 310.0
    assert tell(core, events.Tick(), at=309.0) == []
    out = tell(core, events.Tick(), at=310.0)
    stop = only(out, events.Stop)
    out = tell(core, events.Stopped(TASK.id, stop.attempt, Exit(code=143)), at=312.0)
    assert states(out) == ["SHUTDOWN"]
    out = tell(core, events.SessionUp(SessionId("s2")), manager.complete(), at=400.0)
    assert "SHUTDOWN" in states(out)
    assert core.runs[TASK.id].status.state is TaskState.SHUTDOWN
    assert not [each for each in out if isinstance(each, events.Start)]


def test_a_session_in_time_changes_nothing() -> None:
    core, manager = running()
    tell(core, events.SessionDown(), at=10.0)
    tell(core, events.SessionUp(SessionId("s2")), manager.complete(), at=200.0)
    assert core.wake_at is None
    assert tell(core, events.Tick(), at=1000.0) == []
    assert core.runs[TASK.id].status.state is TaskState.RUNNING


def test_without_the_wish_tasks_run_on() -> None:
    core, _ = running(Duration(0))
    tell(core, events.SessionDown(), at=10.0)
    assert core.wake_at is None
    assert tell(core, events.Tick(), at=1e9) == []


def test_the_wish_is_on_record_and_begins_with_the_agent() -> None:
    core = Core(NODE)
    tell(core, events.Restored(stop_after=FIVE_MINUTES), at=50.0)
    assert core.wake_at == 350.0
    out = tell(core, events.NodeNoticed(FIVE_MINUTES), at=51.0)
    assert not out  # nothing new
    out = tell(core, events.NodeNoticed(Duration(0)), at=52.0)
    assert only(out, events.Persist).records == (events.SaveStopAfter(Duration(0)),)
    assert core.wake_at is None


def test_the_journal_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    journal = Journal(path)
    assert journal.load().stop_after == 0
    journal.commit([events.SaveStopAfter(FIVE_MINUTES)])
    journal.commit([events.SaveStopAfter(Duration(7))])
    journal.close()
    journal = Journal(path)
    assert journal.load().stop_after == 7
    journal.close()


@in_virtual_time
async def test_a_daemon_that_restarts_alone_stops_what_it_adopts_and_starts_nothing_again() -> None:
    rig = Rig()
    await rig.start()
    await rig.post(rig.manager.assign(TASK, revision=WEB))
    await rig.post(events.NodeNoticed(Duration(3 * SECOND_NS)))
    await rig.wait_state(TaskState.RUNNING, TASK.id)
    await rig.crash()
    await rig.start(has_session=False)
    await rig.wait(lambda: TASK.id in rig.core.runs)
    assert rig.core.runs[TASK.id].is_live
    await rig.wait(lambda: bool(rig.core.runs) and rig.core.runs[TASK.id].has_ended)
    await rig.crash()
    await rig.start()
    await rig.wait_quiet()
    assert rig.manager.state(TASK.id) is TaskState.SHUTDOWN
    assert rig.machine.starts[TASK.id] == 1
    await rig.crash()
