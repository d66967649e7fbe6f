"""Readiness and what waits for it: updates, and whatever starts the new task first."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from rollout import Rollout, config, spec
from world import World, seconds

from manager.api import service_plan
from manager.reports import report_groups
from swarmpy.model.ids import Duration, NodeId, TaskId
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.states import FailureAction, NodeAvailability, TaskState, UpdateOrder, UpdateState

DEADLINE_S = 60
START_FIRST = UpdateOrder.START_FIRST


def update_config(**fields: Any) -> Any:
    return config(**{"progress_deadline": Duration(seconds(DEADLINE_S)), "order": START_FIRST, **fields})


def tell(world: World, task: Task, *, is_unready: bool) -> None:
    """As an agent does, of a task that runs."""
    status = TaskStatus(
        timestamp=world.now,
        state=TaskState.RUNNING,
        report=world.task(task.id).status.report + 1,
        is_unready=is_unready,
        health_output="warming up" if is_unready else "",
    )
    for group in report_groups(world.tables, [(task.id, status)], world.now):
        world.apply(group)


def updating(**fields: Any) -> tuple[Rollout, Task]:
    """An update of two tasks whose first new one runs and is not ready."""
    rollout = Rollout(spec("a", replicas=2, update=update_config(**fields)))
    rollout.update(spec("b", replicas=2, update=update_config(**fields)))
    rollout.world.settle()
    new = rollout.world.tasks()[-1]
    if fields.get("order") == UpdateOrder.STOP_FIRST:
        rollout.world.run_agents()
        rollout.world.settle()
    tell(rollout.world, new, is_unready=True)
    rollout.live()
    return rollout, new


def moved(world: World, task: Task) -> Task:
    """As a rebalance does: another task in the slot, on another node."""
    node = next(name for name in ("n1", "n2", "n3") if name != task.node_id)
    status = TaskStatus(state=TaskState.ASSIGNED)
    new = replace(task, id=TaskId("moved"), version=0, node_id=NodeId(node), status=status)
    world.put(new)
    world.settle()
    return world.task(new.id)


def test_a_start_first_update_ends_the_old_task_when_the_new_one_is_ready() -> None:
    rollout, new = updating()
    rollout.live(30)
    assert rollout.images() == ["a", "b", "a"]
    tell(rollout.world, new, is_unready=False)
    rollout.live(10)
    assert rollout.images() == ["b", "b"]
    assert rollout.state() == UpdateState.COMPLETED
    rollout.world.assert_quiet()


def test_a_stop_first_update_goes_on_when_the_new_task_is_ready() -> None:
    rollout, new = updating(order=UpdateOrder.STOP_FIRST)
    rollout.live(30)
    assert rollout.images() == ["b", "a"]
    tell(rollout.world, new, is_unready=False)
    rollout.live(10)
    assert rollout.images() == ["b", "b"]


def test_past_its_deadline_the_update_pauses_and_says_why_and_who_serves_goes_on() -> None:
    rollout, new = updating()
    rollout.live(DEADLINE_S + 10)
    assert rollout.state() == UpdateState.PAUSED
    assert f"task {new.id} in slot 1 is running, but not ready: warming up" in rollout.status.message
    assert rollout.images() == ["a", "b", "a"]
    rollout.live(600)
    assert rollout.images() == ["a", "b", "a"]
    rollout.world.assert_quiet()
    rollout.do(service_plan.rollback)
    rollout.live(60)
    assert rollout.images() == ["a", "a"]
    rollout.world.assert_quiet()


def test_past_its_deadline_the_update_is_rolled_back_without_a_gap() -> None:
    rollout, _ = updating(failure_action=FailureAction.ROLLBACK)
    served = {task.id for task in rollout.world.running() if not task.status.is_unready}
    rollout.live(DEADLINE_S + 60)
    assert rollout.state() == UpdateState.ROLLBACK_COMPLETED
    assert {task.id for task in rollout.world.running()} == served


def test_an_update_that_goes_on_whatever_happens_is_bound_by_the_deadline() -> None:
    rollout, _ = updating(failure_action=FailureAction.CONTINUE)
    rollout.live(DEADLINE_S + 60)
    assert rollout.images() == ["b", "b"]
    assert rollout.state() == UpdateState.COMPLETED
    rollout.world.assert_quiet()


def test_a_task_that_gets_busy_after_it_was_ready_holds_the_others_up() -> None:
    rollout, new = updating(delay=Duration(seconds(10)))
    tell(rollout.world, new, is_unready=False)
    rollout.live(5)
    tell(rollout.world, new, is_unready=True)
    rollout.live(DEADLINE_S - 20)
    assert (rollout.state(), rollout.images()) == (UpdateState.UPDATING, ["b", "a"])
    tell(rollout.world, new, is_unready=False)
    rollout.live(60)
    assert rollout.images() == ["b", "b"]


def test_a_drain_that_starts_first_waits_until_the_new_task_is_ready_or_for_the_deadline() -> None:
    for is_unready_for_ever in (False, True):
        rollout = Rollout(spec("a", replicas=1, update=update_config()))
        (old,) = rollout.world.running()
        rollout.world.set_availability(old.node_id, NodeAvailability.DRAIN)
        rollout.world.settle()
        new = rollout.world.tasks()[-1]
        tell(rollout.world, new, is_unready=True)
        rollout.live(30)
        assert rollout.world.task(old.id).status.state == TaskState.RUNNING
        if not is_unready_for_ever:
            tell(rollout.world, new, is_unready=False)
        rollout.live(DEADLINE_S if is_unready_for_ever else 1)
        assert [task.id for task in rollout.world.running()] == [new.id]
        rollout.world.assert_quiet()


def test_a_moved_task_takes_over_when_it_is_ready_or_at_the_deadline() -> None:
    for is_unready_for_ever in (False, True):
        rollout = Rollout(spec("a", replicas=1, update=update_config()))
        (old,) = rollout.world.running()
        new = moved(rollout.world, old)
        tell(rollout.world, new, is_unready=True)
        rollout.live(30)
        assert len(rollout.world.running()) == 2
        if not is_unready_for_ever:
            tell(rollout.world, new, is_unready=False)
        rollout.live(DEADLINE_S if is_unready_for_ever else 1)
        assert [task.id for task in rollout.world.running()] == [new.id]
        rollout.world.assert_quiet()
