"""One thing going wrong at a time: what callers are told, and that nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os

import pytest
from clusters import Firing
from raft_rig import FOLDER, ListMachine, Rig

from manager.raft.journal import Identity
from manager.raft.log import SyncObjLog
from manager.raft.proposer import Member, RaftStatus
from manager.raft.recover import Survivor
from manager.raft.sealing import KEY_BYTES, AesGcmSealer
from manager.raft.state_files import LOG_NAME, SNAPSHOT_NAME, create
from swarmpy import limits
from swarmpy.errors import (
    Corrupt,
    FailedPrecondition,
    InvalidArgument,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    Retry,
    Unavailable,
)
from swarmpy.pb import raft_pb2 as pb
from swarmpy.runtime import SystemEntropy

LOG = FOLDER / LOG_NAME
SNAPSHOT = FOLDER / SNAPSHOT_NAME


async def write(log: SyncObjLog, count: int, start: int = 0) -> list[bytes]:
    entries = [b"%d" % number for number in range(start, start + count)]
    for entry in entries:
        await log.propose(entry)
    return entries


async def converged(rig: Rig, entries: list[bytes]) -> None:
    await rig.until(lambda: all(rig.machines[name].entries == entries for name in rig.logs))


def reachable(status: RaftStatus) -> dict[str, bool]:
    return {member.raft_id: member.is_reachable for member in status.members}


# --- leadership


def test_a_single_member_leads_at_once() -> None:
    rig = Rig(1)

    async def scenario() -> None:
        began = rig.loop.time()
        await rig.logs["n0"].propose(b"one")
        assert rig.loop.time() - began < 0.1

    rig.run(scenario)


def test_the_one_that_is_left_of_two_names_no_leader() -> None:
    """It can't be elected alone, and the library goes on naming whom it heard last."""
    rig = Rig(2)

    async def scenario() -> None:
        follower, leader = await rig.follower(), await rig.leader()
        await rig.stop(leader.raft_id)
        await rig.until(lambda: follower.status().leader is None)
        with pytest.raises(NoLeader):
            await follower.propose(b"nobody takes this")

    rig.run(scenario)


def test_a_cut_off_leader_acknowledges_nothing_and_the_rest_goes_on() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        old = await rig.leader()
        written = await write(old, 3)
        rig.cut_off(old.raft_id)
        lost = asyncio.create_task(old.propose(b"into the void"))
        read = asyncio.create_task(old.read_barrier())
        await rig.until(lambda: not old.status().is_leader)
        with pytest.raises(OutcomeUnknown):
            await lost
        with pytest.raises(NoLeader):
            await read
        del rig.logs[old.raft_id]
        new = await rig.leader()
        written += await write(new, 3, start=10)
        rig.logs[old.raft_id] = old
        rig.network.heal()
        await converged(rig, written)

    rig.run(scenario)


def test_without_a_quorum_every_call_ends_in_time() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        follower = await rig.follower()
        for name in [name for name in rig.names if name != follower.raft_id]:
            await rig.stop(name)
        began = rig.loop.time()
        with pytest.raises((OutcomeUnknown, NoLeader)):
            await follower.propose(b"nobody listens")
        with pytest.raises(NoLeader, match="The swarm does not have a leader"):
            await follower.propose(b"nobody listens")
        with pytest.raises(NoLeader):
            await follower.read_barrier()
        assert rig.loop.time() - began < 2 * limits.READ_BARRIER_TIMEOUT_S + limits.PROPOSE_TIMEOUT_S

    rig.run(scenario)


def test_leadership_is_handed_over() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        old = await rig.leader()
        await write(old, 5)
        await old.transfer_leadership()
        assert not old.status().is_leader
        new = await rig.leader()
        assert new is not old
        with pytest.raises(NotLeader) as caught:
            await old.transfer_leadership()
        assert caught.value.leader == new.raft_id
        await old.propose(b"through the former leader")

    rig.run(scenario)


def test_subscribers_hear_of_leaders_and_reachability() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        leader = await rig.leader()
        seen: list[RaftStatus] = []
        leader.subscribe(seen.append)
        gone = next(name for name in rig.names if name != leader.raft_id)
        await rig.stop(gone)
        expected = {name: name != gone for name in rig.names}
        await rig.until(lambda: bool(seen) and reachable(seen[-1]) == expected)

    rig.run(scenario)


# --- the disk


