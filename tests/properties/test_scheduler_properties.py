"""Properties of placement: no filter is ever violated, the spread is level, every refusal adds up."""

from __future__ import annotations

import re
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from world import GIB, START, World, make_node

from manager.schedule.constraint import is_match, parse_constraints
from manager.schedule.needs import Needs
from manager.schedule.nodes import NOTHING_MEASURED, LoadCache, measure
from manager.schedule.scheduler import place
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Kind, Node, Revision, Task, TaskStatus
from swarmpy.model.specs import (
    EndpointSpec,
    Placement,
    PlacementPreference,
    Platform,
    PortConfig,
    ResourceRequirements,
    Resources,
    ServiceSpec,
    SpreadOver,
    TaskSpec,
)
from swarmpy.model.states import NodeAvailability, NodeState, PublishMode, TaskState

SERVICES = ("a", "b")


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    node = make_node(
        f"n{draw(st.integers(1, 12)):02}",
        state=draw(st.sampled_from([NodeState.READY] * 4 + [NodeState.DOWN, NodeState.UNKNOWN])),
        availability=draw(st.sampled_from([NodeAvailability.ACTIVE] * 4 + [NodeAvailability.PAUSE])),
        labels=draw(st.sampled_from([{}, {"az": "1"}, {"az": "2"}, {"az": "2", "disk": "ssd"}])),
    )
    resources = Resources(
        nano_cpus=draw(st.integers(0, 8)) * 10**9, memory_bytes=draw(st.integers(0, 8)) * GIB
    )
    platform = Platform(architecture=draw(st.sampled_from(["x86_64", "aarch64", ""])), os="linux")
    return replace(node, description=replace(node.description, resources=resources, platform=platform))


@st.composite
def specs(draw: st.DrawFn) -> ServiceSpec:
    reservations = Resources(
        nano_cpus=draw(st.sampled_from([0, 0, 10**9, 3 * 10**9])),
        memory_bytes=draw(st.sampled_from([0, 0, GIB, 3 * GIB])),
    )
    preferences = tuple(
        PlacementPreference(spread=SpreadOver(spread_descriptor=descriptor))
        for descriptor in draw(
            st.sampled_from([(), ("node.labels.az",), ("bogus", "node.labels.az", "node.labels.disk")])
        )
    )
    placement = Placement(
        constraints=draw(
            st.sampled_from([(), (), ("node.labels.az==2",), ("node.labels.disk!=ssd", "node.id!=n01")])
        ),
        preferences=preferences,
        max_replicas=draw(st.sampled_from([0, 0, 1, 2])),
        platforms=draw(st.sampled_from([(), (), (Platform(architecture="amd64", os="linux"),)])),
    )
    ports = draw(st.sampled_from([(), (), (8080,), (8080, 9090)]))
    endpoint = EndpointSpec(
        ports=tuple(PortConfig(published_port=port, publish_mode=PublishMode.HOST) for port in ports)
    )
    template = TaskSpec(placement=placement, resources=ResourceRequirements(reservations=reservations))
    return ServiceSpec(task_template=template, endpoint_spec=endpoint)


@st.composite
def boards(draw: st.DrawFn) -> World:
    """Nodes, two services, and tasks of both that already run somewhere."""
    world = World(*draw(st.lists(nodes(), max_size=8, unique_by=lambda node: node.id)), reconcilers=())
    for service in SERVICES:
        world.put(Revision(id=RevisionId(f"{service}-r"), service_id=ServiceId(service), spec=draw(specs())))
    existing = draw(st.integers(0, 10))
    for number in range(existing):
        placed = place(world.tables, [wanted(draw(st.sampled_from(SERVICES)), number)], START)[0]
        if placed.node_id:
            state = draw(st.sampled_from([TaskState.RUNNING, TaskState.RUNNING, TaskState.FAILED]))
            desired = draw(st.sampled_from([TaskState.RUNNING, TaskState.RUNNING, TaskState.SHUTDOWN]))
            status = TaskStatus(state=state, timestamp=START)
            world.put(replace(placed, id=TaskId(f"old{number}"), status=status, desired_state=desired))
    return world


