"""What is said between a manager and a node about images that are to go there: JSON on a stream.

The stream's start is the ``Offer``. The node answers with what it lacks of it, is sent that as ``BlobPart``
messages, and asks again for what has not come whole, until nothing is lacking; its result is the ``Receipt``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from swarmpy.errors import InvalidArgument
from swarmpy.image_push_limits import IMAGE_PUSH_IMAGES_MAX
from swarmpy.limits import IMAGE_BYTES_MAX, IMAGE_LAYERS_MAX, IMAGE_MANIFEST_BYTES_MAX
from swarmpy.model.value import Value

IMAGE_RECEIVE: Final = "image.receive"
"""The stream's name."""
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class PushSource(Value, frozen=True, kw_only=True):
    """What is to be pushed: an ``image`` that the asked node has, or, if none is named, an archive that
    comes along. ``name``, or else what ``filename`` suggests, is for archives that name no image."""

    image: str = ""
    name: str = ""
    filename: str = ""


class BlobOffer(Value, frozen=True, kw_only=True):
    """One blob. ``diff_id``: of a layer, the digest of its tar without compression."""

    digest: str
    size: int
    diff_id: str = ""


class ImageOffer(Value, frozen=True, kw_only=True):
    """One image. Layers are lowest first. Without names it is to be had by its id alone."""

    id: str
    """The digest of its configuration."""
    names: tuple[str, ...] = ()
    config: BlobOffer
    manifest: BlobOffer | None = None
    layers: tuple[BlobOffer, ...] = ()
    is_bare: bool = False
    """A root file system as it was found: no name in it hides another."""

    def blobs(self) -> Iterator[BlobOffer]:
        yield self.config
        if self.manifest is not None:
            yield self.manifest
        yield from self.layers


class Offer(Value, frozen=True, kw_only=True):
    """All images of one push; a node takes all of them or none."""

    images: tuple[ImageOffer, ...]

    def blobs(self) -> dict[str, BlobOffer]:
        """By digest, each once."""
        return {blob.digest: blob for image in self.images for blob in image.blobs()}

    def layers(self) -> dict[str, BlobOffer]:
        return {layer.digest: layer for image in self.images for layer in image.layers}


class Lack(Value, frozen=True, kw_only=True):
    """A blob that is missing from ``offset`` on."""

    digest: str
    offset: int = 0


class Answer(Value, frozen=True, kw_only=True):
    """What a node says meanwhile. ``lacks`` None: nothing is asked for, this is how far it is."""

    lacks: tuple[Lack, ...] | None = None
    doing: str = ""
    """"receiving", "waiting" (for another push to end), "unpacking"."""
    received_bytes: int = 0


class Receipt(Value, frozen=True, kw_only=True):
    """The images are stored. ``layers_here`` did not have to come; ``layer_bytes`` came over this stream."""

    names: tuple[str, ...] = ()
    layers_here: int = 0
    layers_sent: int = 0
    layer_bytes: int = 0


def check_offer(offer: Offer) -> None:
    """InvalidArgument if it is more than a node takes, or none at all. Digests become names of files."""
    if not offer.images:
        raise InvalidArgument("the push holds no image")
    if len(offer.images) > IMAGE_PUSH_IMAGES_MAX:
        raise InvalidArgument(
            f"the push holds {len(offer.images)} images, {IMAGE_PUSH_IMAGES_MAX} at most: make several of it"
        )
    for image in offer.images:
        if len(image.layers) > IMAGE_LAYERS_MAX:
            raise InvalidArgument(f"the image has {len(image.layers)} layers; {IMAGE_LAYERS_MAX} is the most")
        if image.config.digest != image.id:
            raise InvalidArgument(f"the image {image.id} has another configuration")
        small = [blob for blob in (image.config, image.manifest) if blob is not None]
        if any(blob.size > IMAGE_MANIFEST_BYTES_MAX for blob in small):
            raise InvalidArgument("the image's configuration or manifest is larger than it may be")
        for blob in image.blobs():
            _check_blob(blob)
        if any(not _DIGEST.fullmatch(layer.diff_id) for layer in image.layers):
            raise InvalidArgument("a layer of the push has no digest of its content")
    if sum(blob.size for blob in offer.blobs().values()) > IMAGE_BYTES_MAX:
        raise InvalidArgument(f"the push holds more than {IMAGE_BYTES_MAX >> 30} GiB")


def _check_blob(blob: BlobOffer) -> None:
    if not _DIGEST.fullmatch(blob.digest) or blob.size < 0:
        raise InvalidArgument(f'"{blob.digest}" of {blob.size} bytes cannot be a part of an image')
