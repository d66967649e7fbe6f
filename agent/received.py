"""The folder of blobs that are on their way to this node: beginnings, and whole ones with the right digest.

``blobs/sha256/<hex>`` is whole, and checked; ``<hex>.part`` is a beginning, or not checked yet. What a push
that broke off has left stays for the next try of it, within bounds; a daemon's death at any moment leaves no
more than that. All functions block. One push at a time works here; what is old may be swept beside it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from swarmpy.image_push_limits import IMAGE_LEFTOVERS_KEPT_S
from swarmpy.model.ids import SECOND_NS, Timestamp

_PART = ".part"


class ReceivedBlobs:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """As ``ImageIntake.commit`` takes it."""
        self._blobs = folder / "blobs" / "sha256"

    def prepare(self, now: Timestamp) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._blobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.sweep((), now)

    def sweep(self, kept: Collection[str], now: Timestamp) -> None:
        """Remove what nobody has come back for, but for these digests. Harmless at any time: a push that
        misses something has to be made again."""
        if not self._blobs.is_dir():
            return
        names = {name for digest in kept for name in (_hex(digest), _hex(digest) + _PART)}
        for entry in os.scandir(self._blobs):
            with suppress(FileNotFoundError):  # a push has just ended
                age_s = now / SECOND_NS - entry.stat().st_mtime
                if entry.name not in names and age_s > IMAGE_LEFTOVERS_KEPT_S:
                    os.unlink(entry.path)

    def resume(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """How many bytes of each there are, of those of which there are some. All of them: it is whole."""
        found = {}
        for digest, size in sizes.items():
            whole, part = self._whole(digest), self._part(digest)
            if not whole.exists() and part.exists() and part.stat().st_size >= size:
                self.keep(digest)  # a crash came before it was looked at
            for path in (whole, part):
                if path.exists():
                    os.utime(path)  # somebody has come back for it
                    found[digest] = path.stat().st_size
                    break
        return found

    def write(self, digest: str, offset: int, data: bytes) -> None:
        fd = os.open(self._part(digest), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as file:
            file.truncate(offset)
            file.seek(offset)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    def keep(self, digest: str) -> bool:
        """The blob is whole now, if its digest is right; else it is gone."""
        part = self._part(digest)
        with open(part, "rb") as file:
            found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            part.unlink()
            return False
        os.replace(part, self._whole(digest))
        return True

    def forget(self, digests: Iterable[str]) -> None:
        for digest in digests:
            self._whole(digest).unlink(missing_ok=True)
            self._part(digest).unlink(missing_ok=True)

    def _whole(self, digest: str) -> Path:
        return self._blobs / _hex(digest)

    def _part(self, digest: str) -> Path:
        return self._blobs / f"{_hex(digest)}{_PART}"


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
