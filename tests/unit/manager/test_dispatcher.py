"""The leader's end of a session, with a scripted agent at the other end and no network."""

from __future__ import annotations

import asyncio

import pytest
from clusters import Firing, apply, make_service, memory_proposer, store_with
from dispatcher_rig import DEADLINE_S, NODE, ScriptedAgent, dispatching, state_of, until
from msgspec.structs import replace

from manager.reconcile.nodes import RESTARTING_MESSAGE
from manager.store.events import Commit
from manager.store.store import Store
from swarmpy.errors import PermissionDenied
from swarmpy.model.changes import Applied, Batch, Create, Delete, NodeReport, Order, Update
from swarmpy.model.cluster_specs import ClusterSpec, DispatcherConfig
from swarmpy.model.ids import Duration, NodeId, RaftId, RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Cluster, Kind, ManagerStatus, Task, TaskStatus
from swarmpy.model.states import NodeRole, NodeState, Owner, TaskState
from swarmpy.pb import dispatcher_pb2 as pb


def add_task(store: Store, name: str, node_id: NodeId = NODE) -> None:
    task = Task(
        id=TaskId(name),
        service_id=ServiceId("web-s"),
        slot=1,
        node_id=node_id,
        revision_id=RevisionId("web-r1"),
        status=TaskStatus(state=TaskState.ASSIGNED),
    )
    apply(store, Create(object=task), owner=Owner.ORCHESTRATOR)


def heartbeat(store: Store, seconds: float) -> None:
    cluster = store.cluster()
    assert isinstance(cluster, Cluster)
    spec = ClusterSpec(dispatcher=DispatcherConfig(heartbeat_period=Duration(int(seconds * 10**9))))
    apply(store, Update(object=replace(cluster, spec=spec)))


async def test_a_new_leader_doubts_every_node_until_it_opens_a_session() -> None:
    store = store_with(nodes=2)
    async with dispatching(store) as dispatcher:
        await until(lambda: state_of(store, NodeId("node-2")) is NodeState.UNKNOWN)
        agent = ScriptedAgent(dispatcher)
        agent.hello(addr="10.1.2.3:2377")
        await until(lambda: state_of(store) is NodeState.READY)
        node = store.node(NODE)
        assert node is not None
        assert (node.status.addr, node.description.hostname, node.status.epoch) == ("10.1.2.3", "h1", 1)
        assert state_of(store, NodeId("node-2")) is NodeState.UNKNOWN


async def test_a_session_starts_with_a_welcome_and_a_complete_set() -> None:
    store = store_with(services=(make_service("web"),))
    add_task(store, "t1")
    async with dispatching(store) as dispatcher:
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: bool(agent.of_kind("assignments")))
        kinds = [message.WhichOneof("message") for message in agent.told]
        assert kinds == ["welcome", "managers", "node", "assignments"]
        first = agent.of_kind("assignments")[0].assignments
        assert first.type == pb.AssignmentUpdate.COMPLETE
        told = [change.WhichOneof("change") for change in first.changes]
        assert told == ["network_settings", "peer", "revision", "task"]

        add_task(store, "t2")
        await until(lambda: len(agent.of_kind("assignments")) == 2)
        second = agent.of_kind("assignments")[1].assignments
        assert (second.type, second.applies_to) == (pb.AssignmentUpdate.INCREMENTAL, first.results_in)

        apply(store, Order(task_id=TaskId("t2"), desired_state=TaskState.SHUTDOWN), owner=Owner.ORCHESTRATOR)
        await until(lambda: len(agent.of_kind("assignments")) == 3)


async def test_the_welcome_comes_first_even_if_the_node_changes_while_it_registers() -> None:
    store = store_with()
    log, proposer = memory_proposer(store)
    await log.start()

    class Meddling(type(proposer)):  # type: ignore[misc]
        """Changes the node while its session's registration is being committed."""

        async def propose(self, batch: Batch) -> Applied:
            node = store.node(NODE)
            assert node is not None
            apply(store, Update(object=replace(node, role=NodeRole.MANAGER)))
            await asyncio.sleep(0.01)
            applied: Applied = await super().propose(batch)
            return applied

    async with dispatching(store, proposer=Meddling(log)) as dispatcher:
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: bool(agent.of_kind("assignments")))
        assert agent.told[0].WhichOneof("message") == "welcome"


