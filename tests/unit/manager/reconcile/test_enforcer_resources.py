"""The enforcer and what nodes declare: constraints of ours, named resources that are gone, shrunk numbers."""

from __future__ import annotations

from msgspec.structs import replace
from world import World, make_node

from manager.reconcile.restart import NO_LONGER_FITS
from swarmpy.model.objects import Node, NodeVolume, Task
from swarmpy.model.specs import (
    ContainerSpec,
    DiscreteGenericResource,
    GenericResource,
    Mount,
    NamedGenericResource,
    Placement,
    Replicated,
    ResourceRequirements,
    Resources,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    VolumeOptions,
)
from swarmpy.model.states import MountType, TaskState


def named(value: str) -> GenericResource:
    return GenericResource(named_resource_spec=NamedGenericResource(kind="gpu", value=value))


def counted(kind: str, value: int) -> GenericResource:
    return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=value))


def declaring(node: Node, *resources: GenericResource) -> Node:
    has = replace(node.description.resources, generic_resources=resources)
    return replace(node, description=replace(node.description, resources=has))


def world_of(replicas: int, template: TaskSpec, *nodes: Node) -> World:
    world = World(*nodes)
    mode = ServiceMode(replicated=Replicated(replicas=replicas))
    world.create_service("a", ServiceSpec(name="a", mode=mode, task_template=template))
    world.live()
    return world


def wanting(resource: GenericResource) -> TaskSpec:
    return TaskSpec(resources=ResourceRequirements(reservations=Resources(generic_resources=(resource,))))


def rejected(world: World) -> list[Task]:
    found = [task for task in world.tasks() if task.status.state == TaskState.REJECTED]
    assert all(task.status.err == NO_LONGER_FITS for task in found)
    return found


def test_who_has_a_name_that_is_gone_gives_way_and_the_others_stay() -> None:
    node = make_node("n1")
    world = world_of(2, wanting(counted("gpu", 1)), declaring(node, named("A"), named("B")))
    by_name = {task.generic_resources[0]: task.id for task in world.running()}
    world.put(declaring(node, named("B"), named("C")))
    world.live()
    assert [task.id for task in rejected(world)] == [by_name[named("A")]]
    holders = {task.generic_resources[0]: task.id for task in world.running()}
    assert set(holders) == {named("B"), named("C")}
    assert holders[named("B")] == by_name[named("B")]


def test_a_number_that_shrank_keeps_the_oldest() -> None:
    node = make_node("n1")
    world = world_of(3, wanting(counted("slots", 2)), declaring(node, counted("slots", 6)))
    oldest = min(world.running(), key=lambda task: task.version)
    world.put(declaring(node, counted("slots", 3)))
    world.live()
    assert len(rejected(world)) == 2
    assert [task.id for task in world.running()] == [oldest.id]


def test_a_constraint_on_what_a_node_has_is_judged_when_that_changes() -> None:
    template = TaskSpec(placement=Placement(constraints=("node.memory >= 16g", "!exists(node.labels.old)")))
    small = make_node("n2")
    less = replace(small.description.resources, memory_bytes=8 << 30)
    small = replace(small, description=replace(small.description, resources=less))
    world = world_of(2, template, make_node("n1"), make_node("n3"))
    assert sorted(task.node_id for task in world.running()) == ["n1", "n3"]
    world.put(replace(small, id=world.node("n1").id))
    world.live()
    assert [task.node_id for task in rejected(world)] == ["n1"]
    world.change_node("n3", spec=replace(world.node("n3").spec, labels={"old": ""}))
    world.live()
    assert world.running() == []


def test_a_task_is_not_turned_down_for_where_its_volume_is() -> None:
    mount = Mount(type=MountType.VOLUME, source="d", target="/d", volume_options=VolumeOptions(sticky=True))
    template = TaskSpec(container_spec=ContainerSpec(image="x", mounts=(mount,)))
    world = world_of(1, template, make_node("n1"))
    other = make_node("n2")
    world.put(replace(other, description=replace(other.description, volumes=(NodeVolume(name="d"),))))
    world.live(60)
    assert [task.node_id for task in world.running()] == ["n1"]
