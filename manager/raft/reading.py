"""Read indexes for callers on any manager: one question to the leader at a time, shared by all who wait.

A caller that comes while a question is under way waits for the next one, because an answer covers only what
was asked before it was given. On the leader itself the question goes to its own ``ReadIndex``.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools

from manager.raft.syncobj import SyncObjCore
from swarmpy.limits import RAFT_ELECTION_MIN_S


class ReadRounds:
    def __init__(self, core: SyncObjCore, loop: asyncio.AbstractEventLoop) -> None:
        self._core, self._loop = core, loop
        self._numbers = itertools.count(1)
        self._next: list[asyncio.Future[int]] = []
        self._round: list[asyncio.Future[int]] = []
        self._round_number = 0
        self._round_ends_at = 0.0
        self._appliers: list[tuple[int, int, asyncio.Future[None]]] = []

    def ask(self, leader: str | None) -> asyncio.Future[int]:
        """A read index as of now, or 0 if the leader could not be asked or did not prove that it leads."""
        future: asyncio.Future[int] = self._loop.create_future()
        self._next.append(future)
        if not self._round:
            self._begin(leader)
        return future

    def answered(self, number: int, index: int) -> None:
        if number == self._round_number:
            self._end_round(index)

    def applied(self, index: int) -> asyncio.Future[None]:
        """Done once this manager has applied ``index``."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self._core.applied_index >= index:
            future.set_result(None)
        else:
            heapq.heappush(self._appliers, (index, next(self._numbers), future))
        return future

    def advance(self) -> None:
        """After a tick: more may be applied."""
        while self._appliers and self._appliers[0][0] <= self._core.applied_index:
            future = heapq.heappop(self._appliers)[2]
            if not future.done():
                future.set_result(None)

    def expire(self) -> None:
        """Give up a round whose answer is lost."""
        if self._round and self._loop.time() >= self._round_ends_at:
            self.fail_round()

    def fail_round(self) -> None:
        self._end_round(0)

    def fail_all(self) -> None:
        waiting, self._next = self._next, []
        self._end_round(0)
        _resolve(waiting, 0)

    def _begin(self, leader: str | None) -> None:
        self._round, self._next = self._next, []
        self._round_number = number = next(self._numbers)
        self._round_ends_at = self._loop.time() + RAFT_ELECTION_MIN_S
        if self._core.is_leader:
            self._core.read_index(functools.partial(self.answered, number))
        elif leader is None or not self._core.transport.ask_read_index(leader, number):
            self._loop.call_soon(self.answered, number, 0)

    def _end_round(self, index: int) -> None:
        self._round_number = 0
        finished, self._round = self._round, []
        _resolve(finished, index)
        if self._next:
            self._begin(self._core.leader)


def _resolve(futures: list[asyncio.Future[int]], index: int) -> None:
    for future in futures:
        if not future.done():
            future.set_result(index)