def test_a_full_disk_stops_the_member_and_loses_nothing() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        leader = await rig.leader()
        seen: list[RaftStatus] = []
        leader.subscribe(seen.append)
        written = await write(leader, 5)
        rig.disks[leader.raft_id].fill_up(10)
        with pytest.raises(OutcomeUnknown, match="No space left on device"):
            await leader.propose(b"no room")
        await rig.until(lambda: bool(seen) and str(LOG) in (seen[-1].fatal or ""))
        assert not leader.status().is_leader
        with pytest.raises(Unavailable, match="No space left"):
            await leader.propose(b"still no room")
        await rig.stop(leader.raft_id)
        survivor = await rig.leader()
        await survivor.read_barrier()
        assert rig.machines[survivor.raft_id].entries[:5] == written

    rig.run(scenario)


def test_a_follower_with_a_full_disk_acknowledges_nothing() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        follower = await rig.follower()
        rig.disks[follower.raft_id].fill_up(0)
        leader = await rig.leader()
        await write(leader, 3)
        await rig.until(lambda: follower.status().fatal is not None)
        assert len(leader.status().members) == 3

    rig.run(scenario)


def test_after_a_power_cut_everything_acknowledged_is_there() -> None:
    rig = Rig(3, snapshot_entries=20)

    async def scenario() -> None:
        written = await write(await rig.leader(), 70)
        for name in rig.names:
            rig.logs[name]._fail("power cut")
            await rig.logs.pop(name).stop()
            rig.disks[name].crash()
            rig.disks[name] = rig.disks[name].reopen()
        for name in rig.names:
            await rig.start(name)
        leader = await rig.leader()
        await leader.read_barrier()
        assert rig.machines[leader.raft_id].entries == written
        await converged(rig, written)

    rig.run(scenario)


@pytest.mark.parametrize("lost", [LOG, SNAPSHOT])
def test_a_log_without_its_snapshot_and_the_reverse_are_refused(lost: object) -> None:
    rig = Rig(1, snapshot_entries=10)

    async def scenario() -> None:
        await write(rig.logs["n0"], 30)
        await rig.stop("n0")
        rig.disks["n0"].remove(LOG if lost is LOG else SNAPSHOT)
        with pytest.raises(Corrupt, match=str(lost)):
            await rig.start("n0")

    rig.run(scenario)


