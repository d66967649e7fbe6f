"""``Link``: the seam between an agent and managers, and the real one, over gRPC.

A stream that breaks raises ``Retry`` (try elsewhere), one that is refused raises ``Rejected``. The simulator
brings a Link of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import grpc.aio

from swarmpy.errors import OutcomeUnknown
from swarmpy.limits import SESSION_CONNECT_TIMEOUT_S
from swarmpy.pb import dispatcher_pb2, dispatcher_pb2_grpc, streams_pb2, streams_pb2_grpc
from swarmpy.pki import Identity
from swarmpy.rpc import translate_errors
from swarmpy.runtime import Transport


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
        stream = _GrpcStream(self._transport.channel(self._identity(), address))
        try:
            async with asyncio.timeout(SESSION_CONNECT_TIMEOUT_S):
                await stream.send(hello)
        except TimeoutError as error:
            await stream.close()
            raise OutcomeUnknown(f"manager {address} does not answer") from error
        except BaseException:
            await stream.close()
            raise
        return stream

    async def publish_logs(self, address: str, batches: AsyncIterator[streams_pb2.LogBatch]) -> None:
        async with self._transport.channel(self._identity(), address) as channel:
            with translate_errors():
                await streams_pb2_grpc.StreamsStub(channel).PublishLogs(batches)

    async def attend(self, address: str, stream_id: str) -> AttendedStream:
        stream = _GrpcAttended(self._transport.channel(self._identity(), address))
        try:
            async with asyncio.timeout(SESSION_CONNECT_TIMEOUT_S):
                await stream.send(streams_pb2.StreamPart(attend=stream_id))
        except TimeoutError as error:
            await stream.close()
            raise OutcomeUnknown(f"manager {address} does not answer") from error
        except BaseException:
            await stream.close()
            raise
        return stream


class _GrpcAttended:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._call = streams_pb2_grpc.StreamsStub(channel).Attend()
        self._ended = asyncio.Event()
        self._call.add_done_callback(lambda _: self._ended.set())

    async def send(self, part: streams_pb2.StreamPart) -> None:
        with translate_errors():
            try:
                await self._call.write(part)
            except asyncio.InvalidStateError as error:
                raise OutcomeUnknown("the manager has ended the stream") from error

    async def receive(self) -> streams_pb2.StreamPart | None:
        with translate_errors():
            part = await self._call.read()
        return part if isinstance(part, streams_pb2.StreamPart) else None

    async def finish(self) -> None:
        with translate_errors():
            await self._call.done_writing()
        await self._ended.wait()

    async def wait_ended(self) -> None:
        await self._ended.wait()

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close()


class _GrpcStream:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._call = dispatcher_pb2_grpc.DispatcherStub(channel).Session()

    async def send(self, message: dispatcher_pb2.AgentMessage) -> None:
        with translate_errors():
            try:
                await self._call.write(message)
            except asyncio.InvalidStateError as error:
                raise OutcomeUnknown("the manager has ended the session") from error

    async def receive(self) -> dispatcher_pb2.ManagerMessage | None:
        with translate_errors():
            message = await self._call.read()
        return message if isinstance(message, dispatcher_pb2.ManagerMessage) else None

    async def finish(self) -> None:
        with translate_errors():
            await self._call.done_writing()

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close()
