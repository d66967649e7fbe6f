"""Clocks that are ahead: of nodes, whose failures count when they happen and not later; of former leaders."""

from __future__ import annotations

from rollout import Rollout, config, spec
from world import START, seconds

from manager.api import service_plan
from manager.reconcile.autoscale import Load, decide
from manager.reports import report_groups
from swarmpy.model.ids import Duration, Timestamp
from swarmpy.model.objects import AutoscaleStatus, Task, TaskStatus
from swarmpy.model.specs import Autoscale
from swarmpy.model.states import TaskState, UpdateState

AHEAD_S = 3600


def tell(rollout: Rollout, task: Task, state: TaskState) -> None:
    world = rollout.world
    report = world.task(task.id).status.report + 1
    timestamp = Timestamp(world.now + seconds(AHEAD_S))
    status = TaskStatus(timestamp=timestamp, state=state, report=report)
    for group in report_groups(world.tables, [(task.id, status)], world.now):
        world.apply(group)
    world.settle()


def failing() -> Rollout:
    """An update whose first new task runs and crashes within the monitor period."""
    rollout = Rollout(spec("a", update=config()))
    rollout.update(spec("b", update=config(monitor=Duration(seconds(30)))))
    rollout.world.settle()
    rollout.world.run_agents()
    rollout.world.settle()
    new = rollout.world.tasks()[-1]
    tell(rollout, new, TaskState.RUNNING)
    rollout.world.pass_time(1)
    tell(rollout, new, TaskState.FAILED)
    return rollout


def test_a_crash_within_the_monitor_period_is_a_failure() -> None:
    assert failing().state() == UpdateState.PAUSED


def test_what_failed_before_the_user_let_it_go_on_does_not_count_after() -> None:
    rollout = failing()
    rollout.world.pass_time(5)
    rollout.do(service_plan.resume)
    rollout.live(300)
    assert rollout.state() == UpdateState.COMPLETED
    assert rollout.images() == ["b"] * 4


# --- leaders


def test_a_delay_of_a_leader_whose_clock_was_ahead_is_not_waited_for() -> None:
    rollout = Rollout(spec("a", replicas=1))
    world = rollout.world
    (task,) = world.running()
    present = world.now
    world.pass_time(AHEAD_S)
    tell(rollout, task, TaskState.FAILED)
    (waiting,) = world.live_tasks()
    assert waiting.not_before > world.now
    world.now = present
    successor = world.successor()
    successor.live(30)
    assert [running.id for running in successor.running()] == [waiting.id]
    successor.assert_quiet()


def test_a_scaling_of_a_leader_whose_clock_was_ahead_holds_none_up() -> None:
    wish = Autoscale(min=1, max=10, cpu_percent=50)
    ahead = Timestamp(START + seconds(AHEAD_S))
    busy, idle = (Load("cpu", (2.0, 2.0)),), (Load("cpu", (0.1, 0.1)),)
    status = AutoscaleStatus(replicas=2, scaled_at=ahead, low_since=ahead)
    assert decide(wish, status, busy, now=START).replicas == 4
    assert decide(wish, status, idle, now=START).low_since == START
