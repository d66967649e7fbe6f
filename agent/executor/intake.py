"""``ImageIntake``: how images that managers send come to whatever keeps a node's images: a protocol, no code.

The blobs themselves are received in one way for all (``agent/received``): as files
``blobs/sha256/<hex digits>`` in a folder, each checked by its digest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from swarmpy.model.image_offers import Offer


class ImageIntake(Protocol):
    async def missing(self, offer: Offer) -> frozenset[str]:
        """The digests of the offer's blobs that have to come, so that ``commit`` can be.

        Configuration and manifest are small, and may be asked for in any case.
        """
        ...

    async def commit(self, offer: Offer, folder: Path) -> tuple[str, ...]:
        """Take all images of the offer, or none; the names that they now have.

        Every blob that ``missing`` has named is in the folder, whose files may be taken or linked. An image
        has its offer's ``id`` afterwards. InvalidArgument if something is wrong with an image, or it is for
        another platform; Unavailable if what was here is here no more, so the push is to be made again.
        """
        ...
