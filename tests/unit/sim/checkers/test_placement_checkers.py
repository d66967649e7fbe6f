"""Checkers of what tasks were given and how they are spread: each finds what is wrong, and nothing else."""

from __future__ import annotations

from msgspec.structs import replace
from store_values import task
from world import START, World, make_node, seconds

from swarmpy.model.ids import NodeId, Timestamp
from swarmpy.model.objects import Task
from swarmpy.model.specs import (
    DiscreteGenericResource,
    GenericResource,
    NamedGenericResource,
    Replicated,
    Resources,
    ServiceMode,
    ServiceSpec,
)
from swarmpy.model.states import NodeAvailability, TaskState
from swarmpy.sim.checkers.demand import GENERIC, Demand
from swarmpy.sim.checkers.evenness import unevenness
from swarmpy.sim.checkers.exclusive import Exclusive
from swarmpy.sim.checkers.reservations import Reservations
from swarmpy.sim.checkers.violations import Violations


def named(value: str) -> GenericResource:
    return GenericResource(named_resource_spec=NamedGenericResource(kind="gpu", value=value))


def having(id_: str, state: TaskState, *resources: GenericResource, on: str = "n1") -> Task:
    known = task(id_, on=on)
    return replace(known, status=replace(known.status, state=state), generic_resources=resources)


def test_a_named_resource_is_one_tasks_until_it_has_ended() -> None:
    violations = Violations()
    exclusive = Exclusive(violations, {})
    first = having("t1", TaskState.RUNNING, named("A"))
    exclusive.event(None, first)
    exclusive.event(None, having("t2", TaskState.ASSIGNED, named("B")))
    exclusive.event(None, having("t3", TaskState.ASSIGNED, named("A"), on="n2"))
    assert not violations
    exclusive.event(None, having("t4", TaskState.ASSIGNED, named("A")))
    assert len(violations) == 1
    exclusive.event(first, having("t1", TaskState.SHUTDOWN, named("A")))
    exclusive.event(having("t4", TaskState.ASSIGNED, named("A")), having("t4", TaskState.FAILED, named("A")))
    exclusive.event(None, having("t5", TaskState.ASSIGNED, named("A")))
    assert len(violations) == 1


def test_what_was_asked_for_was_given() -> None:
    violations = Violations()
    demands = {"s1-r": Demand(reservations=((f"{GENERIC}gpu", 2),))}
    reservations = Reservations(violations, demands)
    node = make_node("n1")
    has = Resources(
        generic_resources=(
            GenericResource(discrete_resource_spec=DiscreteGenericResource(kind="gpu", value=8)),
        )
    )
    reservations.node_event(None, replace(node, description=replace(node.description, resources=has)))
    reservations.task_event(None, having("t1", TaskState.ASSIGNED, named("A"), named("B")))
    assert not violations
    reservations.task_event(None, having("t2", TaskState.ASSIGNED, named("C")))
    assert len(violations) == 1


def test_an_uneven_spread_is_told_unless_it_has_a_reason() -> None:
    world = World(make_node("n1"), make_node("n2"))
    later = Timestamp(START + seconds(3600))
    world.create_service(
        "web",
        ServiceSpec(name="web", rebalance=True, mode=ServiceMode(replicated=Replicated(replicas=4))),
    )
    world.live()
    assert list(unevenness(world.tables, world.service("web"), later)) == []
    for known in world.running("web"):
        world.put(replace(known, node_id=NodeId("n1")))
    (told,) = unevenness(world.tables, world.service("web"), later)
    assert "4 tasks on node n1 and 0 on node n2" in told

    assert list(unevenness(world.tables, world.service("web"), START)) == []  # n2 has just come
    node = world.node("n2")
    world.change_node("n2", spec=replace(node.spec, availability=NodeAvailability.PAUSE))
    assert list(unevenness(world.tables, world.service("web"), later)) == []
    world.put(node)
    assert list(unevenness(world.tables, world.service("web"), later))
    spec = replace(world.service("web").spec, rebalance=False)
    world.put(replace(world.service("web"), spec=spec))
    assert list(unevenness(world.tables, world.service("web"), later)) == []
