"""Replicated services: slots, nodes that go, removal, bounded plans."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace
from world import START, World, make_node, seconds

from manager.allocate.addresses import Addresses
from manager.reconcile.replicated import ReplicatedServices
from manager.reconcile.slots import NodeFitness, Slots, surplus_slots
from manager.schedule.nodes import LoadCache
from swarmpy.limits import PLAN_GROUPS_MAX
from swarmpy.model.changes import Create, Order
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Kind, Node, Task, TaskStatus
from swarmpy.model.specs import Global, Placement, ServiceMode, ServiceSpec, TaskSpec
from swarmpy.model.states import NodeAvailability, NodeState, Owner, TaskState


def cluster(count: int = 3) -> World:
    return World(*[make_node(f"n{number}") for number in range(1, count + 1)])


def slots_of(world: World) -> list[int]:
    return sorted(task.slot for task in world.live_tasks())


def test_creates_lowest_slots_already_placed_in_one_commit() -> None:
    world = cluster()
    world.create_service("web", replicas=3)
    plan = ReplicatedServices(LoadCache(), Addresses()).reconcile(world.tables, "web", world.now)
    created = [group.changes[0].object for group in plan.groups if isinstance(group.changes[0], Create)]
    tasks = [task for task in created if isinstance(task, Task)]
    assert [task.id for task in tasks] == ["+1", "+2", "+3"]
    assert [task.slot for task in tasks] == [1, 2, 3]
    assert sorted(task.node_id for task in tasks) == ["n1", "n2", "n3"]
    assert {task.status.state for task in tasks} == {TaskState.ASSIGNED}
    assert all(group.owner == Owner.ORCHESTRATOR for group in plan.groups)


def test_equal_views_give_equal_plans() -> None:
    world = cluster()
    world.create_service("web", replicas=7)
    first = ReplicatedServices(LoadCache(), Addresses()).reconcile(world.tables, "web", world.now)
    cache = LoadCache()
    cache.picture(world.tables)
    assert ReplicatedServices(cache, Addresses()).reconcile(world.tables, "web", world.now) == first


def test_reaches_running_and_stays_quiet() -> None:
    world = cluster()
    world.create_service("web", replicas=5)
    world.live()
    assert len(world.running()) == 5
    world.assert_quiet()


def test_scale_up_fills_the_lowest_free_slots() -> None:
    world = cluster()
    world.create_service("web", replicas=5)
    world.live()
    for task in world.tasks():
        if task.slot in (2, 4):
            world.delete(Kind.TASK, task.id)
    world.scale("web", 6)
    world.live()
    assert slots_of(world) == [1, 2, 3, 4, 5, 6]
    assert [task.slot for task in world.tasks()[-3:]] == [2, 4, 6]


def test_scaling_restarts_nothing() -> None:
    world = cluster()
    world.create_service("web", replicas=2)
    world.live()
    before = {task.id for task in world.running()}
    world.scale("web", 4)
    world.live()
    assert before < {task.id for task in world.running()}
    assert len(world.running()) == 4


def test_scale_down_orders_removal_and_the_reaper_deletes() -> None:
    world = cluster()
    world.create_service("web", replicas=5)
    world.live()
    world.scale("web", 2)
    world.settle()
    doomed = [task for task in world.tasks() if task.desired_state == TaskState.REMOVE]
    assert len(doomed) == 3
    world.live()
    assert len(world.tasks()) == 2
    assert Counter(task.node_id for task in world.tasks()).most_common(1)[0][1] == 1


def in_slots(*tasks: tuple[int, str, TaskState]) -> Slots[int]:
    world = cluster()
    stored = [
        Task(
            id=TaskId(f"t{slot}{state}"),
            version=position,
            slot=slot,
            node_id=NodeId(node),
            status=TaskStatus(state=state),
        )
        for position, (slot, node, state) in enumerate(tasks)
    ]
    return Slots(
        ((task.slot, task) for task in stored), template_id=RevisionId(""), fitness=NodeFitness(world.tables)
    )


RUNNING, READY = TaskState.RUNNING, TaskState.READY


@pytest.mark.parametrize(
    ("tasks", "wanted", "given_up"),
    [
        # the node with most copies first, there the highest slot
        ([(1, "n1", RUNNING), (2, "n1", RUNNING), (3, "n2", RUNNING)], 2, [2]),
        # on a node those that do not run before those that do
        ([(1, "n1", READY), (2, "n1", RUNNING), (3, "n2", RUNNING)], 2, [1]),
        # equal copies: not running first, then the highest slot
        ([(1, "n1", READY), (2, "n2", RUNNING), (3, "n3", RUNNING)], 2, [1]),
        ([(1, "n1", RUNNING), (2, "n2", RUNNING), (3, "n3", RUNNING)], 2, [3]),
        # without a node before all others
        ([(1, "", TaskState.PENDING), (2, "n1", RUNNING), (3, "n1", RUNNING)], 2, [1]),
        ([(1, "n1", RUNNING), (2, "n2", RUNNING)], 0, [2, 1]),
        ([(1, "n1", RUNNING)] + [(n, "n2", RUNNING) for n in range(2, 8)], 3, [7, 6, 5, 4]),
    ],
)
def test_which_slots_a_scale_down_gives_up(
    tasks: list[tuple[int, str, TaskState]], wanted: int, given_up: list[int]
) -> None:
    assert surplus_slots(in_slots(*tasks), wanted) == given_up


def test_a_scaled_down_slot_can_be_filled_again_at_once() -> None:
    world = cluster()
    world.create_service("web", replicas=2)
    world.live()
    world.scale("web", 1)
    world.settle()
    world.scale("web", 2)
    world.live()
    assert slots_of(world) == [1, 2]
    assert len(world.tasks()) == 2


# --- nodes that go


@pytest.mark.parametrize("loss", ["down", "removed"])
def test_tasks_of_a_lost_node_run_elsewhere_without_delay(loss: str) -> None:
    world = cluster()
    world.create_service("web", replicas=3)
    world.live()
    world.pass_time(10)
    if loss == "down":
        world.set_node_state("n2", NodeState.DOWN)
    else:
        world.delete(Kind.NODE, "n2")
    moment = world.now
    world.live()
    assert world.now == moment
    assert slots_of(world) == [1, 2, 3]
    assert len(world.running()) == 3
    assert all(task.node_id != "n2" for task in world.running())
    world.assert_quiet()


def test_a_returning_node_is_told_to_stop_what_was_replaced() -> None:
    world = cluster()
    world.create_service("web", replicas=3)
    world.live()
    world.set_node_state("n2", NodeState.DOWN)
    world.live()
    world.set_node_state("n2", NodeState.READY)
    world.live()
    old = [task for task in world.tasks() if task.node_id == "n2"]
    assert [task.status.state for task in old] == [TaskState.SHUTDOWN]
    assert len(world.running()) == 3  # and nothing moves back


@pytest.mark.parametrize("state", [NodeState.UNKNOWN, NodeState.DISCONNECTED])
def test_nodes_in_doubt_are_left_alone_for_their_grace(state: NodeState) -> None:
    world = cluster()
    world.create_service("web", replicas=3)
    world.live()
    world.set_node_state("n2", state)
    assert world.settle() == 0
    assert len(world.running()) == 3


def test_a_drained_node_is_emptied_and_the_replacement_waits_for_the_stop() -> None:
    world = cluster()
    world.create_service("web", replicas=3)
    world.live()
    world.set_availability("n2", NodeAvailability.DRAIN)
    world.settle()
    (new,) = [task for task in world.tasks() if task.version > 0 and task.status.state < TaskState.RUNNING]
    assert new.desired_state == TaskState.READY
    assert new.not_before == 0
    world.live()
    assert len(world.running()) == 3
    assert all(task.node_id != "n2" for task in world.running())


def test_a_replacement_waits_at_most_a_minute_for_the_old_task() -> None:
    world = cluster()
    world.create_service("web", replicas=1)
    world.live()
    (old,) = world.running()
    world.set_availability(old.node_id, NodeAvailability.DRAIN)
    world.settle()
    (new,) = world.live_tasks()
    assert new.desired_state == TaskState.READY
    assert world.next_wake() == world.now + seconds(60)
    world.pass_time(59.9)
    assert world.settle() == 0
    world.pass_time(0.2)
    world.settle()
    assert world.task(new.id).desired_state == TaskState.RUNNING


def test_it_does_not_wait_for_a_task_on_a_node_that_has_gone_down_meanwhile() -> None:
    world = cluster()
    world.create_service("web", replicas=1)
    world.live()
    (old,) = world.running()
    world.set_availability(old.node_id, NodeAvailability.DRAIN)
    world.settle()
    world.set_node_state(old.node_id, NodeState.DOWN)
    world.settle()
    (new,) = world.live_tasks()
    assert new.desired_state == TaskState.RUNNING


def test_a_paused_node_keeps_its_tasks() -> None:
    world = cluster()
    world.create_service("web", replicas=3)
    world.live()
    world.set_availability("n2", NodeAvailability.PAUSE)
    assert world.settle() == 0


def test_no_node_left_means_pending_with_the_reason_and_running_once_one_is_back() -> None:
    world = cluster(1)
    world.create_service("web", replicas=2)
    world.live()
    world.set_node_state("n1", NodeState.DOWN)
    world.live()
    waiting = world.live_tasks()
    assert {task.status.state for task in waiting} == {TaskState.PENDING}
    assert {task.status.err for task in waiting} == {"no suitable node (1 node not available for new tasks)"}
    world.assert_quiet()
    world.set_node_state("n1", NodeState.READY)
    world.live()
    assert len(world.running()) == 2
    world.assert_quiet()


# --- removal and bounds


def test_a_removed_service_takes_its_tasks_and_revisions_with_it() -> None:
    world = cluster()
    world.create_service("web", replicas=3)
    world.live()
    world.delete(Kind.SERVICE, "web")
    world.live()
    assert not world.tables.tasks()
    assert not world.tables.all(Kind.REVISION)
    world.assert_quiet()


def test_tasks_that_never_reached_an_agent_vanish_with_their_service() -> None:
    world = World()
    world.create_service("web", replicas=3)
    world.live()
    assert len(world.tasks()) == 3
    world.delete(Kind.SERVICE, "web")
    world.live()
    assert not world.tables.tasks()


def test_a_plan_holds_one_batch_and_asks_to_be_called_again() -> None:
    world = cluster()
    world.create_service("web", replicas=PLAN_GROUPS_MAX * 2 + 10)
    plan = ReplicatedServices(LoadCache(), Addresses()).reconcile(world.tables, "web", world.now)
    assert len(plan.groups) == PLAN_GROUPS_MAX
    assert plan.is_partial
    world.live()
    assert slots_of(world) == list(range(1, PLAN_GROUPS_MAX * 2 + 11))
    counts = Counter(task.node_id for task in world.running())
    assert max(counts.values()) - min(counts.values()) <= 1
    world.scale("web", 0)
    plan = ReplicatedServices(LoadCache(), Addresses()).reconcile(world.tables, "web", world.now)
    assert len(plan.groups) == PLAN_GROUPS_MAX
    assert plan.is_partial
    world.live()
    assert not world.tables.tasks()


def test_other_modes_are_not_its_business() -> None:
    world = cluster()
    world.create_service("g", ServiceSpec(name="g", mode=ServiceMode(global_=Global())))
    plan = ReplicatedServices(LoadCache(), Addresses()).reconcile(world.tables, "g", world.now)
    assert not plan.groups


def test_old_and_new_task_are_one_atomic_group() -> None:
    world = cluster()
    world.create_service("web", replicas=1)
    world.live()
    (old,) = world.running()
    node = world.node(old.node_id)
    # written past the loop, to look at the one plan that follows
    world.tables.put(Kind.NODE, replace(node, status=replace(node.status, state=NodeState.DOWN)))
    plan = ReplicatedServices(LoadCache(), Addresses()).reconcile(world.tables, "web", world.now)
    (group,) = plan.groups
    order, create = group.changes
    assert order == Order(task_id=old.id, desired_state=TaskState.SHUTDOWN)
    assert isinstance(create, Create)
    assert isinstance(create.object, Task)
    assert create.object.slot == old.slot
    assert create.object.desired_state == TaskState.RUNNING


def test_most_steps_of_a_task_make_nothing_dirty() -> None:
    world = cluster()
    reconciler = ReplicatedServices(LoadCache(), Addresses())
    task = Task(id=TaskId("t"), service_id=ServiceId("web"), status=TaskStatus(state=TaskState.ASSIGNED))

    def step(source: TaskState, target: TaskState) -> list[str]:
        old = replace(task, status=TaskStatus(state=source))
        new = replace(task, status=TaskStatus(state=target))
        return list(reconciler.dirty(world.tables, old, new))

    assert step(TaskState.ASSIGNED, TaskState.ACCEPTED) == []
    assert step(TaskState.PREPARING, TaskState.STARTING) == []
    assert step(TaskState.STARTING, TaskState.RUNNING) == ["web"]
    assert step(TaskState.RUNNING, TaskState.FAILED) == ["web"]
    assert list(reconciler.dirty(world.tables, None, task)) == ["web"]
    assert list(reconciler.dirty(world.tables, task, None)) == ["web"]


def test_a_new_description_of_a_node_moves_no_task() -> None:
    world = cluster()
    reconciler = ReplicatedServices(LoadCache(), Addresses())
    node: Node = world.node("n1")
    described = replace(node, description=replace(node.description, hostname="other"))
    assert list(reconciler.dirty(world.tables, node, described)) == []


def test_pending_tasks_are_tried_again_when_a_label_makes_room() -> None:
    world = cluster()
    template = TaskSpec(placement=Placement(constraints=("node.labels.disk==ssd",)))
    world.create_service("web", ServiceSpec(name="web", task_template=template))
    world.live()
    (waiting,) = world.live_tasks()
    assert waiting.status.err == ("no suitable node (scheduling constraints not satisfied on 3 nodes)")
    world.change_node("n2", spec=replace(world.node("n2").spec, labels={"disk": "ssd"}))
    world.live()
    assert [task.node_id for task in world.running()] == ["n2"]


def test_time_is_not_read_from_anywhere() -> None:
    world = cluster()
    world.create_service("web", replicas=1)
    plan = ReplicatedServices(LoadCache(), Addresses()).reconcile(world.tables, "web", Timestamp(START + 5))
    (group,) = plan.groups
    assert isinstance(group.changes[0], Create)
    assert isinstance(group.changes[0].object, Task)
    assert group.changes[0].object.status.timestamp == START + 5
