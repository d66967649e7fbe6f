"""Terms of leadership: the fence comes first, a lost term's work ends, a loop that fails begins anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from agent_rig import in_virtual_time, loop_env
from clusters import apply, make_node, make_service, store_with
from scripted_raft import ScriptedRaft

from manager.leader import Leader
from manager.proposer import RaftProposer
from manager.reconcile.nodes import NodeHealth
from manager.reconcile.plan import NOTHING, Plan, Reconciler
from manager.store.store import Store
from manager.store.view import View
from manager.usage import UsageBook
from swarmpy.errors import NoLeader, Rejected
from swarmpy.limits import SESSION_BACKOFF_MAX_S, UNKNOWN_GRACE_S
from swarmpy.model.changes import Applied, Batch, Create
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Service
from swarmpy.model.states import NodeRole, NodeState, Owner

DEADLINE_S = 120.0


class Watcher:
    """A reconciler that remembers what it was asked; it can break the whole loop, or the whole term."""

    name = "watcher"

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.breaks = 0

    def keys(self, view: View) -> Iterable[str]:
        if self.breaks:
            self.breaks -= 1
            raise ValueError("a defect")
        return [service.id for service in view.services()]

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        return [new.id] if isinstance(new, Service) else []

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        self.seen.append(key)
        return NOTHING


class RecordingProposer(RaftProposer):
    """Remembers batches; ``fails`` are raised, one each, in place of proposing."""

    def __init__(self, raft: ScriptedRaft) -> None:
        super().__init__(raft)
        self.batches: list[Batch] = []
        self.fails: list[Exception] = []

    async def propose(self, batch: Batch) -> Applied:
        if self.fails:
            raise self.fails.pop(0)
        self.batches.append(batch)
        return await super().propose(batch)


class SlowDoubts(RecordingProposer):
    """What the dispatcher proposes takes a while to be committed."""

    async def propose(self, batch: Batch) -> Applied:
        if any(group.owner is Owner.DISPATCHER for group in batch.groups):
            await asyncio.sleep(1.0)
        return await super().propose(batch)


class Rig:
    def __init__(self) -> None:
        self.store: Store = store_with(nodes=0, services=(make_service("web"),))
        for name in ("n1", "n2"):
            apply(self.store, Create(object=make_node(name, role=NodeRole.MANAGER)))
        self.raft = ScriptedRaft(self.store, "n1.a", "n2.a")
        self.proposer = RecordingProposer(self.raft)
        self.watcher = Watcher()
        self.leader = Leader(self.store, self.proposer, self.raft, loop_env(), reconcilers=self._reconcilers)

    def _reconcilers(self, usage: UsageBook) -> tuple[Reconciler, ...]:
        return (self.watcher,)

    @property
    def epoch(self) -> int | None:
        return self.leader.term.epoch if self.leader.term is not None else None


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    task = asyncio.create_task(rig.leader.run())
    try:
        yield rig
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert rig.leader.term is None
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, "a task of a term outlived it"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@in_virtual_time
async def test_the_first_thing_that_a_leader_commits_is_the_fence() -> None:
    rig = Rig()
    async with running(rig):
        await until(lambda: rig.watcher.seen == ["web-s"])
    assert rig.proposer.batches[0].groups == ()
    assert rig.proposer.batches[0].epoch == 1
    assert rig.store.epoch == 1
    assert all(batch.epoch == 1 for batch in rig.proposer.batches)


@in_virtual_time
async def test_without_leadership_nothing_runs() -> None:
    rig = Rig()
    rig.raft.is_leading = False
    async with running(rig):
        await asyncio.sleep(10.0)
        assert (rig.watcher.seen, rig.proposer.batches, rig.epoch) == ([], [], None)


@in_virtual_time
async def test_losing_leadership_ends_the_terms_work_and_gaining_it_begins_anew() -> None:
    rig = Rig()
    async with running(rig):
        await until(lambda: rig.watcher.seen == ["web-s"])
        rig.raft.follow(term=2)
        await until(lambda: rig.leader.term is None)
        rig.watcher.seen.clear()
        service, revision = make_service("db")
        apply(rig.store, Create(object=service), Create(object=revision))
        await asyncio.sleep(5.0)
        assert rig.watcher.seen == [], "a loop of the lost term still runs"

        rig.raft.lead(term=3)
        await until(lambda: sorted(rig.watcher.seen) == ["db-s", "web-s"])
        assert rig.epoch == 3


@in_virtual_time
async def test_a_term_that_was_lost_and_won_again_unseen_is_another_term() -> None:
    rig = Rig()
    async with running(rig):
        await until(lambda: rig.epoch == 1)
        rig.raft.term = 2
        rig.raft.lead(term=3)
        await until(lambda: rig.epoch == 3)
        assert rig.store.epoch == 3


@in_virtual_time
async def test_a_fence_that_cannot_be_committed_is_tried_again() -> None:
    rig = Rig()
    rig.proposer.fails = [NoLeader(), NoLeader()]
    async with running(rig):
        await until(lambda: rig.watcher.seen == ["web-s"])


@in_virtual_time
async def test_a_loop_that_fails_is_not_the_end_of_leading() -> None:
    rig = Rig()
    rig.watcher.breaks = 3
    async with running(rig):
        await until(lambda: rig.watcher.seen == ["web-s"])
        assert rig.watcher.breaks == 0
        assert rig.leader.term is not None


@in_virtual_time
async def test_a_term_that_fails_at_once_is_tried_again_at_a_growing_distance() -> None:
    rig = Rig()
    rig.proposer.fails = [Rejected("no") for _ in range(200)]
    async with running(rig):
        await asyncio.sleep(60.0)
        assert 5 < 200 - len(rig.proposer.fails) < 20


@in_virtual_time
async def test_nothing_is_decided_on_an_earlier_leaders_word_of_which_nodes_have_gone() -> None:
    """The node may have come back while nobody led: it is called down only once it had time to."""
    rig = Rig()
    gone = make_node("n3", state=NodeState.DISCONNECTED)
    apply(rig.store, Create(object=gone))
    rig.leader = Leader(
        rig.store,
        SlowDoubts(rig.raft),
        rig.raft,
        loop_env(),
        reconcilers=lambda usage: (NodeHealth(), rig.watcher),
    )

    def state() -> NodeState:
        node = rig.store.node(gone.id)
        assert node is not None
        return node.status.state

    async with running(rig):
        await until(lambda: rig.watcher.seen == ["web-s"])
        for _ in range(int((UNKNOWN_GRACE_S + SESSION_BACKOFF_MAX_S) / 0.1)):
            assert state() is NodeState.DISCONNECTED
            await asyncio.sleep(0.1)
        await until(lambda: state() is NodeState.DOWN)
