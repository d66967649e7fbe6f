"""A task's view of the file system, made in its own mount namespace.

Two roots: the node's own (image ``host``), or an overlay of an image's layers with the task's upper
folder. Both get their own /proc, /dev, /sys (read-only) and /dev/shm. Nothing that is mounted here is seen
outside, and all of it goes when the task's last process ends, so a crash at any step leaks nothing.

Devices: every file system that the task can write to is mounted ``nodev`` and the few device files in /dev
are bound from the node's. So CAP_MKNOD, which Docker grants, opens no device here.
"""

from __future__ import annotations

import os
import stat

from agent.executor.native.shim import kernel
from agent.executor.native.shim.kernel import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SLAVE,
    MS_STRICTATIME,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.executor.native.job import Job, JobMount

_SEALED = MS_NOSUID | MS_NODEV | MS_NOEXEC
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)


class Unmountable(Exception):
    """The task asks for a mount that cannot be made. The text is for the user."""


def enter(job: Job) -> None:
    """Give this process (alone in a fresh mount namespace) the task's root."""
    if job["is_host"]:
        # slave: the node's later unmounts reach the task, so it keeps no disk of the node busy
        kernel.mount("", "/", flags=MS_REC | MS_SLAVE)
        for path in job["hidden"]:
            _detach(path)
        root = ""
    else:
        kernel.mount("", "/", flags=MS_REC | MS_PRIVATE)
        root = job["root"]
        _mount_overlay(job, root)
    _mount_system(root)
    _write_sysctls(job["sysctls"], root)
    for path in _READ_ONLY:
        _bind_read_only(root + path)
    for path in _MASKED:
        _mask(root + path)
    for source, target in job["files"]:
        _bind_file(source, target, root, is_host=job["is_host"])
    for mount in job["mounts"]:
        _mount_wish(mount, root, is_host=job["is_host"])
    if root:
        _pivot(root)
    if job["read_only"]:
        _remount_read_only("/", MS_NODEV)


def _mount_overlay(job: Job, root: str) -> None:
    """Layers by short relative names: the options of mount(2) must fit in one page."""
    os.chdir(job["layers_dir"])
    lower = ":".join(reversed(job["layers"]))
    options = f"lowerdir={lower},upperdir={job['upper']},workdir={job['work']}"
    try:
        kernel.mount("overlay", root, "overlay", MS_NODEV, options)
    except OSError as error:
        raise Unmountable(
            f"cannot mount the image's layers ({error.strerror}); the kernel needs overlayfs, and the "
            "data directory must not be on an overlay itself"
        ) from None
    os.chdir("/")


def _mount_system(root: str) -> None:
    for path in ("/proc", "/sys", "/dev"):
        if root and not os.path.lexists(root + path):
            os.mkdir(root + path, 0o755)
    kernel.mount("proc", root + "/proc", "proc", _SEALED)
    kernel.mount("sysfs", root + "/sys", "sysfs", _SEALED | MS_RDONLY)
    _mount_devices(root + "/dev")


def _mount_devices(dev: str) -> None:
    # the node's device files must still be reachable once a fresh /dev lies over them
    opened = [(name, os.open(f"/dev/{name}", os.O_PATH | os.O_CLOEXEC)) for name in _DEVICES]
    kernel.mount(
        "tmpfs", dev, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_STRICTATIME, "mode=755,size=65536k"
    )
    for name, fd in opened:
        target = f"{dev}/{name}"
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        # /proc of the outer pid namespace, or the fresh one: this process is in both
        kernel.mount(f"/proc/self/fd/{fd}", target, flags=MS_BIND)
        os.close(fd)
    for target, name in _DEVICE_LINKS:
        os.symlink(target, f"{dev}/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{dev}/{name}")
    kernel.mount(
        "devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"
    )
    kernel.mount("shm", f"{dev}/shm", "tmpfs", _SEALED, "mode=1777,size=65536k")
    kernel.mount("mqueue", f"{dev}/mqueue", "mqueue", _SEALED)


