"""``SocketChannel``: a ``Channel`` over a socket of frames to a shim.

Flow control is the socket's both ways: what is not read waits there, and the shim stops reading the command.
"""

from __future__ import annotations

import asyncio
import json
import signal as signals
import socket
from collections.abc import AsyncIterator, Callable

from agent.executor.base import Output
from agent.executor.native.shim import frames
from swarmpy.errors import Unavailable
from swarmpy.limits import CHANNEL_READ_BYTES_MAX

KILLED = 128 + signals.SIGKILL
_STREAMS = (frames.STDOUT, frames.STDERR)


class Refused(Exception):
    """The shim could not do what it was told."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class SocketChannel:
    """``begin`` first: it tells whether there is a channel at all. ``on_close`` hears once of the end."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_close: Callable[[], None]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_close = on_close
        self.greeting = b""
        """What the shim said as it began."""
        self._code: int | None = None
        self._is_command = False
        self._is_closed = False

    @classmethod
    async def over(cls, sock: socket.socket, on_close: Callable[[], None] = lambda: None) -> SocketChannel:
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=CHANNEL_READ_BYTES_MAX)
        return cls(reader, writer, on_close)

    @property
    def has_ended(self) -> bool:
        """Whether it was told how the process ended: then all that it printed has come."""
        return self._code is not None

    @property
    def pid(self) -> int:
        return int(self.greeting) if self._is_command and self.greeting.isdigit() else 0

    async def begin(self, order: bytes = b"") -> None:
        """Give the order, if any, and wait until it is carried out. Raises Refused or Unavailable."""
        if order:
            self._is_command = True
            await self._send(frames.ORDER, order)
        answer = await self._receive()
        if answer is None:
            raise Unavailable("the process that was to enter the task ended before it had done so")
        kind, content = answer
        if kind == frames.FAILED:
            failure = json.loads(content)
            raise Refused(str(failure["kind"]), str(failure["message"]))
        self.greeting = content

    async def output(self) -> AsyncIterator[Output]:
        while (received := await self._receive()) is not None:
            kind, content = received
            if kind in _STREAMS:
                yield Output(stream=kind, data=content)
            elif kind == frames.EXITED:
                self._code = int(content)
                return

    async def write(self, data: bytes) -> None:
        for at in range(0, len(data), CHANNEL_READ_BYTES_MAX):
            await self._send(frames.INPUT, data[at : at + CHANNEL_READ_BYTES_MAX])

    async def hold(self) -> None:
        """Have the task wait while this end takes no more."""
        await self._send(frames.HOLD)

    async def close_input(self) -> None:
        await self._send(frames.END_OF_INPUT)

    async def resize(self, *, rows: int, columns: int) -> None:
        await self._send(frames.RESIZE, f"{rows} {columns}".encode())

    async def exit_code(self) -> int:
        if self._code is None and self._is_command and self._is_closed:
            return KILLED
        if self._code is None:
            raise Unavailable("the task was let go of" if self._is_closed else "the task's shim let go of it")
        return self._code

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._on_close()
        # not closed in order: what a command has not read would be waited for, and the command not let go of
        self._writer.transport.abort()
        try:
            await self._writer.wait_closed()
        except OSError:
            return  # it was broken already

    async def _send(self, kind: int, content: bytes = b"") -> None:
        try:
            self._writer.write(frames.frame(kind, content))
            await self._writer.drain()
        except OSError:
            return  # it has ended: its output says so

    async def _receive(self) -> tuple[int, bytes] | None:
        try:
            kind, length = frames.parse_head(await self._reader.readexactly(frames.HEAD_BYTES))
            return kind, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            return None
