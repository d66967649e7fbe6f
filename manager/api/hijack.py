"""A connection taken over from HTTP: after the head of the answer, bytes both ways until one side has enough.

As docker has it: ``101 UPGRADED`` for a client that asks for an upgrade to ``tcp``, ``200`` for one that does
not; a client may close its half and still read. ``wait_gone`` tells when the client has left altogether; of
a client on TCP that had closed its half before, only the next write does.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from manager.api.connections import Connection
from manager.api.context import Api
from swarmpy.errors import FailedPrecondition
from swarmpy.limits import API_SHUTDOWN_TIMEOUT_S, API_STREAM_IDLE_S, CHANNEL_READ_BYTES_MAX
from swarmpy.version import API_VERSION

MULTIPLEXED: Final = "application/vnd.docker.multiplexed-stream"
RAW: Final = "application/vnd.docker.raw-stream"


class _Protocol(asyncio.StreamReaderProtocol):
    """Tells who had the connection before that it is lost, for its own books."""

    def __init__(self, reader: asyncio.StreamReader, former: asyncio.BaseProtocol) -> None:
        super().__init__(reader)
        self._former = former
        self.lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.set()
        self._former.connection_lost(exc)


class Hijacked:
    """The client's end."""

    def __init__(self, transport: asyncio.Transport, former: asyncio.BaseProtocol) -> None:
        self._reader = asyncio.StreamReader(limit=CHANNEL_READ_BYTES_MAX)
        self._protocol = _Protocol(self._reader, former)
        self._transport = transport
        transport.set_protocol(self._protocol)
        self._protocol.connection_made(transport)
        if isinstance(former, Connection) and former.is_half_closed:
            self._reader.feed_eof()  # told to who had the connection before
        loop = asyncio.get_running_loop()
        self._writer = asyncio.StreamWriter(transport, self._protocol, self._reader, loop)

    async def read(self) -> bytes:
        """Some bytes; none at the end of what the client sends."""
        try:
            return await self._reader.read(CHANNEL_READ_BYTES_MAX)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        """Waits while the client takes no more; ConnectionResetError if it has left."""
        if self._transport.is_closing():
            raise ConnectionResetError("the client has left")
        self._writer.write(data)
        await self._writer.drain()

    async def wait_gone(self) -> None:
        """Until the client has left. Having closed its half, it looks alike but for the socket's word."""
        while not self._protocol.lost.is_set():
            try:
                async with asyncio.timeout(API_STREAM_IDLE_S):
                    await self._protocol.lost.wait()
            except TimeoutError:
                if self._reader.at_eof() and self._is_hung_up():
                    return

    def _is_hung_up(self) -> bool:
        if self._transport.is_closing():
            return True
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))

    async def close(self) -> None:
        """What was written still goes out, if the client takes it within a moment."""
        self._transport.close()
        try:
            async with asyncio.timeout(API_SHUTDOWN_TIMEOUT_S):
                await self._protocol.lost.wait()
        except TimeoutError:
            self._transport.abort()


class _Done(web.StreamResponse):
    """For the server that gave the connection away: there is nothing left to answer."""

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


@asynccontextmanager
async def hijack(api: Api, request: web.Request, content_type: str) -> AsyncIterator[Hijacked]:
    """Take the request's connection over; its body must have been read. Closed at the end."""
    transport = request.transport
    if transport is None or not isinstance(transport, asyncio.Transport):
        raise FailedPrecondition("this connection cannot be taken over")
    api.begin_stream()
    try:
        connection = Hijacked(transport, request.protocol)
        try:
            await connection.write(_head(request, content_type))
            yield connection
        except ConnectionResetError:
            pass  # the client has left, and with it the reason to write
        finally:
            await connection.close()
    finally:
        api.end_stream()


def done() -> web.StreamResponse:
    """What a hijacked request is answered with."""
    response = _Done()
    response.force_close()
    return response


def _head(request: web.Request, content_type: str) -> bytes:
    lines = [f"Content-Type: {content_type}", f"Api-Version: {API_VERSION}"]
    if request.headers.get("Upgrade", "").lower() == "tcp":
        lines = ["HTTP/1.1 101 UPGRADED", *lines, "Connection: Upgrade", "Upgrade: tcp"]
    else:
        lines = ["HTTP/1.1 200 OK", *lines]
    return "\r\n".join([*lines, "", ""]).encode()


def frame(stream: int, data: bytes) -> bytes:
    """Docker's eight bytes (stream, length) and the data."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4) + data
