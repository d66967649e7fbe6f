"""Images that a manager sends to this node: the talk ``image.receive``, between the stream, the folder of
blobs and whatever keeps this node's images.

One push at a time; others wait for their turn, and say so. A push that breaks off has stored no image; the
blobs that came stay for the next try, unless the disk was full: then they go. Once all is here it is stored
whatever becomes of the manager, for that cannot be half done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
import structlog
from google.protobuf.message import DecodeError

from agent.arrival import Arrival
from agent.executor.intake import ImageIntake
from agent.received import ReceivedBlobs
from agent.streams import Peer, Talk
from swarmpy.errors import FailedPrecondition, InvalidArgument, Rejected, Unavailable
from swarmpy.image_push_limits import IMAGE_BEAT_S, IMAGE_IDLE_S
from swarmpy.model.image_offers import IMAGE_RECEIVE, Answer, Offer, check_offer
from swarmpy.pb import streams_pb2 as pb
from swarmpy.runtime import Clock

log = structlog.get_logger(__name__)

T = TypeVar("T")


class ImageReceiver:
    def __init__(self, intake: ImageIntake, blobs: ReceivedBlobs, clock: Clock) -> None:
        self._intake = intake
        self._blobs = blobs
        self._clock = clock
        self._turn = asyncio.Lock()

    def prepare(self) -> None:
        """Blocks. Called once, before the others."""
        self._blobs.prepare(self._clock.now())

    @property
    def talks(self) -> Mapping[str, Talk]:
        return {IMAGE_RECEIVE: self.receive}

    async def receive(self, body: bytes, peer: Peer) -> bytes:
        try:
            offer = msgspec.json.decode(body, type=Offer)
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"invalid JSON: {error}") from None
        check_offer(offer)
        await peer.accept()
        await self._wait_turn(peer)
        try:
            return await self._receive(offer, peer)
        except OSError as error:
            await _finished(asyncio.to_thread(self._blobs.forget, offer.blobs()))
            raise FailedPrecondition(f"cannot store the image: {error.strerror or error}") from None
        except Rejected:
            await _finished(asyncio.to_thread(self._blobs.forget, offer.blobs()))
            raise
        finally:
            self._turn.release()

    async def _wait_turn(self, peer: Peer) -> None:
        while True:
            try:
                async with asyncio.timeout(IMAGE_BEAT_S):
                    await self._turn.acquire()
            except TimeoutError:
                await _say(peer, Answer(doing="waiting"))
            else:
                return

    async def _receive(self, offer: Offer, peer: Peer) -> bytes:
        missing = await self._beating(peer, "checking", self._intake.missing(offer))
        begun = await self._beating(peer, "checking", asyncio.to_thread(self._begun, offer, missing))
        arrival = Arrival(offer, missing, begun)
        inputs = peer.inputs()
        while not arrival.is_whole:
            await _say(peer, Answer(lacks=arrival.ask(), received_bytes=arrival.received_bytes))
            await self._take_parts(arrival, inputs, peer)
        names = await self._beating(
            peer, "unpacking", self._store(offer), received_bytes=arrival.received_bytes
        )
        receipt = arrival.receipt(names)
        log.info(
            "images_received",
            names=names,
            layers_sent=receipt.layers_sent,
            layers_here=receipt.layers_here,
            layer_bytes=receipt.layer_bytes,
        )
        return msgspec.json.encode(receipt)

    async def _store(self, offer: Offer) -> tuple[str, ...]:
        names = await self._intake.commit(offer, self._blobs.folder)
        await asyncio.to_thread(self._blobs.forget, offer.blobs())
        return names

    def _begun(self, offer: Offer, missing: frozenset[str]) -> dict[str, int]:
        """What an earlier try has left of it, looked at."""
        self._blobs.sweep(missing, self._clock.now())
        sizes = {digest: blob.size for digest, blob in offer.blobs().items() if digest in missing}
        return self._blobs.resume(sizes)

    async def _take_parts(self, arrival: Arrival, inputs: AsyncIterator[pb.StreamPart], peer: Peer) -> None:
        """Up to the end of what was asked for."""
        told_at = self._clock.monotonic()
        while True:
            part = await _next(inputs)
            if part.HasField("end_of_input"):
                return
            if part.HasField("data"):
                await self._take(arrival, part.data.data, peer)
            if self._clock.monotonic() - told_at >= IMAGE_BEAT_S / 4:
                told_at = self._clock.monotonic()
                await _say(peer, Answer(doing="receiving", received_bytes=arrival.received_bytes))

    async def _take(self, arrival: Arrival, data: bytes, peer: Peer) -> None:
        try:
            part = pb.BlobPart.FromString(data)
        except DecodeError:
            raise InvalidArgument("a part of the push is damaged: it cannot be read") from None
        write = arrival.take(part.digest, part.offset, part.data)
        if write is None:
            return
        await _finished(asyncio.to_thread(self._blobs.write, write.digest, write.offset, write.data))
        if write.is_last:
            is_right = await self._beating(
                peer,
                "receiving",
                asyncio.to_thread(self._blobs.keep, write.digest),
                received_bytes=arrival.received_bytes,
            )
            arrival.checked(write.digest, is_right=is_right)

    async def _beating(
        self, peer: Peer, doing: str, work: Coroutine[Any, Any, T], *, received_bytes: int = 0
    ) -> T:
        """Do the work, and say again and again that it is being done. It is not left undone: also who is
        told to stop waits for its end."""
        task = asyncio.create_task(work)
        try:
            while not task.done():
                await _say(peer, Answer(doing=doing, received_bytes=received_bytes))
                await asyncio.wait([task], timeout=IMAGE_BEAT_S)
            return task.result()
        finally:
            if not task.done():
                await asyncio.wait([task])


async def _finished(work: Coroutine[Any, Any, T]) -> T:
    """Its result. Who is cancelled still waits for its end, so that the next push finds all at rest."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    finally:
        if not task.done():
            await asyncio.wait([task])


async def _say(peer: Peer, answer: Answer) -> None:
    await peer.send(msgspec.json.encode(answer))


async def _next(inputs: AsyncIterator[pb.StreamPart]) -> pb.StreamPart:
    try:
        async with asyncio.timeout(IMAGE_IDLE_S):
            return await anext(inputs)
    except TimeoutError:
        raise Unavailable(
            f"the manager has sent nothing for {IMAGE_IDLE_S:g} s: the push was given up"
        ) from None
