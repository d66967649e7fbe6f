"""What a push to nodes consists of: offers, one for each platform, and a folder of blobs that they speak of.

Out of an archive, or out of the store. The folder holds each blob as a file named by its digest, which was
found right, so a broken archive ends here, before any node hears of it. What is for which platform is told
by the archive's own index, and by the images' configurations.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.executor.images.archive import (
    Archive,
    ImageSource,
    LayerSource,
    digest_of,
    is_rootfs,
    open_archive,
    own_architecture,
    read_images,
)
from agent.executor.images.compression import decompressed
from agent.executor.images.imports import image_config
from agent.executor.images.loading import HashingReader, checked_name, layer_id, name_from, names_of
from agent.executor.images.records import StoredImage
from agent.executor.images.store import ImageStore
from swarmpy.errors import InvalidArgument
from swarmpy.limits import IMAGE_BYTES_MAX
from swarmpy.model.image_offers import BlobOffer, ImageOffer, Offer, check_offer

_COPY_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """``refusals``: why there is nothing for a platform. ``folder``: blobs, by the hex digits of digests."""

    folder: Path
    offers: Mapping[str, Offer] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)


def of_archive(path: Path, folder: Path, *, name: str, architectures: Collection[str]) -> Shipment:
    """Blocks. ``folder`` is the caller's, empty. InvalidArgument if the archive cannot be read."""
    work = folder / "work"
    work.mkdir()
    try:
        return _unpacked(path, folder, name=name, architectures=architectures)
    finally:
        shutil.rmtree(work)


def _unpacked(path: Path, folder: Path, *, name: str, architectures: Collection[str]) -> Shipment:
    offers: dict[str, Offer] = {}
    refusals: dict[str, str] = {}
    with open_archive(path, folder / "work") as archive:
        if is_rootfs(archive):
            bare = _of_rootfs(path, folder, checked_name(name or name_from(path)))
            return _sorted_out({own_architecture(): bare}, architectures, folder, "the root file system")
        blobs: dict[str, BlobOffer] = {}
        for architecture in sorted(architectures):
            sources = read_images(archive, architecture)
            if refusal := _refusal(sources, architecture):
                refusals[architecture] = refusal
                continue
            if name and len(sources) > 1:
                raise InvalidArgument(f"{path.name} holds {len(sources)} images, so one name cannot be given")
            images = [
                _of_source(archive, source, names_of(source, name, path), folder, blobs) for source in sources
            ]
            offers[architecture] = Offer(images=tuple(images))
    for offer in offers.values():
        check_offer(offer)
    return Shipment(folder=folder, offers=offers, refusals=refusals)


def of_stored(
    store: ImageStore,
    wanted: Sequence[tuple[StoredImage, Sequence[str]]],
    folder: Path,
    *,
    architectures: Collection[str],
) -> Shipment:
    """Blocks. The images are lent, so that nobody can take them away meanwhile."""
    store.lend([image for image, _ in wanted], folder)
    images: dict[str, list[ImageOffer]] = {}
    for image, names in wanted:
        images.setdefault(image.record.architecture or own_architecture(), []).append(
            _of_stored(image, tuple(names), folder)
        )
    offers = {architecture: Offer(images=tuple(found)) for architecture, found in images.items()}
    return _sorted_out(offers, architectures, folder, "the image that this node has")


def _sorted_out(
    offers: Mapping[str, Offer], architectures: Collection[str], folder: Path, what: str
) -> Shipment:
    for offer in offers.values():
        check_offer(offer)
    known = ", ".join(f"linux/{each}" for each in sorted(offers))
    refusals = {
        architecture: f"{what} is for {known}, and the node is linux/{architecture}"
        for architecture in architectures
        if architecture not in offers
    }
    return Shipment(folder=folder, offers=offers, refusals=refusals)


