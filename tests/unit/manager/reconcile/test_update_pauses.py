"""Updates that wait: for slots that do not come up, for a word about a canary, for a user after a failure."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from rollout import Rollout, config, spec
from world import GIB, START, make_node, seconds

from manager.api import service_plan
from manager.reconcile.update_progress import progress_of, stuck_tasks
from swarmpy.errors import FailedPrecondition
from swarmpy.model import forms
from swarmpy.model.defaults import EffectiveUpdate
from swarmpy.model.ids import Duration, RevisionId, TaskId, Timestamp
from swarmpy.model.objects import Task, TaskStatus, UpdateStatus
from swarmpy.model.specs import (
    ContainerSpec,
    Global,
    Placement,
    Replicated,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import (
    FailureAction,
    HealthState,
    NodeAvailability,
    NodeState,
    TaskState,
    UpdateOrder,
    UpdateState,
)

# --- the progress deadline


def too_large(**update: Any) -> ServiceSpec:
    """No node has room for a task of it."""
    return spec("b", memory=64 * GIB, update=config(**update))


def test_an_update_that_can_not_be_placed_pauses_at_its_deadline_and_says_why() -> None:
    rollout = Rollout(spec("a"))
    rollout.update(too_large(progress_deadline=Duration(seconds(60))))
    rollout.live(59)
    assert rollout.state() == UpdateState.UPDATING
    rollout.live(2)
    (stuck,) = [task for task in rollout.world.live_tasks() if task.status.state == TaskState.PENDING]
    assert rollout.state() == UpdateState.PAUSED
    assert rollout.status.message == (
        f"update paused due to no progress in 1m0s: task {stuck.id} in slot 1 is pending: "
        "no suitable node (insufficient resources on 3 nodes)"
    )
    assert rollout.images() == ["a"] * 3
    rollout.world.assert_quiet()


def test_the_deadline_is_ten_minutes_if_nobody_says() -> None:
    rollout = Rollout(spec("a"))
    rollout.update(too_large())
    rollout.live(599)
    assert rollout.state() == UpdateState.UPDATING
    rollout.live(2)
    assert rollout.state() == UpdateState.PAUSED


def test_a_deadline_that_passes_rolls_back_if_so_asked() -> None:
    rollout = Rollout(spec("a"))
    rollout.update(too_large(progress_deadline=Duration(seconds(60)), failure_action=FailureAction.ROLLBACK))
    rollout.live(61)
    assert rollout.state() == UpdateState.ROLLBACK_STARTED
    assert rollout.status.message.startswith("update rolled back due to no progress in 1m0s: task ")
    rollout.live(10)
    assert (rollout.state(), rollout.status.message) == (
        UpdateState.ROLLBACK_COMPLETED,
        "rollback completed",
    )
    assert rollout.images() == ["a"] * 4


def test_with_continue_each_slot_has_its_deadline_and_the_update_ends() -> None:
    rollout = Rollout(spec("a", replicas=3))
    action = FailureAction.CONTINUE
    wish = too_large(progress_deadline=Duration(seconds(60)), failure_action=action)
    rollout.update(replace(wish, mode=ServiceMode(replicated=Replicated(replicas=3))))
    rollout.live(61)
    assert len(rollout.images()) == 1, "the first slot holds the second one up no more"
    rollout.live(60)
    assert len(rollout.images()) == 0
    rollout.live(70)
    assert rollout.state() == UpdateState.COMPLETED


def test_overdue_slots_within_the_ratio_are_tolerated() -> None:
    rollout = Rollout(spec("a"))
    deadline = Duration(seconds(60))
    rollout.update(
        replace(
            spec("b", update=config(parallelism=4, max_failure_ratio=0.25, progress_deadline=deadline)),
            task_template=TaskSpec(
                container_spec=ContainerSpec(image="b"),
                placement=Placement(max_replicas=1),
            ),
        )
    )
    rollout.live(70)
    assert rollout.images() == ["b"] * 3  # of four, on three nodes
    assert rollout.state() == UpdateState.COMPLETED


def test_a_slow_update_that_makes_progress_is_not_overdue() -> None:
    rollout = Rollout(spec("a"))
    update = config(delay=Duration(seconds(90)), progress_deadline=Duration(seconds(60)))
    rollout.update(spec("b", update=update))
    rollout.live(400)
    assert rollout.state() == UpdateState.COMPLETED


def test_a_rollback_has_a_deadline_of_its_own_and_pauses() -> None:
    rollout = Rollout(spec("a", rollback_config=config(progress_deadline=Duration(seconds(30)))))
    rollout.update(spec("b"))
    rollout.live(60)
    rollout.do(service_plan.rollback)
    rollout.world.settle()
    rollout.world.pass_time(29)
    rollout.world.settle()
    assert rollout.state() == UpdateState.ROLLBACK_STARTED
    rollout.world.pass_time(1)
    rollout.world.settle()
    assert rollout.state() == UpdateState.ROLLBACK_PAUSED
    assert rollout.status.message.startswith("rollback paused due to no progress in 30s: task ")
    rollout.do(service_plan.resume)
    assert (rollout.state(), rollout.status.message) == (
        UpdateState.ROLLBACK_STARTED,
        "rollback in progress",
    )
    rollout.live(10)
    assert rollout.state() == UpdateState.ROLLBACK_COMPLETED


def waiting_task(
    number: int, *, created_at: float, state: TaskState = TaskState.PREPARING, **fields: Any
) -> Task:
    return Task(
        id=TaskId(f"t{number}"),
        slot=number,
        version=number,
        revision_id=RevisionId("r"),
        created_at=Timestamp(seconds(created_at)),
        status=TaskStatus(state=state, **fields),
    )


def progress(*tasks: Task, now: float, **fields: Any) -> Any:
    known: dict[str, Any] = {"progress_deadline": Duration(seconds(10))}
    return progress_of(
        [[task] for task in tasks],
        template_id=RevisionId("r"),
        status=UpdateStatus(state=UpdateState.UPDATING),
        config=EffectiveUpdate(**known, **fields),
        now=Timestamp(seconds(now)),
    )


def test_progress_elsewhere_begins_the_deadline_anew() -> None:
    stuck = waiting_task(1, created_at=1)
    came_up = waiting_task(2, created_at=1, state=TaskState.RUNNING, running_since=Timestamp(seconds(8)))
    found = progress(stuck, came_up, now=17)
    assert found.overdue == ()
    assert found.wake_at == seconds(18)
    assert progress(stuck, came_up, now=18).overdue == (stuck,)


def test_what_was_overdue_stays_so_whatever_comes_up_later() -> None:
    stuck = waiting_task(1, created_at=1)
    late = waiting_task(2, created_at=12, state=TaskState.RUNNING, running_since=Timestamp(seconds(13)))
    assert progress(stuck, late, now=13).overdue == (stuck,)
    assert progress(stuck, late, now=13).busy == 0


def test_many_stuck_tasks_are_named_in_part() -> None:
    tasks = [waiting_task(number, created_at=1, err="no room") for number in range(1, 6)]
    assert stuck_tasks(tasks).endswith("task t3 in slot 3 is preparing: no room; and 2 more")


def test_a_drained_task_that_had_not_come_up_keeps_its_slot_busy() -> None:
    """It was told to stop before it ran: the next slot must not be taken down as well."""
    rollout = Rollout(spec("a"))
    rollout.update(spec("b"))
    rollout.world.settle()
    (new,) = [task for task in rollout.world.live_tasks() if rollout.image_of(task) == "b"]
    rollout.world.report(new.id, TaskState.PREPARING)
    rollout.world.set_availability(new.node_id, NodeAvailability.DRAIN)
    rollout.world.settle()
    rollout.world.report(new.id, TaskState.SHUTDOWN)
    rollout.world.settle()
    taken = {
        task.slot
        for task in rollout.world.tasks()
        if rollout.image_of(task) == "b" and task.desired_state <= TaskState.RUNNING
        if task.node_id != new.node_id
    }
    on_old_node = {task.slot for task in rollout.world.tasks() if task.node_id == new.node_id}
    assert taken <= on_old_node | {new.slot}
    rollout.live(30)
    assert rollout.images() == ["b"] * 4


def test_clocks_of_leaders_that_differ_do_not_end_the_pace() -> None:
    """The leader that began the update had its clock ahead; its successor makes tasks "before" it began."""
    rollout = Rollout(spec("a"))
    rollout.update(spec("b"))
    rollout.world.settle()
    rollout.world.now = Timestamp(rollout.world.now - seconds(60))
    rollout.world = rollout.world.successor()
    while True:
        rollout.world.settle()
        assert len(rollout.world.running()) >= 3
        if not rollout.world.run_agents():
            break
    assert rollout.images() == ["b"] * 4


def test_a_failure_long_after_the_start_is_none_of_the_updates() -> None:
    rollout = Rollout(spec("a"))
    rollout.update(spec("b", update=config(delay=Duration(seconds(30)))))
    rollout.live(10)
    (new,) = [task for task in rollout.world.running() if rollout.image_of(task) == "b"]
    rollout.world.report(new.id, TaskState.FAILED)
    rollout.live(1)
    assert rollout.state() == UpdateState.UPDATING


def test_what_is_down_is_replaced_first() -> None:
    """A newer spec during an update takes nothing more away than the update did."""
    rollout = Rollout(spec("a"))
    rollout.update(spec("b"))
    while rollout.images() != ["b", "a", "a"]:  # slot 1 is done, slot 2 is down
        rollout.world.settle()
        assert rollout.world.run_agents()
    rollout.update(spec("c"))
    while True:
        rollout.world.settle()
        assert len(rollout.world.running()) >= 3
        if not rollout.world.run_agents():
            break
    assert rollout.images() == ["c"] * 4


# --- the canary


def canary(image: str = "b", **fields: Any) -> ServiceSpec:
    update = config(pause_after=1, **fields.pop("settings", {}))
    return spec(image, update=update, **fields)


@pytest.mark.parametrize("parallelism", [0, 1, 3])
def test_a_canary_pauses_after_its_slots_until_it_is_promoted(parallelism: int) -> None:
    rollout = Rollout(spec("a"))
    rollout.update(spec("b", update=config(parallelism=parallelism, pause_after=2)))
    rollout.live(4.5)
    assert rollout.state() == UpdateState.UPDATING
    assert rollout.images() == ["b", "b", "a", "a"]
    rollout.live(1)
    assert rollout.state() == UpdateState.PAUSED
    assert rollout.status.message == (
        'update paused after 2 of 4 tasks: "swarmpy service promote web" goes on with the others, '
        '"swarmpy service abort web" rolls back'
    )
    rollout.live(10_000)
    assert rollout.images() == ["b", "b", "a", "a"]
    rollout.world.assert_quiet()
    rollout.do(service_plan.resume)
    rollout.live(20)
    assert rollout.images() == ["b"] * 4
    assert rollout.state() == UpdateState.COMPLETED


def test_an_equal_spec_lets_a_paused_update_go_on_as_docker_asks_for_it() -> None:
    rollout = Rollout(spec("a"))
    rollout.update(canary())
    rollout.live(10)
    world, version, same = rollout.world, rollout.service.version, forms.as_read(canary())
    again = service_plan.update(
        world.tables, rollout.service, same, base_version=version, revision_id="x", now=world.now
    )
    assert again == ()
    assert service_plan.is_paused(rollout.service)


def test_a_canary_that_fails_does_what_the_update_says() -> None:
    rollout = Rollout(spec("a"))
    rollout.update(canary("bad", settings={"failure_action": FailureAction.ROLLBACK}))
    rollout.live(30, bad=("bad",))
    assert rollout.state() == UpdateState.ROLLBACK_COMPLETED
    assert rollout.images() == ["a"] * 4


def test_abort_returns_to_what_was_before() -> None:
    rollout = Rollout(spec("a"))
    rollout.update(canary())
    rollout.live(10)
    rollout.do(service_plan.rollback)
    assert rollout.status.message == "manually requested rollback"
    rollout.live(10)
    assert rollout.images() == ["a"] * 4
    assert rollout.service.revision_id == "r1"
    assert rollout.state() == UpdateState.ROLLBACK_COMPLETED


@pytest.mark.parametrize("is_waiting", [True, False])
def test_what_a_paused_update_has_not_reached_stays_as_it_is(*, is_waiting: bool) -> None:
    """Old tasks that fail or lose their node do not slip past the pause, nor do new slots."""
    rollout = Rollout(spec("a", replicas=6))
    rollout.update(canary(replicas=6, settings={"monitor": Duration(seconds(60))}))
    rollout.live(1 if is_waiting else 100)
    assert (rollout.state() == UpdateState.PAUSED) is not is_waiting
    old = [task for task in rollout.world.running() if rollout.image_of(task) == "a"]
    rollout.world.report(old[0].id, TaskState.FAILED)
    rollout.world.set_node_state(old[1].node_id, NodeState.DOWN)
    rollout.live(5)
    rollout.update(canary(replicas=8, settings={"monitor": Duration(seconds(60))}))
    rollout.live(5)
    assert sorted(rollout.images()) == ["a"] * 7 + ["b"]
    rollout.live(100)
    assert rollout.state() == UpdateState.PAUSED
    rollout.do(service_plan.resume)
    rollout.live(200)
    assert rollout.images() == ["b"] * 8


def test_a_rollback_of_a_canary_that_was_scaled_returns_to_the_old_template() -> None:
    rollout = Rollout(spec("a"))
    rollout.update(canary())
    rollout.live(10)
    rollout.update(canary(replicas=5))
    rollout.live(10)
    assert rollout.state() == UpdateState.PAUSED, "scaling promotes nothing"
    rollout.do(service_plan.rollback)
    rollout.live(20)
    assert set(rollout.images()) == {"a"}


def test_a_canary_of_all_slots_just_completes() -> None:
    rollout = Rollout(spec("a", replicas=1))
    rollout.update(canary(replicas=1))
    rollout.live(10)
    assert rollout.state() == UpdateState.COMPLETED


def test_a_canary_of_a_global_service() -> None:
    mode = ServiceMode(global_=Global())
    rollout = Rollout(spec("a", mode=mode))
    rollout.update(canary(mode=mode, settings={"order": UpdateOrder.START_FIRST}))
    rollout.live(10)
    assert rollout.images() == ["b", "a", "a"]
    rollout.world.put(make_node("n4"))
    rollout.world.set_availability("n2", NodeAvailability.DRAIN)
    rollout.live(5)
    rollout.world.set_availability("n2", NodeAvailability.ACTIVE)
    rollout.live(5)
    assert rollout.images() == ["b", "a", "a", "a"]
    rollout.do(service_plan.resume)
    rollout.live(30)
    assert rollout.images() == ["b"] * 4


def test_a_failure_before_the_user_let_it_go_on_counts_no_more() -> None:
    rollout = Rollout(spec("a"))
    rollout.update(spec("b"))
    rollout.live(bad=("b",))
    assert rollout.state() == UpdateState.PAUSED
    rollout.world.pass_time(30)
    rollout.do(service_plan.resume)
    rollout.live(60)
    assert rollout.state() == UpdateState.COMPLETED
    assert rollout.images() == ["b"] * 4


def test_there_must_be_something_to_resume() -> None:
    rollout = Rollout(spec("a"))
    with pytest.raises(FailedPrecondition, match="has no paused update to go on with: there is none"):
        rollout.do(service_plan.resume)
    rollout.update(spec("b"))
    rollout.live(60)
    with pytest.raises(FailedPrecondition, match="its last one is completed"):
        rollout.do(service_plan.resume)


def test_started_at_tells_tasks_apart_where_an_older_leader_began() -> None:
    old = waiting_task(1, created_at=1)
    status = UpdateStatus(state=UpdateState.UPDATING, started_at=Timestamp(seconds(2)))
    found = progress_of(
        [[old]], template_id=RevisionId("r"), status=status, config=EffectiveUpdate(), now=START
    )
    assert found.changed == 0


def test_a_task_that_never_became_healthy_is_a_failure_however_long_that_took() -> None:
    ended: dict[str, Any] = {"state": TaskState.FAILED, "timestamp": Timestamp(seconds(92))}
    given_up = waiting_task(1, created_at=1, health=HealthState.UNHEALTHY, **ended)
    crashed = waiting_task(2, created_at=1, health=HealthState.STARTING, **ended)
    later = {"health": HealthState.UNHEALTHY, "running_since": Timestamp(seconds(32)), **ended}
    tasks = (given_up, crashed, waiting_task(3, created_at=1, **later))
    assert progress(*tasks, now=93, monitor=Duration(seconds(5))).failures == (given_up, crashed)


def test_what_an_update_before_has_overlapped_is_ended_though_the_next_is_held() -> None:
    order = {"order": UpdateOrder.START_FIRST}
    rollout = Rollout(spec("a", replicas=2))
    rollout.update(spec("b", replicas=2, update=config(parallelism=2, **order)))
    while not [task for task in rollout.world.tasks("web") if rollout.image_of(task) == "b"]:
        rollout.world.settle()
    rollout.update(canary("c", replicas=2, settings=order))
    rollout.live(30)
    assert rollout.state() == UpdateState.PAUSED
    assert rollout.images() == ["c", "b"]
    rollout.world.assert_quiet()
