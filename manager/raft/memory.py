"""A log of one manager that keeps nothing: for tests of what stands above the seam.

Same seam, same errors, no disk, no elections: every entry is applied at once, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from manager.raft.members import check_removal
from manager.raft.proposer import Member, RaftStatus, StateMachine, StatusCallback
from swarmpy import limits
from swarmpy.errors import FailedPrecondition, InvalidArgument, Unavailable


class MemoryLog:
    """``RaftLog`` in memory."""

    def __init__(self, machine: StateMachine, member: Member | None = None) -> None:
        self._machine = machine
        self._me = member or Member(raft_id="memory", address="127.0.0.1:2377")
        self._members = {self._me.raft_id: self._me}
        self._index = 0
        self._is_running = False
        self._subscribers: dict[StatusCallback, None] = {}

    async def start(self) -> None:
        self._is_running = True
        self._publish()

    async def stop(self) -> None:
        self._is_running = False
        self._publish()

    async def propose(self, entry: bytes) -> object:
        if len(entry) > limits.ENTRY_BYTES_MAX:
            raise InvalidArgument(f"the change is too large for one transaction: {len(entry)} bytes")
        await asyncio.sleep(0)
        self._check_running()
        self._index += 1
        result = self._machine.apply(entry, self._index)
        if isinstance(result, Exception):
            raise result
        return result

    async def read_barrier(self) -> None:
        await asyncio.sleep(0)
        self._check_running()

    async def add_member(self, member: Member) -> None:
        self._check_running()
        self._members.setdefault(member.raft_id, member)
        self._publish()

    async def remove_member(self, raft_id: str) -> None:
        self._check_running()
        if raft_id not in self._members:
            return
        check_removal(self._members, self._members, raft_id)
        del self._members[raft_id]
        self._publish()

    async def transfer_leadership(self) -> None:
        self._check_running()
        raise FailedPrecondition("there is no other manager to hand leadership to")

    def status(self) -> RaftStatus:
        return RaftStatus(
            raft_id=self._me.raft_id,
            term=1,
            leader=self._me.raft_id if self._is_running else None,
            is_leader=self._is_running,
            is_ready_leader=self._is_running,
            commit=self._index,
            applied=self._index,
            members=tuple(self._members[raft_id] for raft_id in sorted(self._members)),
        )

    def subscribe(self, callback: StatusCallback) -> Callable[[], None]:
        self._subscribers[callback] = None
        return lambda: self._subscribers.pop(callback, None)

    def _publish(self) -> None:
        loop = asyncio.get_running_loop()
        for callback in self._subscribers:
            loop.call_soon(callback, self.status())

    def _check_running(self) -> None:
        if not self._is_running:
            raise Unavailable("this manager is stopping")
