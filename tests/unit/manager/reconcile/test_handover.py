"""Slots in which one task takes over from another: drains that start the new one first, and moved tasks."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from world import World, make_node

from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import (
    ContainerSpec,
    Placement,
    Replicated,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import NodeAvailability, NodeState, RestartCondition, TaskState, UpdateOrder

DRAIN, ACTIVE = NodeAvailability.DRAIN, NodeAvailability.ACTIVE


def spec_of(
    *,
    order: UpdateOrder = UpdateOrder.START_FIRST,
    replicas: int = 1,
    image: str = "one",
    condition: RestartCondition = RestartCondition.ANY,
    constraint: str = "",
) -> ServiceSpec:
    return ServiceSpec(
        name="web",
        mode=ServiceMode(replicated=Replicated(replicas=replicas)),
        update_config=UpdateConfig(order=order),
        task_template=TaskSpec(
            container_spec=ContainerSpec(image=image),
            restart_policy=RestartPolicy(condition=condition),
            placement=Placement(constraints=(constraint,) if constraint else ()),
        ),
    )


def world_of(spec: ServiceSpec, *nodes: str) -> World:
    world = World(*(make_node(name) for name in nodes))
    world.create_service("web", spec)
    world.live()
    return world


def states(world: World) -> list[tuple[str, TaskState, TaskState]]:
    return [(task.node_id, task.desired_state, task.status.state) for task in world.tasks("web")]


def only(tasks: list[Task]) -> Task:
    (task,) = tasks
    return task


def test_start_first_drain_stops_the_old_task_when_the_new_one_runs() -> None:
    world = world_of(spec_of(), "n1", "n2")
    old = only(world.running("web"))
    world.set_availability(old.node_id, DRAIN)
    world.settle()
    new = world.tasks("web")[-1]
    assert new.node_id != old.node_id
    assert world.task(old.id).desired_state == TaskState.RUNNING
    world.report(new.id, TaskState.STARTING)
    world.settle()
    assert world.task(old.id).desired_state == TaskState.RUNNING
    world.report(new.id, TaskState.RUNNING)
    world.settle()
    assert world.task(old.id).desired_state == TaskState.SHUTDOWN
    world.live()
    assert only(world.running("web")).id == new.id
    world.assert_quiet()


def test_stop_first_drain_is_as_it_always_was() -> None:
    world = world_of(spec_of(order=UpdateOrder.STOP_FIRST), "n1", "n2")
    old = only(world.running("web"))
    world.set_availability(old.node_id, DRAIN)
    world.settle()
    assert world.task(old.id).desired_state == TaskState.SHUTDOWN


def test_with_no_other_node_it_stays_until_there_is_one() -> None:
    world = world_of(spec_of(), "n1")
    old = only(world.running("web"))
    world.set_availability("n1", DRAIN)
    world.live(60)
    assert [state for _, _, state in states(world)] == [TaskState.RUNNING, TaskState.PENDING]
    world.put(make_node("n2"))
    world.live()
    assert only(world.running("web")).node_id == "n2"
    assert world.task(old.id).desired_state == TaskState.SHUTDOWN


def test_a_node_that_is_active_again_keeps_its_task_and_nobody_waits() -> None:
    world = world_of(spec_of(), "n1")
    world.set_availability("n1", DRAIN)
    world.live()
    world.set_availability("n1", ACTIVE)
    world.live()
    assert only(world.live_tasks("web")).node_id == "n1"
    assert len(world.tasks("web")) == 2
    world.assert_quiet()


def test_a_drained_node_that_dies_is_waited_for_no_longer() -> None:
    world = world_of(spec_of(), "n1")
    old = only(world.running("web"))
    world.set_availability("n1", DRAIN)
    world.settle()
    world.set_node_state("n1", NodeState.DOWN)
    world.settle()
    assert world.task(old.id).desired_state == TaskState.SHUTDOWN


def test_a_successor_that_fails_is_tried_again_while_the_old_one_runs() -> None:
    world = world_of(spec_of(), "n1", "n2")
    old = only(world.running("web"))
    world.set_availability(old.node_id, DRAIN)
    world.settle()
    world.report(world.tasks("web")[-1].id, TaskState.FAILED)
    world.settle()
    assert world.tasks("web")[-1].status.state == TaskState.ASSIGNED
    assert only(world.running("web")).id == old.id
    assert world.tasks("web")[-1].not_before > world.now  # as crash loops are
    world.live(120)
    assert only(world.running("web")).node_id != old.node_id


def test_a_policy_that_replaces_nothing_is_kept() -> None:
    world = world_of(spec_of(condition=RestartCondition.NONE), "n1", "n2")
    old = only(world.running("web"))
    world.set_availability(old.node_id, DRAIN)
    world.live()
    assert states(world) == [(old.node_id, TaskState.SHUTDOWN, TaskState.SHUTDOWN)]


@pytest.mark.parametrize("when", range(4))
def test_an_update_in_the_middle_of_a_drain_ends_with_one_task(when: int) -> None:
    world = world_of(spec_of(replicas=2), "n1", "n2", "n3")
    drained = world.running("web")[0].node_id
    world.set_availability(drained, DRAIN)
    for _ in range(when):
        world.settle()
        world.run_agents()
    world.update_service("web", spec_of(replicas=2, image="two"))
    world.live(120)
    running = world.running("web")
    assert len(running) == len(world.live_tasks("web")) == 2
    assert drained not in {task.node_id for task in running}
    assert {task.revision_id for task in running} == {world.service("web").template_id}
    world.assert_quiet()


def move(world: World, task: Task, node: str) -> Task:
    """As a rebalance does: another task in the slot, on another node."""
    moved = Task(
        id=TaskId(f"{task.id}-moved"),
        service_id=task.service_id,
        slot=task.slot,
        node_id=NodeId(node),
        revision_id=task.revision_id,
        status=replace(task.status, state=TaskState.ASSIGNED),
    )
    world.put(moved)
    world.settle()
    return world.task(moved.id)


@pytest.mark.parametrize("order", [UpdateOrder.STOP_FIRST, UpdateOrder.START_FIRST])
def test_a_moved_task_takes_over_when_it_runs(order: UpdateOrder) -> None:
    world = world_of(spec_of(order=order), "n1", "n2")
    old = only(world.running("web"))
    new = move(world, old, "n2" if old.node_id == "n1" else "n1")
    assert len(world.live_tasks("web")) == 2
    world.report(new.id, TaskState.RUNNING)
    world.live()
    assert only(world.live_tasks("web")).id == new.id
    world.assert_quiet()


def test_a_moved_task_that_fails_is_given_up() -> None:
    world = world_of(spec_of(), "n1", "n2")
    old = only(world.running("web"))
    new = move(world, old, "n2" if old.node_id == "n1" else "n1")
    world.report(new.id, TaskState.REJECTED)
    world.live(300)
    assert only(world.live_tasks("web")).id == old.id
    assert len(world.tasks("web")) == 2
    world.assert_quiet()


def test_an_old_task_that_fails_meanwhile_is_not_replaced_twice() -> None:
    world = world_of(spec_of(), "n1", "n2")
    old = only(world.running("web"))
    new = move(world, old, "n2" if old.node_id == "n1" else "n1")
    world.report(old.id, TaskState.FAILED)
    world.live(300)
    assert only(world.live_tasks("web")).id == new.id
    assert len(world.tasks("web")) == 2
