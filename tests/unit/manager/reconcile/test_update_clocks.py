"""Updates on nodes whose clocks are ahead of the leader's: failures count when they happen, and not later."""

from __future__ import annotations

from rollout import Rollout, config, spec
from world import seconds

from manager.api import service_plan
from manager.reports import report_groups
from swarmpy.model.ids import Duration, Timestamp
from swarmpy.model.objects import Task, TaskStatus
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
