"""Placement preferences: level by level, never blocking."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace
from world import START, World, make_node

from manager.schedule.scheduler import place
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId
from swarmpy.model.objects import EngineDescription, Revision, Task, TaskStatus
from swarmpy.model.specs import (
    Placement,
    PlacementPreference,
    ResourceRequirements,
    Resources,
    ServiceSpec,
    SpreadOver,
    TaskSpec,
)
from swarmpy.model.states import TaskState


def world_with(nodes: dict[str, dict[str, str]], *descriptors: str, nano_cpus: int = 0) -> World:
    world = World(*[make_node(id_, labels=labels) for id_, labels in nodes.items()], reconcilers=())
    preferences = tuple(
        PlacementPreference(spread=SpreadOver(spread_descriptor=descriptor)) for descriptor in descriptors
    )
    template = TaskSpec(
        placement=Placement(preferences=preferences),
        resources=ResourceRequirements(reservations=Resources(nano_cpus=nano_cpus)),
    )
    spec = ServiceSpec(name="a", task_template=template)
    world.put(Revision(id=RevisionId("r1"), service_id=ServiceId("a"), spec=spec))
    return world


def place_some(world: World, count: int) -> Counter[str]:
    tasks = [
        Task(id=TaskId(f"+{slot}"), service_id=ServiceId("a"), slot=slot, revision_id=RevisionId("r1"))
        for slot in range(1, count + 1)
    ]
    return Counter(task.node_id for task in place(world.tables, tasks, START))


def put_tasks(world: World, node: str, count: int) -> None:
    for number in range(count):
        world.put(
            Task(
                id=TaskId(f"{node}-{number}"),
                service_id=ServiceId("a"),
                slot=number,
                node_id=NodeId(node),
                revision_id=RevisionId("r1"),
                status=TaskStatus(state=TaskState.RUNNING),
            )
        )


def test_half_of_the_tasks_go_to_each_zone() -> None:
    nodes = {"n1": {"az": "az1"}} | {f"n{n}": {"az": "az2"} for n in range(2, 6)}
    counts = place_some(world_with(nodes, "node.labels.az"), 8)
    assert counts == {"n1": 4, "n2": 1, "n3": 1, "n4": 1, "n5": 1}


def test_two_levels_and_a_branch_that_fills_up() -> None:
    nodes = {"big": {"az": "az1", "rack": "r1"}}
    nodes |= {f"a{n}": {"az": "az2", "rack": "r1"} for n in (1, 2)}
    nodes |= {f"b{n}": {"az": "az2", "rack": "r2"} for n in (1, 2)}
    world = world_with(nodes, "node.labels.az", "node.labels.rack", nano_cpus=10**9)
    node = world.node("big")
    resources = replace(node.description.resources, nano_cpus=5 * 10**9)
    world.put(replace(node, description=replace(node.description, resources=resources)))
    counts = place_some(world, 12)
    assert counts["big"] == 5
    racks = sorted([counts["a1"] + counts["a2"], counts["b1"] + counts["b2"]])
    assert racks == [3, 4]
    assert abs(counts["a1"] - counts["a2"]) <= 1
    assert abs(counts["b1"] - counts["b2"]) <= 1


def test_nodes_without_the_label_are_one_branch() -> None:
    nodes: dict[str, dict[str, str]] = {"n1": {"az": "az1"}, "n2": {}, "n3": {"other": "x"}, "n4": {"az": ""}}
    counts = place_some(world_with(nodes, "node.labels.az"), 6)
    assert counts["n1"] == 3
    assert [counts[n] for n in ("n2", "n3", "n4")] == [1, 1, 1]


@pytest.mark.parametrize("descriptor", ["bogus", "node.hostname", "node.labels.", ""])
def test_an_unknown_descriptor_is_no_level(descriptor: str) -> None:
    nodes = {"n1": {"az": "az1"}, "n2": {"az": "az2"}, "n3": {"az": "az2"}}
    counts = place_some(world_with(nodes, descriptor, "node.labels.az"), 4)
    assert counts == {"n1": 2, "n2": 1, "n3": 1}


@pytest.mark.parametrize(
    ("descriptor", "is_followed"),
    [("NODE.LABELS.az", True), ("node.labels.AZ", False), ("Engine.Labels.rack", True)],
)
def test_the_prefix_is_in_any_case_the_name_is_not(descriptor: str, is_followed: bool) -> None:
    nodes = {"n1": {"az": "az1"}, "n2": {"az": "az2"}, "n3": {"az": "az2"}}
    world = world_with(nodes, descriptor)
    for id_ in nodes:
        node = world.node(id_)
        engine = EngineDescription(labels={"rack": node.spec.labels["az"]})
        world.put(replace(node, description=replace(node.description, engine=engine)))
    assert (place_some(world, 6)["n1"] == 3) is is_followed


def test_new_tasks_go_to_the_light_branches() -> None:
    nodes = {
        "n1": {"dc": "dc1", "rack": "r1"},
        "n2": {"dc": "dc1", "rack": "r2"},
        "n3": {"dc": "dc2", "rack": "r1"},
    }
    world = world_with(nodes, "node.labels.dc", "node.labels.rack")
    put_tasks(world, "n1", 3)
    put_tasks(world, "n2", 1)
    put_tasks(world, "n3", 3)
    assert place_some(world, 2) == {"n2": 1, "n3": 1}


def test_a_preference_that_no_node_can_follow_does_not_block() -> None:
    world = world_with({"n1": {}, "n2": {}}, "node.labels.nowhere")
    assert place_some(world, 4) == {"n1": 2, "n2": 2}


def test_a_full_node_still_counts_in_its_branch() -> None:
    """Zone a has two tasks on a full node: the next goes to zone b, which has one, not to a's new node."""
    nodes = {"n1": {"zone": "a"}, "n2": {"zone": "b"}}
    world = world_with(nodes, "node.labels.zone", nano_cpus=4 * 10**9)
    put_tasks(world, "n1", 2)
    put_tasks(world, "n2", 1)
    world.put(make_node("n3", labels={"zone": "a"}))
    assert place_some(world, 1) == {"n2": 1}
    assert place_some(world, 2) == {"n2": 1, "n3": 1}
