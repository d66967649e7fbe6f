"""The enforcer and updates that are held: what they have not reached is judged by its own constraints."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from rollout import Rollout, config, spec

from manager.api import service_plan
from swarmpy.model.specs import Placement, ResourceRequirements, Resources, ServiceSpec
from swarmpy.model.states import TaskState, UpdateState


def bound(image: str, node: str, **fields: Any) -> ServiceSpec:
    found = spec(image, **fields)
    placement = Placement(constraints=(f"node.hostname=={node}",))
    return replace(found, task_template=replace(found.task_template, placement=placement))


def canary() -> Rollout:
    """Paused after one of two tasks, which may be on n1; the other, of before, on n2."""
    rollout = Rollout(bound("a", "n2", replicas=2))
    rollout.update(bound("b", "n1", replicas=2, update=config(pause_after=1)))
    rollout.live(60)
    assert rollout.state() == UpdateState.PAUSED
    return rollout


def test_what_a_canary_has_not_reached_stays_where_its_own_constraints_let_it() -> None:
    rollout = canary()
    assert sorted(rollout.images()) == ["a", "b"]
    assert not [task for task in rollout.world.tasks() if task.status.state == TaskState.REJECTED]
    rollout.world.assert_quiet()


def test_one_that_ends_is_followed_by_one_that_stays() -> None:
    rollout = canary()
    (old,) = [task for task in rollout.world.running() if rollout.image_of(task) == "a"]
    rollout.world.report(old.id, TaskState.FAILED)
    rollout.live(60)
    assert sorted(rollout.images()) == ["a", "b"]
    rollout.world.assert_quiet()


def test_promoted_it_goes_where_the_new_constraints_say() -> None:
    rollout = canary()
    rollout.do(service_plan.resume)
    rollout.live(60)
    assert rollout.images() == ["b", "b"]
    assert {task.node_id for task in rollout.world.running()} == {"n1"}


def test_its_own_constraints_hold_for_it_nevertheless() -> None:
    rollout = canary()
    node = rollout.world.node("n2")
    rollout.world.change_node("n2", description=replace(node.description, hostname="renamed"))
    rollout.live(10)
    assert rollout.images() == ["b"]


def test_who_asks_for_no_cpus_is_not_turned_down_for_them() -> None:
    rollout = Rollout(spec("a", replicas=3, memory=1 << 20))
    world = rollout.world
    full = spec("hog", name="hog", replicas=3)
    wants = ResourceRequirements(reservations=Resources(nano_cpus=8 * 10**9))
    world.create_service("hog", replace(full, task_template=replace(full.task_template, resources=wants)))
    world.live()
    assert len(world.running("hog")) == 3
    for node in ("n1", "n2", "n3"):
        description = world.node(node).description
        has = replace(description.resources, nano_cpus=10**9)
        world.change_node(node, description=replace(description, resources=has))
    world.settle()
    assert not world.running("hog")
    world.report(world.running("web")[0].id, TaskState.FAILED)
    world.live(60)
    assert len(world.running("web")) == 3
    assert not [task for task in world.tasks("web") if task.status.state == TaskState.REJECTED]
