"""A disk in memory that loses what a real one may lose, and fails when told to.

* A crash keeps what was synced; of what was written after the last sync a random part stays, possibly with a
  hole of zeros in it, as when blocks reach the disk out of order.
* ``crash_after(n)`` raises ``Crash`` at the n-th operation from now: before it takes effect, or right after.
* ``on_operation`` is called at each of those points, ``on_crash`` when the machine goes down at one.
* ``fill_up(n)`` lets n more bytes be written, then gives ENOSPC, part of the data written.
* After a crash every operation of the old incarnation raises ``Crash`` again; ``reopen`` gives the next one.

Renames and whole-file writes are atomic and durable when they return, as the seam promises.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path


class Crash(BaseException):
    """The machine went down in the middle of a disk operation.

    Not an Exception, so that no code under test can catch it by mistake.
    """


class _File:
    def __init__(self, data: bytes | bytearray = b"", *, synced: int | None = None) -> None:
        self.data = bytearray(data)
        self.synced = len(data) if synced is None else synced


class SimDisk:
    def __init__(self, generator: random.Random) -> None:
        self._generator = generator
        self._files: dict[Path, _File] = {}
        self._countdown: int | None = None
        self._room: int | None = None
        self.is_down = False
        self.on_operation: Callable[[], None] | None = None
        self.on_crash: Callable[[], None] | None = None
        self.operations = 0
        self.torn = 0
        """Crashes that lost or damaged unsynced bytes."""

    # --- faults

    def crash_after(self, operations: int | None) -> None:
        self._countdown = operations

    def fill_up(self, room: int | None) -> None:
        self._room = room

    def damage(self, path: Path, offset: int, flip: int = 0x40) -> None:
        """Flip bits in one byte, synced or not."""
        self._files[path].data[offset] ^= flip

    def crash(self) -> None:
        """Lose what was not synced. Nothing works until ``reopen``."""
        self.is_down = True
        self._countdown = None
        for path in sorted(self._files):
            self._tear(self._files[path])

    def reopen(self) -> SimDisk:
        """The same content for the next incarnation. Without a crash, what was not synced still is not."""
        disk = SimDisk(self._generator)
        disk._files = {path: _File(file.data, synced=file.synced) for path, file in self._files.items()}
        disk._room = self._room
        disk.torn = self.torn
        disk.operations = self.operations
        self.is_down = True  # whoever still holds the old incarnation writes into nothing
        return disk

    def _tear(self, file: _File) -> None:
        unsynced = len(file.data) - file.synced
        if unsynced == 0:
            return
        self.torn += 1
        self._lose_some(file, unsynced)
        file.synced = len(file.data)

    def _lose_some(self, file: _File, unsynced: int) -> None:
        kept = self._generator.randint(0, unsynced)
        del file.data[file.synced + kept :]
        if kept and self._generator.random() < 0.3:
            start = file.synced + self._generator.randrange(kept)
            length = min(self._generator.randint(1, 64), len(file.data) - start)
            file.data[start : start + length] = bytes(length)

    def _step(self) -> None:
        """A point at which the machine may go down."""
        if self.is_down:
            raise Crash
        self.operations += 1
        if self.on_operation is not None:
            self.on_operation()
        if self._countdown is not None:
            self._countdown -= 1
            if self._countdown <= 0:
                self._countdown = None
                self.is_down = True
                if self.on_crash is not None:
                    self.on_crash()
                raise Crash

    def _take_room(self, size: int) -> int:
        """How many of ``size`` bytes still fit."""
        if self._room is None:
            return size
        fits = min(size, self._room)
        self._room -= fits
        return fits

    # --- Disk

    def read(self, path: Path) -> bytes:
        return bytes(self._existing(path).data)

    def open(self, path: Path) -> SimReadFile:
        return SimReadFile(self._existing(path))

    def exists(self, path: Path) -> bool:
        return path in self._files

    def append(self, path: Path) -> SimAppendFile:
        self._step()
        file = self._files.setdefault(path, _File())
        return SimAppendFile(self, file)

    def write_atomic(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        self._step()
        if self._take_room(len(data)) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        self._files[path] = _File(data)
        self._step()

    def replace(self, source: Path, target: Path) -> None:
        self._step()
        self._files[target] = self._files.pop(source)
        self._step()

    def remove(self, path: Path) -> None:
        self._step()
        self._files.pop(path, None)

    def remove_tree(self, path: Path) -> None:
        self._step()
        for gone in [each for each in self._files if path in each.parents]:
            del self._files[gone]
        self._step()

    def make_dirs(self, path: Path, *, mode: int = 0o700) -> None:
        """Folders are not modelled."""

    def _existing(self, path: Path) -> _File:
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return self._files[path]


class SimReadFile:
    def __init__(self, file: _File) -> None:
        self._data, self._offset = bytes(file.data), 0

    def read(self, size: int) -> bytes:
        start, self._offset = self._offset, self._offset + size
        return self._data[start : start + size]

    def close(self) -> None:
        """Nothing is held."""


class SimAppendFile:
    def __init__(self, disk: SimDisk, file: _File) -> None:
        self._disk, self._file = disk, file

    def write(self, data: bytes) -> None:
        self._disk._step()
        fits = self._disk._take_room(len(data))
        self._file.data += data[:fits]
        if fits < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def sync(self) -> None:
        self._disk._step()
        self._file.synced = len(self._file.data)
        self._disk._step()

    def size(self) -> int:
        return len(self._file.data)

    def truncate(self, size: int) -> None:
        self._disk._step()
        del self._file.data[size:]
        self._file.synced = size

    def close(self) -> None:
        """What was not synced stays unsynced."""
