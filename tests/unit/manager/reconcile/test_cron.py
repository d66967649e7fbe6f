"""Cron jobs: when runs begin and end, what is missed, clocks that jump, history."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from world import World, make_node, seconds

from manager.reconcile.cron import AWAY, GOES_ON, TOO_LATE, TOO_MANY, advance
from swarmpy.limits import CRON_ACTIVE_RUNS_MAX, CRON_COUNT_DAYS_MAX
from swarmpy.model.ids import Duration, Timestamp
from swarmpy.model.objects import CronRun, CronStatus, Kind, Task
from swarmpy.model.specs import (
    ContainerSpec,
    CronJob,
    Dependency,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import ConcurrencyPolicy, NodeState, RunState, TaskState

MINUTE = seconds(60)
DAY = 24 * 60 * MINUTE
NOON = Timestamp(1_700_049_600 * 10**9)
"""A full hour."""

RUNNING = CronRun(iteration=1, tick=NOON, started_at=NOON, state=RunState.RUNNING)


def cron(schedule: str = "* * * * *", **fields: Any) -> CronJob:
    return CronJob(schedule=schedule, **fields)


def at(minutes: float) -> Timestamp:
    return Timestamp(NOON + int(minutes * MINUTE))


def status(*runs: CronRun, last: float = 0, **fields: Any) -> CronStatus:
    return CronStatus(last_tick=at(last), runs=runs, **fields)


# --- what is due


def test_nothing_is_due_before_its_time() -> None:
    step = advance(cron(), status(), now=at(0.5))
    assert (step.begun, step.wake_at, step.status) == (0, at(1), status())


def test_a_tick_is_due_at_its_time() -> None:
    step = advance(cron(), status(), now=at(1))
    assert (step.begun, step.wake_at) == (at(1), at(2))


def test_the_newest_of_several_is_run_and_the_others_are_missed() -> None:
    step = advance(cron(), status(), now=at(5.5))
    assert step.begun == at(5)
    assert (step.status.missed, step.status.last_missed) == (4, at(4))
    assert step.status.message == f"a run was missed: {AWAY}"


def test_a_clock_set_forward_by_years_is_counted_within_bounds() -> None:
    step = advance(cron("0 * * * *"), status(), now=Timestamp(NOON + 4000 * DAY))
    assert step.begun == NOON + 4000 * DAY
    assert step.status.missed == CRON_COUNT_DAYS_MAX * 24 - 1


def test_a_clock_set_back_makes_nothing_due_twice() -> None:
    step = advance(cron(), status(last=60), now=at(1))
    assert (step.begun, step.wake_at, step.status) == (0, at(61), status(last=60))


def test_a_run_that_is_too_late_is_missed() -> None:
    job = cron("0 * * * *", starting_deadline=Duration(seconds(30)))
    assert advance(job, status(last=-60), now=at(0.5)).begun == at(0)
    step = advance(job, status(last=-60), now=at(0.6))
    assert (step.begun, step.status.last_tick, step.status.missed) == (0, at(0), 1)
    assert step.status.message == f"a run was missed: {TOO_LATE}"


def test_forbid_misses_a_tick_while_a_run_goes_on() -> None:
    job = cron(concurrency_policy=ConcurrencyPolicy.FORBID)
    step = advance(job, status(RUNNING), now=at(1))
    assert (step.begun, step.status.last_tick, step.status.missed) == (0, at(1), 1)
    assert step.status.message == f"a run was missed: {GOES_ON}"
    ended = replace(RUNNING, state=RunState.FAILED)
    assert advance(job, status(ended), now=at(1)).begun == at(1)


def test_forbid_with_a_deadline_waits_for_so_long() -> None:
    job = cron(
        "*/5 * * * *",
        concurrency_policy=ConcurrencyPolicy.FORBID,
        starting_deadline=Duration(2 * MINUTE),
    )
    waiting = advance(job, status(RUNNING), now=at(6))
    assert (waiting.begun, waiting.status, waiting.wake_at) == (0, status(RUNNING), at(7) + 1)
    ended = replace(RUNNING, state=RunState.COMPLETE)
    assert advance(job, status(ended), now=at(6)).begun == at(5)
    assert advance(job, status(RUNNING), now=Timestamp(at(7) + 1)).status.last_tick == at(5)


def test_ticks_that_waited_for_a_run_to_end_are_missed_for_that_reason() -> None:
    job = cron(concurrency_policy=ConcurrencyPolicy.FORBID, starting_deadline=Duration(10 * MINUTE))
    assert advance(job, status(RUNNING), now=at(3.5)).status == status(RUNNING)
    ended = replace(RUNNING, state=RunState.COMPLETE, ended_at=at(3.5))
    step = advance(job, status(ended), now=at(3.5))
    assert (step.begun, step.status.missed, step.status.last_missed) == (at(3), 2, at(2))
    assert step.status.message == f"a run was missed: {GOES_ON}"
    away = replace(ended, ended_at=at(0.5))
    assert advance(job, status(away), now=at(3.5)).status.message == f"a run was missed: {AWAY}"


def test_replace_ends_what_goes_on() -> None:
    step = advance(cron(concurrency_policy=ConcurrencyPolicy.REPLACE), status(RUNNING), now=at(1))
    assert step.begun == at(1)
    assert step.status.runs == (replace(RUNNING, state=RunState.REPLACED, ended_at=at(1)),)


def test_allow_is_the_default_and_is_bounded() -> None:
    assert advance(cron(), status(RUNNING), now=at(1)).begun == at(1)
    many = [replace(RUNNING, iteration=number) for number in range(CRON_ACTIVE_RUNS_MAX)]
    step = advance(cron(), status(*many), now=at(1))
    assert (step.begun, step.status.missed) == (0, 1)
    assert step.status.message == f"a run was missed: {TOO_MANY}"


def test_a_suspended_job_does_nothing_and_sleeps() -> None:
    step = advance(cron(suspended=True), status(), now=at(600))
    assert (step.begun, step.wake_at, step.status) == (0, None, status())


def test_a_time_zone_that_this_manager_lacks_is_told_and_nothing_runs() -> None:
    step = advance(cron(timezone="Mars/Olympus"), status(), now=at(600))
    assert (step.begun, step.wake_at) == (0, None)
    assert step.status.message.startswith('cron: unknown time zone "Mars/Olympus"')


# --- in a cluster


def world_of(**fields: Any) -> World:
    world = World(make_node("n1"), make_node("n2"))
    world.now = at(0.5)
    world.create_service("j", spec_of(**fields))
    world.live()
    return world


def spec_of(
    *, max_attempts: int | None = None, delay: int = 0, image: str = "i1", **fields: Any
) -> ServiceSpec:
    template = TaskSpec(
        container_spec=ContainerSpec(image=image),
        restart_policy=RestartPolicy(delay=Duration(delay), max_attempts=max_attempts),
    )
    return ServiceSpec(name="j", mode=ServiceMode(cron_job=cron(**fields)), task_template=template)


def runs(world: World) -> list[tuple[int, float, RunState]]:
    known = world.service("j").cron_status
    assert known is not None
    return [(run.iteration, (run.tick - NOON) / MINUTE, run.state) for run in known.runs]


def active(world: World) -> list[Task]:
    return [
        task
        for task in world.tasks("j")
        if task.desired_state <= TaskState.COMPLETE and task.status.state <= TaskState.RUNNING
    ]


def finish(world: World, *tasks: Task, state: TaskState = TaskState.COMPLETE) -> None:
    for task in tasks:
        world.report(task.id, state)
    world.live()


def test_a_run_begins_with_its_tick_and_ends_with_its_tasks() -> None:
    world = world_of(total_completions=2, max_concurrent=1)
    assert (runs(world), active(world)) == ([], [])
    world.live(40)
    assert runs(world) == [(1, 1, RunState.RUNNING)]
    assert [(task.job_iteration, task.slot) for task in active(world)] == [(1, 0)]
    finish(world, *active(world))
    finish(world, *active(world))
    assert runs(world) == [(1, 1, RunState.COMPLETE)]
    world.live(60)
    assert [(task.job_iteration, task.slot) for task in active(world)] == [(2, 0)]


def test_a_run_whose_slot_has_failed_for_good_has_failed() -> None:
    world = world_of(max_attempts=1)
    world.live(40)
    for _ in range(2):
        finish(world, *active(world), state=TaskState.FAILED)
    assert runs(world) == [(1, 1, RunState.FAILED)]


def test_several_runs_go_on_at_once_each_with_its_own_tasks() -> None:
    world = world_of()
    world.live(100)
    assert [iteration for iteration, _, _ in runs(world)] == [1, 2]
    assert sorted((task.job_iteration, task.slot) for task in active(world)) == [(1, 0), (2, 0)]
    finish(world, active(world)[0])
    assert [state for _, _, state in runs(world)] == [RunState.COMPLETE, RunState.RUNNING]


def test_a_replaced_run_is_stopped_and_the_next_waits_for_it() -> None:
    world = world_of(concurrency_policy=ConcurrencyPolicy.REPLACE)
    world.live(40)
    (first,) = active(world)
    world.pass_time(60)
    world.settle()
    assert world.task(first.id).desired_state is TaskState.SHUTDOWN
    assert active(world) == []
    world.live()
    assert [task.job_iteration for task in active(world)] == [2]
    assert [state for _, _, state in runs(world)] == [RunState.REPLACED, RunState.RUNNING]


def test_history_keeps_so_many_runs_of_each_sort_with_their_tasks() -> None:
    world = world_of(schedule="* * * * *", successful_history=2, failed_history=1, max_attempts=1)
    for number in range(8):
        world.live(60)
        while active(world):
            finish(world, *active(world), state=TaskState.FAILED if number % 2 else TaskState.COMPLETE)
    good = [run for run in runs(world) if run[2] is RunState.COMPLETE]
    bad = [run for run in runs(world) if run[2] is RunState.FAILED]
    assert ([run[0] for run in good], [run[0] for run in bad]) == ([5, 7], [8])
    assert {task.job_iteration for task in world.tasks("j")} == {5, 7, 8}


def test_a_leader_killed_between_tick_and_tasks_loses_neither() -> None:
    world = world_of()
    world.pass_time(40)
    while not runs(world):
        assert world.has_work()
        world.run_once()
    assert active(world) == []
    world = world.successor()
    world.live()
    assert runs(world) == [(1, 1, RunState.RUNNING)]
    assert [task.job_iteration for task in active(world)] == [1]


def test_two_leaders_that_see_the_same_tick_begin_one_run() -> None:
    world = world_of()
    world.pass_time(40)
    other = world.successor()
    world.settle()
    other.run_once()
    other.settle()
    assert runs(world) == [(1, 1, RunState.RUNNING)]


def test_a_job_updated_while_it_runs_goes_on_and_begins_what_follows_from_the_new_spec() -> None:
    world = world_of(schedule="0 * * * *", total_completions=2, max_concurrent=1)
    world.live(3600)
    (first,) = active(world)
    world.update_service(
        "j", spec_of(schedule="0 * * * *", total_completions=2, max_concurrent=1, image="i2")
    )
    world.live()
    assert [task.id for task in active(world)] == [first.id]
    finish(world, first)
    (second,) = active(world)
    assert second.revision_id == world.service("j").template_id != first.revision_id
    assert (second.job_iteration, second.slot) == (1, 1)


def test_a_changed_schedule_makes_nothing_of_the_past_due() -> None:
    world = world_of(schedule="0 0 1 1 *")
    world.live(600)
    world.update_service("j", spec_of(schedule="* * * * *"))
    world.live()
    assert runs(world) == []
    world.live(60)
    assert len(runs(world)) == 1


def test_a_job_that_was_suspended_misses_nothing() -> None:
    world = world_of(suspended=True)
    world.live(3600)
    world.update_service("j", spec_of())
    world.live(60)
    known = world.service("j").cron_status
    assert known is not None
    assert (len(known.runs), known.missed) == (1, 0)


def test_a_node_that_dies_takes_no_attempt_of_a_run() -> None:
    world = world_of(max_attempts=1)
    world.live(40)
    (first,) = active(world)
    world.set_node_state(first.node_id, NodeState.DOWN)
    world.live()
    (second,) = active(world)
    assert (second.job_iteration, second.restarts) == (1, 0)
    assert second.node_id != first.node_id


def test_a_job_removed_while_it_runs_leaves_nothing() -> None:
    world = world_of()
    world.live(150)
    world.delete(Kind.SERVICE, "j")
    world.live(60)
    assert world.tasks("j") == []


def test_ticks_are_missed_while_a_dependency_is_not_there() -> None:
    world = World(make_node("n1"))
    world.now = at(0.5)
    world.create_service("j", replace(spec_of(), depends_on=(Dependency(service="db"),)))
    world.live(60)
    known = world.service("j").cron_status
    assert known is not None
    assert known.missed == 1
    assert known.message.endswith("waiting for service db, which does not exist: service_started")
    assert world.tasks("j") == []


def test_a_dependency_is_waited_for_before_the_first_run_only() -> None:
    world = world_of(successful_history=0)
    world.live(40)
    finish(world, *active(world))
    assert (runs(world), world.tasks("j")) == ([], [])
    world.update_service("j", replace(spec_of(successful_history=0), depends_on=(Dependency(service="db"),)))
    world.live(60)
    assert [task.job_iteration for task in active(world)] == [2]


def test_a_run_of_fewer_completions_than_it_has_is_complete() -> None:
    world = world_of(schedule="0 * * * *", total_completions=4, max_concurrent=2)
    world.live(3600)
    for _ in range(2):
        finish(world, active(world)[0])
    assert sorted(task.slot for task in active(world)) == [2, 3]
    world.update_service("j", spec_of(schedule="0 * * * *", total_completions=1, max_concurrent=2))
    world.live()
    assert (active(world), runs(world)) == ([], [(1, 60, RunState.COMPLETE)])


def test_how_many_may_be_at_work_is_followed_within_a_run() -> None:
    sizes: dict[str, Any] = {"schedule": "0 * * * *", "total_completions": 6}
    world = world_of(**sizes, max_concurrent=1)
    world.live(3600)
    for most, at_work in ((3, 3), (1, 3)):
        world.update_service("j", spec_of(**sizes, max_concurrent=most))
        world.live()
        assert len(active(world)) == at_work
    while len(active(world)) > 1:
        finish(world, active(world)[0])
    finish(world, active(world)[0])
    assert [task.slot for task in active(world)] == [3]


@pytest.mark.parametrize("forward_s", [90, 86_400])
def test_a_clock_that_jumps_runs_at_most_the_newest_and_never_again(forward_s: int) -> None:
    world = world_of(concurrency_policy=ConcurrencyPolicy.REPLACE)
    world.live(60)
    before = world.now
    world.pass_time(forward_s)
    world.live()
    ran = runs(world)
    assert len(ran) <= 2
    world.now = before
    world = world.successor()
    world.live(30)
    assert runs(world) == ran