def test_a_damaged_snapshot_is_refused_at_start() -> None:
    rig = Rig(1, snapshot_entries=10)

    async def scenario() -> None:
        await write(rig.logs["n0"], 30)
        await rig.stop("n0")
        rig.disks["n0"].damage(SNAPSHOT, len(rig.disks["n0"].read(SNAPSHOT)) // 2)
        with pytest.raises(Corrupt, match=str(SNAPSHOT)):
            await rig.start("n0")

    rig.run(scenario)


def test_a_fault_point_makes_a_snapshot_before_it_is_due() -> None:
    rig = Rig(1)

    async def scenario() -> None:
        await write(rig.logs["n0"], 5)
        assert not rig.disks["n0"].exists(SNAPSHOT)
        rig.fault_point = Firing("raft.snapshot_early")
        await rig.until(lambda: rig.disks["n0"].exists(SNAPSHOT))
        written = await write(rig.logs["n0"], 5)
        await rig.stop("n0")
        await rig.start("n0")
        await rig.leader()
        assert rig.machines["n0"].entries[-5:] == written

    rig.run(scenario)


def test_a_fault_point_loses_the_answer_to_a_proposal_but_not_the_entry() -> None:
    rig = Rig(1)

    async def scenario() -> None:
        log = await rig.leader()
        rig.fault_point = Firing("raft.answer_lost")
        with pytest.raises(OutcomeUnknown):
            await log.propose(b"one")
        await log.propose(b"two")
        assert rig.machines["n0"].entries == [b"one", b"two"]

    rig.run(scenario)


def test_a_folder_is_used_for_one_cluster_only() -> None:
    rig = Rig(1)
    with pytest.raises(FailedPrecondition, match="leave that swarm first"):
        create(rig.disks["n0"], FOLDER, Identity(raft_id="n9", members=()), rig.config.sealer)
    rig.loop.close()


def test_sealed_members_agree_and_restart() -> None:
    rig = Rig(3, snapshot_entries=10, sealer=AesGcmSealer(os.urandom(KEY_BYTES), SystemEntropy()))

    async def scenario() -> None:
        written = await write(await rig.leader(), 40)
        for name in rig.names:
            await rig.stop(name)
            assert b"39" not in rig.disks[name].read(LOG)
        for name in rig.names:
            await rig.start(name)
        await converged(rig, written)

    rig.run(scenario)


# --- lagging members


def test_a_member_that_was_away_for_long_gets_a_snapshot() -> None:
    rig = Rig(3, snapshot_entries=10)

    async def scenario() -> None:
        away = (await rig.follower()).raft_id
        await rig.stop(away)
        written = await write(await rig.leader(), 60)
        await rig.start(away)
        await converged(rig, written)
        assert rig.machines[away].restores == 1

    rig.run(scenario)


def test_a_proposal_whose_answer_is_lost_ends_as_unknown_at_once() -> None:
    rig = Rig(3, snapshot_entries=10)

    async def scenario() -> None:
        follower, leader = await rig.follower(), await rig.leader()
        rig.network.slow[(leader.raft_id, follower.raft_id)] = 100.0
        stuck = asyncio.create_task(follower.propose(b"stuck"))
        await rig.until(lambda: b"stuck" in rig.machines[leader.raft_id].entries)
        cut_at = rig.loop.time()
        rig.cut_off(follower.raft_id)
        with pytest.raises(OutcomeUnknown):
            await stuck
        assert rig.loop.time() == cut_at
        await write(leader, 60)
        rig.network.slow.clear()
        rig.network.heal()
        await converged(rig, rig.machines[leader.raft_id].entries)
        assert rig.machines[follower.raft_id].restores == 1

    rig.run(scenario)


# --- what peers may not do


def test_a_malformed_frame_ends_the_connection_and_nothing_else() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        leader, follower = await rig.leader(), await rig.follower()
        bad = pb.RaftFrame(append=pb.RaftAppend(term=99, terms=[1], commands=[b"\x80\x04evil"]))
        leader.receive(follower.raft_id, bad)
        assert leader.status().fatal is None
        await leader.propose(b"still alive")

    rig.run(scenario)


def test_a_peer_can_not_forward_a_membership_change() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        leader, follower = await rig.leader(), await rig.follower()
        change = pb.RaftMembership(op=pb.RaftMembership.OP_REMOVE, member=pb.RaftMember(raft_id="n0"))
        proposal = pb.RaftProposal(command=b"\x02" + change.SerializeToString(), request_id=1)
        leader.receive(follower.raft_id, pb.RaftFrame(proposal=proposal))
        await leader.propose(b"one")
        assert len(leader.status().members) == 3

    rig.run(scenario)


def test_too_many_proposals_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(1)
    monkeypatch.setattr(limits, "RAFT_PROPOSALS_MAX", 5)

    async def scenario() -> None:
        log = await rig.leader()
        calls = [asyncio.create_task(log.propose(b"x")) for _ in range(8)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [result for result in results if isinstance(result, Retry)]
        assert len(refused) == 3
        with pytest.raises(InvalidArgument):
            await log.propose(bytes(limits.ENTRY_BYTES_MAX + 1))
        await log.propose(b"room again")

    rig.run(scenario)


# --- a new cluster by force


def test_a_survivor_leads_alone_and_keeps_everything() -> None:
    rig = Rig(3, snapshot_entries=10)

    async def scenario() -> None:
        leader = await rig.leader()
        written = await write(leader, 47)
        await converged(rig, written)
        survivor = (await rig.follower()).raft_id
        for name in rig.names:
            await rig.stop(name)
        for raft_id in ("n0a", "n0b"):  # it may be done again, before it was ever started
            me = Member(raft_id=raft_id, address="n0b:2377")
            stopped = Survivor(rig.disks[survivor], FOLDER, rig.config.sealer, ListMachine())
            stopped.stand_alone(me)
            stopped.close()
        rig.disks["n0b"] = rig.disks[survivor]
        alone = await rig.start("n0b")
        await alone.read_barrier()
        assert rig.machines["n0b"].entries == written
        assert alone.status().members == (Member(raft_id="n0b", address="n0b:2377"),)
        others = [name for name in rig.names if name != survivor]
        for name in others:
            await rig.start(name)
        await asyncio.sleep(5)
        assert alone.status().is_leader
        assert [m.raft_id for m in alone.status().members] == ["n0b"]
        await rig.join("n5", alone)
        await alone.add_member(Member(raft_id="n5", address="n5:2377"))
        for name in others:
            await rig.stop(name)
        await converged(rig, written)

    rig.run(scenario)


def test_the_state_machine_sees_indexes_that_grow() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        leader = await rig.leader()
        results = [await leader.propose(b"x") for _ in range(3)]
        indexes = [result[0] for result in results if isinstance(result, tuple)]
        assert indexes == sorted(set(indexes))
        assert isinstance(rig.machines[leader.raft_id], ListMachine)

    rig.run(scenario)
