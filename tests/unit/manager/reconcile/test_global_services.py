"""Global services: a task on every node that fits."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from world import GIB, World, make_node, seconds

from swarmpy.model.cluster_specs import NodeSpec
from swarmpy.model.ids import Duration
from swarmpy.model.objects import Kind
from swarmpy.model.specs import (
    ContainerSpec,
    Global,
    Placement,
    Platform,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import NodeAvailability, NodeState, RestartCondition, TaskState, UpdateState


def spec(name: str = "g", *, image: str = "a", **template: Any) -> ServiceSpec:
    known: dict[str, Any] = {
        "container_spec": ContainerSpec(image=image),
        "restart_policy": RestartPolicy(delay=Duration(seconds(1))),
    }
    return ServiceSpec(
        name=name, mode=ServiceMode(global_=Global()), task_template=TaskSpec(**{**known, **template})
    )


def world_with(service: ServiceSpec, nodes: int = 3) -> World:
    world = World(*[make_node(f"n{number}") for number in range(1, nodes + 1)])
    world.create_service("g", service)
    world.live()
    world.pass_time(100)
    return world


def where(world: World) -> list[str]:
    return sorted(task.node_id for task in world.running("g"))


def test_one_on_every_node_also_on_those_that_join_later() -> None:
    world = world_with(spec())
    assert where(world) == ["n1", "n2", "n3"]
    assert {task.slot for task in world.running()} == {0}
    world.put(make_node("n4"))
    world.live()
    assert where(world) == ["n1", "n2", "n3", "n4"]
    assert world.running()[0].status.message == "running"
    world.assert_quiet()


def test_two_services_both_get_a_task_on_a_new_node() -> None:
    world = world_with(spec())
    world.create_service("h", spec("h"))
    world.live()
    world.put(make_node("n4"))
    world.live()
    assert sorted(task.service_id for task in world.running() if task.node_id == "n4") == ["g", "h"]


def test_only_where_constraints_and_platform_fit() -> None:
    placement = Placement(
        constraints=("node.labels.disk==ssd",), platforms=(Platform(architecture="amd64", os="linux"),)
    )
    world = world_with(spec(placement=placement))
    assert where(world) == []
    assert not world.tasks()
    world.change_node("n2", spec=NodeSpec(labels={"disk": "ssd"}))
    world.live()
    assert where(world) == ["n2"]
    world.change_node("n2", spec=NodeSpec())
    world.live()
    assert where(world) == []
    world.assert_quiet()


@pytest.mark.parametrize("loss", ["drain", "down"])
def test_shut_down_when_the_node_goes_and_back_when_it_returns(loss: str) -> None:
    world = world_with(spec())
    if loss == "drain":
        world.set_availability("n2", NodeAvailability.DRAIN)
    else:
        world.set_node_state("n2", NodeState.DOWN)
    world.live(10)
    assert where(world) == ["n1", "n3"]
    assert len(world.tasks()) == 3
    world.assert_quiet()
    world.set_availability("n2", NodeAvailability.ACTIVE)
    world.set_node_state("n2", NodeState.READY)
    world.live()
    assert where(world) == ["n1", "n2", "n3"]
    world.assert_quiet()


@pytest.mark.parametrize("end", [TaskState.FAILED, TaskState.COMPLETE])
def test_back_also_if_the_task_died_with_its_machine(end: TaskState) -> None:
    """A machine lost its power: its daemon, back again, reports how the old task ended."""
    world = world_with(spec())
    lost = next(task for task in world.running("g") if task.node_id == "n2")
    world.set_node_state("n2", NodeState.DOWN)
    world.live(5)
    assert where(world) == ["n1", "n3"]
    world.set_node_state("n2", NodeState.READY)
    world.report(lost.id, end)
    world.live(5)
    assert where(world) == ["n1", "n2", "n3"]
    world.assert_quiet()


def test_what_the_policy_would_not_restart_stays_ended_also_if_it_died_with_its_machine() -> None:
    policy = RestartPolicy(condition=RestartCondition.ON_FAILURE)
    world = world_with(spec(restart_policy=policy))
    lost = next(task for task in world.running("g") if task.node_id == "n2")
    world.set_node_state("n2", NodeState.DOWN)
    world.live(5)
    world.set_node_state("n2", NodeState.READY)
    world.report(lost.id, TaskState.COMPLETE)
    world.live(5)
    assert where(world) == ["n1", "n3"]
    world.assert_quiet()


def test_paused_means_nothing_new_no_update_and_no_restart() -> None:
    world = world_with(spec())
    kept = next(task for task in world.running() if task.node_id == "n2")
    for node in ("n2", "n3"):
        world.set_availability(node, NodeAvailability.PAUSE)
    failed = next(task for task in world.running() if task.node_id == "n3")
    world.report(failed.id, TaskState.FAILED)
    world.create_service("h", spec("h"))
    world.update_service("g", spec(image="b"))
    world.live(60)
    assert where(world) == ["n1", "n2"]
    assert world.task(kept.id).status.state == TaskState.RUNNING
    assert [task.node_id for task in world.running("h")] == ["n1"]
    world.assert_quiet()
    for node in ("n2", "n3"):
        world.set_availability(node, NodeAvailability.ACTIVE)
    world.live(60)
    assert where(world) == ["n1", "n2", "n3"]
    assert {task.revision_id for task in world.running("g")} == {"g-r2"}


def test_restarts_and_backs_off_like_others() -> None:
    world = world_with(spec(restart_policy=None))
    failed = world.running()[0]
    world.report(failed.id, TaskState.FAILED)
    world.settle()
    (waiting,) = [task for task in world.live_tasks() if task.status.state < TaskState.RUNNING]
    assert waiting.node_id == failed.node_id
    assert waiting.status.message == "restarting in 0.1s after 1 failure"
    world.live(1)
    assert where(world) == ["n1", "n2", "n3"]


def test_attempts_count_per_node() -> None:
    world = world_with(spec(restart_policy=RestartPolicy(delay=Duration(0), max_attempts=1)))
    for _ in range(2):
        world.report(next(t for t in world.running() if t.node_id == "n1").id, TaskState.FAILED)
        world.live()
    assert where(world) == ["n2", "n3"]
    world.report(next(t for t in world.running() if t.node_id == "n2").id, TaskState.FAILED)
    world.live()
    assert where(world) == ["n2", "n3"]


def test_what_completed_stays_completed() -> None:
    world = world_with(spec(restart_policy=RestartPolicy(condition=RestartCondition.ON_FAILURE)))
    for task in world.running():
        world.report(task.id, TaskState.COMPLETE)
    world.live(10)
    assert where(world) == []
    world.assert_quiet()


def test_rolling_update() -> None:
    world = world_with(spec())
    world.update_service("g", spec(image="b"))
    while True:
        world.settle()
        assert len(world.running()) >= 2
        if not world.run_agents():
            break
    world.live(10)
    assert {task.revision_id for task in world.running()} == {"g-r2"}
    status = world.service("g").update_status
    assert status is not None
    assert status.state == UpdateState.COMPLETED


def test_an_outdated_task_on_a_returning_node_is_replaced_at_once() -> None:
    world = world_with(spec())
    world.set_node_state("n2", NodeState.DOWN)
    world.live()
    world.update_service("g", spec(image="b"))
    world.live(30)
    world.set_node_state("n2", NodeState.READY)
    world.live()
    assert where(world) == ["n1", "n2", "n3"]
    assert {task.revision_id for task in world.running()} == {"g-r2"}


def test_no_room_means_waiting_there_with_the_reason() -> None:
    reservation = ResourceRequirements(reservations=Resources(memory_bytes=33 * GIB))
    world = world_with(spec(resources=reservation), nodes=2)
    assert {(task.node_id, task.status.err) for task in world.tasks()} == {
        ("n1", "insufficient resources on 1 node"),
        ("n2", "insufficient resources on 1 node"),
    }
    node = world.node("n2")
    resources = replace(node.description.resources, memory_bytes=64 * GIB)
    world.change_node("n2", description=replace(node.description, resources=resources))
    world.live()
    assert where(world) == ["n2"]
    assert {task.status.message for task in world.running()} == {"running"}
    world.assert_quiet()


def test_a_removed_node_and_a_removed_service_leave_nothing() -> None:
    world = world_with(spec())
    world.delete(Kind.NODE, "n2")
    world.live()
    assert sorted(task.node_id for task in world.tasks()) == ["n1", "n3"]
    world.delete(Kind.SERVICE, "g")
    world.live()
    assert not world.tasks()
    world.assert_quiet()
