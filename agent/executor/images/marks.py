"""When each image was used last: the time of an empty file of its own, so that a mark costs one system call.

A mark may be missing (an older version kept none, or a crash came first): then nothing is known, and who asks
begins to count.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from swarmpy.model.ids import Timestamp


class UseMarks:
    """The folder of marks; images are known by their ids."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        self._folder.mkdir(mode=0o711, parents=True, exist_ok=True)

    def note(self, id_: str, now: Timestamp) -> None:
        path = self._path(id_)
        try:
            os.utime(path, ns=(now, now))
        except FileNotFoundError:
            path.touch(mode=0o600)
            os.utime(path, ns=(now, now))

    def last(self, id_: str) -> Timestamp | None:
        try:
            return Timestamp(self._path(id_).stat().st_mtime_ns)
        except FileNotFoundError:
            return None

    def keep(self, ids: Collection[str]) -> None:
        """Forget all others."""
        kept = {self._path(id_).name for id_ in ids}
        for entry in os.scandir(self._folder):
            if entry.name not in kept:
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)

    def _path(self, id_: str) -> Path:
        return self._folder / id_.removeprefix("sha256:")
