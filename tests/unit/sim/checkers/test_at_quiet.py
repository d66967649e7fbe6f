"""What is judged at quiet: acknowledged writes, whether there is quiet, and queues at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from client_histories import create, read, remove, update
from manager_rig import until
from msgspec.structs import replace
from node_rig import hosts_in
from store_values import accept, creates, node
from world import World, make_node

from agent.dataplane.base import Endpoint
from agent.dataplane.fake import FakeNetwork
from agent.executor.base import ImageConfig, Launch, Sandbox
from agent.executor.fake import Behaviour, FakeMachine, FakeTask
from manager.store.store import Store
from swarmpy import limits
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Kind, Revision, Service, TaskStatus
from swarmpy.model.specs import ContainerSpec, Global, ServiceMode, ServiceSpec
from swarmpy.model.states import NodeAvailability, NodeState, TaskState
from swarmpy.sim.checkers import Checkers, Scene
from swarmpy.sim.checkers.acknowledged import lost_or_made_up
from swarmpy.sim.checkers.history import MARK_LABEL, Operation, Outcome
from swarmpy.sim.checkers.queues import BOUNDS, overfull
from swarmpy.sim.checkers.quiet import NodeTruth, quiet_reasons
from swarmpy.sim.limits import SIM_REASONS_MAX

UNKNOWN, REFUSED = Outcome.UNKNOWN, Outcome.REFUSED

# --- acknowledged writes


def stored(id_: str = "", mark: str = "", *older: str) -> Store:
    """A store with service ``s`` of that id, whose spec and revisions carry these marks; or an empty one."""
    store = Store()
    if id_:
        specs = [ServiceSpec(name="s", labels={MARK_LABEL: each}) for each in (*older, mark)]
        revisions = [
            Revision(id=RevisionId(f"r{number}"), service_id=ServiceId(id_), number=number, spec=spec)
            for number, spec in enumerate(specs)
        ]
        service = Service(id=ServiceId(id_), spec=specs[-1], revision_id=revisions[-1].id)
        accept(store, creates(service, *revisions))
    return store


def broken_promises(store: Store, *operations: Operation, may_roll_back: bool = False) -> str:
    return "; ".join(lost_or_made_up(operations, store, may_roll_back=may_roll_back))


@pytest.mark.parametrize(
    ("store", "operations"),
    [
        (stored(), [read(1)]),
        (stored("i1", "a"), [create(1, "i1", "a")]),
        (stored("i1", "b", "a"), [create(1, "i1", "a"), update(2, "i1", 5, "b")]),
        (stored(), [create(1, "i1", "a"), remove(2, "i1")]),
        (stored(), [create(1, "i1", "a"), remove(2)]),
        (stored(), [create(1, "i1", "a"), remove(2, "i1", outcome=UNKNOWN)]),
        (stored("i1", "a"), [create(1, "i1", "a"), remove(2, "i1", outcome=UNKNOWN)]),
        (stored("i1", "a"), [create(1, "", "a", outcome=UNKNOWN)]),
        (stored(), [create(1, "", "a", outcome=UNKNOWN)]),
        (stored("i1", "a"), [create(1, "i1", "a"), update(2, "i1", 5, "b", outcome=UNKNOWN)]),
        (stored("i1", "b", "a"), [create(1, "i1", "a"), update(2, "i1", 5, "b", outcome=UNKNOWN)]),
        (stored("i2", "b"), [create(1, "i1", "a"), remove(2, "i1"), create(3, "i2", "b")]),
    ],
)
def test_promises_that_were_kept(store: Store, operations: list[Operation]) -> None:
    assert broken_promises(store, *operations) == ""


@pytest.mark.parametrize(
    ("store", "operations", "said"),
    [
        (stored(), [create(1, "i1", "a")], "service s (i1), created at 1.000, is lost"),
        (stored(), [remove(0), create(1, "i1", "a")], "is lost"),
        (stored("i2", "a"), [create(1, "i1", "a"), create(1, "", "a", outcome=UNKNOWN)], "(i1)"),
        (stored("i1", "a"), [create(1, "i1", "a"), remove(2, "i1")], "removed at 2.000, is back"),
        (stored("i1", "a"), [create(1, "i1", "a"), remove(2)], "removed at 2.000, is back"),
        (
            stored("i1", "a", "b"),
            [create(1, "i1", "a"), update(2, "i1", 5, "b")],
            "the acknowledged write of 'b' at 2.000 is lost",
        ),
        (
            stored("i1", "b", "a"),
            [create(1, "i1", "a"), update(2, "i1", 5, "b", outcome=REFUSED)],
            "has spec 'b', which no effective write sent",
        ),
        (stored("i1", "a"), [create(1, "i1", "a", outcome=REFUSED)], "no create of it may have been made"),
        (stored("i9", "a"), [create(1, "i1", "a"), remove(2, "i1")], "no create of it may have been made"),
        (stored("i1", "a"), [], "no client named it"),
        (
            stored("i1", "b", "a", "b"),
            [create(1, "i1", "a"), update(2, "i1", 5, "b", outcome=UNKNOWN)],
            "has 2 revisions of write 'b', sent 1 times",
        ),
    ],
)
def test_promises_that_were_broken(store: Store, operations: list[Operation], said: str) -> None:
    assert said in broken_promises(store, *operations)


def test_a_rollback_is_no_loss_where_it_may_happen() -> None:
    operations = [create(1, "i1", "a"), update(2, "i1", 5, "b")]
    assert broken_promises(stored("i1", "a", "b"), *operations, may_roll_back=True) == ""


def test_the_facade_judges_acknowledged_writes() -> None:
    checkers = Checkers(lambda: 0.0)
    checkers.operation(create(1, "i1", "a"))
    assert not checkers.final({"m1": Store()}).is_clean
    assert checkers.violations.counts == {"acknowledged writes": 1}


# --- queues


class Part:
    def __init__(self, **backlog: int) -> None:
        self.backlog = backlog


@pytest.mark.parametrize("name", BOUNDS)
def test_a_queue_over_its_bound(name: str) -> None:
    assert overfull(Part(**{name: BOUNDS[name]})) == []
    assert overfull(Part(**{name: BOUNDS[name] + 1})) == [
        f"queue {name} holds {BOUNDS[name] + 1}, and its bound is {BOUNDS[name]}"
    ]


def test_a_queue_without_a_bound_and_one_that_grows_with_the_store() -> None:
    assert overfull(Part(new_queue=1)) == ["queue new_queue has no bound"]
    too_many = 20 * (10 + limits.WATCH_QUEUE_EVENTS_MAX) + 1
    assert overfull(Part(dirty_keys=too_many), objects=10) != []
    assert overfull(Part(dirty_keys=too_many), objects=11) == []


def test_the_facade_judges_queues() -> None:
    checkers = Checkers(lambda: 0.0)
    checkers.queues("m1", Part(agent_events=3))
    assert not checkers.violations
    checkers.queues("m1", Part(agent_events=limits.AGENT_EVENTS_MAX + 1))
    assert checkers.violations.counts == {"queues": 1}


def test_a_watch_tells_how_far_its_reader_is_behind() -> None:
    store = Store()
    with store.watch(limit=3):
        assert store.backlog == {"watch_events": 0}
        accept(store, creates(node("n1")))
        assert store.backlog == {"watch_events": 2}
    assert store.backlog == {"watch_events": 0}


async def test_every_queue_that_a_daemon_tells_of_has_a_bound(tmp_path: Path) -> None:
    """The names that production code uses are the names that have bounds."""
    async with hosts_in(tmp_path, 1) as (host,):
        await host.init()
        await host.run_service(2)
        part = host.running._part
        assert part is not None
        manager, agent = part.manager, part.agent
        assert manager is not None
        await until(lambda: "session_notices" in manager.backlog)
        assert overfull(manager, objects=10) == []
        assert overfull(agent, objects=10) == []
        told = manager.backlog.keys() | agent.backlog.keys()
        assert told >= BOUNDS.keys()


# --- quiet


class Cluster:
    """The store's world, with machines that do what the store says."""

    def __init__(self, replicas: int = 2) -> None:
        self.world = World()
        self.unsteady: frozenset[ServiceId] = frozenset()
        self.down: set[str] = set()
        self.machines: dict[str, FakeMachine] = {}
        self.networks: dict[str, FakeNetwork] = {}
        for id_ in ("n1", "n2"):
            self.add_node(id_)
        self.world.create_service("s1", replicas=replicas)
        self.settle()

    def add_node(self, id_: str) -> None:
        known = make_node(id_)
        self.world.put(replace(known, status=replace(known.status, session_id="session")))
        self.machines[id_], self.networks[id_] = FakeMachine(), FakeNetwork()

    def settle(self) -> None:
        """Managers and agents do what is to be done, and the machines what the store then says."""
        self.world.live()
        for id_, machine in self.machines.items():
            machine.tasks.clear()
            self.networks[id_].endpoints.clear()
        for task in self.world.tasks():
            if task.status.state == TaskState.RUNNING and task.node_id in self.machines:
                self.run(task.node_id, task.id)

    def run(self, node_id: str, task_id: str) -> None:
        id_ = TaskId(task_id)
        endpoint = Endpoint(task_id=id_)
        launch = Launch(
            task_id=id_,
            name=task_id,
            spec=ContainerSpec(),
            image=ImageConfig(reference="host"),
            sandbox=Sandbox(netns=""),
        )
        self.machines[node_id].tasks[id_] = FakeTask(launch=launch, behaviour=Behaviour(), pid=7)
        self.networks[node_id].endpoints[id_] = endpoint

    def reasons(self) -> str:
        nodes = tuple(
            NodeTruth(
                node_id=NodeId(id_),
                is_up=id_ not in self.down,
                machine=machine,
                network=self.networks[id_],
            )
            for id_, machine in self.machines.items()
        )
        scene = Scene(view=self.world.tables, now=self.world.now, nodes=nodes, unsteady=self.unsteady)
        return "; ".join(quiet_reasons(scene))

    def one(self) -> Any:
        return self.world.tasks()[0]