def wanted(service: str, number: int) -> Task:
    return Task(
        id=TaskId(f"new{number}"),
        service_id=ServiceId(service),
        slot=number + 1,
        revision_id=RevisionId(f"{service}-r"),
    )


batches = st.lists(st.sampled_from(SERVICES), min_size=1, max_size=15).map(
    lambda services: [wanted(service, number) for number, service in enumerate(services)]
)


def holding(tasks: list[Task]) -> list[Task]:
    return [task for task in tasks if TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING]


@given(world=boards(), tasks=batches)
def test_no_filter_is_violated(world: World, tasks: list[Task]) -> None:
    placed = [task for task in place(world.tables, tasks, START) if task.node_id]
    cache = LoadCache()
    for task in placed:
        node = world.node(task.node_id)
        revision = world.tables.revision(task.revision_id)
        assert revision is not None
        placement = revision.spec.task_template.placement
        assert placement is not None
        assert node.status.state == NodeState.READY
        assert node.spec.availability == NodeAvailability.ACTIVE
        assert is_match(parse_constraints(placement.constraints), node)
        if placement.platforms:
            assert node.description.platform.architecture == "x86_64"
    for node_id in {task.node_id for task in placed}:
        node = world.node(node_id)
        there = holding([task for task in [*world.tasks(), *placed] if task.node_id == node_id])
        needs = [cache.needs(world.tables, task.revision_id) for task in there]
        new = [cache.needs(world.tables, task.revision_id) for task in placed if task.node_id == node_id]
        if any(each.nano_cpus for each in new):
            assert sum(each.nano_cpus for each in needs) <= node.description.resources.nano_cpus
        if any(each.memory_bytes for each in new):
            assert sum(each.memory_bytes for each in needs) <= node.description.resources.memory_bytes
        ports = [port for each in needs for port in each.host_ports]
        assert len(ports) == len(set(ports))
        for service in {task.service_id for task in placed if task.node_id == node_id}:
            limit = cache.needs(world.tables, RevisionId(f"{service}-r")).max_replicas
            active = [t for t in there if t.service_id == service and t.desired_state <= TaskState.COMPLETE]
            assert not limit or len(active) <= limit


@given(world=boards(), tasks=batches)
def test_every_task_is_placed_or_says_why(world: World, tasks: list[Task]) -> None:
    result = place(world.tables, tasks, START)
    assert [task.id for task in result] == [task.id for task in tasks]
    for task in result:
        if task.node_id:
            assert task.status.state == TaskState.ASSIGNED
            assert not task.status.err
            continue
        assert task.status.state == TaskState.PENDING
        reason = task.status.err
        if not world.tables.nodes():
            assert reason == "no suitable node"
            continue
        clauses = re.fullmatch(r"no suitable node \((.*)\)", reason)
        assert clauses is not None, reason
        counted = sum(int(number) for number in re.findall(r"\d+", clauses[1]))
        total = len(world.tables.nodes())
        if "max replicas per node limit exceed" in reason:
            assert counted < total
        else:
            assert counted == total


@given(world=boards(), tasks=batches)
def test_a_task_waits_only_if_no_node_would_take_it(world: World, tasks: list[Task]) -> None:
    result = place(world.tables, tasks, START)
    for task in result:
        if task.node_id:
            world.put(replace(task, version=1))
    waiting = [task for task in result if not task.node_id]
    again = place(world.tables, waiting, START)
    assert [task.node_id for task in again] == [""] * len(waiting)


