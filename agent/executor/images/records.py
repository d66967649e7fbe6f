"""What is known of each image, by each of its names: files that appear whole, and the images that they make.

A record is of one name: ``repository:tag``, ``repository@digest`` (so it was pulled or pushed), or the
image's own id where nothing else names it. The images are what the records say together, so a name moves
from one image to another by one renamed file.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from agent.executor.base import ImageConfig
from swarmpy.model.ids import Timestamp

log = structlog.get_logger(__name__)


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One name's image. ``digest`` of its config is the image's id. Lists are by layer, lowest first."""

    config: ImageConfig
    names: tuple[str, ...] = ()
    created: str = ""
    architecture: str = ""
    size_bytes: int = 0
    diff_ids: tuple[str, ...] = ()
    layer_sizes: tuple[int, ...] = ()
    blobs: tuple[str, ...] = ()
    """The digests of the layers as they came. Empty: of a version that did not keep them."""
    manifest: str = ""
    """The digest of the manifest that the image came with, if it had one."""
    tagged_at: Timestamp = Timestamp(0)

    @property
    def key(self) -> str:
        return self.config.reference

    @property
    def id(self) -> str:
        return self.config.digest

    def kept_blobs(self) -> set[str]:
        return {self.id, self.manifest, *self.blobs} - {""}


class StoredImage(NamedTuple):
    """One image and what names it. ``references`` are sorted; ``tags`` and ``digests`` are parts of it."""

    record: ImageRecord
    references: tuple[str, ...]
    tagged_at: Timestamp

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(name for name in self.references if "@" not in name)

    @property
    def digests(self) -> tuple[str, ...]:
        return tuple(name for name in self.references if "@" in name)


def group(records: Iterable[ImageRecord]) -> tuple[StoredImage, ...]:
    """By id, in the order of ids."""
    by_id: dict[str, list[ImageRecord]] = {}
    for record in records:
        by_id.setdefault(record.id, []).append(record)
    images = []
    for id_, mates in sorted(by_id.items()):
        names = tuple(sorted(record.key for record in mates if record.key != id_))
        whole = max(mates, key=lambda record: (len(record.blobs), bool(record.manifest), record.key))
        images.append(StoredImage(whole, names, max(record.tagged_at for record in mates)))
    return tuple(images)


class Records:
    """The folder of records. Who changes several of them at a time holds the store's lock of names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)

    def clear_unfinished(self) -> None:
        """Also what a power cut has torn after its renaming: that image has to be brought again."""
        for left in self.folder.glob("*.tmp"):
            left.unlink()
        for path in self.folder.glob("*.json"):
            try:
                msgspec.json.decode(path.read_bytes())
            except msgspec.DecodeError:
                log.warning("image_record_torn", path=str(path))
                path.unlink()

    def read(self, key: str) -> ImageRecord | None:
        try:
            return msgspec.json.decode(self._path(key).read_bytes(), type=ImageRecord)
        except FileNotFoundError:
            return None

    def all(self) -> tuple[ImageRecord, ...]:
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=ImageRecord))
            except FileNotFoundError:
                continue  # removed since the folder was read
        return tuple(sorted(found, key=lambda record: record.key))

    def write(self, record: ImageRecord) -> None:
        path = self._path(record.key)
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        with open(temporary, "wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def sync(self) -> None:
        """Have the names that were given and taken outlive a power failure."""
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
