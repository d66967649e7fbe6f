"""``StoreIntake``: images that managers send to this node, for executors that run from the ``ImageStore``.

A layer does not have to come if the store has it, be it packed in another way: layers are known by their
content. An image that stands on another form of a layer than the one offered has no manifest here, for that
would name bytes that are not here; its id is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agent.executor.images.archive import Archive, ImageSource, LayerSource, decode_json, own_architecture
from agent.executor.images.loading import Loader, checked_name, layer_id
from agent.executor.images.records import ImageRecord
from agent.executor.images.store import ImageStore
from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.model.image_offers import BlobOffer, ImageOffer, Offer


class _Kept(NamedTuple):
    """Content of layers -> the blob that it is kept as: of all, and of those that are unpacked as layers."""

    packed: Mapping[str, str]
    unpacked: Mapping[str, str]

    def form_of(self, layer: BlobOffer, *, is_bare: bool) -> str:
        """The digest of the blob that is here for it; empty if there is none."""
        return (self.packed if is_bare else self.unpacked).get(layer.diff_id, "")


class StoreIntake:
    def __init__(self, store: ImageStore) -> None:
        self._store = store

    async def missing(self, offer: Offer) -> frozenset[str]:
        return await asyncio.to_thread(self._missing, offer)

    async def commit(self, offer: Offer, folder: Path) -> tuple[str, ...]:
        return await asyncio.to_thread(self._commit, offer, folder)

    def _missing(self, offer: Offer) -> frozenset[str]:
        kept = self._kept_layers()
        lacking = {
            layer.digest
            for image in offer.images
            for layer in image.layers
            if not kept.form_of(layer, is_bare=image.is_bare)
        }
        return frozenset(lacking | (offer.blobs().keys() - offer.layers().keys()))

    def _kept_layers(self) -> _Kept:
        packed, unpacked = {}, {}
        for record in self._store.records():
            for diff_id, blob, layer in zip(
                record.diff_ids, record.blobs, record.config.layers, strict=False
            ):
                if not self._store.blob_path(blob).is_file():
                    continue
                packed[diff_id] = blob
                if layer == layer_id(diff_id) and (self._store.layers_dir / layer).is_dir():
                    unpacked[diff_id] = blob
        return _Kept(packed, unpacked)

    def _commit(self, offer: Offer, folder: Path) -> tuple[str, ...]:
        def bring(loader: Loader, archive: Archive) -> list[tuple[ImageRecord, tuple[str, ...]]]:
            kept = self._kept_layers()
            return [
                (self._load(image, loader, archive, kept), tuple(map(checked_name, image.names)))
                for image in offer.images
            ]

        return tuple(self._store.bring(folder, bring))

    def _load(self, image: ImageOffer, loader: Loader, archive: Archive, kept: _Kept) -> ImageRecord:
        raw = archive.read(_name_of(image.config.digest), image.id)
        config = decode_json(raw, image.id)
        _check_config(image, config)
        if (known := self._known(image)) is not None:
            return known
        layers = []
        for layer in image.layers:
            came = archive.has(_name_of(layer.digest))
            form = layer.digest if came else kept.form_of(layer, is_bare=image.is_bare)
            if not form:
                raise Unavailable(
                    f"the layer {layer.digest}, which was here, was removed meanwhile: push the image again"
                )
            layers.append(LayerSource(_name_of(form), form, layer.diff_id))
        if image.is_bare:
            return self._load_bare(image, layers[0], loader, archive)
        is_same = all(mine.digest == layer.digest for mine, layer in zip(layers, image.layers, strict=True))
        manifest = image.manifest.digest if image.manifest is not None and is_same else ""
        return loader.load(archive, ImageSource(image.names, image.id, config, tuple(layers), raw, manifest))

    def _known(self, image: ImageOffer) -> ImageRecord | None:
        """The image, if it is here whole: it only gets its names."""
        for found in self._store.images():
            record = found.record
            if (
                found.id == image.id
                and len(record.blobs) == len(image.layers)
                and all(self._store.blob_path(blob).is_file() for blob in record.blobs)
                and all((self._store.layers_dir / layer).is_dir() for layer in record.config.layers)
            ):
                return record
        return None

    def _load_bare(
        self, image: ImageOffer, layer: LayerSource, loader: Loader, archive: Archive
    ) -> ImageRecord:
        path = archive.path(layer.blob) or self._store.blob_path(layer.digest)
        raw = archive.read(_name_of(image.config.digest), image.id)
        record = loader.load_rootfs(path, lambda _: raw, has_whiteouts=False)
        if record.diff_ids != (layer.diff_id,):
            raise InvalidArgument(f"the root file system does not unpack to the digest {layer.diff_id}")
        return record


def _check_config(image: ImageOffer, config: Any) -> None:
    """The configuration is what decides; the offer must not say anything else."""
    rootfs = config.get("rootfs") if isinstance(config, dict) else None
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if diff_ids != [layer.diff_id for layer in image.layers]:
        raise InvalidArgument("the image's configuration names other layers than those that were sent")
    if image.is_bare and len(image.layers) != 1:
        raise InvalidArgument("a root file system is one layer")
    system, architecture = str(config.get("os") or ""), str(config.get("architecture") or "")
    if (system and system != "linux") or (architecture and architecture != own_architecture()):
        raise InvalidArgument(
            f"the image is for {system or 'linux'}/{architecture}, and this node is "
            f"linux/{own_architecture()}: push an archive that has it for this platform"
        )


def _name_of(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"