@given(world=boards(), tasks=batches)
def test_equal_inputs_give_equal_placements_in_whatever_order_objects_were_stored(
    world: World, tasks: list[Task]
) -> None:
    mirror = World(reconcilers=())
    for kind in (Kind.TASK, Kind.REVISION, Kind.NODE):
        for each in reversed(list(world.tables.all(kind))):
            mirror.tables.put(kind, each)
    assert place(world.tables, tasks, START) == place(mirror.tables, tasks, START)


steps = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.sampled_from(SERVICES),
        st.sampled_from([TaskState.PENDING, TaskState.ASSIGNED, TaskState.RUNNING, TaskState.FAILED, None]),
        st.sampled_from([TaskState.RUNNING, TaskState.SHUTDOWN]),
    ),
    max_size=8,
)


@given(world=boards(), rounds=st.lists(steps, max_size=4))
def test_a_measurement_brought_up_to_date_equals_a_fresh_one(
    world: World, rounds: list[list[tuple[int, str, TaskState | None, TaskState]]]
) -> None:
    cache = LoadCache()
    tasks: dict[int, Task] = {}
    known = NOTHING_MEASURED
    for changes in rounds:
        for number, service, state, desired in changes:
            if state is None:
                tasks.pop(number, None)
                continue
            status = TaskStatus(state=state, timestamp=START)
            tasks[number] = replace(wanted(service, number), status=status, desired_state=desired)

        def needs_of(revision_id: RevisionId) -> Needs:
            return cache.needs(world.tables, revision_id)

        known = measure(tasks.values(), needs_of, since=known)
        assert known.load == measure(tasks.values(), needs_of).load
        assert known.tasks == {task.id: task for task in tasks.values()}


@given(
    node_count=st.integers(1, 8),
    existing=st.lists(st.integers(0, 7), max_size=20),
    count=st.integers(1, 40),
)
def test_the_spread_over_equal_nodes_is_level(node_count: int, existing: list[int], count: int) -> None:
    world = World(*[make_node(f"n{number}") for number in range(node_count)], reconcilers=())
    world.put(Revision(id=RevisionId("a-r"), service_id=ServiceId("a")))
    before: Counter[str] = Counter({f"n{number}": 0 for number in range(node_count)})
    for position, number in enumerate(existing):
        node = f"n{number % node_count}"
        before[node] += 1
        status = TaskStatus(state=TaskState.RUNNING)
        world.put(
            replace(wanted("a", position), id=TaskId(f"o{position}"), node_id=NodeId(node), status=status)
        )
    placed = place(world.tables, [wanted("a", number) for number in range(count)], START)
    after = before + Counter(str(task.node_id) for task in placed)
    # filled like water: what got a task is now nowhere more than one above the lowest
    lowest = min(after.get(node, 0) for node in before)
    for node in {str(task.node_id) for task in placed}:
        assert after[node] <= lowest + 1


@given(zones=st.lists(st.sampled_from(["1", "2", "3", ""]), min_size=1, max_size=8), count=st.integers(1, 40))
def test_the_spread_over_a_preference_is_level_between_branches(zones: list[str], count: int) -> None:
    labels = [{"az": zone} if zone else {} for zone in zones]
    world = World(
        *[make_node(f"n{number}", labels=each) for number, each in enumerate(labels)], reconcilers=()
    )
    preference = PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.az"))
    template = TaskSpec(placement=Placement(preferences=(preference,)))
    spec = ServiceSpec(task_template=template)
    world.put(Revision(id=RevisionId("a-r"), service_id=ServiceId("a"), spec=spec))
    placed = place(world.tables, [wanted("a", number) for number in range(count)], START)
    per_zone = Counter(dict.fromkeys(zones, 0))
    per_zone.update(world.node(task.node_id).spec.labels.get("az", "") for task in placed)
    assert max(per_zone.values()) - min(per_zone.values()) <= 1
    for zone in set(zones):
        members = [f"n{number}" for number, each in enumerate(zones) if each == zone]
        counts = [sum(1 for task in placed if task.node_id == member) for member in members]
        assert max(counts) - min(counts) <= 1
