"""``Link``: the seam between an agent and managers, and the real one, over gRPC.

A stream that breaks raises ``Retry`` (try elsewhere), one that is refused raises ``Rejected``. The simulator
brings a Link of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, Protocol, TypeVar

import grpc.aio
from google.protobuf.message import Message

from swarmpy.errors import OutcomeUnknown
from swarmpy.limits import SESSION_CONNECT_TIMEOUT_S
from swarmpy.pb import dispatcher_pb2, dispatcher_pb2_grpc, streams_pb2, streams_pb2_grpc
from swarmpy.pki import Identity
from swarmpy.rpc import translate_errors
from swarmpy.runtime import Transport

S = TypeVar("S", bound=Message)
"""What the agent sends."""
R = TypeVar("R", bound=Message)
"""What it is sent."""


class SessionStream(Protocol):
    """One session's stream."""

    async def send(self, message: dispatcher_pb2.AgentMessage) -> None:
        """Waits until the stream takes the message. One sender at a time."""
        ...

    async def receive(self) -> dispatcher_pb2.ManagerMessage | None:
        """The next message; None once the manager has ended the stream."""
        ...

    async def finish(self) -> None:
        """No more messages will come from us; the manager answers by ending the stream."""
        ...

    async def close(self) -> None:
        """Tear down, whatever state the stream is in."""
        ...


class Link(Protocol):
    """How the agent reaches managers. Addresses are ``host:port``."""

    async def open(self, address: str, hello: dispatcher_pb2.AgentMessage) -> SessionStream:
        """Open a session's stream and say hello. Returns once the manager is reached."""
        ...

    async def publish_logs(self, address: str, batches: AsyncIterator[streams_pb2.LogBatch]) -> None:
        """Send the batches to the manager; returns when they end or the manager wants no more."""
        ...

    async def attend(self, address: str, stream_id: str) -> AttendedStream:
        """The stream of this name at the manager."""
        ...


class AttendedStream(Protocol):
    """The node's end of a stream that a manager asked for."""

    async def send(self, part: streams_pb2.StreamPart) -> None:
        """Waits until the stream takes the part. One sender at a time."""
        ...

    async def receive(self) -> streams_pb2.StreamPart | None:
        """The next part; None once the manager has ended the stream."""
        ...

    async def finish(self) -> None:
        """No more parts will come from us; returns when the manager has ended the stream, too."""
        ...

    async def wait_ended(self) -> None:
        """Until the stream is over for whatever reason, whether or not anybody reads it."""
        ...

    async def close(self) -> None: ...


class GrpcLink:
    """The real Link. ``identity`` is asked at every dial, so a renewed one is used from then on."""

    def __init__(self, identity: Callable[[], Identity], transport: Transport) -> None:
        self._identity = identity
        self._transport = transport

    async def open(self, address: str, hello: dispatcher_pb2.AgentMessage) -> SessionStream:
        channel = self._transport.channel(self._identity(), address)
        stream: _GrpcStream[dispatcher_pb2.AgentMessage, dispatcher_pb2.ManagerMessage] = _GrpcStream(
            channel,
            dispatcher_pb2_grpc.DispatcherStub(channel).Session(),
            received=dispatcher_pb2.ManagerMessage,
            name="session",
        )
        await _reach(stream, hello, address)
        return stream

    async def publish_logs(self, address: str, batches: AsyncIterator[streams_pb2.LogBatch]) -> None:
        async with self._transport.channel(self._identity(), address) as channel:
            with translate_errors():
                await streams_pb2_grpc.StreamsStub(channel).PublishLogs(batches)

    async def attend(self, address: str, stream_id: str) -> AttendedStream:
        stream = _GrpcAttended(self._transport.channel(self._identity(), address))
        await _reach(stream, streams_pb2.StreamPart(attend=stream_id), address)
        return stream


async def _reach(stream: _GrpcStream[S, R], first: S, address: str) -> None:
    """Say the first word; a stream on which that fails is torn down."""
    try:
        async with asyncio.timeout(SESSION_CONNECT_TIMEOUT_S):
            await stream.send(first)
    except TimeoutError as error:
        await stream.close()
        raise OutcomeUnknown(f"manager {address} does not answer") from error
    except BaseException:
        await stream.close()
        raise


class _GrpcStream(Generic[S, R]):
    """A stream of both directions, and the channel that it has for itself. ``name``: as errors call it."""

    def __init__(self, channel: grpc.aio.Channel, call: Any, *, received: type[R], name: str) -> None:
        self._channel = channel
        self._call = call
        self._received: type[R] = received
        self._name = name

    async def send(self, message: S) -> None:
        with translate_errors():
            try:
                await self._call.write(message)
            except asyncio.InvalidStateError as error:
                raise OutcomeUnknown(f"the manager has ended the {self._name}") from error

    async def receive(self) -> R | None:
        with translate_errors():
            message = await self._call.read()
        return message if isinstance(message, self._received) else None

    async def finish(self) -> None:
        with translate_errors():
            await self._call.done_writing()

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close()


class _GrpcAttended(_GrpcStream[streams_pb2.StreamPart, streams_pb2.StreamPart]):
    def __init__(self, channel: grpc.aio.Channel) -> None:
        call = streams_pb2_grpc.StreamsStub(channel).Attend()
        super().__init__(channel, call, received=streams_pb2.StreamPart, name="stream")
        self._ended = asyncio.Event()
        self._call.add_done_callback(lambda _: self._ended.set())

    async def finish(self) -> None:
        await super().finish()
        await self._ended.wait()

    async def wait_ended(self) -> None:
        await self._ended.wait()
