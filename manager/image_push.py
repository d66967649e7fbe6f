"""Pushing images to nodes: one stream to each, which is sent what the node says that it lacks.

Nodes are independent of each other: what fails at one is told of that one, and the rest go on. A node whose
connection breaks is waited for, shortly. Whoever was broken off (by a node's death, a change of leader, a
client that left) leaves a node that has stored nothing, and that will not ask again for what came whole.
Bounded: so many nodes at a time, and to each only as much on its way as the stream's queues take.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import NamedTuple, Protocol

import msgspec

from manager.departure import Departure, Piece
from manager.streams import NodeStream, require
from swarmpy.errors import SwarmError, Unavailable
from swarmpy.image_push_limits import (
    IMAGE_IDLE_S,
    IMAGE_PUSH_NODES_MAX,
    IMAGE_RETURN_LOOK_S,
    IMAGE_RETURN_S,
)
from swarmpy.model.ids import NodeId
from swarmpy.model.image_offers import IMAGE_RECEIVE, Answer, Offer, Receipt
from swarmpy.pb import streams_pb2 as pb

_WAITING = "waiting for the node"
_UNKNOWN_PLATFORM = "the node has not said yet what it is: try again once 'node ls' shows it as ready"


class Parcel(Protocol):
    """What is pushed: an offer for each architecture, or why there is none, and the blobs."""

    @property
    def offers(self) -> Mapping[str, Offer]: ...

    @property
    def refusals(self) -> Mapping[str, str]: ...

    def read(self, digest: str, offset: int) -> AsyncGenerator[bytes]:
        """At least one piece."""
        ...


class Streams(Protocol):
    def open(self, node_id: NodeId, name: str, body: bytes) -> AbstractAsyncContextManager[NodeStream]: ...


class Target(NamedTuple):
    """One node. ``architecture`` as images name it. ``trouble``: why it cannot be pushed to; mostly empty."""

    id: NodeId
    name: str
    architecture: str
    trouble: str = ""


class Step(NamedTuple):
    """How far the push to one node is. The last one of each has a receipt or an error."""

    target: Target
    doing: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    receipt: Receipt | None = None
    error: str = ""


Report = Callable[[Step], None]


async def push(streams: Streams, parcel: Parcel, targets: Sequence[Target], report: Report) -> None:
    """Every target gets a last step, and no error of one is raised."""
    turns = asyncio.Semaphore(IMAGE_PUSH_NODES_MAX)

    async def one(target: Target) -> None:
        if error := trouble(parcel, target):
            report(Step(target, error=error))
            return
        async with turns:
            try:
                receipt = await _pushed(streams, parcel, target, report)
            except SwarmError as failure:
                report(Step(target, error=str(failure)))
            else:
                report(Step(target, receipt=receipt))

    async with asyncio.TaskGroup() as tasks:
        for target in targets:
            tasks.create_task(one(target))


async def _pushed(streams: Streams, parcel: Parcel, target: Target, report: Report) -> Receipt:
    """A node that is away for a moment, as one that was just promoted and has a new certificate, is waited
    for; what it has by then is not sent again. If it stays away, what broke is told, not that it is away."""
    loop = asyncio.get_running_loop()
    deadline = 0.0
    reason: Unavailable | None = None
    while True:
        one = _Push(streams, parcel, target, report)
        try:
            return await one.run()
        except Unavailable as error:
            now = loop.time()
            deadline = deadline or now + IMAGE_RETURN_S
            reason = error if one.has_begun or reason is None else reason
            if one.is_final or now >= deadline:
                raise reason from None
            report(Step(target, doing=_WAITING))
            await asyncio.sleep(IMAGE_RETURN_LOOK_S)


def trouble(parcel: Parcel, target: Target) -> str:
    """Why nothing is sent to it; empty if something is."""
    if target.trouble:
        return target.trouble
    if target.architecture in parcel.offers:
        return ""
    return parcel.refusals.get(target.architecture, _UNKNOWN_PLATFORM)


class _Push:
    """To one node."""

    def __init__(self, streams: Streams, parcel: Parcel, target: Target, report: Report) -> None:
        self._streams = streams
        self._parcel = parcel
        self._target = target
        self._report = report
        self._offer = parcel.offers[target.architecture]
        self._departure = Departure(self._offer)
        self.has_begun = False
        self.is_final = False
        """What failed was no connection: the node has said so itself, or nothing for long."""

    async def run(self) -> Receipt:
        body = msgspec.json.encode(self._offer)
        async with self._streams.open(self._target.id, IMAGE_RECEIVE, body) as stream:
            self.has_begun = True
            sending: asyncio.Task[None] | None = None
            hearing: asyncio.Task[pb.StreamPart | None] | None = None
            try:
                while True:
                    hearing = asyncio.create_task(stream.receive())
                    part = await self._next(hearing, sending)
                    if part.HasField("result"):
                        return msgspec.json.decode(part.result.body, type=Receipt)
                    pieces = self._heard(part)
                    if pieces:
                        if sending is not None:
                            await sending  # it is done, for the node has heard its end
                        sending = asyncio.create_task(self._send(stream, pieces))
            except msgspec.DecodeError as error:
                raise Unavailable(f"what the node says cannot be read: {error}") from None
            finally:
                left = [task for task in (sending, hearing) if task is not None]
                for task in left:
                    task.cancel()
                if left:
                    done, _ = await asyncio.wait(left)
                    for task in done:
                        task.cancelled() or task.exception()  # told already, or nobody is there to be told

    async def _next(
        self, hearing: asyncio.Task[pb.StreamPart | None], sending: asyncio.Task[None] | None
    ) -> pb.StreamPart:
        """The node's next word. What fails in sending is raised; a node that says nothing is given up."""
        deadline = asyncio.get_running_loop().time() + IMAGE_IDLE_S
        while not hearing.done():
            waited = {hearing} if sending is None or sending.done() else {hearing, sending}
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                self.is_final = True
                raise Unavailable(f"the node has said nothing for {IMAGE_IDLE_S:g} s: the push was given up")
            await asyncio.wait(waited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if sending is not None and sending.done() and (error := sending.exception()) is not None:
                raise error
        part = hearing.result()
        self.is_final = part is not None and part.HasField("failure")
        return require(part)

    def _heard(self, part: pb.StreamPart) -> tuple[Piece, ...]:
        if not part.HasField("data"):
            return ()  # something newer than this manager
        answer = msgspec.json.decode(part.data.data, type=Answer)
        pieces = self._departure.answered(answer)
        total = self._departure.wanted_bytes
        self._report(Step(self._target, answer.doing, min(answer.received_bytes, total), total))
        return pieces

    async def _send(self, stream: NodeStream, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            offset = piece.offset
            async with aclosing(self._parcel.read(piece.digest, offset)) as content:
                async for data in content:
                    part = pb.BlobPart(digest=piece.digest, offset=offset, data=data)
                    message = pb.StreamData(data=part.SerializeToString())
                    await stream.send(pb.StreamPart(data=message))
                    offset += len(data)
        await stream.send(pb.StreamPart(end_of_input=pb.StreamEndOfInput()))