def _write_sysctls(sysctls: dict[str, str], root: str) -> None:
    for name, value in sysctls.items():
        try:
            with open(f"{root}/proc/sys/{name.replace('.', '/')}", "w", encoding="utf-8") as file:
                file.write(value)
        except OSError as error:
            raise Unmountable(f'sysctl "{name}" cannot be set to "{value}": {error.strerror}') from None


def _bind_read_only(path: str) -> None:
    if os.path.exists(path):
        kernel.mount(path, path, flags=MS_BIND | MS_REC)
        _remount_read_only(path, _SEALED)


def _remount_read_only(path: str, flags: int) -> None:
    kernel.mount("", path, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | flags)


def _mask(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        kernel.mount("tmpfs", path, "tmpfs", _SEALED | MS_RDONLY, "size=0k")
    else:
        kernel.mount("/dev/null", path, flags=MS_BIND)


def _bind_file(source: str, target: str, root: str, *, is_host: bool) -> None:
    """One of our own files (resolv.conf, hosts, hostname) over the image's."""
    if is_host:
        if os.path.isfile(target):
            kernel.mount(source, target, flags=MS_BIND)
        return
    path = _inside(root, target)
    if not os.path.lexists(path):
        _touch(path)
    kernel.mount(source, path, flags=MS_BIND)


def _mount_wish(mount: JobMount, root: str, *, is_host: bool) -> None:
    """One of the user's mounts."""
    target = mount["target"]
    kind, source = mount["type"], mount["source"]
    is_folder = kind == "tmpfs" or os.path.isdir(source)
    if kind != "tmpfs" and not os.path.exists(source):
        raise Unmountable(
            f'invalid mount config for type "{kind}": bind source path does not exist: {source}'
        )
    path = _inside(root, target) if root else target
    if not os.path.exists(path):
        if is_host:
            raise Unmountable(
                f'mount target "{target}" does not exist on this node, and image host has no root of its own '
                "to make it in; create it on the node or choose another target"
            )
        if is_folder:
            os.makedirs(path, 0o755, exist_ok=True)
        else:
            _touch(path)
    try:
        if kind == "tmpfs":
            size = f",size={mount['size']}" if mount["size"] else ""
            flags = _SEALED | (MS_RDONLY if mount["read_only"] else 0)
            kernel.mount("tmpfs", path, "tmpfs", flags, f"mode={mount['mode'] or 0o1777:o}{size}")
            return
        kernel.mount(source, path, flags=MS_BIND | MS_REC)
        flags = MS_NOSUID | MS_NODEV | (MS_RDONLY if mount["read_only"] else 0)
        if os.statvfs(path).f_flag & os.ST_NOEXEC:
            flags |= MS_NOEXEC
        kernel.mount("", path, flags=MS_BIND | MS_REMOUNT | flags)
    except OSError as error:
        raise Unmountable(f'cannot mount "{source or kind}" on "{target}": {error.strerror}') from None


def _inside(root: str, target: str) -> str:
    """``target`` below ``root``, following the image's own symbolic links but never out of the root."""
    parts = [part for part in target.split("/") if part]
    resolved: list[str] = []
    links_left = 40
    while parts:
        part = parts.pop(0)
        if part == ".":
            continue
        if part == "..":
            resolved = resolved[:-1]
            continue
        path = "/".join([root, *resolved, part])
        if not os.path.islink(path):
            resolved.append(part)
            continue
        links_left -= 1
        if links_left < 0:
            raise Unmountable(f'mount target "{target}" has too many levels of symbolic links')
        link = os.readlink(path)
        if link.startswith("/"):
            resolved = []
        parts = [piece for piece in link.split("/") if piece] + parts
    return "/".join([root, *resolved])


def _touch(path: str) -> None:
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _pivot(root: str) -> None:
    """Make ``root`` the root and let go of the old one, without needing a folder to put it in."""
    os.chdir(root)
    kernel.pivot_root(".", ".")
    kernel.unmount(".", MNT_DETACH)
    os.chdir("/")


def _detach(path: str) -> None:
    try:
        kernel.unmount(path, MNT_DETACH)
    except OSError:
        # not a mount point on this node: there is nothing to hide
        return