def _refusal(sources: Sequence[ImageSource], architecture: str) -> str:
    """Why these cannot go to a node of that architecture; empty if they can."""
    if not sources:
        return f"the archive holds no image for linux/{architecture}"
    for source in sources:
        system = str(source.config.get("os") or "linux")
        actual = str(source.config.get("architecture") or architecture)
        if (system, actual) != ("linux", architecture):
            shown = next(iter(source.names), source.digest)
            return f"the image {shown} is for {system}/{actual}, and the node is linux/{architecture}"
    return ""


# --- one image


def _of_source(
    archive: Archive,
    source: ImageSource,
    names: tuple[str, ...],
    folder: Path,
    blobs: dict[str, BlobOffer],
) -> ImageOffer:
    """``blobs``: those that are in the folder already, by their names in the archive."""
    for layer in source.layers:
        if layer.blob not in blobs:
            blobs[layer.blob] = _copy_layer(archive, layer, folder)
    manifest = None
    if source.manifest:
        raw = archive.read(f"blobs/sha256/{_hex(source.manifest)}", source.manifest)
        manifest = _write_small(raw, folder)
    return ImageOffer(
        id=source.digest,
        names=names,
        config=_write_small(source.raw, folder),
        manifest=manifest,
        layers=tuple(blobs[layer.blob] for layer in source.layers),
    )


def _copy_layer(archive: Archive, layer: LayerSource, folder: Path) -> BlobOffer:
    target = folder / "work" / "layer"
    left = IMAGE_BYTES_MAX
    with archive.open(layer.blob) as raw, open(target, "wb") as file:
        hashing = HashingReader(raw)
        while chunk := hashing.read(_COPY_BYTES):
            left -= len(chunk)
            if left < 0:
                raise InvalidArgument(f"the layer is larger than {IMAGE_BYTES_MAX >> 30} GiB")
            file.write(chunk)
    digest = hashing.digest
    if layer.digest and layer.digest != digest:
        raise InvalidArgument(f"the layer {layer.blob} does not have the digest {layer.digest}")
    with open(target, "rb") as file:
        is_plain = decompressed(file) is file
    if is_plain and digest != layer.diff_id:
        raise InvalidArgument(f"the layer {layer.blob} does not have the digest {layer.diff_id}")
    size = target.stat().st_size
    os.replace(target, folder / _hex(digest))
    return BlobOffer(digest=digest, size=size, diff_id=layer.diff_id)


def _write_small(raw: bytes, folder: Path) -> BlobOffer:
    digest = digest_of(raw)
    (folder / _hex(digest)).write_bytes(raw)
    return BlobOffer(digest=digest, size=len(raw))


def _of_rootfs(path: Path, folder: Path, name: str) -> Offer:
    """The same image as ``ImageStore.load`` makes of it."""
    target = folder / "work" / "rootfs"
    os.link(path, target)
    with open(target, "rb") as file:
        outer = HashingReader(file)
        outer.drain()
    with open(target, "rb") as file:
        inner = HashingReader(decompressed(file))
        inner.drain()
    size = target.stat().st_size
    os.replace(target, folder / _hex(outer.digest))
    raw = image_config(inner.digest, architecture=own_architecture(), created="", comment="")
    config = _write_small(raw, folder)
    layer = BlobOffer(digest=outer.digest, size=size, diff_id=inner.digest)
    image = ImageOffer(id=config.digest, names=(name,), config=config, layers=(layer,), is_bare=True)
    return Offer(images=(image,))


def _of_stored(image: StoredImage, names: tuple[str, ...], folder: Path) -> ImageOffer:
    record = image.record

    def offer(digest: str, diff_id: str = "") -> BlobOffer:
        size = (folder / _hex(digest)).stat().st_size
        return BlobOffer(digest=digest, size=size, diff_id=diff_id)

    return ImageOffer(
        id=image.id,
        names=names,
        config=offer(image.id),
        manifest=offer(record.manifest) if record.manifest else None,
        layers=tuple(
            offer(blob, diff_id) for blob, diff_id in zip(record.blobs, record.diff_ids, strict=True)
        ),
        is_bare=record.config.layers != tuple(layer_id(diff_id) for diff_id in record.diff_ids),
    )


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
