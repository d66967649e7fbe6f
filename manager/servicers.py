"""The gRPC shells of the dispatcher and of the streams: thin, they only pass on.

They live as long as the manager; the Term they pass on to changes with leadership. An agent that calls a
manager which does not lead is told who does. While nobody leads it is kept waiting for a moment: sent away at
once it would dial the next manager, and the handshakes of all agents would burden just those who elect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol

from manager.leader import Leader, Term
from manager.raft.proposer import RaftLog, RaftStatus
from manager.streams import NodeStream
from swarmpy.errors import InvalidArgument, NotLeader
from swarmpy.limits import LEADER_WAIT_S
from swarmpy.pb import dispatcher_pb2, dispatcher_pb2_grpc, streams_pb2, streams_pb2_grpc
from swarmpy.rpc import Context, peer_host, peer_of


class StreamContext(Context, Protocol):
    """A bidirectional call that writes as it pleases."""

    async def write(self, message: Any) -> None: ...


class DispatcherServicer(dispatcher_pb2_grpc.DispatcherServicer):
    def __init__(self, leader: Leader, raft: RaftLog) -> None:
        self._leader = leader
        self._raft = raft
        self._news = asyncio.Event()
        raft.subscribe(self._tell)

    def _tell(self, status: RaftStatus) -> None:
        """Wake everybody who waits for a leader."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _wait_leader(self) -> None:
        try:
            async with asyncio.timeout(LEADER_WAIT_S):
                while self._leader.term is None and not leader_address(self._raft):
                    await self._news.wait()
        except TimeoutError:
            pass  # the agent may look for itself

    async def Session(  # type: ignore[override]  # noqa: N802 - the name is the wire's
        self, request_iterator: AsyncIterator[dispatcher_pb2.AgentMessage], context: StreamContext
    ) -> None:
        await self._wait_leader()
        term = self._leader.term
        if term is None:
            redirect = dispatcher_pb2.Redirect(leader_addr=leader_address(self._raft))
            await context.write(dispatcher_pb2.ManagerMessage(redirect=redirect))
            return
        peer = peer_of(context)
        await term.dispatcher.serve(
            peer.node_id, peer_host(context), messages=request_iterator, send=context.write
        )


class StreamsServicer(streams_pb2_grpc.StreamsServicer):
    def __init__(self, leader: Leader, raft: RaftLog) -> None:
        self._leader = leader
        self._raft = raft

    async def PublishLogs(  # noqa: N802
        self, request_iterator: AsyncIterator[streams_pb2.LogBatch], context: Context
    ) -> streams_pb2.PublishLogsSummary:
        lines = await self._term().log_hub.publish(peer_of(context).node_id, request_iterator)
        return streams_pb2.PublishLogsSummary(lines=lines)

    async def SubscribeLogs(  # noqa: N802
        self, request: dispatcher_pb2.LogSelector, context: Context
    ) -> AsyncIterator[streams_pb2.LogBatch]:
        async with aclosing(self._term().log_hub.subscribe(request)) as batches:
            async for batch in batches:
                yield batch

    async def Attend(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[streams_pb2.StreamPart], context: StreamContext
    ) -> None:
        first = await anext(request_iterator, None)
        name = first.attend if first is not None else ""
        node_id = peer_of(context).node_id
        await self._term().streams.attend(node_id, name, request_iterator, context.write)

    async def Open(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[streams_pb2.StreamPart], context: StreamContext
    ) -> None:
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("start"):
            raise InvalidArgument("a stream begins with its start")
        async with self._term().streams.open(first.start) as stream:
            await context.write(streams_pb2.StreamPart(attend=first.start.node_id))  # it is open
            reading = asyncio.create_task(_pass_on(request_iterator, stream))
            try:
                while (part := await stream.receive()) is not None:
                    await context.write(part)
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    def _term(self) -> Term:
        if self._leader.term is None:
            raise NotLeader(leader=self._raft.status().leader)
        return self._leader.term


async def _pass_on(parts: AsyncIterator[streams_pb2.StreamPart], stream: NodeStream) -> None:
    async for part in parts:
        await stream.send(part)


def leader_address(raft: RaftLog) -> str:
    """``host:port`` of the leader; empty while none is known."""
    status = raft.status()
    for member in status.members:
        if member.raft_id == status.leader:
            return member.address
    return ""
