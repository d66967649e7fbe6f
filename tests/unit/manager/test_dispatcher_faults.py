"""The leader's end of a session when things go wrong: cancelled calls, floods, agents that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from clusters import apply, make_service, memory_proposer, store_with
from dispatcher_rig import NODE, ScriptedAgent, dispatching, state_of, until

from manager import dispatcher as dispatcher_module
from manager import proposer as proposer_module
from manager.dispatcher import Dispatcher
from manager.proposer import RaftProposer
from manager.store.store import Store
from swarmpy import codec
from swarmpy.errors import NoLeader, PermissionDenied, Unavailable
from swarmpy.limits import SESSION_QUEUE_MESSAGES_MAX, SESSION_STARTS_MAX
from swarmpy.model.changes import Applied, Batch, Create
from swarmpy.model.ids import RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.states import NodeState, Owner, TaskState
from swarmpy.pb import dispatcher_pb2 as pb


class HaltingProposer(RaftProposer):
    """While ``goes`` is clear a proposal does not come back; ``fails`` of them end without a leader."""

    fails = 0

    def __init__(self, store: Store) -> None:
        log, _ = memory_proposer(store)
        log._is_running = True
        super().__init__(log)
        self.goes = asyncio.Event()
        self.goes.set()
        self.waiting = 0
        self.proposed = 0

    async def propose(self, batch: Batch) -> Applied:
        self.waiting += 1
        self.proposed += 1
        try:
            await self.goes.wait()
        finally:
            self.waiting -= 1
        if self.fails:
            self.fails -= 1
            error = NoLeader()
            error.delay_s = 0.01
            raise error
        return await super().propose(batch)


@asynccontextmanager
async def halting(store: Store) -> AsyncIterator[tuple[Dispatcher, HaltingProposer]]:
    """A dispatcher, and the proposer that may hold it up."""
    proposer = HaltingProposer(store)
    async with dispatching(store, proposer=proposer) as dispatcher:
        yield dispatcher, proposer


async def cancelled(agent: ScriptedAgent) -> None:
    """As gRPC does when the caller is gone."""
    agent.call.cancel()
    await asyncio.wait([agent.call])


async def test_a_call_that_is_cancelled_while_it_registers_leaves_no_session_behind() -> None:
    store = store_with(nodes=1)
    async with halting(store) as (dispatcher, proposer):
        await until(lambda: state_of(store) is NodeState.UNKNOWN)
        proposer.goes.clear()
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: dispatcher.session_of(NODE) is not None and proposer.waiting > 0)
        await cancelled(agent)
        assert dispatcher.session_of(NODE) is None
        proposer.goes.set()
        await until(lambda: state_of(store) is NodeState.DISCONNECTED)


async def test_the_end_of_a_session_is_reported_also_if_its_call_was_cancelled() -> None:
    store = store_with(nodes=1)
    async with halting(store) as (dispatcher, proposer):
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: bool(agent.of_kind("assignments")))
        proposer.fails = 3  # meanwhile there is no quorum
        await cancelled(agent)
        await until(lambda: state_of(store) is NodeState.DISCONNECTED)


async def test_a_node_that_is_back_before_its_absence_was_committed_stays_ready() -> None:
    store = store_with(nodes=1)
    async with halting(store) as (dispatcher, proposer):
        first = ScriptedAgent(dispatcher)
        first.hello()
        await until(lambda: bool(first.of_kind("assignments")))
        proposer.fails = 2
        await cancelled(first)
        second = ScriptedAgent(dispatcher)
        second.hello()
        await until(lambda: bool(second.of_kind("assignments")))
        await until(lambda: not dispatcher._doubtful and proposer.waiting == 0)
        assert state_of(store) is NodeState.READY


async def test_many_nodes_that_go_at_once_cost_few_commits() -> None:
    store = store_with(nodes=40)
    async with halting(store) as (dispatcher, proposer):
        agents = [ScriptedAgent(dispatcher, node.id) for node in store.nodes()]
        for agent in agents:
            agent.hello()
        await until(lambda: all(agent.of_kind("assignments") for agent in agents))
        before = proposer.proposed
        proposer.goes.clear()
        for agent in agents:
            agent.says.put_nowait(None)
        await asyncio.wait([agent.call for agent in agents])
        proposer.goes.set()
        await until(lambda: all(node.status.state is NodeState.DISCONNECTED for node in store.nodes()))
        assert proposer.proposed - before <= 3


async def test_an_agent_that_says_nothing_is_told_what_was_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "RPC_TIMEOUT_S", 0.05)
    async with halting(store_with(nodes=1)) as (dispatcher, _):
        with pytest.raises(PermissionDenied, match="hello"):
            await ScriptedAgent(dispatcher).call


async def test_one_identity_on_two_machines_is_told_apart_from_a_restart() -> None:
    store = store_with(nodes=1)
    async with halting(store) as (dispatcher, _):
        calls = []
        for _ in range(SESSION_STARTS_MAX):
            agent = ScriptedAgent(dispatcher)
            agent.hello()
            await until(lambda agent=agent: bool(agent.of_kind("welcome")))  # type: ignore[misc]
            calls.append(agent.call)
        one_too_many = ScriptedAgent(dispatcher)
        one_too_many.hello()
        with pytest.raises(Unavailable, match="copied to another machine"):
            await one_too_many.call
        assert not calls[-1].done(), "the one that is there keeps its session"


async def test_an_agent_that_beats_but_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "SESSION_LAST_WORDS_S", 0.05)
    store = store_with(nodes=1)
    async with halting(store) as (dispatcher, _):
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: bool(agent.of_kind("assignments")))
        agent.reads.clear()
        session = dispatcher.session_of(NODE)
        assert session is not None
        for _ in range(SESSION_QUEUE_MESSAGES_MAX + 2):
            session.notify(pb.ManagerMessage())
            agent.says.put_nowait(pb.AgentMessage(heartbeat=pb.Heartbeat()))
            await asyncio.sleep(0)
        await until(agent.call.done)
        await until(lambda: state_of(store) is NodeState.DISCONNECTED)


async def test_statuses_too_large_for_one_entry_are_committed_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = store_with(nodes=1, services=(make_service("web"),))
    names = [f"t{number}" for number in range(8)]
    for name in names:
        task = Task(
            id=TaskId(name),
            service_id=ServiceId("web-s"),
            slot=1,
            node_id=NODE,
            revision_id=RevisionId("web-r1"),
            status=TaskStatus(state=TaskState.ASSIGNED),
        )
        apply(store, Create(object=task), owner=Owner.ORCHESTRATOR)
    async with halting(store) as (dispatcher, _):
        agent = ScriptedAgent(dispatcher)
        agent.hello()
        await until(lambda: bool(agent.of_kind("assignments")))
        monkeypatch.setattr(proposer_module, "ENTRY_BYTES_MAX", 1_000)
        update = pb.StatusUpdate(sequence=1)
        for name in names:
            words = "x" * (2_000 if name == "t3" else 300)
            status = codec.to_pb(TaskStatus(state=TaskState.RUNNING, message=words))
            update.statuses.add(task_id=name, status=status)
        agent.says.put_nowait(pb.AgentMessage(statuses=update))
        await until(lambda: bool(agent.of_kind("status_ack")))
        late = [task.id for task in store.tasks() if task.status.state is not TaskState.RUNNING]
        assert late == ["t3"], "what fits no entry is dropped, and nothing else"
