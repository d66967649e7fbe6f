"""The restart policy, as data on tasks."""

from __future__ import annotations

from typing import Any

import pytest
from world import START, World, make_node, seconds

from manager.reconcile.restart import declined_reason, next_delay, waiting_reason
from swarmpy.model.defaults import restart_policy
from swarmpy.model.ids import Duration, TaskId, Timestamp
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.specs import (
    ContainerSpec,
    Replicated,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import NodeAvailability, NodeState, RestartCondition, TaskState


def spec(policy: RestartPolicy | None = None, *, image: str = "a", replicas: int = 1) -> ServiceSpec:
    return ServiceSpec(
        name="web",
        mode=ServiceMode(replicated=Replicated(replicas=replicas)),
        task_template=TaskSpec(container_spec=ContainerSpec(image=image), restart_policy=policy),
    )


def world_with(policy: RestartPolicy | None = None) -> World:
    world = World(make_node("n1"), make_node("n2"))
    world.create_service("web", spec(policy))
    world.live()
    world.pass_time(100)
    return world


def end(world: World, state: TaskState = TaskState.FAILED) -> Task:
    """The running task ends; returns it."""
    (task,) = world.running()
    world.report(task.id, state)
    world.settle()
    return world.task(task.id)


def policy(**fields: Any) -> RestartPolicy:
    return RestartPolicy(**{"delay": Duration(0), **fields})


@pytest.mark.parametrize(
    ("condition", "state", "restarts"),
    [
        (RestartCondition.UNSPECIFIED, TaskState.COMPLETE, True),
        (RestartCondition.ANY, TaskState.COMPLETE, True),
        (RestartCondition.ANY, TaskState.FAILED, True),
        (RestartCondition.ANY, TaskState.REJECTED, True),
        (RestartCondition.ON_FAILURE, TaskState.COMPLETE, False),
        (RestartCondition.ON_FAILURE, TaskState.FAILED, True),
        (RestartCondition.ON_FAILURE, TaskState.REJECTED, True),
        (RestartCondition.NONE, TaskState.COMPLETE, False),
        (RestartCondition.NONE, TaskState.FAILED, False),
    ],
)
def test_conditions(condition: RestartCondition, state: TaskState, restarts: bool) -> None:
    world = world_with(policy(condition=condition))
    ended = end(world, state)
    assert ended.desired_state == TaskState.SHUTDOWN
    assert len(world.live_tasks()) == int(restarts)
    world.live()
    world.assert_quiet()
    assert len(world.tasks()) == 1 + int(restarts)


def test_a_finished_slot_is_not_filled_again_by_scaling_or_an_equal_spec() -> None:
    world = world_with(policy(condition=RestartCondition.ON_FAILURE))
    end(world, TaskState.COMPLETE)
    world.update_service("web", spec(policy(condition=RestartCondition.ON_FAILURE), replicas=2))
    world.live()
    assert [(task.slot, task.status.state) for task in world.tasks()] == [
        (1, TaskState.COMPLETE),
        (2, TaskState.RUNNING),
    ]


@pytest.mark.parametrize("condition", [RestartCondition.NONE, RestartCondition.ON_FAILURE])
def test_a_changed_spec_starts_a_finished_slot_again(condition: RestartCondition) -> None:
    world = world_with(policy(condition=condition))
    end(world, TaskState.COMPLETE)
    world.update_service("web", spec(policy(condition=condition), image="b"))
    world.live()
    assert [task.slot for task in world.running()] == [1]


def test_a_failed_task_of_condition_none_is_started_by_a_changed_spec() -> None:
    world = world_with(policy(condition=RestartCondition.NONE))
    end(world, TaskState.FAILED)
    world.update_service("web", spec(policy(condition=RestartCondition.NONE), image="b"))
    world.live()
    assert len(world.running()) == 1


# --- delays


def test_a_set_delay_is_constant_and_prepares_meanwhile() -> None:
    world = world_with(policy(delay=Duration(seconds(5))))
    for _ in range(3):
        end(world)
        (waiting,) = world.live_tasks()
        assert waiting.desired_state == TaskState.READY
        assert waiting.not_before == world.now + seconds(5)
        world.live()
        assert world.task(waiting.id).status.state == TaskState.READY  # prepared, not run
        world.pass_time(4.9)
        assert world.settle() == 0
        world.pass_time(0.2)
        world.live()
        assert [task.id for task in world.running()] == [waiting.id]


def test_without_a_delay_it_backs_off_and_says_so() -> None:
    world = world_with()
    delays, reasons = [], []
    for _ in range(10):
        end(world)
        (waiting,) = world.live_tasks()
        delays.append((waiting.not_before - world.now) / seconds(1))
        reasons.append(waiting.status.message)
        world.pass_time(delays[-1] + 0.01)
        world.live()
    assert delays == [0.1, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert reasons[0] == "restarting in 0.1s after 1 failure"
    assert reasons[4] == "restarting in 8s after 5 failures"


def test_a_stable_run_makes_the_delay_small_again() -> None:
    world = world_with()
    for _ in range(4):
        end(world)
        world.live(10)
    assert next_delay(world.running()[0], world.now) == seconds(8)
    world.pass_time(31)
    assert next_delay(world.running()[0], world.now) == seconds(0.1)


def test_the_delay_doubles_although_storing_takes_a_moment() -> None:
    task = Task(
        id=TaskId("t"),
        created_at=Timestamp(START + seconds(0.4)),
        not_before=Timestamp(START + seconds(8)),
        restarts=5,
    )
    assert next_delay(task, Timestamp(START + seconds(9))) == seconds(16)


def test_a_new_leader_goes_on_with_the_delay() -> None:
    world = world_with(policy(delay=Duration(seconds(5))))
    end(world)
    world.pass_time(2)
    successor = world.successor()
    successor.live(3.1)
    assert len(successor.running()) == 1


def test_no_reason_without_waiting() -> None:
    task = Task(id=TaskId("t"), desired_state=TaskState.RUNNING, not_before=Timestamp(START + 1))
    assert waiting_reason(task, START) == ""


# --- attempts


def test_max_attempts_two_gives_three_tasks() -> None:
    world = world_with(policy(max_attempts=2))
    world.live(60, may_run=lambda task: False)
    for _ in range(5):
        for task in world.running():
            world.report(task.id, TaskState.FAILED)
        world.live(60, may_run=lambda task: False)
    assert len(world.tasks()) == 3
    assert not world.live_tasks()
    world.assert_quiet()


def test_attempts_are_cleared_by_a_new_revision() -> None:
    world = world_with(policy(max_attempts=1))
    end(world)
    world.live()
    end(world)
    assert not world.live_tasks()
    world.update_service("web", spec(policy(max_attempts=1), image="b"))
    world.live()
    assert len(world.running()) == 1
    end(world)
    world.live()
    assert len(world.running()) == 1


@pytest.mark.parametrize(("pause_s", "survives"), [(0.4, False), (0.6, True)])
def test_only_attempts_inside_the_window_count(pause_s: float, survives: bool) -> None:
    world = world_with(policy(max_attempts=1, window=Duration(seconds(0.5))))
    end(world)
    world.live()
    world.pass_time(pause_s)
    end(world)
    world.live()
    assert bool(world.running()) is survives
    # once dead, it stays dead, also when the window has passed
    world.live(10)
    assert bool(world.running()) is survives
    world.assert_quiet()


def test_a_dead_node_costs_no_attempt_and_no_delay() -> None:
    world = world_with(RestartPolicy(max_attempts=1))
    (task,) = world.running()
    world.set_node_state(task.node_id, NodeState.DOWN)
    world.live()
    (moved,) = world.running()
    assert (moved.restarts, moved.not_before) == (0, 0)
    world.report(moved.id, TaskState.FAILED)
    world.live(1)
    assert len(world.running()) == 1


def test_condition_none_is_not_replaced_when_its_node_dies() -> None:
    world = world_with(policy(condition=RestartCondition.NONE))
    (task,) = world.running()
    world.set_node_state(task.node_id, NodeState.DOWN)
    world.live()
    assert not world.live_tasks()
    world.assert_quiet()


def test_a_waiting_task_that_loses_its_node_goes_on_waiting_elsewhere() -> None:
    world = world_with(policy(delay=Duration(seconds(30))))
    end(world)
    (waiting,) = world.live_tasks()
    world.set_node_state(waiting.node_id, NodeState.DOWN)
    world.settle()
    (other,) = world.live_tasks()
    assert other.node_id != waiting.node_id
    assert other.not_before == waiting.not_before
    assert other.restarts == waiting.restarts == 1


def test_a_rejected_preparation_is_retried_under_the_same_policy() -> None:
    world = world_with()
    end(world)
    (waiting,) = world.live_tasks()
    world.report(waiting.id, TaskState.REJECTED, err="No such image: a")
    world.settle()
    assert not world.live_tasks(), "its delay is not over: what failed early does not bring the next forward"
    world.now = waiting.not_before
    world.settle()
    (after,) = world.live_tasks()
    assert after.restarts == 2
    assert after.not_before == world.now + seconds(1)


def reject_all_that_is_prepared(world: World) -> None:
    """The agent's answer takes no time; that must not lead to one more task for every answer."""
    for _ in range(5):
        world.settle()
        fresh = [task for task in world.live_tasks() if task.status.state < TaskState.REJECTED]
        if not fresh:
            return
        for task in fresh:
            world.report(task.id, TaskState.REJECTED, err="No such image: a")
    raise AssertionError("replaced as fast as it fails")


@pytest.mark.parametrize("delay_s", [None, 5.0])
def test_an_image_that_is_missing_is_tried_again_at_the_pace_of_the_policy(delay_s: float | None) -> None:
    """A replacement is prepared while it waits, so it fails at once: the pace must come from the delays."""
    world = world_with(policy(delay=Duration(seconds(delay_s)))) if delay_s else world_with()
    until = world.now + seconds(120)
    while world.now < until:
        reject_all_that_is_prepared(world)
        wake = world.next_wake()
        assert wake is not None, "it is never given up"
        world.now = Timestamp(max(world.now, wake))
    attempts = max(task.restarts for task in world.tasks())
    assert attempts <= (120 / delay_s + 2 if delay_s else 12)
    assert attempts >= (120 / delay_s - 2 if delay_s else 5)


# --- rows of their own


def test_a_drained_node_costs_no_delay_and_no_attempt() -> None:
    world = world_with(policy(delay=Duration(seconds(30)), max_attempts=1))
    (task,) = world.running()
    world.set_availability(task.node_id, NodeAvailability.DRAIN)
    world.live()
    (moved,) = world.running()
    assert (moved.restarts, moved.not_before) == (0, 0)


def test_a_new_leader_does_not_forget_attempts() -> None:
    world = world_with(policy(max_attempts=2))
    for _ in range(2):
        end(world)
        world.live()
        world = world.successor()
    end(world)
    world.live()
    assert not world.live_tasks()
    world.assert_quiet()


@pytest.mark.parametrize(
    ("limits", "state", "expected"),
    [
        ({"condition": RestartCondition.NONE}, TaskState.FAILED, 'restart policy: the condition is "none"'),
        (
            {"condition": RestartCondition.ON_FAILURE},
            TaskState.COMPLETE,
            'restart policy: it completed, and the condition is "on-failure"',
        ),
        ({"max_attempts": 3}, TaskState.FAILED, "restart policy: 3 attempts used up"),
        (
            {"max_attempts": 1, "window": Duration(seconds(90))},
            TaskState.FAILED,
            "restart policy: 1 attempt used up within 1m30s",
        ),
        ({}, TaskState.FAILED, ""),
    ],
)
def test_why_nothing_follows(limits: dict[str, Any], state: TaskState, expected: str) -> None:
    template = TaskSpec(restart_policy=policy(**limits))
    ended = Task(id=TaskId("t"), status=TaskStatus(state=state))
    assert declined_reason(ended, restart_policy(template)) == expected
