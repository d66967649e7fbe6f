"""``Unpacking``: an archive that a task has made, unpacked on this machine without trust in it.

A member's name leads nowhere but below the folder: no ``..``, no absolute name, and no way through a link,
neither one of the archive nor one that was there. Links are made last, when nothing is written any more, and
are never followed. What is neither file, folder nor link is left out. Owners are the user's own; bits that
would give rights to a program are dropped.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import stat
import tarfile
from types import TracebackType
from typing import Final

_MODE_MASK: Final = 0o777
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafeArchive(Exception):
    """The text is for the user."""


class Unpacking:
    """Into ``folder``; the first part of every name becomes ``name`` (``""``: it falls away)."""

    def __init__(self, folder: str, name: str) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = name
        self._links: list[tuple[str, str]] = []
        self._modes: list[tuple[str, int]] = []
        self.skipped: list[str] = []

    def __enter__(self) -> Unpacking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            os.close(self._folder)

    def take(self, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        """Unpack the next member."""
        path = self._path(member.name)
        if not path:
            return
        if member.isdir():
            os.close(self._enter(path))
            self._modes.append((path, member.mode & _MODE_MASK))
        elif member.isreg():
            self._write(path, member, tar)
        elif member.issym():
            self._links.append((path, member.linkname))
        elif member.islnk():
            self._join(path, self._path(member.linkname))
        else:
            self.skipped.append(f"{member.name}: a device or a pipe")

    def _path(self, name: str) -> str:
        parts = posixpath.normpath(name).split("/")
        if name.startswith("/") or ".." in parts:
            raise UnsafeArchive(f"the archive is not to be trusted: {name!r} leads out of its folder")
        own = [] if parts[0] == "." and len(parts) == 1 else parts
        rest = own[1:] if own and not name.startswith("./") else own
        return "/".join(part for part in (self._name, *rest) if part)

    def _enter(self, path: str) -> int:
        """The folder at ``path``, made if need be; every step is a folder in truth."""
        current = os.dup(self._folder)
        for part in path.split("/") if path else ():
            try:
                try:
                    os.mkdir(part, 0o700, dir_fd=current)
                    os.chmod(part, 0o755, dir_fd=current)
                except FileExistsError:
                    pass
                below = os.open(part, _FOLDER, dir_fd=current)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise UnsafeArchive(f"{path}: {part} is a link or a file here, not a folder") from None
                raise
            finally:
                os.close(current)
            current = below
        return current

    def _write(self, path: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        parent, name = posixpath.split(path)
        folder = self._enter(parent)
        try:
            _clear(name, folder, path)
            fd = os.open(name, _NEW, 0o600, dir_fd=folder)
            with open(fd, "wb") as target:
                source = tar.extractfile(member)
                if source is not None:
                    shutil.copyfileobj(source, target)
                os.fchmod(fd, member.mode & _MODE_MASK)
                os.utime(fd, (member.mtime, member.mtime))
        finally:
            os.close(folder)

    def _join(self, path: str, first: str) -> None:
        """A second name of a file that the archive held before; of anything else there is none."""
        parent, name = posixpath.split(path)
        first_parent, first_name = posixpath.split(first)
        target, source = self._enter(parent), self._enter(first_parent)
        try:
            found = os.stat(first_name, dir_fd=source, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise UnsafeArchive(f"{path}: a second name of what is no file")
            _clear(name, target, path)
            os.link(first_name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(target)
            os.close(source)

    def _finish(self) -> None:
        for path, target in self._links:
            parent, name = posixpath.split(path)
            folder = self._enter(parent)
            try:
                _clear(name, folder, path)
                os.symlink(target, name, dir_fd=folder)
            finally:
                os.close(folder)
        for path, mode in reversed(self._modes):
            folder = self._enter(path)
            try:
                os.fchmod(folder, mode)
            finally:
                os.close(folder)


def _clear(name: str, folder: int, path: str) -> None:
    """Make way for a file or a link. A folder stays: nothing takes its place."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        raise UnsafeArchive(f'cannot overwrite directory "{path}" with non-directory') from None