def test_a_cluster_at_rest() -> None:
    assert Cluster().reasons() == ""


def test_an_orphan() -> None:
    cluster = Cluster()
    cluster.run("n1", "stranger")
    assert "node n1 runs task stranger, which should not run there" in cluster.reasons()
    assert "endpoint of task stranger" in cluster.reasons()


def test_a_task_that_does_not_run() -> None:
    cluster = Cluster()
    task = cluster.one()
    del cluster.machines[task.node_id].tasks[task.id]
    assert cluster.reasons() == f"node {task.node_id} does not run task {task.id}"


def test_a_task_without_its_endpoint() -> None:
    cluster = Cluster()
    task = cluster.one()
    del cluster.networks[task.node_id].endpoints[task.id]
    assert cluster.reasons() == f"node {task.node_id} has no endpoint for task {task.id}"


def test_remains_of_an_ended_task() -> None:
    cluster = Cluster()
    cluster.run("n1", "old")
    cluster.machines["n1"].end(TaskId("old"), 0)
    del cluster.networks["n1"].endpoints[TaskId("old")]
    assert cluster.reasons() == "node n1 holds what is left of task old"


def test_a_node_without_a_session() -> None:
    cluster = Cluster()
    cluster.world.set_node_state("n1", NodeState.DISCONNECTED)
    assert "node n1 is up and is called disconnected" in cluster.reasons()


