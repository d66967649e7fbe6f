"""Streams to nodes from any manager: through the hub here if this one leads, else through the leader's.

A leader that is not there yet is waited for a moment, as long as nothing was begun. Once a stream is open,
losing the leader ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio

from manager.leader import Leader
from manager.raft.proposer import RaftLog
from manager.servicers import leader_address
from manager.streams import LEADER_CHANGED, NodeStream, require
from swarmpy import rpc
from swarmpy.errors import NoLeader, NotLeader, OutcomeUnknown, Unavailable
from swarmpy.limits import READ_BARRIER_TIMEOUT_S, STREAM_CALL_TIMEOUT_S
from swarmpy.model.ids import NodeId
from swarmpy.pb import streams_pb2, streams_pb2_grpc

Dial = Callable[[str], grpc.aio.Channel]


class NodeStreams:
    """What the API uses."""

    def __init__(self, raft: RaftLog, leader: Leader, *, dial: Dial) -> None:
        self._raft = raft
        self._leader = leader
        self._dial = dial

    async def call(self, node_id: NodeId, name: str, body: bytes) -> bytes:
        """One question, one answer. Raises the node's error, or Unavailable if it cannot be asked."""
        try:
            async with asyncio.timeout(STREAM_CALL_TIMEOUT_S), self._opened(node_id, name, body) as stream:
                return require(await stream.receive()).result.body
        except TimeoutError:
            raise Unavailable(
                f'node {node_id} did not answer "{name}" in {STREAM_CALL_TIMEOUT_S:g} s: whether it did what '
                "was asked is unknown"
            ) from None

    @asynccontextmanager
    async def open(self, node_id: NodeId, name: str, body: bytes) -> AsyncIterator[NodeStream]:
        """A stream that the node has accepted; the node's refusal is raised."""
        async with self._opened(node_id, name, body) as stream:
            stream.accepted = require(await stream.receive()).accepted
            yield stream

    @asynccontextmanager
    async def _opened(self, node_id: NodeId, name: str, body: bytes) -> AsyncIterator[NodeStream]:
        start = streams_pb2.StreamStart(node_id=node_id, name=name, body=body)
        async with AsyncExitStack() as stack:
            yield await self._reach(start, stack)

    async def _reach(self, start: streams_pb2.StreamStart, stack: AsyncExitStack) -> NodeStream:
        """Through the leader, which may have to be waited for."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READ_BARRIER_TIMEOUT_S
        while True:
            term = self._leader.term
            try:
                if term is not None:
                    return await stack.enter_async_context(term.streams.open(start))
                address = leader_address(self._raft)
                if not address:
                    raise NoLeader
                channel = await stack.enter_async_context(self._dial(address))
                return await stack.enter_async_context(_remote(channel, start))
            except (NoLeader, NotLeader) as error:
                if loop.time() >= deadline:
                    raise NoLeader from error
                await asyncio.sleep(error.delay_s)


class _RemoteStream:
    """The client's end of a stream that the leader holds."""

    def __init__(self, call: grpc.aio.StreamStreamCall) -> None:  # type: ignore[type-arg]
        self._call = call
        self.accepted = streams_pb2.StreamAccepted()

    async def send(self, part: streams_pb2.StreamPart) -> None:
        try:
            with rpc.translate_errors():
                await self._call.write(part)
        except (Unavailable, OutcomeUnknown, asyncio.InvalidStateError):
            return  # it has ended: what is received says how

    async def receive(self) -> streams_pb2.StreamPart | None:
        try:
            with rpc.translate_errors():
                part = await self._call.read()
        except OutcomeUnknown as error:
            raise Unavailable(LEADER_CHANGED) from error
        return part if isinstance(part, streams_pb2.StreamPart) else None


@asynccontextmanager
async def _remote(channel: grpc.aio.Channel, start: streams_pb2.StreamStart) -> AsyncIterator[NodeStream]:
    """Returns once the leader has taken the start up: a manager that does not lead says so first."""
    call = streams_pb2_grpc.StreamsStub(channel).Open()
    try:
        with rpc.translate_errors():
            await call.write(streams_pb2.StreamPart(start=start))
            head = await call.read()
        if not isinstance(head, streams_pb2.StreamPart) or not head.HasField("attend"):
            raise Unavailable("the leader ended the stream before it had begun")
        yield _RemoteStream(call)
    finally:
        call.cancel()
