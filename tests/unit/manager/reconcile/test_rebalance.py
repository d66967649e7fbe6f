"""Rebalancing: when a task is moved, which one, where to, and when it is left alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace
from world import START, World, make_node, seconds

from manager.reconcile.rebalance import Rebalance
from swarmpy.limits import REBALANCE_MOVES_MAX, REBALANCE_PERIOD_S, REBALANCE_SETTLED_S
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import NodeVolume
from swarmpy.model.specs import (
    ContainerSpec,
    Mount,
    Placement,
    PlacementPreference,
    Replicated,
    ServiceMode,
    ServiceSpec,
    SpreadOver,
    TaskSpec,
)
from swarmpy.model.states import MountType, NodeAvailability, NodeState, PlacementStrategy, TaskState

NOW = Timestamp(START + seconds(3600))


def spec_of(replicas: int, *, is_on: bool = True, name: str = "web", **template: Any) -> ServiceSpec:
    return ServiceSpec(
        name=name,
        mode=ServiceMode(replicated=Replicated(replicas=replicas)),
        task_template=TaskSpec(**template),
        rebalance=is_on,
    )


def world_of(spec: ServiceSpec, *nodes: str) -> World:
    """A service at rest on nodes that have been there for long."""
    world = World(*(make_node(name) for name in nodes))
    world.now = NOW
    world.create_service("web", spec)
    world.live()
    return world


def spread(world: World, service: str = "web") -> dict[str, int]:
    return dict(Counter(task.node_id for task in world.running(service)))


def join(world: World, name: str, **fields: Any) -> None:
    node = make_node(name, **fields)
    world.put(replace(node, status=replace(node.status, since=world.now)))


def ask(world: World, service: str = "web") -> None:
    world.put(replace(world.service(service), rebalance_asked_at=world.now))


def test_a_node_that_joins_gets_its_share_one_task_after_the_other() -> None:
    world = world_of(spec_of(6), "n1", "n2")
    join(world, "n3")
    world.live(REBALANCE_SETTLED_S - 1)
    assert spread(world) == {"n1": 3, "n2": 3}
    world.live(1.5)
    assert spread(world) == {"n1": 2, "n2": 3, "n3": 1}
    assert len(world.live_tasks("web")) == 6
    world.live(REBALANCE_PERIOD_S)
    assert spread(world) == {"n1": 2, "n2": 2, "n3": 2}
    moved = len(world.tasks("web"))
    world.live(600)
    assert len(world.tasks("web")) == moved == 8
    world.assert_quiet()


def test_the_old_task_runs_until_the_new_one_does() -> None:
    world = world_of(spec_of(2), "n1")
    join(world, "n2")
    world.pass_time(REBALANCE_SETTLED_S)
    world.settle()
    (new,) = [task for task in world.tasks("web") if task.node_id == "n2"]
    assert len(world.running("web")) == 2
    world.report(new.id, TaskState.STARTING)
    world.pass_time(100)
    world.settle()
    assert len(world.running("web")) == 2
    assert len(world.tasks("web")) == 3  # and no second move meanwhile
    world.live(10)
    assert spread(world) == {"n1": 1, "n2": 1}


def test_a_difference_of_one_is_even() -> None:
    world = world_of(spec_of(3), "n1", "n2")
    ask(world)
    world.live(60)
    assert len(world.tasks("web")) == 3
    assert world.service("web").rebalance_asked_at == 0


def test_without_the_flag_nothing_moves_until_somebody_asks_and_then_only_once() -> None:
    world = world_of(spec_of(4, is_on=False), "n1")
    join(world, "n2")
    world.live(600)
    assert spread(world) == {"n1": 4}
    ask(world)
    world.live(20)
    assert spread(world) == {"n1": 2, "n2": 2}
    assert world.service("web").rebalance_asked_at == 0
    join(world, "n3")
    join(world, "n4")
    world.live(600)
    assert spread(world) == {"n1": 2, "n2": 2}


def test_who_asks_does_not_wait_for_a_node_to_settle() -> None:
    world = world_of(spec_of(2, is_on=False), "n1")
    join(world, "n2")
    ask(world)
    world.live()
    assert spread(world) == {"n1": 1, "n2": 1}


def test_a_node_that_returns_and_one_that_is_active_again() -> None:
    world = world_of(spec_of(6), "n1", "n2", "n3")
    world.set_node_state("n2", NodeState.DOWN)
    world.set_availability("n3", NodeAvailability.DRAIN)
    world.live(30)
    assert spread(world) == {"n1": 6}
    world.set_node_state("n2", NodeState.READY)
    world.live(60)
    assert spread(world) == {"n1": 3, "n2": 3}
    world.set_availability("n3", NodeAvailability.ACTIVE)
    world.live(60)
    assert spread(world) == {"n1": 2, "n2": 2, "n3": 2}


@pytest.mark.parametrize(
    ("template", "nodes", "expected"),
    [
        ({"placement": Placement(constraints=("node.id!=n2",))}, {"n2": {}}, {"n1": 4}),
        ({"placement": Placement(constraints=("node.labels.a in (x)",))}, {}, {"n1": 4}),
        ({"placement": Placement(strategy=PlacementStrategy.BINPACK)}, {"n2": {}}, {"n1": 4}),
        ({}, {"n2": {"availability": NodeAvailability.PAUSE}}, {"n1": 4}),
        ({}, {"n2": {"state": NodeState.UNKNOWN}}, {"n1": 4}),
    ],
)
def test_where_it_may_not_go_it_does_not(
    template: dict[str, Any], nodes: dict[str, dict[str, Any]], expected: dict[str, int]
) -> None:
    world = world_of(spec_of(4), "n1")
    world.change_node("n1", spec=replace(world.node("n1").spec, labels={"a": "x"}))
    world.update_service("web", spec_of(4, **template))
    world.live(60)
    for name, fields in nodes.items():
        join(world, name, **fields)
    world.live(2)
    assert spread(world) == expected
    world.live(300)
    assert spread(world) == expected


def test_nothing_is_taken_from_a_paused_node() -> None:
    world = world_of(spec_of(4), "n1")
    world.set_availability("n1", NodeAvailability.PAUSE)
    join(world, "n2")
    world.live(300)
    assert spread(world) == {"n1": 4}


def test_the_limit_per_node_is_kept_while_two_overlap() -> None:
    placement = Placement(max_replicas=2)
    world = world_of(spec_of(4, placement=placement), "n1", "n2")
    for name in ("n3", "n4"):
        join(world, name)
    world.live(120)
    assert spread(world) == {"n1": 1, "n2": 1, "n3": 1, "n4": 1}


def test_preferences_come_first() -> None:
    preference = PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.zone"))
    spec = spec_of(6, placement=Placement(preferences=(preference,)))
    world = World(make_node("n1", labels={"zone": "a"}), make_node("n2", labels={"zone": "a"}))
    world.now = NOW
    world.create_service("web", spec)
    world.live()
    join(world, "n3", labels={"zone": "b"})
    world.live(120)
    assert spread(world)["n3"] == 3
    join(world, "n4", labels={"zone": "a"})
    world.live(120)
    assert spread(world) == {"n1": 1, "n2": 1, "n4": 1, "n3": 3}


def mounting(source: str) -> ContainerSpec:
    return ContainerSpec(image="x", mounts=(Mount(type=MountType.VOLUME, source=source, target="/d"),))


def test_data_is_not_left_behind() -> None:
    world = world_of(spec_of(4, container_spec=mounting("data")), "n1")
    volumes = (NodeVolume(name="data"),)
    world.change_node("n1", description=replace(world.node("n1").description, volumes=volumes))
    join(world, "n2")
    world.live(120)
    assert spread(world) == {"n1": 4}
    world.change_node("n2", description=replace(world.node("n2").description, volumes=volumes))
    world.live(120)
    assert spread(world) == {"n1": 2, "n2": 2}


def test_not_during_an_update() -> None:
    world = world_of(spec_of(4), "n1")
    world.update_service("web", spec_of(4, container_spec=ContainerSpec(image="two")))
    join(world, "n2")
    world.pass_time(60)
    world.settle()
    assert world.service("web").update_status is not None
    ask(world)
    while (status := world.service("web").update_status) and not status.completed_at:
        assert len(world.live_tasks("web")) <= 4
        world.settle()
        if not world.run_agents():
            world.now = Timestamp(max(world.now, world.next_wake() or 0) + 1)
    world.live(60)
    assert spread(world) == {"n1": 2, "n2": 2}


def test_a_node_where_the_task_fails_is_left_alone_for_a_while() -> None:
    world = world_of(spec_of(4), "n1")
    join(world, "n2")
    world.live(250, may_run=lambda task: task.node_id != "n2")
    assert spread(world) == {"n1": 4}
    assert len(world.tasks("web")) == 5  # one try
    world.live(120)
    assert spread(world) == {"n1": 2, "n2": 2}


def test_a_target_that_goes_down_meanwhile() -> None:
    world = world_of(spec_of(4), "n1")
    join(world, "n2")
    world.pass_time(REBALANCE_SETTLED_S)
    world.settle()
    world.set_node_state("n2", NodeState.DOWN)
    world.live(60)
    assert spread(world) == {"n1": 4}
    world.set_node_state("n2", NodeState.READY)
    world.live(60)
    assert spread(world) == {"n1": 2, "n2": 2}


def test_of_many_services_few_are_moved_at_a_time() -> None:
    world = World(make_node("n1"))
    world.now = NOW
    count = 2 * REBALANCE_MOVES_MAX
    for number in range(count):
        world.create_service(f"s{number:02}", spec_of(2, name=f"s{number:02}"))
    world.live()
    join(world, "n2")
    world.live(REBALANCE_SETTLED_S + 1)
    assert sum(task.node_id == "n2" for task in world.running()) == REBALANCE_MOVES_MAX
    world.live(3 * REBALANCE_PERIOD_S)
    assert sum(task.node_id == "n2" for task in world.running()) == count
    world.assert_quiet()


@pytest.mark.parametrize("step", range(12))
def test_a_new_leader_at_any_step_ends_with_the_same(step: int) -> None:
    world = world_of(spec_of(6), "n1", "n2")
    join(world, "n3")
    world.pass_time(REBALANCE_SETTLED_S)
    for _ in range(step):
        if not world.has_work() or not world.run_once():
            world.run_agents()
    world = world.successor()
    world.live(120)
    assert spread(world) == {"n1": 2, "n2": 2, "n3": 2}
    assert len(world.tasks("web")) == 8
    world.assert_quiet()


def test_a_clock_that_was_ahead_does_not_stop_it_for_good() -> None:
    world = world_of(spec_of(4), "n1")
    ahead = Timestamp(world.now + seconds(86_400))
    world.put(replace(world.service("web"), rebalanced_at=ahead))
    node = make_node("n2")
    world.put(replace(node, status=replace(node.status, since=ahead)))
    world.live(30)
    assert spread(world) == {"n1": 2, "n2": 2}


def test_only_services_that_want_it_are_keys() -> None:
    world = world_of(spec_of(1), "n1")
    world.create_service("other", spec_of(1, is_on=False, name="other"))
    reconciler = next(each for each in world.reconcilers if isinstance(each, Rebalance))
    assert list(reconciler.keys(world.tables)) == ["web"]
    ask(world, "other")
    assert list(reconciler.keys(world.tables)) == ["other", "web"]
