"""A task's /dev: a few harmless device files, those that it asked for, or, privileged, all of the node's.

Device files are the node's own, bound in. Read-only: a device is written to all the same, but its owner, mode
and times, which are the node's, are out of the task's reach.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct

from agent.executor.native.shim import kernel, places, user_ids
from agent.executor.native.shim.kernel import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    MS_STRICTATIME,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.executor.native.job import Job

_NODE = "/dev"
_SEALED = MS_NOSUID | MS_NODEV | MS_NOEXEC
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
_OWN = ("pts", "shm", "mqueue")
"""File systems of the task's own."""
_SHM_BYTES = 64 << 20
_TTY_GROUP = 5
_UNLOCK = 0x40045431  # TIOCSPTLCK
_NUMBER_OF = 0x80045430  # TIOCGPTN


def mount_dev(job: Job, root: str) -> tuple[int, int] | None:
    """The ends of the task's terminal, if it is to have one: ours, which is to leave the task, and its."""
    # the node's device files must still be reachable once a fresh /dev lies over them
    every = node_devices() if job["privileged"] else []
    own = [(name, _hold(f"{_NODE}/{name}")) for name in (() if job["privileged"] else _DEVICES)]
    wanted = [(device["target"], _hold(device["source"])) for device in job["devices"]]
    dev = root + _NODE
    flags = MS_NOSUID | MS_STRICTATIME | (0 if job["privileged"] else MS_NODEV)
    kernel.mount("tmpfs", dev, "tmpfs", flags, f"mode=755,size=65536k{user_ids.owner_options(job)}")
    for name in _OWN:
        os.mkdir(f"{dev}/{name}")
    for path, found in every:
        os.makedirs(os.path.dirname(dev + path), 0o755, exist_ok=True)
        os.mknod(dev + path, found.st_mode, found.st_rdev)
        os.chown(dev + path, found.st_uid, found.st_gid)
        os.chmod(dev + path, stat.S_IMODE(found.st_mode))
    for name, fd in own:  # nobody else is in this fresh file system: its names can be trusted
        os.mknod(f"{dev}/{name}", stat.S_IFREG | 0o666)
        kernel.mount(places.path_of(fd), f"{dev}/{name}", flags=MS_BIND)
        guard(f"{dev}/{name}")
        os.close(fd)
    root_fd = places.open_root(root)
    for target, fd in wanted:
        _bind(root_fd, target, fd, is_made=not job["is_host"] or target.startswith(f"{_NODE}/"))
    os.close(root_fd)
    for target, name in _LINKS:
        os.symlink(target, f"{dev}/{name}")
    options = f"newinstance,ptmxmode=0666,mode=0620,gid={user_ids.root_of(job)[1] + _TTY_GROUP}"
    kernel.mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, options)
    shm_bytes = job["shm_size"] or _SHM_BYTES
    kernel.mount(
        "shm", f"{dev}/shm", "tmpfs", _SEALED, f"mode=1777,size={shm_bytes}{user_ids.owner_options(job)}"
    )
    kernel.mount("mqueue", f"{dev}/mqueue", "mqueue", _SEALED)
    return _open_terminal(dev) if job["tty"] else None


def _open_terminal(dev: str) -> tuple[int, int]:
    """Of the task's own, so that it has a name there; it is the console as well."""
    ours = os.open(f"{dev}/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(ours, _UNLOCK, bytes(4))
    [number] = struct.unpack("i", fcntl.ioctl(ours, _NUMBER_OF, bytes(4)))
    own = f"{dev}/pts/{number}"
    theirs = os.open(own, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    os.close(os.open(f"{dev}/console", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    kernel.mount(own, f"{dev}/console", flags=MS_BIND)
    return ours, theirs


def _hold(path: str) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise places.Unmountable(
            f'error gathering device information while adding custom device "{path}": {text}'
        ) from None


def _bind(root_fd: int, target: str, device: int, *, is_made: bool) -> None:
    place = places.make(root_fd, target, is_folder=False) if is_made else places.find(root_fd, target)
    if place is None:
        raise places.Unmountable(
            f'the place "{target}" for a device does not exist on this node, and image host has no root of '
            "its own to make it in; choose one below /dev"
        )
    # /proc of the outer pid namespace, or the fresh one: this process is in both
    tree = kernel.clone_tree(places.path_of(device), is_recursive=False)
    kernel.attach_tree(tree, place)
    guard(places.path_of(tree))
    for fd in (tree, place, device):
        os.close(fd)


def guard(path: str) -> None:
    """Keep a device file of the node that is bound there from being changed, as a file, by the task."""
    kernel.mount("", path, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC)


def node_devices() -> list[tuple[str, os.stat_result]]:
    """All device files of the node, by their path below /dev; not those that every task has of its own."""
    found = []
    for folder, inner, names in os.walk(_NODE):
        below = folder.removeprefix(_NODE)
        if not below:
            inner[:] = [name for name in inner if name not in _OWN]
            names = [name for name in names if name not in ("ptmx", "console")]
        for name in names:
            try:
                status = os.lstat(f"{folder}/{name}")
            except OSError:
                continue  # it went while we looked
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                found.append((f"{below}/{name}", status))
    return found
