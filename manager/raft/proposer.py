"""The seam between the replicated log and everything above it: protocols and values, no library.

A ``RaftLog`` orders opaque entries; a ``StateMachine`` applies them, the same ones in the same order on
every manager. What the log promises:

* an entry whose ``propose`` returned is durable on a majority and applied here (read your writes);
* ``read_barrier`` returns only when the local state holds every write acknowledged before the call;
* every call ends within a named bound, in a result or in an error that says what is known;
* ``OutcomeUnknown`` means exactly that: the entry may appear later, or never.

It does not interpret entries, retry unknown outcomes, or choose who is a member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Member:
    """One voter. ``raft_id`` is drawn afresh for every join and never used again."""

    raft_id: str
    address: str
    is_reachable: bool = True


@dataclass(frozen=True, kw_only=True)
class RaftStatus:
    """What this manager knows of the log at one moment."""

    raft_id: str
    term: int
    leader: str | None
    """Raft id of the leader as far as known here."""
    is_leader: bool
    is_ready_leader: bool
    """Leads, and has applied an entry of its own term: its state holds all that was ever committed."""
    commit: int
    applied: int
    members: tuple[Member, ...]
    is_removed: bool = False
    """This raft id was removed from the cluster for good."""
    fatal: str | None = None
    """Why this manager has stopped acknowledging anything. The process must exit."""

    @property
    def essence(self) -> tuple[object, ...]:
        """What subscribers are told of: all but the indexes and the term."""
        is_leader = (self.leader, self.is_leader, self.is_ready_leader)
        return (*is_leader, self.members, self.is_removed, self.fatal)


class StateMachine(Protocol):
    """What entries are applied to. ``encode`` and ``load`` run in a thread, all else in the event loop."""

    def apply(self, entry: bytes, index: int) -> object:
        """Deterministic; must not raise. The result goes to the local caller of ``propose``, if any."""
        ...

    def freeze(self) -> object:
        """A picture of the state that later ``apply`` calls leave alone: O(n), shallow."""
        ...

    def encode(self, frozen: object) -> Iterator[bytes]:
        """The picture in slices. Runs in a thread; short slices keep the event loop responsive."""
        ...

    def load(self, chunks: Iterable[bytes]) -> object:
        """A whole state from the slices that ``encode`` gave, in their order; the present one stays.

        Runs in a thread, slice by slice as ``encode`` does; raises ``Corrupt``.
        """
        ...

    def adopt(self, loaded: object) -> None:
        """Replace the whole state by one that ``load`` returned. Must not take long."""
        ...


StatusCallback = Callable[[RaftStatus], None]


class RaftLog(Protocol):
    """The replicated log as one manager sees it."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def propose(self, entry: bytes) -> object:
        """What ``apply`` returned here.

        Raises ``NoLeader``, ``Retry`` (queue full), ``InvalidArgument`` (too large) when the entry was
        certainly not taken, and ``OutcomeUnknown``.
        """
        ...

    async def read_barrier(self) -> None:
        """Linearizable reads: see the module's promise. Raises ``NoLeader`` within its bound."""
        ...

    async def add_member(self, member: Member) -> None:
        """Leader only, else ``NotLeader``; one change at a time, else ``Retry``. Returns when committed."""
        ...

    async def remove_member(self, raft_id: str) -> None:
        """As ``add_member``; ``FailedPrecondition`` if the reachable rest would be no quorum."""
        ...

    async def transfer_leadership(self) -> None:
        """Hand leadership to the member that is furthest along; returns when another one leads."""
        ...

    def status(self) -> RaftStatus: ...

    def subscribe(self, callback: StatusCallback) -> Callable[[], None]:
        """Call back in the loop when leader, readiness, members, reachability, removal or ``fatal`` change.

        Returns the function that ends the subscription.
        """
        ...