async def test_a_session_that_does_not_start_with_hello_is_refused() -> None:
    store = store_with()
    async with dispatching(store) as dispatcher:
        agent = ScriptedAgent(dispatcher)
        agent.says.put_nowait(pb.AgentMessage(heartbeat=pb.Heartbeat()))
        with pytest.raises(PermissionDenied, match="hello"):
            await agent.call


async def test_a_removed_node_gets_no_session_and_loses_the_one_it_has() -> None:
    store = store_with()
    async with dispatching(store) as dispatcher:
        stranger = ScriptedAgent(dispatcher, NodeId("gone"))
        stranger.hello()
        with pytest.raises(PermissionDenied, match="removed"):
            await stranger.call

        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: state_of(store) is NodeState.READY)
        apply(store, Delete(kind=Kind.NODE, id=NODE))
        async with asyncio.timeout(DEADLINE_S):
            await agent.call


async def test_statuses_are_committed_then_acknowledged() -> None:
    store = store_with(services=(make_service("web"),))
    add_task(store, "t1")
    add_task(store, "foreign", NodeId("node-2"))
    async with dispatching(store) as dispatcher:
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        agent.report(7, ("t1", TaskState.RUNNING), ("foreign", TaskState.FAILED), ("none", TaskState.FAILED))
        await until(lambda: bool(agent.of_kind("status_ack")))
        assert agent.of_kind("status_ack")[0].status_ack.sequence == 7
        own, foreign = store.task(TaskId("t1")), store.task(TaskId("foreign"))
        assert own is not None
        assert own.status.state is TaskState.RUNNING
        assert foreign is not None
        assert foreign.status.state is TaskState.ASSIGNED, "an agent speaks for its own tasks only"


async def test_a_fault_point_sends_everything_again() -> None:
    store, point = store_with(services=(make_service("web"),)), Firing("dispatcher.resync", 0)
    async with dispatching(store, fault_point=point) as dispatcher:
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: bool(agent.of_kind("assignments")))
        for name, is_forced in (("t1", False), ("t2", True), ("t3", False)):
            told = len(agent.of_kind("assignments"))
            point.left = int(is_forced)
            add_task(store, name)
            await until(lambda told=told: len(agent.of_kind("assignments")) > told)  # type: ignore[misc]
        updates = [message.assignments for message in agent.of_kind("assignments")][-3:]
    kinds = [pb.AssignmentUpdate.INCREMENTAL, pb.AssignmentUpdate.COMPLETE, pb.AssignmentUpdate.INCREMENTAL]
    assert [update.type for update in updates] == kinds
    assert [change.task.id for change in updates[1].changes if change.HasField("task")] == ["t1", "t2"]
    assert updates[2].applies_to == updates[1].results_in


async def test_a_fault_point_commits_one_agents_statuses_alone() -> None:
    """Two agents report while a commit is under way: one or two more commits."""
    for times, commits in ((0, 2), (3, 3)):
        store = store_with(nodes=2, services=(make_service("web"),))
        for number, node in enumerate((NODE, NodeId("node-2"), NODE)):
            add_task(store, f"t{number}", node)
        async with dispatching(store, fault_point=Firing("dispatcher.small_batch", times)) as dispatcher:
            agents = [ScriptedAgent(dispatcher), ScriptedAgent(dispatcher, NodeId("node-2"))]
            for agent in agents:
                agent.hello()
            await until(lambda agents=agents: all(a.of_kind("assignments") for a in agents))  # type: ignore[misc]
            with store.watch() as watch:
                agents[0].report(1, ("t0", TaskState.RUNNING))
                await until(lambda agents=agents: len(agents[0].of_kind("status_ack")) == 1)  # type: ignore[misc]
                agents[0].report(2, ("t2", TaskState.RUNNING))
                agents[1].report(1, ("t1", TaskState.RUNNING))
                await until(lambda agents=agents: len(agents[0].of_kind("status_ack")) == 2)  # type: ignore[misc]
                await until(lambda agents=agents: len(agents[1].of_kind("status_ack")) == 1)  # type: ignore[misc]
                assert sum(isinstance(event, Commit) for event in watch.take()) == commits


