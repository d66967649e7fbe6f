"""An agent that calls a manager which does not lead: told who does, or kept waiting while nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from agent_rig import in_virtual_time

from manager.leader import Leader
from manager.raft.proposer import Member, RaftLog, RaftStatus, StatusCallback
from manager.servicers import DispatcherServicer
from swarmpy.limits import LEADER_WAIT_S
from swarmpy.pb import dispatcher_pb2

MEMBERS = (Member(raft_id="a.1", address="a:2377"), Member(raft_id="b.1", address="b:2377"))


@dataclass
class Raft:
    leader: str | None = None
    told: list[StatusCallback] = field(default_factory=list)

    def status(self) -> RaftStatus:
        return RaftStatus(
            raft_id="a.1",
            term=1,
            leader=self.leader,
            is_leader=False,
            is_ready_leader=False,
            commit=1,
            applied=1,
            members=MEMBERS,
        )

    def subscribe(self, callback: StatusCallback) -> Any:
        self.told.append(callback)

    def elect(self, leader: str) -> None:
        self.leader = leader
        for callback in self.told:
            callback(self.status())


class Call:
    def __init__(self) -> None:
        self.heard: list[dispatcher_pb2.ManagerMessage] = []

    async def write(self, message: dispatcher_pb2.ManagerMessage) -> None:
        self.heard.append(message)


async def nothing() -> AsyncIterator[dispatcher_pb2.AgentMessage]:
    return
    yield


def make(raft: Raft) -> DispatcherServicer:
    return DispatcherServicer(cast("Leader", SimpleNamespace(term=None)), cast("RaftLog", raft))


async def greet(servicer: DispatcherServicer) -> tuple[str, float]:
    """The address that the agent is sent to, and how long it had to wait."""
    call, began = Call(), asyncio.get_running_loop().time()
    await servicer.Session(nothing(), cast("Any", call))
    (message,) = call.heard
    return message.redirect.leader_addr, asyncio.get_running_loop().time() - began


@in_virtual_time
async def test_the_leader_is_named_at_once() -> None:
    assert await greet(make(Raft(leader="b.1"))) == ("b:2377", 0.0)


@in_virtual_time
async def test_while_nobody_leads_agents_wait_and_hear_of_the_new_leader_together() -> None:
    raft = Raft()
    servicer = make(raft)
    asyncio.get_running_loop().call_later(0.2, raft.elect, "b.1")
    answers = await asyncio.gather(*(greet(servicer) for _ in range(100)))
    assert {address for address, _ in answers} == {"b:2377"}
    assert [waited for _, waited in answers] == pytest.approx([0.2] * 100)


@in_virtual_time
async def test_nobody_waits_for_long() -> None:
    address, waited = await greet(make(Raft()))
    assert address == ""
    assert waited == pytest.approx(LEADER_WAIT_S)
