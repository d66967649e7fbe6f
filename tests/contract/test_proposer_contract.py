"""What every ``RaftLog`` must do: PySyncObj on one and on three members, and the log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import pytest
from raft_rig import ListMachine, Rig

from manager.raft.memory import MemoryLog
from manager.raft.proposer import Member, RaftLog, RaftStatus
from swarmpy import limits
from swarmpy.errors import FailedPrecondition, InvalidArgument, Unavailable

Scenario = Callable[[RaftLog, ListMachine], Awaitable[None]]


class Play(Protocol):
    def __call__(self, scenario: Scenario) -> None: ...


def play_in_memory(scenario: Scenario) -> None:
    async def run() -> None:
        machine = ListMachine()
        log = MemoryLog(machine)
        await log.start()
        await scenario(log, machine)
        await log.stop()

    asyncio.run(run())


def play_alone(scenario: Scenario) -> None:
    rig = Rig(1)

    async def run() -> None:
        await scenario(await rig.leader(), rig.machines["n0"])

    rig.run(run)


def play_on_leader(scenario: Scenario) -> None:
    rig = Rig(3)

    async def run() -> None:
        leader = await rig.leader()
        await scenario(leader, rig.machines[leader.raft_id])

    rig.run(run)


def play_on_follower(scenario: Scenario) -> None:
    rig = Rig(3)

    async def run() -> None:
        follower = await rig.follower()
        await scenario(follower, rig.machines[follower.raft_id])

    rig.run(run)


ANYWHERE = [play_in_memory, play_alone, play_on_leader, play_on_follower]
LEADING = [play_in_memory, play_alone, play_on_leader]
ALONE = [play_in_memory, play_alone]


@pytest.mark.parametrize("play", ANYWHERE)
def test_propose_returns_what_apply_returned_here(play: Play) -> None:
    async def scenario(log: RaftLog, machine: ListMachine) -> None:
        first = await log.propose(b"one")
        second = await log.propose(b"two")
        assert machine.entries == [b"one", b"two"]
        assert isinstance(first, tuple)
        assert isinstance(second, tuple)
        assert first[0] < second[0]
        assert (first[1], second[1]) == (1, 2)

    play(scenario)


@pytest.mark.parametrize("play", ANYWHERE)
def test_proposals_at_once_are_all_applied_once(play: Play) -> None:
    async def scenario(log: RaftLog, machine: ListMachine) -> None:
        entries = [b"%d" % i for i in range(200)]
        await asyncio.gather(*(log.propose(entry) for entry in entries))
        assert sorted(machine.entries) == sorted(entries)

    play(scenario)


@pytest.mark.parametrize("play", ANYWHERE)
def test_an_entry_that_fails_to_apply_fails_its_proposer_and_nobody_else(play: Play) -> None:
    async def scenario(log: RaftLog, machine: ListMachine) -> None:
        with pytest.raises(ValueError, match="can't be applied"):
            await log.propose(b"fail")
        await log.propose(b"next")
        assert machine.entries == [b"next"]
        assert log.status().fatal is None

    play(scenario)


@pytest.mark.parametrize("play", ANYWHERE)
def test_an_entry_of_the_largest_size_is_taken_and_a_larger_one_refused(play: Play) -> None:
    async def scenario(log: RaftLog, machine: ListMachine) -> None:
        await log.propose(bytes(limits.ENTRY_BYTES_MAX))
        with pytest.raises(InvalidArgument, match="too large"):
            await log.propose(bytes(limits.ENTRY_BYTES_MAX + 1))
        assert len(machine.entries) == 1

    play(scenario)


@pytest.mark.parametrize("play", ANYWHERE)
def test_a_read_barrier_ends_and_sees_what_was_written(play: Play) -> None:
    async def scenario(log: RaftLog, machine: ListMachine) -> None:
        await log.propose(b"one")
        await log.read_barrier()
        assert machine.entries == [b"one"]

    play(scenario)


@pytest.mark.parametrize("play", LEADING)
def test_status_of_a_leader(play: Play) -> None:
    async def scenario(log: RaftLog, machine: ListMachine) -> None:
        await log.propose(b"one")
        status = log.status()
        assert status.is_leader
        assert status.is_ready_leader
        assert status.leader == status.raft_id
        assert status.applied == status.commit > 0
        assert status.raft_id in {member.raft_id for member in status.members}
        assert status.fatal is None
        assert not status.is_removed

    play(scenario)


@pytest.mark.parametrize("play", ALONE)
def test_the_last_member_stays(play: Play) -> None:
    async def scenario(log: RaftLog, machine: ListMachine) -> None:
        with pytest.raises(FailedPrecondition, match="last manager"):
            await log.remove_member(log.status().raft_id)
        with pytest.raises(FailedPrecondition, match="no other manager"):
            await log.transfer_leadership()

    play(scenario)


@pytest.mark.parametrize("play", LEADING)
def test_members_that_are_in_or_out_already_are_left_alone(play: Play) -> None:
    async def scenario(log: RaftLog, machine: ListMachine) -> None:
        before = log.status().members
        await log.add_member(Member(raft_id=log.status().raft_id, address="elsewhere:1"))
        await log.remove_member("nobody")
        assert log.status().members == before

    play(scenario)


@pytest.mark.parametrize("play", ANYWHERE)
def test_a_stopped_log_says_so(play: Play) -> None:
    async def scenario(log: RaftLog, machine: ListMachine) -> None:
        seen: list[RaftStatus] = []
        log.subscribe(seen.append)
        await log.stop()
        with pytest.raises(Unavailable):
            await log.propose(b"late")
        with pytest.raises(Unavailable):
            await log.read_barrier()
        assert log.status().leader is None

    play(scenario)


@pytest.mark.parametrize("play", LEADING)
def test_an_ended_subscription_hears_nothing(play: Play) -> None:
    async def scenario(log: RaftLog, machine: ListMachine) -> None:
        seen: list[RaftStatus] = []
        end = log.subscribe(seen.append)
        end()
        end()
        await log.propose(b"one")
        await log.stop()
        await asyncio.sleep(0)
        assert seen == []

    play(scenario)
