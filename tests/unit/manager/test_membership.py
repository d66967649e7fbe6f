"""Raft's members follow the wished roles: what is decided, and that it is done whatever gets in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from agent_rig import in_virtual_time, loop_env
from clusters import apply, make_node
from msgspec.structs import replace
from scripted_raft import ScriptedRaft

from manager.membership import Expel, Membership, Record, steps
from manager.proposer import RaftProposer
from manager.store.store import Store
from swarmpy.errors import FailedPrecondition, PermissionDenied
from swarmpy.model.changes import Applied, Batch, Create, Delete, NodeReport, Update
from swarmpy.model.ids import ClusterId, NodeId, RaftId
from swarmpy.model.objects import Cluster, Kind, ManagerStatus
from swarmpy.model.states import NodeRole, Owner
from swarmpy.runtime import Env

DEADLINE_S = 30.0


def store_of(*names: str, recorded: bool = True) -> Store:
    """Managers ``n1``, ``n2``… whose members are ``n1.a``, ``n2.a``…"""
    store = Store()
    apply(store, Create(object=Cluster(id=ClusterId("cluster"))))
    for name in names:
        apply(store, Create(object=make_node(name, role=NodeRole.MANAGER)))
        if recorded:
            record(store, name, f"{name}.a")
    return store


def record(store: Store, name: str, raft_id: str) -> None:
    status = ManagerStatus(raft_id=RaftId(raft_id), addr=f"{raft_id}:2377")
    apply(store, NodeReport(node_id=NodeId(name), manager_status=status), owner=Owner.DISPATCHER)


def wish(store: Store, name: str, role: NodeRole) -> None:
    node = store.node(NodeId(name))
    assert node is not None
    apply(store, Update(object=replace(node, spec=replace(node.spec, role=role))))


def raft_id_of(store: Store, name: str) -> str | None:
    node = store.node(NodeId(name))
    assert node is not None
    return node.manager_status.raft_id if node.manager_status else None


# --- what is decided


def decided(store: Store, *raft_ids: str, silent: tuple[str, ...] = ()) -> list[Record | Expel]:
    raft = ScriptedRaft(store, *raft_ids)
    raft.unreachable = set(silent)
    return steps(store, raft.status())


def test_all_is_well() -> None:
    assert decided(store_of("n1", "n2"), "n1.a", "n2.a") == []


def test_the_first_manager_is_left_alone_until_it_has_recorded_the_cluster() -> None:
    assert decided(Store(), "n1.a") == []


def test_a_join_is_recorded() -> None:
    store = store_of("n1", recorded=False)
    status = ManagerStatus(raft_id=RaftId("n1.a"), addr="n1.a:2377")
    assert decided(store, "n1.a") == [Record(node_id=NodeId("n1"), status=status)]


def test_what_has_left_raft_is_recorded() -> None:
    assert decided(store_of("n1", "n2"), "n1.a") == [Record(node_id=NodeId("n2"), status=None)]


def test_a_demoted_manager_is_taken_out() -> None:
    store = store_of("n1", "n2", "n3")
    wish(store, "n2", NodeRole.WORKER)
    assert decided(store, "n1.a", "n2.a", "n3.a") == [Expel(raft_id="n2.a")]


def test_a_manager_that_was_demoted_while_it_joined_is_taken_out_though_never_recorded() -> None:
    store = store_of("n1")
    apply(store, Create(object=make_node("n2", role=NodeRole.WORKER)))
    assert decided(store, "n1.a", "n2.a") == [Expel(raft_id="n2.a")]


def test_a_member_without_a_node_is_taken_out() -> None:
    assert decided(store_of("n1", "n2"), "n1.a", "n2.a", "gone.a") == [Expel(raft_id="gone.a")]


def test_a_node_that_lost_its_log_and_joined_again_counts_once_as_soon_as_it_answers() -> None:
    store = store_of("n1", "n2")
    both = ("n1.a", "n2.a", "n2.b")
    assert decided(store, *both, silent=("n2.a",)) == [Expel(raft_id="n2.a")]
    assert decided(store, *both, silent=("n2.b",)) == [Expel(raft_id="n2.b")]
    assert decided(store, *both, silent=("n2.a", "n2.b")) == [], "which of them lives is not known yet"


def test_of_two_members_of_an_unrecorded_node_the_one_that_answers_is_recorded() -> None:
    store = store_of("n1")
    apply(store, Create(object=make_node("n2", role=NodeRole.MANAGER)))
    status = ManagerStatus(raft_id=RaftId("n2.b"), addr="n2.b:2377")
    assert decided(store, "n1.a", "n2.a", "n2.b", silent=("n2.a",)) == [
        Record(node_id=NodeId("n2"), status=status)
    ]


# --- that it is carried out


class MeddledProposer(RaftProposer):
    """Before the next proposal somebody else changes something."""

    before_next: Callable[[], None] = staticmethod(lambda: None)

    async def propose(self, batch: Batch) -> Applied:
        before, self.before_next = self.before_next, lambda: None
        before()
        return await super().propose(batch)


@asynccontextmanager
async def running(store: Store, raft: ScriptedRaft, *, epoch: int = 1) -> AsyncIterator[MeddledProposer]:
    await raft.start()
    proposer = MeddledProposer(raft)
    task = asyncio.create_task(Membership(store, proposer, raft, loop_env()).run(epoch=epoch))
    try:
        yield proposer
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@in_virtual_time
async def test_joins_and_leaves_are_recorded_as_they_happen() -> None:
    store = store_of("n1")
    apply(store, Create(object=make_node("n2", role=NodeRole.MANAGER)))
    raft = ScriptedRaft(store, "n1.a")
    async with running(store, raft):
        raft.add("n2.a")
        await until(lambda: raft_id_of(store, "n2") == "n2.a")
        raft.drop("n2.a")
        await until(lambda: raft_id_of(store, "n2") is None)


@in_virtual_time
async def test_a_demoted_follower_leaves_raft_before_its_record_says_so() -> None:
    store = store_of("n1", "n2", "n3")
    raft = ScriptedRaft(store, "n1.a", "n2.a", "n3.a")
    async with running(store, raft) as proposer:
        proposer.before_next = lambda: raft.removals.append("then the record")
        wish(store, "n2", NodeRole.WORKER)
        await until(lambda: raft_id_of(store, "n2") is None)
    assert raft.removals == ["n2.a", "then the record"]


@in_virtual_time
async def test_a_demoted_leader_hands_over_and_does_not_remove_itself() -> None:
    store = store_of("n1", "n2", "n3")
    raft = ScriptedRaft(store, "n1.a", "n2.a", "n3.a")
    async with running(store, raft):
        wish(store, "n1", NodeRole.WORKER)
        await until(lambda: raft.transfers == 1)
    assert raft.removals == []
    assert raft_id_of(store, "n1") == "n1.a"


@in_virtual_time
async def test_a_demotion_that_would_cost_the_quorum_waits_until_it_does_not() -> None:
    store = store_of("n1", "n2", "n3")
    raft = ScriptedRaft(store, "n1.a", "n2.a", "n3.a")
    raft.silence("n3.a")
    async with running(store, raft):
        wish(store, "n2", NodeRole.WORKER)
        await asyncio.sleep(5.0)
        assert raft_id_of(store, "n2") == "n2.a"
        raft.silence()
        await until(lambda: raft_id_of(store, "n2") is None)


@in_virtual_time
async def test_one_change_that_waits_does_not_hold_up_the_others() -> None:
    store = store_of("n1", "n2", "n3")
    apply(store, Create(object=make_node("n4", role=NodeRole.MANAGER)))
    raft = ScriptedRaft(store, "n1.a", "n2.a", "n3.a")
    raft.silence("n3.a")
    wish(store, "n2", NodeRole.WORKER)
    async with running(store, raft):
        await asyncio.sleep(0.1)
        raft.add("n4.a")
        await until(lambda: raft_id_of(store, "n4") == "n4.a")


@in_virtual_time
async def test_a_node_that_is_deleted_under_our_hands_does_not_end_the_loop() -> None:
    store = store_of("n1", "n2", "n3")
    raft = ScriptedRaft(store, "n1.a", "n2.a", "n3.a")
    async with running(store, raft) as proposer:
        proposer.before_next = lambda: apply(store, Delete(kind=Kind.NODE, id="n2"))
        raft.drop("n2.a")
        await until(lambda: store.node(NodeId("n2")) is None)
        wish(store, "n3", NodeRole.WORKER)
        raft.add("n4.a")  # of no node
        await until(lambda: set(raft.removals) == {"n3.a", "n4.a"})


@in_virtual_time
async def test_a_deposed_leaders_record_is_refused() -> None:
    store = store_of("n1")
    apply(store, Create(object=make_node("n2", role=NodeRole.MANAGER)))
    raft = ScriptedRaft(store, "n1.a", "n2.a")
    store.apply_batch(Batch(epoch=7, at=store.node(NodeId("n1")).created_at))  # type: ignore[union-attr]
    async with running(store, raft, epoch=6):
        await asyncio.sleep(3.0)
    assert raft_id_of(store, "n2") is None


def test_who_may_join() -> None:
    store = store_of("n1")
    apply(store, Create(object=make_node("n2", role=NodeRole.WORKER)))
    raft = ScriptedRaft(store, "n1.a")
    membership = Membership(store, RaftProposer(raft), raft, Env())
    membership.check_joiner(NodeId("n1"))
    with pytest.raises(FailedPrecondition, match="promote it first"):
        membership.check_joiner(NodeId("n2"))
    with pytest.raises(PermissionDenied, match="was removed"):
        membership.check_joiner(NodeId("n3"))


def test_a_version_that_cannot_read_the_log_may_not_join() -> None:
    store = store_of("n1")
    cluster = store.cluster()
    assert cluster is not None
    apply(store, Update(object=replace(cluster, store_format=2)))
    raft = ScriptedRaft(store, "n1.a")
    membership = Membership(store, RaftProposer(raft), raft, Env())
    membership.check_joiner(NodeId("n1"), 2)
    membership.check_joiner(NodeId("n1"), 3)
    with pytest.raises(FailedPrecondition, match="too old to be a manager"):
        membership.check_joiner(NodeId("n1"), 1)