async def test_the_end_of_the_stream_makes_a_node_disconnected() -> None:
    store = store_with()
    async with dispatching(store) as dispatcher:
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: state_of(store) is NodeState.READY)
        agent.says.put_nowait(None)
        await until(lambda: state_of(store) is NodeState.DISCONNECTED)


async def test_a_node_that_is_called_down_while_its_session_is_open_is_ready_again() -> None:
    store = store_with()
    async with dispatching(store) as dispatcher:
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: bool(agent.of_kind("assignments")))
        node = store.node(NODE)
        assert node is not None
        down = NodeReport(node_id=NODE, status=replace(node.status, state=NodeState.DOWN))
        apply(store, down, owner=Owner.ORCHESTRATOR)
        assert state_of(store) is NodeState.DOWN
        await until(lambda: state_of(store) is NodeState.READY)


async def test_a_planned_absence_says_so() -> None:
    store = store_with()
    async with dispatching(store) as dispatcher:
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: state_of(store) is NodeState.READY)
        agent.says.put_nowait(pb.AgentMessage(goodbye=pb.Goodbye(reason="upgrade")))
        agent.says.put_nowait(None)
        await until(lambda: state_of(store) is NodeState.DISCONNECTED)
        node = store.node(NODE)
        assert node is not None
        assert node.status.message == RESTARTING_MESSAGE


async def test_missed_heartbeats_end_the_session() -> None:
    store = store_with()
    heartbeat(store, 0.05)
    async with dispatching(store) as dispatcher:
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: state_of(store) is NodeState.READY)
        await until(lambda: state_of(store) is NodeState.DISCONNECTED)
        async with asyncio.timeout(DEADLINE_S):
            await agent.call


async def test_a_second_session_takes_over_and_the_first_ones_end_says_nothing() -> None:
    store = store_with()
    async with dispatching(store) as dispatcher:
        first = ScriptedAgent(dispatcher)
        first.hello()
        await until(lambda: state_of(store) is NodeState.READY)
        second = ScriptedAgent(dispatcher)
        second.hello()
        async with asyncio.timeout(DEADLINE_S):
            await first.call
        await until(lambda: bool(second.of_kind("assignments")))
        assert state_of(store) is NodeState.READY
        assert dispatcher.session_of(NODE) is not None


async def test_agents_hear_of_managers_and_of_their_own_role() -> None:
    store = store_with(nodes=2)
    async with dispatching(store) as dispatcher:
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: len(agent.of_kind("node")) == 1)
        manager = ManagerStatus(raft_id=RaftId("node-2.x"), addr="10.0.0.2:2377")
        report = NodeReport(node_id=NodeId("node-2"), manager_status=manager)
        apply(store, report, owner=Owner.DISPATCHER)
        await until(lambda: len(agent.of_kind("managers")) == 2)
        assert agent.of_kind("managers")[1].managers.managers[0].addr == "10.0.0.2:2377"

        node = store.node(NODE)
        assert node is not None
        apply(store, Update(object=replace(node, role=NodeRole.MANAGER)))
        await until(lambda: len(agent.of_kind("node")) == 2)


async def test_losing_leadership_sends_agents_to_look_elsewhere() -> None:
    store = store_with()
    async with dispatching(store) as dispatcher:
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: bool(agent.of_kind("assignments")))
    async with asyncio.timeout(DEADLINE_S):
        await agent.call
    assert state_of(store) is NodeState.READY, "a deposed leader has nothing to say of nodes"
    assert agent.told[-1].WhichOneof("message") == "redirect"
