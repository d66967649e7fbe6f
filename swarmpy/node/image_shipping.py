"""``FolderParcel``: what a push to nodes sends, out of a folder on the node that was asked. Each node is sent
from it at its own pace; nothing of it is held in memory but the piece that is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from agent.executor.images.shipping import Shipment
from swarmpy.errors import FailedPrecondition
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