def test_a_node_that_has_gone() -> None:
    cluster = Cluster()
    cluster.down.add("n1")
    assert "node n1 has gone and is called ready" in cluster.reasons()
    cluster.world.set_node_state("n1", NodeState.DOWN)
    assert "wants" in cluster.reasons()
    cluster.settle()
    assert cluster.reasons() == ""


def test_a_slot_that_is_missing() -> None:
    cluster = Cluster()
    cluster.world.scale("s1", 3)
    assert "service s1 has 2 slots and should have 3" in cluster.reasons()
    assert "replicated s1 wants" in cluster.reasons()


def test_a_task_that_does_not_come_up() -> None:
    cluster = Cluster()
    cluster.world.scale("s1", 3)
    cluster.world.settle()
    task = max(cluster.world.tasks(), key=lambda each: each.slot)
    expected = f"service s1 slot 3: task {task.id} is assigned, and should be running"
    assert cluster.reasons() == expected


def test_a_task_that_waits_for_a_node_says_why() -> None:
    cluster = Cluster()
    for id_ in ("n1", "n2"):
        cluster.world.set_availability(id_, NodeAvailability.PAUSE)
    cluster.world.scale("s1", 3)
    cluster.settle()
    assert cluster.reasons() == ""
    task = max(cluster.world.tasks(), key=lambda each: each.slot)
    cluster.world.put(replace(task, status=replace(task.status, err="")))
    assert "is pending, and should be running" in cluster.reasons()


