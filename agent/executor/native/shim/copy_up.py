"""What an image has at a volume's place becomes the empty volume's first content, as in docker.

A mark beside the volume's data says that a copy is under way: a crash in the middle is made good by the next
task, instead of leaving half of it for ever. One task copies, others wait for it.

The volume may be another task's already, who may put links where folders were, and this process still sees
the node's root. So no path is trusted: folders are found by the kernel within the volume, as if it were the
root, and what lies in them is only ever named by itself. Nor is the lock where tasks could hold it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from agent.executor.native.shim import kernel

_MARK = "copying"
_CHUNK_BYTES = 1 << 24
_IGNORED = ("lost+found",)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def fill(source: str, volume: str) -> None:
    """``source``: the folder in the image; ``volume``: the volume's data folder. OSError if it fails."""
    if not stat.S_ISDIR(os.stat(source).st_mode) or os.statvfs(volume).f_flag & os.ST_RDONLY:
        return
    above = os.path.dirname(volume)
    mark = f"{above}/{_MARK}"
    lock = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(mark):
            if any(name not in _IGNORED for name in os.listdir(volume)):
                return
            os.close(os.open(mark, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        _copy_folder(source, volume)
        os.unlink(mark)
    finally:
        os.close(lock)


def _copy_folder(source: str, target: str) -> None:
    """All below, and the folder's own owner and mode. Copies over what a broken copy has left."""
    links: dict[tuple[int, int], str] = {}
    roots = (
        os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC),
        os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC),
    )
    folders = ["."]
    try:
        for folder in folders:
            here, there = (_open_folder(root, folder) for root in roots)
            try:
                folders += [
                    f"{folder}/{name}"
                    for name in os.listdir(here)
                    if _copy_entry(name, (here, there), f"{folder}/{name}", (links, roots[1]))
                ]
            finally:
                os.close(here)
                os.close(there)
        for folder in reversed(folders):
            here, there = (kernel.open_in_root(root, folder) for root in roots)
            try:
                _copy_metadata(here, there)
            finally:
                os.close(here)
                os.close(there)
    finally:
        for root in roots:
            os.close(root)


def _open_folder(root: int, path: str) -> int:
    """To be listed, and found without leaving ``root``."""
    place = kernel.open_in_root(root, path)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)


def _copy_entry(
    name: str, between: tuple[int, int], path: str, made: tuple[dict[tuple[int, int], str], int]
) -> bool:
    """Whether it is a folder, whose content is still to be copied."""
    here, there = between
    found = os.stat(name, dir_fd=here, follow_symlinks=False)
    is_folder = stat.S_ISDIR(found.st_mode)
    try:
        former = os.stat(name, dir_fd=there, follow_symlinks=False)
    except FileNotFoundError:
        former = None
    if former is not None and not (is_folder and stat.S_ISDIR(former.st_mode)):
        os.unlink(name, dir_fd=there)
        former = None
    if is_folder:
        if former is None:
            os.mkdir(name, 0o700, dir_fd=there)
        return True
    links, volume = made
    key = (found.st_dev, found.st_ino)
    if found.st_nlink > 1 and key in links:
        _link(links[key], volume, name, there)
        return False
    links[key] = path
    if stat.S_ISSOCK(found.st_mode):
        return False
    _make(name, found, between)
    held = os.open(name, _HOLD, dir_fd=here), os.open(name, _HOLD, dir_fd=there)
    try:
        _copy_metadata(*held)
    finally:
        for fd in held:
            os.close(fd)
    return False


def _link(first: str, volume: int, name: str, there: int) -> None:
    """Another name for a file that was copied before."""
    folder, _, first_name = first.rpartition("/")
    place = kernel.open_in_root(volume, folder)
    try:
        os.link(first_name, name, src_dir_fd=place, dst_dir_fd=there, follow_symlinks=False)
    finally:
        os.close(place)


def _make(name: str, found: os.stat_result, between: tuple[int, int]) -> None:
    here, there = between
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=here), name, dir_fd=there)
    elif stat.S_ISREG(found.st_mode):
        _copy_content(name, here, there)
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=there)


def _copy_content(name: str, here: int, there: int) -> None:
    inner = os.open(name, _READ, dir_fd=here)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        outer = os.open(name, flags, 0o600, dir_fd=there)
        try:
            while os.sendfile(outer, inner, None, _CHUNK_BYTES):
                pass
        finally:
            os.close(outer)
    finally:
        os.close(inner)


def _copy_metadata(here: int, there: int) -> None:
    """Between two things that are held, whatever they are. Owner first: that clears the set-id bits."""
    found, target = os.fstat(here), f"/proc/self/fd/{there}"
    if stat.S_IFMT(found.st_mode) != stat.S_IFMT(os.fstat(there).st_mode):
        raise OSError(errno.ESTALE, "the volume was changed while it was being filled")
    is_link = stat.S_ISLNK(found.st_mode)
    # by way of /proc, since what is only held has no other name; it leads to the very thing, also to a link
    os.chown(target, found.st_uid, found.st_gid)
    if not is_link:
        _copy_attributes(f"/proc/self/fd/{here}", target)
        os.chmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _copy_attributes(source: str, target: str) -> None:
    for name in os.listxattr(source):
        if name.startswith("trusted.overlay."):
            continue
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):  # the volume's file system has no such thing
                raise
