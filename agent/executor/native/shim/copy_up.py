"""What an image has at a volume's place becomes the empty volume's first content, as in docker.

A mark beside the volume's data says that a copy is under way: a crash in the middle is made good by the next
task, instead of leaving half of it for ever. One task copies, others wait for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

_MARK = "copying"
_CHUNK_BYTES = 1 << 24
_IGNORED = ("lost+found",)


def fill(source: str, volume: str) -> None:
    """``source``: the folder in the image; ``volume``: the volume's data folder. OSError if it fails."""
    if not stat.S_ISDIR(os.stat(source).st_mode) or os.statvfs(volume).f_flag & os.ST_RDONLY:
        return
    mark = f"{os.path.dirname(volume)}/{_MARK}"
    lock = os.open(volume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(mark):
            if any(name not in _IGNORED for name in os.listdir(volume)):
                return
            os.close(os.open(mark, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        _copy_folder(f"{source}/.", volume)  # the folder itself, also if its name is a link
        os.unlink(mark)
    finally:
        os.close(lock)


def _copy_folder(source: str, target: str) -> None:
    """All below, and the folder's own owner and mode. Copies over what a broken copy has left."""
    links: dict[tuple[int, int], str] = {}
    folders = [(source, target)]
    for here, there in folders:
        for name in os.listdir(here):
            found = os.lstat(f"{here}/{name}")
            if stat.S_ISDIR(found.st_mode):
                if not os.path.isdir(f"{there}/{name}"):
                    os.mkdir(f"{there}/{name}")
                folders.append((f"{here}/{name}", f"{there}/{name}"))
            else:
                _copy_file(f"{here}/{name}", f"{there}/{name}", found, links)
    for here, there in reversed(folders):
        _copy_metadata(here, there, os.lstat(here))


def _copy_file(source: str, target: str, found: os.stat_result, links: dict[tuple[int, int], str]) -> None:
    if os.path.lexists(target):
        os.unlink(target)
    key = (found.st_dev, found.st_ino)
    if found.st_nlink > 1 and key in links:
        os.link(links[key], target, follow_symlinks=False)
        return
    links[key] = target
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(found.st_mode):
        _copy_content(source, target)
    elif stat.S_ISSOCK(found.st_mode):
        return
    else:
        os.mknod(target, found.st_mode, found.st_rdev)
    _copy_metadata(source, target, found)


def _copy_content(source: str, target: str) -> None:
    inner = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    outer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while os.sendfile(outer, inner, None, _CHUNK_BYTES):
            pass
    finally:
        os.close(inner)
        os.close(outer)


def _copy_metadata(source: str, target: str, found: os.stat_result) -> None:
    """Owner first: changing it clears the set-id bits and the capabilities."""
    os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
    for name in os.listxattr(source, follow_symlinks=False):
        if name.startswith("trusted.overlay."):
            continue
        try:
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):  # the volume's file system has no such thing
                raise
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)
