"""A raft of one real member and any pretended ones: leadership, members and reach are what a test says."""

from __future__ import annotations

import asyncio

from manager.raft.members import check_removal
from manager.raft.memory import MemoryLog
from manager.raft.proposer import Member, RaftStatus, StateMachine
from swarmpy.errors import FailedPrecondition, NotLeader


class ScriptedRaft(MemoryLog):
    def __init__(self, machine: StateMachine, *raft_ids: str) -> None:
        own, *others = (Member(raft_id=raft_id, address=f"{raft_id}:2377") for raft_id in raft_ids)
        super().__init__(machine, own)
        self._members.update({member.raft_id: member for member in others})
        self.term = 1
        self.is_leading = True
        self._is_running = True
        self.unreachable: set[str] = set()
        self.removals: list[str] = []
        self.transfers = 0

    def lead(self, *, term: int) -> None:
        self.is_leading, self.term = True, term
        self._publish()

    def follow(self, *, term: int) -> None:
        self.is_leading, self.term = False, term
        self._publish()

    def silence(self, *raft_ids: str) -> None:
        """These do not answer, and all others do."""
        self.unreachable = set(raft_ids)
        self._publish()

    def add(self, raft_id: str) -> None:
        self._members[raft_id] = Member(raft_id=raft_id, address=f"{raft_id}:2377")
        self._publish()

    def drop(self, raft_id: str) -> None:
        del self._members[raft_id]
        self._publish()

    async def remove_member(self, raft_id: str) -> None:
        await asyncio.sleep(0)
        if not self.is_leading:
            raise NotLeader(leader=None)
        check_removal(self._members, set(self._members) - self.unreachable, raft_id)
        self.removals.append(raft_id)
        self._members.pop(raft_id, None)
        self._publish()

    async def transfer_leadership(self) -> None:
        await asyncio.sleep(0)
        if not self.is_leading:
            raise NotLeader(leader=None)
        if len(self._members) == 1:
            raise FailedPrecondition("there is no other manager to hand leadership to")
        self.transfers += 1
        self.follow(term=self.term + 1)

    def status(self) -> RaftStatus:
        is_leader = self.is_leading and self._is_running
        members = tuple(
            Member(
                raft_id=member.raft_id,
                address=member.address,
                is_reachable=member.raft_id not in self.unreachable,
            )
            for _, member in sorted(self._members.items())
        )
        return RaftStatus(
            raft_id=self._me.raft_id,
            term=self.term,
            leader=self._me.raft_id if is_leader else None,
            is_leader=is_leader,
            is_ready_leader=is_leader,
            commit=self._index,
            applied=self._index,
            members=members,
        )
