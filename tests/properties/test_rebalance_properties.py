"""Properties of rebalancing: it ends, evenly, within every filter; and a named resource has one holder."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from world import START, World, make_node, seconds

from manager.schedule.constraint import is_match, parse_constraints
from manager.schedule.imbalance import Spot, best_move
from swarmpy.limits import REBALANCE_SETTLED_S
from swarmpy.model.ids import NodeId, Timestamp
from swarmpy.model.objects import Node
from swarmpy.model.specs import (
    DiscreteGenericResource,
    GenericResource,
    NamedGenericResource,
    Placement,
    Replicated,
    ResourceRequirements,
    Resources,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import NodeAvailability, NodeState, TaskState
from swarmpy.sim.checkers.evenness import unevenness

CONSTRAINTS = ("node.labels.zone in (a, b)", "node.labels.zone not in (c)", "node.labels.cores > 2", "")
LATER = Timestamp(START + seconds(3600))


def named(value: str) -> GenericResource:
    return GenericResource(named_resource_spec=NamedGenericResource(kind="gpu", value=value))


def with_gpus(node: Node, count: int) -> Node:
    gpus = tuple(named(f"g{number}") for number in range(count))
    resources = replace(node.description.resources, generic_resources=gpus)
    return replace(node, description=replace(node.description, resources=resources))


# --- the choice of one move

BRANCH = st.sampled_from(["a", "b", "c"])


@st.composite
def spots(draw: st.DrawFn) -> list[Spot]:
    return [
        Spot(
            node=make_node(f"n{number:02}", labels={"zone": draw(BRANCH), "rack": draw(BRANCH)}),
            tasks=(tasks := draw(st.integers(0, 6))),
            can_give=tasks > 0 and draw(st.booleans()),
            can_take=draw(st.booleans()),
            rank=(draw(st.integers(0, 2)),),
        )
        for number in range(draw(st.integers(0, 8)))
    ]


DESCRIPTORS = st.sampled_from(
    [(), ("node.labels.zone",), ("node.labels.zone", "node.labels.rack"), ("bogus", "node.labels.rack")]
)


@given(places=spots(), descriptors=DESCRIPTORS)
def test_moves_come_to_an_end_and_keep_to_who_can(places: list[Spot], descriptors: tuple[str, ...]) -> None:
    """Whatever may give and take, and though a node may take any number: no sequence goes on for ever."""
    total = sum(spot.tasks for spot in places)
    seen = set()
    while (move := best_move(places, descriptors)) is not None:
        by_id = {spot.node.id: spot for spot in places}
        source, target = by_id[move.source], by_id[move.target]
        assert source.can_give
        assert target.can_take
        assert source.tasks > 0
        places = [replace_tasks(spot, spot.tasks + (spot is target) - (spot is source)) for spot in places]
        state = tuple(spot.tasks for spot in places)
        assert state not in seen, "it goes round"
        seen.add(state)
    assert sum(spot.tasks for spot in places) == total
    if not descriptors:
        most = max((spot.tasks for spot in places if spot.can_give), default=0)
        least = min((spot.tasks for spot in places if spot.can_take), default=most)
        assert most - least < 2


def replace_tasks(spot: Spot, tasks: int) -> Spot:
    return Spot(
        node=spot.node,
        tasks=tasks,
        can_give=spot.can_give and tasks > 0,
        can_take=spot.can_take,
        rank=spot.rank,
    )


# --- the whole of it


@st.composite
def service_specs(draw: st.DrawFn, name: str) -> ServiceSpec:
    constraint = draw(st.sampled_from(CONSTRAINTS))
    resources = None
    if draw(st.booleans()):
        gpu = GenericResource(
            discrete_resource_spec=DiscreteGenericResource(kind="gpu", value=draw(st.integers(1, 2)))
        )
        resources = ResourceRequirements(reservations=Resources(generic_resources=(gpu,)))
    return ServiceSpec(
        name=name,
        rebalance=draw(st.booleans()) or name == "a",
        mode=ServiceMode(replicated=Replicated(replicas=draw(st.integers(0, 7)))),
        task_template=TaskSpec(
            resources=resources,
            placement=Placement(
                constraints=(constraint,) if constraint else (),
                max_replicas=draw(st.sampled_from([0, 0, 3])),
            ),
        ),
    )


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["down", "ready", "drain", "active", "pause", "wait", "label", "scale", "step"]),
        st.integers(0, 4),
    ),
    max_size=10,
)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), events=EVENTS)
def test_it_settles_evenly_within_all_filters(data: st.DataObject, events: list[tuple[str, int]]) -> None:
    world = World()
    world.now = LATER
    for number in range(5):
        labels = {"zone": data.draw(BRANCH), "cores": data.draw(st.sampled_from(["1", "4", "many"]))}
        world.put(with_gpus(make_node(f"n{number}", labels=labels), data.draw(st.integers(0, 3))))
    for name in ("a", "b"):
        world.create_service(name, data.draw(service_specs(name)))
    for event, number in events:
        act(world, event, f"n{number}")
        check_holders(world)
    for number in range(5):
        world.set_node_state(f"n{number}", NodeState.READY)
    world.live(600)
    check_holders(world)
    check_filters(world)
    before = [task.id for task in world.tasks()]
    world.live(600)
    assert [task.id for task in world.tasks()] == before, "it goes on moving"
    for name in ("a", "b"):
        assert list(unevenness(world.tables, world.service(name), world.now)) == []
    world.assert_quiet()


def act(world: World, event: str, node: str) -> None:
    match event:
        case "down":
            world.set_node_state(node, NodeState.DOWN)
        case "ready":
            world.set_node_state(node, NodeState.READY)
        case "drain" | "active" | "pause":
            world.set_availability(node, NodeAvailability(event))
        case "label":
            spec = world.node(node).spec
            world.change_node(node, spec=replace(spec, labels={**spec.labels, "zone": "a"}))
        case "scale":
            world.scale("a", int(node[1:]) + 1)
        case "step":
            world.settle()
            world.run_agents()
        case _:
            world.live(REBALANCE_SETTLED_S + 1)


def check_holders(world: World) -> None:
    """At every moment, of every name of a node: at most one task that has not ended."""
    held: Counter[tuple[NodeId, str]] = Counter()
    for task in world.tasks():
        if TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
            held.update(
                (task.node_id, each.named_resource_spec.value)
                for each in task.generic_resources
                if each.named_resource_spec is not None
            )
    assert all(count == 1 for count in held.values()), held


def check_filters(world: World) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for task in world.live_tasks():
        if not task.node_id:
            continue
        counts[task.service_id, task.node_id] += 1
        spec = world.service(task.service_id).spec
        placement, node = spec.task_template.placement, world.node(task.node_id)
        assert placement is not None
        assert is_match(parse_constraints(placement.constraints), node)
        assert not placement.max_replicas or counts[task.service_id, node.id] <= placement.max_replicas
        wanted = spec.task_template.resources
        amount = 0 if wanted is None else kinds(wanted.reservations)
        assert len(task.generic_resources) == amount


def kinds(resources: Any) -> int:
    return int(resources.generic_resources[0].discrete_resource_spec.value)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), events=EVENTS)
def test_equal_inputs_make_equal_moves(data: st.DataObject, events: list[tuple[str, int]]) -> None:
    spec = data.draw(service_specs("a"))
    runs = []
    for _ in range(2):
        world = World(*(with_gpus(make_node(f"n{number}", labels={"zone": "a"}), 2) for number in range(5)))
        world.now = LATER
        world.create_service("a", spec)
        for event, number in events:
            act(world, event, f"n{number}")
        world.live(60)
        runs.append([(task.id, task.slot, task.node_id, task.generic_resources) for task in world.tasks()])
    assert runs[0] == runs[1]
