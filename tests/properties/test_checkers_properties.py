"""The simulator's checkers of the committed state find nothing in what the real reconcilers do.

A cluster without I/O goes through random scaling, updates of either order, node failures, drains, shrinking
nodes and failing tasks; every change is told to the checkers as a manager's watch would tell it.
"""

from __future__ import annotations

from dataclasses import replace as replace_filter
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from world import World, make_node

from agent.events import SaveStatus
from manager.reconcile.builder import PlanBuilder
from manager.schedule import filters
from manager.schedule.filters import Filter
from manager.store.events import Commit, Event
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import KINDS, Object, TaskStatus
from swarmpy.model.specs import (
    EndpointSpec,
    PortConfig,
    Replicated,
    ResourceRequirements,
    Resources,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import NodeAvailability, NodeState, PublishMode, TaskState, UpdateOrder
from swarmpy.sim.checkers import Checkers, Scene

NODES = ("n1", "n2", "n3", "n4")
CPU = 10**9


class HeardWorld(World):
    """Tells the checkers of every change, one commit each."""

    def __init__(self, checkers: Checkers) -> None:
        super().__init__()
        self.checkers = checkers
        self._told = 0
        checkers.started("m1", self.tables)

    def _mark(self, old: object | None, new: object | None) -> None:
        super()._mark(old, new)
        subject = new if new is not None else old
        kind = KINDS[type(subject)]  # type: ignore[index]
        before: Object | None = old  # type: ignore[assignment]
        after: Object | None = new  # type: ignore[assignment]
        self.checkers.committed("m1", Event(kind, before, after))
        self._told += 1
        self.checkers.committed("m1", Commit(self._told))

    def report(self, task_id: str, state: TaskState, *, err: str = "", output: str = "") -> None:
        record = SaveStatus(TaskId(task_id), TaskStatus(state=state))
        self.checkers.persisted(NodeId(self.task(task_id).node_id), (record,))
        super().report(task_id, state, err=err, output=output)


def spec_of(name: str, dice: Random) -> ServiceSpec:
    order = dice.choice([UpdateOrder.START_FIRST, UpdateOrder.STOP_FIRST])
    ports = (PortConfig(target_port=80, published_port=8080, publish_mode=PublishMode.HOST),)
    reservations = Resources(nano_cpus=dice.choice([0, CPU, 3 * CPU]))
    return ServiceSpec(
        name=name,
        labels={"round": str(dice.random())},
        task_template=TaskSpec(
            force_update=dice.randrange(10**6), resources=ResourceRequirements(reservations=reservations)
        ),
        mode=ServiceMode(replicated=Replicated(replicas=dice.randrange(5))),
        update_config=UpdateConfig(parallelism=dice.randrange(3), order=order),
        endpoint_spec=EndpointSpec(ports=ports if dice.random() < 0.3 else ()),
    )


def act(world: HeardWorld, dice: Random) -> None:
    node, name = dice.choice(NODES), dice.choice(["s1", "s2", "s3"])
    match dice.randrange(7):
        case 0 | 1:
            if any(service.id == name for service in world.tables.services()):
                world.update_service(name, spec_of(name, dice))
            else:
                world.create_service(name, spec_of(name, dice))
        case 2:
            world.set_node_state(node, dice.choice([NodeState.DOWN, NodeState.READY]))
        case 3:
            world.set_availability(node, dice.choice([NodeAvailability.DRAIN, NodeAvailability.ACTIVE]))
        case 4:
            known = world.node(node).description
            cpus = dice.choice([2, 8]) * CPU
            world.change_node(node, description=replace(known, resources=Resources(nano_cpus=cpus)))
        case 5:
            running = [task for task in world.running() if world.node(task.node_id).status.state == "ready"]
            if running:
                world.report(dice.choice(running).id, TaskState.FAILED)
        case _:
            world.pass_time(dice.choice([0.1, 2.0, 70.0]))
    match dice.randrange(4):
        case 0:
            world.settle()
        case 1:
            world.live(dice.choice([0.0, 5.0, 60.0]))
        case 2:
            world.settle()
            world.run_agents(may_run=lambda task: dice.random() < 0.7)
        case _:
            pass


def history_of(seed: int) -> tuple[HeardWorld, Checkers]:
    """What one random history leaves behind."""
    dice = Random(seed)
    clock: list[World] = []
    checkers = Checkers(lambda: clock[0].now / 1e9 if clock else 0.0)
    world = HeardWorld(checkers)
    clock.append(world)
    for node in NODES:
        world.put(make_node(node))
    for _ in range(40):
        act(world, dice)
    return world, checkers


@given(seed=st.integers(0, 2**32))
@example(seed=219)  # a start-first update whose new task finds no node
@example(seed=76)  # the new one leaves a drained node while the old one has not begun to run
@example(seed=556)  # both leave a drained node
@example(seed=665)  # the next update stops first
@settings(max_examples=30, deadline=None)
def test_what_reconcilers_do_offends_no_checker(seed: int) -> None:
    world, checkers = history_of(seed)
    assert [str(violation) for violation in checkers.violations] == []
    for node in NODES:
        world.set_node_state(node, NodeState.READY)
        world.set_availability(node, NodeAvailability.ACTIVE)
    world.live(600.0)
    assert [str(violation) for violation in checkers.violations] == []
    assert checkers.quiet_reasons(Scene(view=world.tables, now=world.now)) == []


def without(clause: str) -> tuple[Filter, ...]:
    """The scheduler's filters, one of which lets everything pass."""
    return tuple(
        replace_filter(each, room=lambda question, node, load: filters.NO_LIMIT)
        if each.clause_one.startswith(clause)
        else each
        for each in filters.FILTERS
    )


@pytest.mark.parametrize(
    ("clause", "checker"), [("insufficient resources", "reservations"), ("host-mode port", "exclusive")]
)
def test_a_scheduler_that_forgets_a_filter_is_found_out(
    clause: str, checker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "FILTERS", without(clause))
    assert any(checker in history_of(seed)[1].violations.counts for seed in range(20))


def test_a_replacement_that_does_not_end_its_predecessor_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(PlanBuilder, "stop", lambda self, task, desired=None: ())
    counts = [history_of(seed)[1].violations.counts for seed in range(5)]
    assert any("slots" in each for each in counts)
