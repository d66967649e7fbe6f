"""The two ends of a push to nodes.

``FolderParcel``: what is sent, out of a folder on the node that was asked; each node is sent from it at its
own pace, and nothing of it is held in memory but the piece that is on its way. ``ToldIntake``: what a node
takes in is told of as loaded there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from pathlib import Path
from typing import Protocol

from agent.executor.images.shipping import Shipment
from agent.executor.intake import ImageIntake
from swarmpy.errors import FailedPrecondition
from swarmpy.image_events import Action
from swarmpy.image_push_limits import IMAGE_PART_BYTES
from swarmpy.model.image_offers import Offer


class FolderParcel:
    """``manager.image_push.Parcel`` over a folder of blobs."""

    def __init__(self, shipment: Shipment) -> None:
        self._shipment = shipment

    @property
    def offers(self) -> Mapping[str, Offer]:
        return self._shipment.offers

    @property
    def refusals(self) -> Mapping[str, str]:
        return self._shipment.refusals

    async def read(self, digest: str, offset: int) -> AsyncGenerator[bytes]:
        """At least one piece, also of nothing."""
        path = self._shipment.folder / digest.removeprefix("sha256:")
        try:
            with await asyncio.to_thread(open, path, "rb") as file:
                file.seek(offset)
                piece = await asyncio.to_thread(file.read, IMAGE_PART_BYTES)
                yield piece
                while piece := await asyncio.to_thread(file.read, IMAGE_PART_BYTES):
                    yield piece
        except OSError as error:
            raise FailedPrecondition(f"{digest} cannot be read: {error.strerror or error}") from None


class Tell(Protocol):
    def __call__(self, action: Action, id_: str, name: str = "") -> Awaitable[None]: ...


class ToldIntake:
    """``ImageIntake``."""

    def __init__(self, intake: ImageIntake, tell: Tell) -> None:
        self._intake = intake
        self._tell = tell

    async def missing(self, offer: Offer) -> frozenset[str]:
        return await self._intake.missing(offer)

    async def commit(self, offer: Offer, folder: Path) -> tuple[str, ...]:
        names = await self._intake.commit(offer, folder)
        for id_ in dict.fromkeys(image.id for image in offer.images):
            await self._tell("load", id_)
        return names
