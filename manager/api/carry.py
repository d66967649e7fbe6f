"""Between a hijacked connection and a stream to a node: input down, output up, until one of them ends it.

A client that leaves ends the stream, and with it the command. A stream that breaks tells the client why, on
docker's own channel for that: the third stream of a multiplexed connection, or as text on a terminal.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from manager.api.hijack import Hijacked, frame
from manager.streams import NodeStream, require
from swarmpy.errors import SwarmError
from swarmpy.pb import streams_pb2 as pb

STDERR: Final = 2
SYSTEM_ERROR: Final = 3
KILLED: Final = 137


@dataclass(frozen=True, kw_only=True)
class End:
    """How the client takes part: on a terminal all is one stream, and raw."""

    is_terminal: bool
    takes_input: bool
    streams: frozenset[int] = frozenset({1, 2})

    def shape(self, stream: int, data: bytes) -> bytes:
        return data if self.is_terminal else frame(stream, data)

    def trouble(self, text: str) -> bytes:
        return f"\r\n{text}\r\n".encode() if self.is_terminal else frame(SYSTEM_ERROR, text.encode())


async def carry(client: Hijacked, stream: NodeStream, end: End) -> int:
    """The exit code; KILLED if the client left, or the stream broke, which the client is told."""
    receiving = asyncio.create_task(_receive(client, stream, end))
    feeding = asyncio.create_task(_feed(client, stream, takes_input=end.takes_input))
    gone = asyncio.create_task(client.wait_gone())
    work = (receiving, feeding, gone)
    try:
        await asyncio.wait([receiving, gone], return_when=asyncio.FIRST_COMPLETED)
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


async def _receive(client: Hijacked, stream: NodeStream, end: End) -> int:
    while True:
        part = require(await stream.receive())
        if part.HasField("data") and part.data.stream in end.streams:
            await client.write(end.shape(part.data.stream, part.data.data))
        elif part.HasField("result"):
            return pb.ExitResult.FromString(part.result.body).code


async def _feed(client: Hijacked, stream: NodeStream, *, takes_input: bool) -> None:
    """What comes from a client whose input is not wanted is read all the same, and dropped."""
    while data := await client.read():
        if takes_input:
            await stream.send(pb.StreamPart(data=pb.StreamData(data=data)))
    if takes_input:
        await stream.send(pb.StreamPart(end_of_input=pb.StreamEndOfInput()))
