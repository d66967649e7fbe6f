"""Replicated and global jobs: slots, completions, restarts, iterations, nodes that go."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace
from world import World, make_node, seconds

from swarmpy.limits import RESTART_STOP_WAIT_S
from swarmpy.model.cluster_specs import ClusterSpec, OrchestrationConfig
from swarmpy.model.ids import Duration
from swarmpy.model.objects import Cluster, Kind, Task
from swarmpy.model.specs import (
    ContainerSpec,
    GlobalJob,
    Placement,
    ReplicatedJob,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import NodeAvailability, NodeState, RestartCondition, TaskState

AT_ONCE = RestartPolicy(delay=Duration(0))


def job(total: int | None = None, most: int | None = None, **template: Any) -> ServiceSpec:
    mode = ServiceMode(replicated_job=ReplicatedJob(total_completions=total, max_concurrent=most))
    return spec_of(mode, **template)


def spec_of(mode: ServiceMode, **template: Any) -> ServiceSpec:
    given: dict[str, Any] = {"container_spec": ContainerSpec(image="i1"), "restart_policy": AT_ONCE}
    return ServiceSpec(name="j", mode=mode, task_template=TaskSpec(**{**given, **template}))


GLOBAL = ServiceMode(global_job=GlobalJob())


def world_of(spec: ServiceSpec, *nodes: str) -> World:
    world = World(*(make_node(node) for node in nodes or ("n1", "n2")))
    world.create_service("j", spec)
    world.live()
    return world


def of_run(world: World, iteration: int | None = None) -> list[Task]:
    status = world.service("j").job_status
    assert status is not None
    wanted = status.iteration if iteration is None else iteration
    return [task for task in world.tasks("j") if task.job_iteration == wanted]


def active(world: World) -> list[Task]:
    return [
        task
        for task in world.tasks("j")
        if task.desired_state <= TaskState.COMPLETE and task.status.state <= TaskState.RUNNING
    ]


def done(world: World) -> list[int]:
    return sorted(task.slot for task in of_run(world) if task.status.state is TaskState.COMPLETE)


def finish(world: World, task: Task, state: TaskState = TaskState.COMPLETE) -> None:
    world.report(task.id, state)
    world.live()


def test_a_job_runs_as_many_at_a_time_as_it_may_and_each_slot_once() -> None:
    world = world_of(job(5, 2))
    assert [task.slot for task in active(world)] == [0, 1]
    assert {task.desired_state for task in active(world)} == {TaskState.COMPLETE}
    finished = []
    while active(world):
        assert len(active(world)) <= 2
        finished.append(active(world)[0].slot)
        finish(world, active(world)[0])
    assert sorted(finished) == done(world) == [0, 1, 2, 3, 4]
    world.live(3600)
    assert len(world.tasks("j")) == 5
    world.assert_quiet()


@pytest.mark.parametrize(
    ("total", "most", "slots"), [(None, None, 1), (None, 3, 3), (2, None, 1), (2, 5, 2), (0, 2, 0)]
)
def test_what_holds_where_the_spec_says_nothing(total: int | None, most: int | None, slots: int) -> None:
    assert len(active(world_of(job(total, most)))) == slots


@pytest.mark.parametrize("condition", [RestartCondition.ANY, RestartCondition.ON_FAILURE])
def test_a_failed_task_is_tried_again_in_its_slot_and_a_completed_one_is_not(
    condition: RestartCondition,
) -> None:
    world = world_of(job(1, restart_policy=RestartPolicy(condition=condition, delay=Duration(0))))
    finish(world, active(world)[0], TaskState.FAILED)
    (again,) = active(world)
    assert (again.slot, again.restarts, again.desired_state) == (0, 1, TaskState.COMPLETE)
    finish(world, again)
    world.live(3600)
    assert active(world) == []
    assert done(world) == [0]


def test_a_slot_that_has_failed_for_good_is_not_used_again_and_others_go_on() -> None:
    world = world_of(job(2, 1, restart_policy=RestartPolicy(max_attempts=1, delay=Duration(0))))
    for _ in range(2):
        finish(world, active(world)[0], TaskState.FAILED)
    assert [task.slot for task in active(world)] == [1]
    finish(world, active(world)[0])
    world.live(3600)
    assert (active(world), done(world)) == ([], [1])
    world.assert_quiet()


def test_a_restart_waits_for_its_delay() -> None:
    world = world_of(job(1, restart_policy=RestartPolicy(delay=Duration(seconds(30)))))
    finish(world, active(world)[0], TaskState.FAILED)
    (waiting,) = active(world)
    assert waiting.desired_state is TaskState.READY
    world.live(31)
    assert world.task(waiting.id).desired_state is TaskState.COMPLETE
    assert world.task(waiting.id).status.state is TaskState.RUNNING


def test_a_job_whose_node_died_goes_on_elsewhere_without_an_attempt_counted() -> None:
    world = world_of(job(1, restart_policy=RestartPolicy(max_attempts=1)))
    first = active(world)[0]
    world.set_node_state(first.node_id, NodeState.DOWN)
    world.live()
    (second,) = active(world)
    assert second.node_id != first.node_id
    assert (second.slot, second.restarts) == (0, 0)
    assert world.task(first.id).desired_state is TaskState.SHUTDOWN


def test_what_completed_unheard_on_a_lost_node_counts_and_its_successor_ends() -> None:
    world = world_of(job(1))
    first = active(world)[0]
    world.set_node_state(first.node_id, NodeState.DOWN)
    world.live()
    assert len(active(world)) == 1
    world.set_node_state(first.node_id, NodeState.READY)
    finish(world, first)
    assert (active(world), done(world)) == ([], [0])
    world.live(3600)
    assert done(world) == [0]


@pytest.mark.parametrize("loss", ["drain", "down", "removed"])
def test_completed_tasks_are_left_alone_whatever_becomes_of_their_node(loss: str) -> None:
    world = world_of(job(2, 2))
    for task in active(world):
        finish(world, task)
    node = of_run(world)[0].node_id
    if loss == "drain":
        world.set_availability(node, NodeAvailability.DRAIN)
    elif loss == "down":
        world.set_node_state(node, NodeState.DOWN)
    else:
        world.delete(Kind.NODE, node)
    world.live(3600)
    assert (active(world), done(world), len(world.tasks("j"))) == ([], [0, 1], 2)


def test_a_drained_node_hands_its_task_over_and_the_new_one_waits_for_the_old() -> None:
    world = world_of(job(1))
    first = active(world)[0]
    world.set_availability(first.node_id, NodeAvailability.DRAIN)
    world.settle()
    second = next(task for task in active(world) if task.id != first.id)
    assert second.desired_state is TaskState.READY
    world.live()
    assert world.task(first.id).status.state is TaskState.SHUTDOWN
    assert world.task(second.id).desired_state is TaskState.COMPLETE


def test_a_constraint_that_no_node_meets_leaves_the_task_waiting_with_its_reason() -> None:
    world = world_of(job(2, 1, placement=Placement(constraints=("node.labels.gpu==yes",))))
    (waiting,) = active(world)
    assert waiting.status.state is TaskState.PENDING
    assert waiting.status.err == "no suitable node (scheduling constraints not satisfied on 2 nodes)"
    world.put(make_node("n3", labels={"gpu": "yes"}))
    world.live()
    assert [(task.slot, task.node_id) for task in active(world)] == [(0, "n3")]


def test_a_node_that_no_longer_fits_loses_its_task_and_no_attempt_is_counted() -> None:
    spec = job(1, placement=Placement(constraints=("node.labels.zone!=b",)))
    world = world_of(spec)
    (first,) = active(world)
    node = world.node(first.node_id)
    world.change_node(node.id, spec=replace(node.spec, labels={"zone": "b"}))
    world.live()
    (second,) = active(world)
    assert second.node_id != first.node_id
    assert second.restarts == 0
    assert world.task(first.id).status.state is TaskState.REJECTED


# --- iterations


def test_a_forced_job_runs_all_of_it_again_and_what_was_unfinished_goes() -> None:
    world = world_of(job(3, 2))
    finish(world, active(world)[0])
    spec = job(3, 2, force_update=1)
    world.update_service("j", spec)
    world.live()
    assert [task.slot for task in active(world)] == [0, 1]
    assert {task.job_iteration for task in active(world)} == {1}
    assert [task.status.state for task in of_run(world, 0)] == [TaskState.COMPLETE]
    while active(world):
        finish(world, active(world)[0])
    assert done(world) == [0, 1, 2]


@pytest.mark.parametrize("mode", [job(2, 2).mode, GLOBAL])
def test_newer_data_of_a_secret_run_nothing_again_that_has_ended(mode: ServiceMode) -> None:
    """What ``secret update`` does to a job: its tasks would be others, and its iteration is the same."""
    world = world_of(spec_of(mode, restart_policy=RestartPolicy(max_attempts=1, delay=Duration(0))))
    bad, good = active(world)
    finish(world, good)
    for _ in range(2):
        finish(world, next(task for task in active(world) if task.slot == bad.slot), TaskState.FAILED)
    before = world.tasks("j")
    service = world.service("j")
    spec = replace(service.spec, task_template=replace(service.spec.task_template, force_update=1))
    world.update_service("j", spec)
    world.put(replace(world.service("j"), version=0, job_status=service.job_status))
    assert world.service("j").template_id != service.template_id
    for state in (NodeState.DOWN, NodeState.READY):
        for node in ("n1", "n2"):
            world.set_node_state(node, state)
        world.live(3600)
    assert {task.id for task in world.tasks("j")} == {task.id for task in before}
    world.assert_quiet()


def test_tasks_of_a_new_iteration_wait_for_those_that_stop() -> None:
    world = world_of(job(2, 2))
    old = active(world)
    world.update_service("j", job(2, 2, force_update=1))
    world.settle()
    assert [task for task in active(world) if task.job_iteration == 1] == []
    world.report(old[0].id, TaskState.SHUTDOWN)
    world.settle()
    assert [task.slot for task in active(world)] == [0]
    world.pass_time(RESTART_STOP_WAIT_S)
    world.settle()
    assert [task.slot for task in active(world)] == [0, 1]


def test_another_number_of_completions_is_another_iteration() -> None:
    world = world_of(job(4, 4))
    for task in active(world):
        finish(world, task)
    world.update_service("j", job(2, 4))
    world.live()
    assert [task.slot for task in active(world)] == [0, 1]
    assert sorted(task.slot for task in of_run(world, 0)) == [0, 1]  # the other slots are no more


def test_a_job_that_is_removed_while_it_runs_leaves_nothing() -> None:
    world = world_of(job(3, 2))
    finish(world, active(world)[0])
    world.delete(Kind.SERVICE, "j")
    world.live()
    assert world.tasks("j") == []


def test_history_keeps_the_completions_of_the_present_iteration_and_few_others() -> None:
    world = world_of(job(1))
    limit = ClusterSpec(orchestration=OrchestrationConfig(task_history_retention_limit=2))
    world.put(Cluster(id="c", spec=limit))  # type: ignore[arg-type]
    for number in range(1, 6):
        while active(world):
            finish(world, active(world)[0])
        world.update_service("j", job(1, force_update=number))
        world.live()
    while active(world):
        finish(world, active(world)[0])
    assert sorted(task.job_iteration for task in world.tasks("j")) == [4, 5]


def test_a_completion_is_kept_though_newer_tasks_of_its_slot_are_there() -> None:
    world = world_of(job(1))
    limit = ClusterSpec(orchestration=OrchestrationConfig(task_history_retention_limit=0))
    world.put(Cluster(id="c", spec=limit))  # type: ignore[arg-type]
    first = active(world)[0]
    world.set_node_state(first.node_id, NodeState.DOWN)
    world.live()
    world.set_node_state(first.node_id, NodeState.READY)
    finish(world, first)
    world.live(3600)
    assert done(world) == [0]
    assert active(world) == []


def test_a_new_leader_goes_on_at_any_moment() -> None:
    world = world_of(job(4, 2))
    while active(world):
        world = world.successor()
        world.live()
        assert len(active(world)) <= 2
        finish(world, active(world)[0])
    assert done(world) == [0, 1, 2, 3]


# --- global jobs


def test_a_global_job_runs_once_on_each_node_also_on_one_that_joins_later() -> None:
    world = world_of(spec_of(GLOBAL))
    assert Counter(task.node_id for task in active(world)) == {"n1": 1, "n2": 1}
    for task in active(world):
        finish(world, task)
    world.put(make_node("n3"))
    world.live()
    assert [task.node_id for task in active(world)] == ["n3"]
    finish(world, active(world)[0])
    world.live(3600)
    assert len(world.tasks("j")) == 3
    world.assert_quiet()


@pytest.mark.parametrize(
    "node",
    [
        make_node("n3", availability=NodeAvailability.PAUSE),
        make_node("n3", availability=NodeAvailability.DRAIN),
        make_node("n3", state=NodeState.DOWN),
        make_node("n3", state=NodeState.UNKNOWN),
        make_node("n3", labels={"zone": "b"}),
    ],
)
def test_a_global_job_leaves_out_nodes_that_are_not_ready_active_and_fitting(node: Any) -> None:
    spec = spec_of(GLOBAL, placement=Placement(constraints=("node.labels.zone!=b",)))
    world = world_of(spec)
    world.put(node)
    world.live()
    assert {task.node_id for task in active(world)} == {"n1", "n2"}


def test_a_global_job_begins_again_on_a_node_that_was_drained_in_the_middle() -> None:
    world = world_of(spec_of(GLOBAL))
    world.set_availability("n1", NodeAvailability.DRAIN)
    world.live()
    assert [task.node_id for task in active(world)] == ["n2"]
    world.set_availability("n1", NodeAvailability.ACTIVE)
    world.live()
    assert sorted(task.node_id for task in active(world)) == ["n1", "n2"]


def test_a_global_job_that_is_forced_runs_everywhere_again() -> None:
    world = world_of(spec_of(GLOBAL))
    for task in active(world):
        finish(world, task)
    spec = world.service("j").spec
    world.update_service("j", replace(spec, task_template=replace(spec.task_template, force_update=1)))
    world.live()
    assert sorted(task.node_id for task in active(world)) == ["n1", "n2"]


def test_a_global_job_that_is_forced_waits_on_each_node_for_what_stops_there() -> None:
    world = world_of(spec_of(GLOBAL))
    old = {str(task.node_id): task for task in active(world)}
    spec = world.service("j").spec
    world.update_service("j", replace(spec, task_template=replace(spec.task_template, force_update=1)))
    world.settle()
    assert of_run(world) == []
    world.report(old["n1"].id, TaskState.SHUTDOWN)
    world = world.successor()
    world.settle()
    assert [task.node_id for task in of_run(world)] == ["n1"]
    world.pass_time(RESTART_STOP_WAIT_S)
    world.settle()
    assert sorted(task.node_id for task in of_run(world)) == ["n1", "n2"]


def test_a_global_job_that_fails_on_a_node_is_tried_there_again_and_given_up_for_good() -> None:
    world = world_of(spec_of(GLOBAL, restart_policy=RestartPolicy(max_attempts=1, delay=Duration(0))), "n1")
    for _ in range(2):
        finish(world, active(world)[0], TaskState.FAILED)
    world.live(3600)
    assert active(world) == []
    assert Counter(task.status.state for task in world.tasks("j")) == {TaskState.FAILED: 2}
    world.assert_quiet()
