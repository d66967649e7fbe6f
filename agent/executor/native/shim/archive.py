"""Tar archives of a task's files, made and unpacked by a process inside the task's mount namespace.

What is at a path is what the task would see there. Owners are numbers only: looking up names would load code
out of the task's files. Nothing is imported once the process is inside (``inner.seal_imports``).
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import tarfile

from agent.executor.native.shim import inner, rootfs

_COPY_BYTES = 65_536


def prepare() -> None:
    """Before the task is entered: no lookups of names from now on."""
    for name in ("pwd", "grp"):
        setattr(tarfile, name, None)


def send(path: str, status: int) -> None:
    """Write an archive of what is at ``path`` to standard output. Its root is the path's last part."""
    full = posixpath.normpath("/" + path.lstrip("/"))
    # a slash or a dot at the end asks for what a link leads to, as everywhere
    follows = path.endswith(("/", "/."))
    try:
        found = os.stat(full) if follows else os.lstat(full)
    except OSError as error:
        raise _absent(path, error) from None
    if follows and not stat.S_ISDIR(found.st_mode):
        raise rootfs.Unmountable(f"not a directory: {path}")
    name = "." if path.endswith("/.") or full == "/" else posixpath.basename(full)
    if follows:
        full = os.path.realpath(full)
    with (
        open(1, "wb", buffering=_COPY_BYTES, closefd=False) as out,
        tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_COPY_BYTES) as tar,
    ):
        os.close(status)
        _add(tar, full, name)


def _device_of(path: str) -> int:
    try:
        return os.lstat(path).st_dev
    except FileNotFoundError:
        return -1


def _add(tar: tarfile.TarFile, root: str, name: str) -> None:
    """Depth first without recursion; what disappears meanwhile is left out.

    Of the root only its own file system is meant: what is mounted in it is the kernel's, or a volume's.
    """
    device = os.stat(root).st_dev if root == "/" else None
    waiting = [(root, name)]
    while waiting:
        path, member_name = waiting.pop()
        try:
            member: tarfile.TarInfo | None = _member(tar, path, member_name)
        except FileNotFoundError:
            continue
        if member is None:
            continue  # a socket: no archive holds one
        if member.isreg():
            _add_file(tar, member, path)
        else:
            tar.addfile(member)
        if member.isdir() and (device is None or _device_of(path) == device):
            try:
                below = sorted(os.listdir(path), reverse=True)
            except FileNotFoundError:
                continue
            waiting += [(f"{path}/{entry}", f"{member_name}/{entry}") for entry in below]
        _forget_members(tar)


def _member(tar: tarfile.TarFile, path: str, name: str) -> tarfile.TarInfo | None:
    """tarfile remembers every file, in case it comes again by another name: here only what may."""
    member = tar.gettarinfo(path, name)
    found = os.lstat(path)
    if found.st_nlink < 2:
        vars(tar)["inodes"].pop((found.st_ino, found.st_dev), None)
    return member


def _forget_members(tar: tarfile.TarFile) -> None:
    """tarfile remembers every member; an archive of a million files must not grow this process."""
    vars(tar)["members"].clear()


def _add_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode):  # it may have been exchanged for something else
            member.size = found.st_size
            tar.addfile(member, _Exactly(file, member.size))


class _Exactly:
    """As many bytes as the head promises, of a file that may shrink or grow while it is read."""

    def __init__(self, file: object, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data: bytes = self._file.read(wanted)  # type: ignore[attr-defined]
        data += bytes(wanted - len(data))
        self._left -= wanted
        return data


def receive(path: str, status: int) -> None:
    """Unpack the archive on standard input into the folder at ``path``."""
    target = os.path.realpath("/" + path)
    try:
        found = os.stat(target)
    except OSError as error:
        raise _absent(path, error) from None
    if not stat.S_ISDIR(found.st_mode):
        raise rootfs.Unmountable(f"extraction point is not a directory: {path}")
    os.close(status)
    try:
        with (
            open(0, "rb", closefd=False) as source,
            tarfile.open(fileobj=source, mode="r|", bufsize=_COPY_BYTES) as tar,
        ):
            for member in tar:
                _extract(tar, member, target)
                _forget_members(tar)
            while source.read(_COPY_BYTES):
                pass  # padding after the end: whoever writes it must not find the pipe closed
    except tarfile.TarError as error:
        _end(f"the archive cannot be read: {error}")
    except OSError as error:
        _end(_words(error))


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: str) -> None:
    name = posixpath.normpath(member.name.lstrip("/"))
    if name == ".." or name.startswith("../"):
        _end(f"invalid name in the archive: {member.name!r} leads out of its folder")
    member.name = name
    place = posixpath.join(target, name)
    if not member.isdir() and os.path.isdir(place) and not os.path.islink(place):
        _end(f'cannot overwrite directory "{place}" with non-directory')
    if not member.isdir() and os.path.lexists(place):
        os.unlink(place)
    if member.islnk():
        member.linkname = posixpath.normpath(member.linkname.lstrip("/"))
    tar.extract(member, target, numeric_owner=True, filter="fully_trusted")


def _absent(path: str, error: OSError) -> Exception:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return rootfs.Unmountable(f"Could not find the file {path} in container")
    return OSError(error.errno, _words(error))


def _words(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)


def _end(reason: str) -> None:
    """The task's side of the archive has been begun: the reason goes the way of a command's errors."""
    os.write(2, reason.encode(errors="replace"))
    os._exit(inner.NOT_EXECUTABLE)
