"""The seam between raft and what carries its frames: gRPC in production, a simulated network in tests.

A wire keeps one connection per peer, delivers each connection's frames in order and at most once, and tells
when a connection begins and ends. Whoever is connected has been authenticated as a manager of this cluster
under the raft id that the wire reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from swarmpy.pb import raft_pb2 as pb


class Receiver(Protocol):
    """Raft, as the wire sees it. All calls come from the event loop."""

    @property
    def raft_id(self) -> str: ...

    def peers(self) -> Mapping[str, str]:
        """Addresses of the members that a connection is wanted to, by raft id."""
        ...

    def may_dial(self, peer: str) -> bool:
        """Whether to open the connection from this side, or to wait for the other's."""
        ...

    def connected(self, peer: str) -> None: ...

    def disconnected(self, peer: str) -> None: ...

    def receive(self, peer: str, frame: pb.RaftFrame) -> None: ...

    def removed(self) -> None:
        """A manager of this cluster has said that this one's node was removed from it."""
        ...


class Wire(Protocol):
    async def start(self, receiver: Receiver) -> None: ...

    async def stop(self) -> None: ...

    def send(self, peer: str, frame: pb.RaftFrame) -> bool:
        """Queue a frame; False if there is no connection, or its queue is full and it was given up."""
        ...

    def backlog(self, peer: str) -> int:
        """Bytes queued to ``peer`` that have not left yet."""
        ...

    def drop(self, peer: str) -> None:
        """End the connection to a peer that is no member any more."""
        ...
