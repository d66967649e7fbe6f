"""The reaper, the enforcer, node health, roles, the cluster object, and waiting tasks."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from world import GIB, World, make_node, seconds

from manager.allocate.addresses import Addresses
from manager.reconcile import all_reconcilers
from manager.reconcile.cluster import ClusterUpkeep
from manager.reconcile.nodes import RESTARTING_MESSAGE
from manager.reconcile.pending import PendingTasks
from manager.schedule.nodes import LoadCache
from swarmpy.limits import (
    DISCONNECT_GRACE_S,
    PLAN_GROUPS_MAX,
    RESTART_GRACE_S,
    REVISIONS_KEPT,
    UNKNOWN_GRACE_PER_NODE_S,
    UNKNOWN_GRACE_S,
)
from swarmpy.model.cluster_specs import ClusterSpec, DispatcherConfig, NodeSpec, OrchestrationConfig
from swarmpy.model.defaults import HEARTBEAT_PERIOD
from swarmpy.model.ids import ClusterId, Duration, NodeId, RaftId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import (
    Cluster,
    Kind,
    ManagerStatus,
    Node,
    NodeStatus,
    RemovedNode,
    Task,
    TaskStatus,
)
from swarmpy.model.specs import (
    ContainerSpec,
    Placement,
    Replicated,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import NodeAvailability, NodeRole, NodeState, RestartCondition, TaskState


def service_spec(*, replicas: int = 1, image: str = "a", **template: Any) -> ServiceSpec:
    known: dict[str, Any] = {
        "container_spec": ContainerSpec(image=image),
        "restart_policy": RestartPolicy(delay=Duration(0)),
    }
    return ServiceSpec(
        name="web",
        mode=ServiceMode(replicated=Replicated(replicas=replicas)),
        task_template=TaskSpec(**{**known, **template}),
    )


def world_with(spec: ServiceSpec, *, limit: int | None = None, nodes: int = 3) -> World:
    config = OrchestrationConfig(task_history_retention_limit=limit)
    world = World(Cluster(id=ClusterId("c"), version=1, spec=ClusterSpec(orchestration=config)))
    for number in range(1, nodes + 1):
        world.put(make_node(f"n{number}"))
    world.create_service("web", spec)
    world.live()
    world.pass_time(100)
    return world


# --- history


@pytest.mark.parametrize(
    ("limit", "attempts", "kept"),
    [(None, 0, 5), (5, 0, 5), (2, 0, 2), (1, 0, 1), (0, 0, 1), (-1, 0, 10), (3, 8, 9), (20, 0, 10)],
)
def test_history(limit: int | None, attempts: int, kept: int) -> None:
    policy = RestartPolicy(delay=Duration(0), max_attempts=attempts or None)
    world = world_with(service_spec(replicas=2, restart_policy=policy), limit=limit)
    fails = attempts or 9
    for _ in range(fails):
        failing = next(task for task in world.running() if task.slot == 1)
        world.report(failing.id, TaskState.FAILED)
        world.live()
    tasks = world.tasks()
    assert len([task for task in tasks if task.slot == 1]) == kept
    assert len([task for task in tasks if task.slot == 2]) == 1
    assert len(world.running()) == 2
    world.assert_quiet()


def test_what_a_slot_ended_with_is_kept_even_without_history() -> None:
    policy = RestartPolicy(condition=RestartCondition.ON_FAILURE)
    world = world_with(service_spec(restart_policy=policy), limit=0)
    (task,) = world.running()
    world.report(task.id, TaskState.COMPLETE)
    world.live(10)
    assert [task.status.state for task in world.tasks()] == [TaskState.COMPLETE]


def test_a_new_limit_is_applied_to_what_is_there() -> None:
    world = world_with(service_spec(), limit=-1)
    for _ in range(6):
        world.report(world.running()[0].id, TaskState.FAILED)
        world.live()
    assert len(world.tasks()) == 7
    cluster = world.tables.cluster()
    assert cluster is not None
    config = OrchestrationConfig(task_history_retention_limit=2)
    world.put(replace(cluster, spec=ClusterSpec(orchestration=config)))
    world.live()
    assert len(world.tasks()) == 2


def test_tasks_that_still_run_are_never_deleted() -> None:
    world = world_with(service_spec(replicas=3), limit=1)
    world.set_node_state("n1", NodeState.DOWN)
    world.live()
    # the old one may still run on the silent node
    assert [task.status.state for task in world.tasks() if task.node_id == "n1"] == [TaskState.RUNNING]


def test_revisions_are_kept_to_return_to_and_while_used() -> None:
    world = world_with(service_spec())
    for number in range(10):
        world.update_service("web", service_spec(image=f"i{number}"))
        world.live(10)
    numbers = sorted(each.number for each in world.tables.revisions_of(ServiceId("web")))
    assert numbers == list(range(11 - REVISIONS_KEPT + 1, 12))
    world.assert_quiet()


# --- the enforcer


def test_a_label_that_goes_moves_the_tasks() -> None:
    world = world_with(
        service_spec(replicas=2, placement=Placement(constraints=("node.labels.disk==ssd",))), nodes=0
    )
    for number in (1, 2):
        world.put(make_node(f"n{number}", labels={"disk": "ssd"}))
    world.put(make_node("n3"))
    world.live()
    assert sorted(task.node_id for task in world.running()) == ["n1", "n2"]
    world.change_node("n1", spec=NodeSpec(availability=NodeAvailability.ACTIVE))
    world.live()
    assert [task.node_id for task in world.running()] == ["n2", "n2"]
    rejected = next(task for task in world.tasks() if task.status.state == TaskState.REJECTED)
    assert rejected.status.err == "assigned node no longer meets constraints"
    assert rejected.node_id == "n1"
    world.assert_quiet()


@pytest.mark.parametrize("availability", [NodeAvailability.PAUSE, NodeAvailability.DRAIN])
def test_paused_and_drained_nodes_are_not_judged(availability: NodeAvailability) -> None:
    world = world_with(service_spec(placement=Placement(constraints=("node.labels.disk==ssd",))), nodes=0)
    world.put(make_node("n1", labels={"disk": "ssd"}))
    world.live()
    world.change_node("n1", spec=NodeSpec(availability=availability))
    world.live()
    assert all(task.status.state != TaskState.REJECTED for task in world.tasks())


def test_shrunk_resources_turn_down_the_newest() -> None:
    reservation = ResourceRequirements(reservations=Resources(memory_bytes=10 * GIB))
    world = world_with(service_spec(replicas=3, resources=reservation), nodes=1)
    assert len(world.running()) == 3
    node = world.node("n1")
    resources = replace(node.description.resources, memory_bytes=25 * GIB)
    world.change_node("n1", description=replace(node.description, resources=resources))
    world.live()
    assert sorted(task.slot for task in world.running()) == [1, 2]
    (waiting,) = [task for task in world.live_tasks() if task.status.state == TaskState.PENDING]
    assert waiting.slot == 3
    assert waiting.status.err == "no suitable node (insufficient resources on 1 node)"
    world.assert_quiet()


def test_a_node_that_says_nothing_of_its_resources_is_not_judged_by_them() -> None:
    reservation = ResourceRequirements(reservations=Resources(memory_bytes=10 * GIB))
    world = world_with(service_spec(resources=reservation), nodes=1)
    node = world.node("n1")
    world.change_node("n1", description=replace(node.description, resources=Resources()))
    world.live()
    assert len(world.running()) == 1


# --- node health


@pytest.mark.parametrize(
    ("state", "message", "grace_s", "says"),
    [
        (NodeState.DISCONNECTED, "session ended", DISCONNECT_GRACE_S, "heartbeat failure"),
        (NodeState.DISCONNECTED, RESTARTING_MESSAGE, RESTART_GRACE_S, "heartbeat failure"),
        (
            NodeState.UNKNOWN,
            "",
            UNKNOWN_GRACE_S + 3 * UNKNOWN_GRACE_PER_NODE_S,
            'heartbeat failure for node in "unknown" state',
        ),
    ],
)
def test_graces(state: NodeState, message: str, grace_s: float, says: str) -> None:
    world = world_with(service_spec(replicas=3))
    world.set_node_state("n1", state, message=message)
    world.live(grace_s - 0.1)
    assert world.node("n1").status.state == state
    assert len([task for task in world.live_tasks() if task.node_id == "n1"]) == 1
    world.live(0.2)
    status = world.node("n1").status
    assert (status.state, status.message) == (NodeState.DOWN, says)
    assert all(task.node_id != "n1" for task in world.live_tasks())
    assert len(world.running()) == 3


def test_who_wants_rare_heartbeats_gives_a_lost_session_longer() -> None:
    world = world_with(service_spec(replicas=3))
    cluster = world.tables.cluster() or Cluster(id=ClusterId("cluster"))
    dispatcher = DispatcherConfig(heartbeat_period=Duration(4 * HEARTBEAT_PERIOD))
    world.put(replace(cluster, spec=ClusterSpec(dispatcher=dispatcher)))
    world.set_node_state("n1", NodeState.DISCONNECTED)
    world.live(4 * DISCONNECT_GRACE_S - 0.1)
    assert world.node("n1").status.state == NodeState.DISCONNECTED
    world.live(0.2)
    assert world.node("n1").status.state == NodeState.DOWN


def test_a_node_that_returns_in_time_keeps_its_tasks() -> None:
    world = world_with(service_spec(replicas=3))
    before = {task.id for task in world.running()}
    world.set_node_state("n1", NodeState.DISCONNECTED)
    world.live(1)
    world.set_node_state("n1", NodeState.READY)
    world.live(60)
    assert {task.id for task in world.running()} == before


def test_down_is_written_under_the_epoch_of_the_silence() -> None:
    world = World(reconcilers=all_reconcilers())
    world.put(replace(make_node("n1"), status=NodeStatus(state=NodeState.DISCONNECTED, epoch=7)))
    world.live(2)
    assert world.node("n1").status.epoch == 7
    assert world.node("n1").status.state == NodeState.DOWN


def test_tasks_of_a_node_down_for_a_day_are_orphaned() -> None:
    world = world_with(service_spec(replicas=3))
    world.set_node_state("n1", NodeState.DOWN)
    world.live(24 * 3600 - 1)
    (old,) = [task for task in world.tasks() if task.node_id == "n1"]
    assert old.status.state == TaskState.RUNNING
    world.live(2)
    assert world.task(old.id).status.state == TaskState.ORPHANED
    world.assert_quiet()


def test_tasks_of_a_removed_node_are_orphaned_at_once() -> None:
    world = world_with(service_spec(replicas=3))
    world.delete(Kind.NODE, "n1")
    world.live()
    old = [task for task in world.tasks() if task.node_id == "n1"]
    assert [task.status.state for task in old] == [TaskState.ORPHANED]
    assert len(world.running()) == 3


def test_a_removed_service_leaves_nothing_on_a_removed_node() -> None:
    world = world_with(service_spec(replicas=3))
    world.set_node_state("n1", NodeState.DOWN)
    world.live()
    world.delete(Kind.SERVICE, "web")
    world.live()
    assert [task.node_id for task in world.tasks()] == ["n1"]
    world.delete(Kind.NODE, "n1")
    world.live()
    assert not world.tasks()


# --- roles


def manager_of(world: World, role: NodeRole, *, wished: NodeRole, is_member: bool) -> Node:
    status = ManagerStatus(raft_id=RaftId("r"), addr="10.1.0.1:2377") if is_member else None
    world.put(replace(make_node("n1"), role=role, spec=NodeSpec(role=wished), manager_status=status))
    world.live()
    return world.node("n1")


@pytest.mark.parametrize(
    ("role", "wished", "is_member", "becomes"),
    [
        (NodeRole.WORKER, NodeRole.MANAGER, False, NodeRole.MANAGER),
        (NodeRole.MANAGER, NodeRole.WORKER, True, NodeRole.MANAGER),  # must leave raft first
        (NodeRole.MANAGER, NodeRole.WORKER, False, NodeRole.WORKER),
        (NodeRole.MANAGER, NodeRole.UNSPECIFIED, False, NodeRole.MANAGER),
        (NodeRole.WORKER, NodeRole.WORKER, False, NodeRole.WORKER),
    ],
)
def test_roles(role: NodeRole, wished: NodeRole, is_member: bool, becomes: NodeRole) -> None:
    assert manager_of(World(), role, wished=wished, is_member=is_member).role == becomes


def test_demotion_follows_when_the_node_has_left_raft() -> None:
    world = World()
    node = manager_of(world, NodeRole.MANAGER, wished=NodeRole.WORKER, is_member=True)
    world.put(replace(node, manager_status=None))
    world.live()
    assert world.node("n1").role == NodeRole.WORKER


# --- the cluster


def test_removed_nodes_are_forgotten_when_their_certificates_have_expired() -> None:
    world = World()
    soon, late = (
        RemovedNode(node_id=NodeId(name), expires_at=Timestamp(world.now + seconds(delay)))
        for name, delay in (("soon", 10), ("late", 20))
    )
    world.put(Cluster(id=ClusterId("c"), version=1, removed_nodes=(soon, late)))
    world.live(9)
    cluster = world.tables.cluster()
    assert cluster is not None
    assert cluster.removed_nodes == (soon, late)
    world.live(2)
    cluster = world.tables.cluster()
    assert cluster is not None
    assert cluster.removed_nodes == (late,)


# --- waiting tasks


def test_waiting_tasks_are_stored_once_with_their_reason() -> None:
    world = world_with(service_spec(replicas=3), nodes=0)
    assert [task.status.err for task in world.tasks()] == ["no suitable node"] * 3
    world.put(make_node("n1", state=NodeState.DOWN))
    world.live()
    assert {task.status.err for task in world.tasks()} == {
        "no suitable node (1 node not available for new tasks)"
    }
    world.assert_quiet()


def test_room_goes_to_the_oldest_service_first() -> None:
    reservation = ResourceRequirements(reservations=Resources(memory_bytes=20 * GIB))
    world = World()
    world.create_service("b", replace(service_spec(resources=reservation), name="b"))
    world.live()
    world.create_service("a", replace(service_spec(resources=reservation), name="a"))
    world.live()
    world.put(make_node("n1"))
    world.live()
    assert [task.service_id for task in world.running()] == ["b"]


def test_a_task_of_a_service_that_is_gone_is_left_alone() -> None:
    world = World(make_node("n1"), reconcilers=())
    waiting = Task(
        id=TaskId("t"),
        service_id=ServiceId("gone"),
        revision_id=RevisionId("r"),
        status=TaskStatus(state=TaskState.PENDING),
    )
    world.put(waiting)
    plan = PendingTasks(LoadCache(), Addresses()).reconcile(world.tables, "pending", world.now)
    assert not plan.groups


def test_many_waiting_tasks_take_several_plans() -> None:
    count = PLAN_GROUPS_MAX * 2 + 7
    world = world_with(service_spec(replicas=count), nodes=0)
    world.tables.put(Kind.NODE, make_node("n1"))
    plan = PendingTasks(LoadCache(), Addresses()).reconcile(world.tables, "pending", world.now)
    assert len(plan.groups) == PLAN_GROUPS_MAX
    assert plan.is_partial
    world.put(make_node("n2"))
    world.live()
    assert len(world.running()) == count
    world.assert_quiet()


def test_an_ended_task_makes_room_for_a_waiting_one() -> None:
    reservation = ResourceRequirements(reservations=Resources(memory_bytes=20 * GIB))
    world = world_with(service_spec(resources=reservation), nodes=1)
    world.create_service("late", replace(service_spec(resources=reservation), name="late"))
    world.live()
    assert [task.service_id for task in world.running()] == ["web"]
    world.scale("web", 0)
    world.live()
    assert [task.service_id for task in world.running()] == ["late"]


def test_the_stores_format_rises_once_all_managers_know_a_newer_one_and_never_sinks() -> None:
    def manager(id_: str, known: int) -> Node:
        node = make_node(id_, role=NodeRole.MANAGER, manager_status=ManagerStatus(raft_id=RaftId(id_)))
        return replace(node, description=replace(node.description, store_format=known))

    world = World(manager("n1", 2), manager("n2", 1), make_node("n3"), reconcilers=(ClusterUpkeep(),))
    world.put(Cluster(id=ClusterId("c"), version=1, store_format=1))
    world.settle()
    assert world.tables.cluster().store_format == 1  # type: ignore[union-attr]
    world.put(manager("n2", 3))
    world.settle()
    assert world.tables.cluster().store_format == 2, "a worker does not count"  # type: ignore[union-attr]
    world.put(manager("n4", 0))  # not heard of yet
    world.put(manager("n1", 1))  # an older version was put in its place
    world.settle()
    assert world.tables.cluster().store_format == 2  # type: ignore[union-attr]
