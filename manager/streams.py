"""Streams between clients and nodes, at the leader: commands in tasks, copies, calls with one answer.

The node is asked over its session to attend a stream, and comes with a call of its own, so nodes need no
inbound port. ``open`` is the client's end, ``attend`` the node's; between them lie two bounded lanes, so each
side waits for the other. A stream lives as long as both ends and the term: a node that goes away, or a leader
that leads no more, ends it with a sentence that says so; a client that leaves ends the node's call, and the
node what it was doing.

Which client may open what is the API's to decide; a node attends what it was asked for and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from manager.dispatcher import Dispatcher
from manager.lane import Lane
from manager.session import Session
from manager.store.view import View
from swarmpy.errors import NotFound, SwarmError, Unavailable
from swarmpy.limits import STREAM_BODY_BYTES_MAX, STREAM_LOOK_S, STREAM_OPEN_TIMEOUT_S, STREAMS_MAX
from swarmpy.model.ids import ID_BYTES, NodeId, make_id
from swarmpy.pb import dispatcher_pb2, streams_pb2
from swarmpy.rpc_errors import error_named
from swarmpy.runtime import Env

LEADER_CHANGED = "the stream has ended: the leader of the swarm has changed, ask again"
_NO_ROOM = "too many streams to nodes are open on this manager; close some and try again"
_LAST = ("result", "failure")

Send = Callable[[streams_pb2.StreamPart], Awaitable[None]]


class NodeStream(Protocol):
    """The client's end of a stream to a node."""

    accepted: streams_pb2.StreamAccepted
    """What the node said as it began."""

    async def send(self, part: streams_pb2.StreamPart) -> None:
        """Waits while the node takes no more; dropped once the stream has ended."""
        ...

    async def receive(self) -> streams_pb2.StreamPart | None:
        """What the node says; None after its last part. Raises what the stream broke with."""
        ...


@dataclass(kw_only=True)
class _Stream:
    node_id: NodeId
    start: streams_pb2.StreamStart
    down: Lane = field(default_factory=Lane)
    up: Lane = field(default_factory=Lane)
    attended: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    accepted: streams_pb2.StreamAccepted = field(default_factory=streams_pb2.StreamAccepted)

    async def send(self, part: streams_pb2.StreamPart) -> None:
        await self.down.put(part)

    async def receive(self) -> streams_pb2.StreamPart | None:
        return await self.up.take()

    def close(self, error: SwarmError | None = None) -> None:
        self.down.close()
        self.up.close(error)
        self.attended.set()
        self.closed.set()


class StreamHub:
    """For one term of leadership."""

    def __init__(self, view: View, dispatcher: Dispatcher, env: Env) -> None:
        self._view = view
        self._dispatcher = dispatcher
        self._env = env
        self._streams: dict[str, _Stream] = {}
        self._is_over = False

    def __len__(self) -> int:
        return len(self._streams)

    def close(self) -> None:
        """The term is over: every stream ends, and its client is told why."""
        self._is_over = True
        for stream in self._streams.values():
            stream.close(Unavailable(LEADER_CHANGED))

    @asynccontextmanager
    async def open(self, start: streams_pb2.StreamStart) -> AsyncIterator[NodeStream]:
        """A stream that the node attends. Unavailable if it does not."""
        if self._is_over:
            raise Unavailable("the leader of the swarm is changing: try again")
        if len(self._streams) >= STREAMS_MAX:
            raise Unavailable(_NO_ROOM, delay_s=1.0)
        if len(start.body) > STREAM_BODY_BYTES_MAX:
            raise Unavailable(f"a request to a node may have {STREAM_BODY_BYTES_MAX} bytes at most")
        node_id = NodeId(start.node_id)
        if self._dispatcher.session_of(node_id) is None:
            raise Unavailable(
                f"node {self._name(node_id)} is not available: it has no session with the leader"
            )
        stream = _Stream(node_id=node_id, start=start)
        id_ = make_id(self._env.entropy.token_bytes(ID_BYTES))
        self._streams[id_] = stream
        try:
            await self._wait_attended(stream, id_)
            yield stream
        finally:
            del self._streams[id_]
            stream.close()

    async def _wait_attended(self, stream: _Stream, id_: str) -> None:
        """A session may end before the node has heard of the stream, as that of a node whose certificate is
        new: then its next session is told."""
        request = dispatcher_pb2.ManagerMessage(stream_request=dispatcher_pb2.StreamRequest(stream_id=id_))
        told: Session | None = None
        try:
            async with asyncio.timeout(STREAM_OPEN_TIMEOUT_S):
                while not stream.attended.is_set():
                    session = self._dispatcher.session_of(stream.node_id)
                    if session is not None and session is not told:
                        session.notify(request)
                        told = session
                    with suppress(TimeoutError):
                        async with asyncio.timeout(STREAM_LOOK_S):
                            await stream.attended.wait()
        except TimeoutError:
            name = self._name(stream.node_id)
            raise Unavailable(
                f"node {name} did not answer in {STREAM_OPEN_TIMEOUT_S:g} s: it is cut off, or its daemon is "
                "older than this feature"
            ) from None

    async def attend(
        self, node_id: NodeId, stream_id: str, parts: AsyncIterator[streams_pb2.StreamPart], send: Send
    ) -> None:
        """The node's end, until one of the two has had enough."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.node_id != node_id or stream.attended.is_set():
            raise NotFound("nobody waits for this stream any more")
        stream.attended.set()
        await send(streams_pb2.StreamPart(start=stream.start))
        work = [
            asyncio.create_task(self._read(stream, parts)),
            asyncio.create_task(_send_down(stream, send)),
            asyncio.create_task(stream.closed.wait()),  # also while the node takes nothing
        ]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            await asyncio.wait(work)
            stream.close(self._broken(node_id))

    async def _read(self, stream: _Stream, parts: AsyncIterator[streams_pb2.StreamPart]) -> None:
        """What the node says goes up. Its last part is the stream's regular end."""
        is_complete = False
        try:
            async for part in parts:
                is_complete = part.WhichOneof("part") in _LAST
                if not await stream.up.put(part) or is_complete:
                    break
        finally:
            stream.close(None if is_complete else self._broken(stream.node_id))

    def _broken(self, node_id: NodeId) -> Unavailable:
        return Unavailable(f"the stream has ended: the connection to node {self._name(node_id)} is lost")

    def _name(self, node_id: NodeId) -> str:
        node = self._view.node(node_id)
        return node.description.hostname if node is not None and node.description.hostname else node_id


async def _send_down(stream: _Stream, send: Send) -> None:
    while (part := await stream.down.take()) is not None:
        await send(part)


def require(part: streams_pb2.StreamPart | None) -> streams_pb2.StreamPart:
    """The part, unless it is the node's refusal, which is raised."""
    if part is None:
        raise Unavailable("the stream has ended before the node had answered")
    if part.WhichOneof("part") == "failure":
        raise error_named(part.failure.kind, part.failure.message)
    return part