def test_a_task_that_should_have_ended() -> None:
    cluster = Cluster()
    cluster.world.scale("s1", 1)
    cluster.world.settle()
    assert "is still running and should end" in cluster.reasons()


def test_more_history_than_allowed() -> None:
    cluster = Cluster(replicas=1)
    task = cluster.one()
    for number in range(9):
        old = replace(
            task,
            id=TaskId(f"old{number}"),
            version=0,
            desired_state=TaskState.SHUTDOWN,
            status=replace(task.status, state=TaskState.SHUTDOWN),
        )
        cluster.world.put(replace(old, version=1))
    assert "keeps 10 tasks and may keep 5" in cluster.reasons()


def test_two_tasks_in_a_slot() -> None:
    cluster = Cluster(replicas=1)
    task = replace(cluster.one(), id=TaskId("twin"))
    cluster.world.put(task)
    cluster.run(task.node_id, "twin")
    assert "service s1 slot 1: 2 tasks are to run there" in cluster.reasons()


def test_a_successor_that_waits_for_a_node_may_overlap() -> None:
    cluster = Cluster(replicas=1)
    task = cluster.one()
    waiting = TaskStatus(state=TaskState.PENDING, err="no suitable node")
    twin = replace(task, id=TaskId("twin"), node_id=NodeId(""), status=waiting)
    cluster.world.put(twin)
    assert "2 tasks" not in cluster.reasons()
    cluster.world.put(replace(twin, id=TaskId("triplet")))
    assert "service s1 slot 1: 3 tasks are to run there" in cluster.reasons()


def test_an_unsteady_service_is_judged_by_its_slots_alone() -> None:
    cluster = Cluster(replicas=1)
    task = cluster.one()
    cluster.world.report(task.id, TaskState.FAILED)
    assert cluster.reasons() != ""
    cluster.unsteady = frozenset({ServiceId("s1")})
    assert cluster.reasons() == ""
    cluster.world.put(replace(task, id=TaskId("t8"), slot=2))
    assert cluster.reasons() == "service s1 has 2 slots and should have 1"


def test_a_global_service_has_a_task_on_each_node() -> None:
    cluster = Cluster()
    spec = cluster.world.service("s1").spec
    mode = ServiceMode(global_=Global())
    cluster.world.create_service("g1", replace(spec, name="g1", mode=mode))
    assert "service g1 has no task on node n1" in cluster.reasons()
    cluster.settle()
    assert cluster.reasons() == ""
    cluster.world.set_availability("n2", NodeAvailability.DRAIN)
    assert "service g1 wants a task on node n2, which is not eligible" in cluster.reasons()


def test_what_keeps_it_from_being_quiet_is_a_violation_at_the_end() -> None:
    cluster = Cluster()
    cluster.world.scale("s1", 3)
    checkers = Checkers(lambda: 0.0)
    scene = Scene(view=cluster.world.tables, now=cluster.world.now)
    assert checkers.quiet_reasons(scene)
    assert not checkers.final({}, scene).is_clean
    assert set(checkers.violations.counts) == {"quiet"}


def test_reasons_are_bounded() -> None:
    cluster = Cluster()
    for number in range(2 * SIM_REASONS_MAX):
        cluster.run("n1", f"stranger{number}")
    scene = Scene(
        view=cluster.world.tables,
        now=cluster.world.now,
        nodes=(
            NodeTruth(
                node_id=NodeId("n1"),
                is_up=True,
                machine=cluster.machines["n1"],
                network=cluster.networks["n1"],
            ),
        ),
    )
    assert len(quiet_reasons(scene)) == SIM_REASONS_MAX


def test_a_removed_service_leaves_nothing() -> None:
    cluster = Cluster()
    cluster.world.delete(Kind.SERVICE, "s1")
    assert cluster.reasons() != ""
    cluster.settle()
    cluster.settle()
    assert cluster.reasons() == ""
