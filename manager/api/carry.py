"""Between a hijacked connection and a stream to a node: input down, output up, until one of them ends it.

A client that leaves ends the stream, and with it the command. A stream that breaks tells the client why, on
docker's own channel for that: the third stream of a multiplexed connection, or as text on a terminal.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

from manager.api.detach_keys import DetachKeys
from manager.api.hijack import frame
from manager.streams import NodeStream, require
from swarmpy.errors import SwarmError
from swarmpy.pb import streams_pb2 as pb

STDERR: Final = 2
SYSTEM_ERROR: Final = 3
KILLED: Final = 137


@dataclass(frozen=True, kw_only=True)
class End:
    """How the client takes part: on a terminal all is one stream, and raw. ``is_raw``: without frames, as on
    a WebSocket."""

    is_terminal: bool
    takes_input: bool
    streams: frozenset[int] = frozenset({1, 2})
    closes_input: bool = True
    """Whether the end of what the client sends is the end of the process's input."""
    is_raw: bool = False
    detach_keys: bytes = b""
    """Typed in a row they let the client go; none: nothing does."""

    def shape(self, stream: int, data: bytes) -> bytes:
        return data if self.is_terminal or self.is_raw else frame(stream, data)

    def trouble(self, text: str) -> bytes:
        is_text = self.is_terminal or self.is_raw
        return f"\r\n{text}\r\n".encode() if is_text else frame(SYSTEM_ERROR, text.encode())


class Client(Protocol):
    """A connection that was taken over."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def wait_gone(self) -> None: ...


async def carry(client: Client, stream: NodeStream, end: End) -> int:
    """The exit code; KILLED if the client left, or the stream broke, which the client is told."""
    receiving = asyncio.create_task(_receive(client, stream, end))
    feeding = asyncio.create_task(_feed(client, stream, end))
    gone = asyncio.create_task(client.wait_gone())
    work = (receiving, feeding, gone)
    try:
        while not receiving.done() and not gone.done():
            await asyncio.wait(
                [each for each in work if not each.done()], return_when=asyncio.FIRST_COMPLETED
            )
            if feeding.done() and not feeding.cancelled() and feeding.result():
                return KILLED  # let go by its keys
        if not receiving.done():
            return KILLED
        return receiving.result()
    except SwarmError as error:
        await client.write(end.trouble(str(error)))
        return KILLED
    finally:
        for task in work:
            task.cancel()
        await asyncio.wait(work)


async def _receive(client: Client, stream: NodeStream, end: End) -> int:
    while True:
        part = require(await stream.receive())
        if part.HasField("data") and part.data.stream in end.streams:
            await client.write(end.shape(part.data.stream, part.data.data))
        elif part.HasField("result"):
            return pb.ExitResult.FromString(part.result.body).code


async def _feed(client: Client, stream: NodeStream, end: End) -> bool:
    """True if the client asked to be let go. What comes from a client whose input is not wanted is read all
    the same, and dropped."""
    keys = DetachKeys(end.detach_keys)
    while not keys.are_typed and (data := await client.read()):
        passed = keys.pass_on(data)
        if end.takes_input and passed:
            await stream.send(pb.StreamPart(data=pb.StreamData(data=passed)))
    if end.takes_input and end.closes_input and not keys.are_typed:
        await stream.send(pb.StreamPart(end_of_input=pb.StreamEndOfInput()))
    return keys.are_typed
