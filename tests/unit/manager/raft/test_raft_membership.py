"""Members that come, go, are removed and come back, one change at a time."""

from __future__ import annotations

import asyncio

import pytest
from raft_rig import FOLDER, Rig

from manager.raft.log import SyncObjLog
from manager.raft.members import QUORUM_TEXT
from manager.raft.proposer import Member, RaftStatus
from manager.raft.state_files import LOG_NAME, SNAPSHOT_NAME
from swarmpy.errors import (
    FailedPrecondition,
    NotLeader,
    Retry,
)

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


def test_a_member_joins_follows_and_leaves() -> None:
    rig = Rig(1, snapshot_entries=10)

    async def scenario() -> None:
        leader = await rig.leader()
        written = await write(leader, 30)
        for name in ("n1", "n2"):
            newcomer = await rig.join(name)
            assert newcomer.is_newcomer
            await leader.add_member(Member(raft_id=name, address=f"{name}:2377"))
        await rig.until(lambda: not any(log.is_newcomer for log in rig.logs.values()))
        await rig.logs["n2"].propose(b"from the newcomer")
        await converged(rig, [*written, b"from the newcomer"])
        assert [m.raft_id for m in rig.logs["n1"].status().members] == ["n0", "n1", "n2"]
        await leader.remove_member("n1")
        await rig.until(lambda: rig.logs["n1"].status().is_removed)
        assert [m.raft_id for m in leader.status().members] == ["n0", "n2"]
        await leader.propose(b"without n1")
        with pytest.raises(FailedPrecondition, match="was removed from the cluster"):
            await leader.add_member(Member(raft_id="n1", address="n1:2377"))

    rig.run(scenario)


def test_a_newcomer_that_nobody_added_does_not_disturb() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        leader = await rig.leader()
        term = leader.status().term
        newcomer = await rig.join("n9")
        await asyncio.sleep(10)
        assert leader.status().is_leader
        assert leader.status().term == term
        assert newcomer.is_newcomer

    rig.run(scenario)


def test_a_removed_member_that_comes_back_is_told_and_does_not_disturb() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        leader = await rig.leader()
        gone = (await rig.follower()).raft_id
        await rig.stop(gone)
        await rig.until(lambda: not reachable(leader.status())[gone])
        await leader.remove_member(gone)
        term = leader.status().term
        back = await rig.start(gone)
        await rig.until(lambda: back.status().is_removed)
        await asyncio.sleep(5)
        assert leader.status().term == term

    rig.run(scenario)


@pytest.mark.parametrize("seed", range(6))
def test_a_running_member_hears_of_its_removal(seed: int) -> None:
    rig = Rig(3, seed=seed)

    async def scenario() -> None:
        leader = await rig.leader()
        gone = rig.random.choice([name for name in rig.names if name != leader.raft_id])
        await rig.until(lambda: all(reachable(leader.status()).values()))
        await leader.remove_member(gone)
        await rig.until(lambda: rig.logs[gone].status().is_removed)

    rig.run(scenario)


def test_one_change_at_a_time_and_only_by_the_leader() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        leader, follower = await rig.leader(), await rig.follower()
        new = [Member(raft_id=name, address=f"{name}:1") for name in ("n7", "n8")]
        with pytest.raises(NotLeader) as caught:
            await follower.add_member(new[0])
        assert caught.value.leader == leader.raft_id
        first = asyncio.create_task(leader.add_member(new[0]))
        await asyncio.sleep(0)
        with pytest.raises(Retry, match="another manager is being added or removed"):
            await leader.add_member(new[1])
        await first

    rig.run(scenario)


def test_a_removal_that_would_cost_the_quorum_is_refused() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        leader = await rig.leader()
        down, up = [name for name in rig.names if name != leader.raft_id]
        await rig.stop(down)
        await rig.until(lambda: not reachable(leader.status())[down])
        with pytest.raises(FailedPrecondition) as caught:
            await leader.remove_member(up)
        assert str(caught.value) == QUORUM_TEXT
        await leader.remove_member(down)

    rig.run(scenario)


def test_a_leader_that_is_to_leave_hands_over_first() -> None:
    rig = Rig(3)

    async def scenario() -> None:
        old = await rig.leader()
        with pytest.raises(NotLeader) as caught:
            await old.remove_member(old.raft_id)
        new = await rig.leader()
        assert caught.value.leader == new.raft_id
        await new.remove_member(old.raft_id)
        await rig.until(lambda: old.status().is_removed)

    rig.run(scenario)


def test_members_survive_restarts_and_snapshots() -> None:
    rig = Rig(1, snapshot_entries=10)

    async def scenario() -> None:
        leader = await rig.leader()
        await rig.join("n1")
        await leader.add_member(Member(raft_id="n1", address="n1:2377"))
        await write(leader, 40)
        for name in ("n0", "n1"):
            await rig.stop(name)
        for name in ("n0", "n1"):
            await rig.start(name)
        members = (await rig.leader()).status().members
        assert [(m.raft_id, m.address) for m in members] == [("n0", "n0:2377"), ("n1", "n1:2377")]

    rig.run(scenario)
