"""Folders that tasks and images have filled, taken away or measured, whatever is in them.

A task may nest folders deeper than any path can name, and deeper than a function can call itself. So in what
is removed a folder that is too far down is moved up first, and only so many are open at a time. A crash
leaves less than there was, below the same name. Who removes the same at the same time is no harm.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_LEVELS_MAX = 32
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_private(folder: Path) -> None:
    """Nobody but root gets in. What tasks and images leave on the node's disk may be programs that set their
    user, device files, folders of any owner: of no use in a task, and of much to the node's own users."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def sync_all_beside(place: Path) -> None:
    """Have all that was written to the file system of a place outlive a power failure. One call for a
    million files; it waits for what others have written there, too. Blocks."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.syncfs(fd) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
    finally:
        os.close(fd)


def remove_tree(top: Path) -> None:
    """Delete it and all below; folders without write permission are opened up. Fine if there is none."""
    try:
        if not stat.S_ISDIR(os.lstat(top).st_mode):
            os.unlink(top)
            return
        os.chmod(top, stat.S_IRWXU)
        base = os.open(top, _FOLDER)
    except FileNotFoundError:
        return
    try:
        numbers = itertools.count()
        while os.listdir(base):
            _empty(base, base, numbers, _LEVELS_MAX)
    finally:
        os.close(base)
    with contextlib.suppress(FileNotFoundError):  # a former life of the daemon was still at it
        os.rmdir(top)


def _empty(folder: int, base: int, numbers: Iterator[int], levels: int) -> None:
    """Delete what is in a folder; folders that are too far down become folders of ``base``."""
    for name in os.listdir(folder):
        if not _is_folder(name, folder):
            _unlink(name, folder)
            continue
        with contextlib.suppress(FileNotFoundError):  # a former life of the daemon was still at it
            _take_away(name, folder, base, (numbers, levels))


def _take_away(name: str, folder: int, base: int, far: tuple[Iterator[int], int]) -> None:
    numbers, levels = far
    os.chmod(name, stat.S_IRWXU, dir_fd=folder)
    if not levels:
        _move_up(name, folder, base, numbers)
        return
    inner = os.open(name, _FOLDER, dir_fd=folder)
    try:
        _empty(inner, base, numbers, levels - 1)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=folder)


def _move_up(name: str, folder: int, base: int, numbers: Iterator[int]) -> None:
    for number in numbers:
        aside = f".removed-{number}"
        try:
            os.lstat(aside, dir_fd=base)
        except FileNotFoundError:
            os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=base)
            return


def _is_folder(name: str, folder: int) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode)
    except FileNotFoundError:
        return False


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass  # it went by itself


def files_below(folder: Path) -> Iterator[os.stat_result]:
    """All but folders, as far down as paths reach. What goes meanwhile is left out."""
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        yield entry.stat(follow_symlinks=False)
        except OSError:
            continue  # it went, or its path is too long to be named
