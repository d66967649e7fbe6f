"""A task's view of the file system, made in its own mount namespace.

Two roots: the node's own (image ``host``), or an overlay of an image's layers with the task's upper
folder. Both get their own /proc, /dev (``dev``), /sys (read-only) and /dev/shm, then what the user mounts
(``mounting``). Nothing that is mounted here is seen outside, and all of it goes when the task's last process
ends, so a crash at any step leaks nothing.

Devices: every file system that the task can write to is mounted ``nodev`` and the few device files in /dev
are bound from the node's. So CAP_MKNOD, which Docker grants, opens no device here. A privileged task is the
exception to all of this: it has the node's devices, /sys and control groups, and no masks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from agent.executor.native.shim import dev, given, kernel, mounting, places, user_ids
from agent.executor.native.shim.kernel import (
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
)
from agent.executor.native.shim.places import Unmountable as Unmountable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.executor.native.job import Job

_SEALED = MS_NOSUID | MS_NODEV | MS_NOEXEC
_CGROUPS = "/sys/fs/cgroup"
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
MASKED = (
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


def stage(job: Job) -> dict[str, int]:
    """Begin, alone in a fresh mount namespace, before anything else of the task is: see ``mounting``."""
    return mounting.stage(job)


def enter(job: Job, trees: dict[str, int], own_ids: int = -1) -> tuple[int, int] | None:
    """Give this process the task's root. ``trees`` is what ``stage`` gave. The ends of its terminal.

    ``own_ids``: the task's user namespace, if it has one.
    """
    files = given.stage(job)
    for path in job["hidden"]:
        _detach(path)
    if job["is_host"]:
        root = ""
    else:
        root = job["root"]
        if own_ids >= 0:
            _use_own_ids(job, own_ids)
        _mount_overlay(job, root)
    terminal = _mount_system(job, root)
    _write_sysctls(job, root)
    if not job["privileged"]:
        for path in READ_ONLY:
            _bind_read_only(root + path)
        for path in MASKED:
            _mask(root + path, f"{root}/dev/null")
    for source, target in job["files"]:
        _bind_file(job, source, target, root)
    if root:
        _link_mounts(root)
    mounting.mount_all(job, root, trees)
    given.mount_all(files, root, is_host=job["is_host"])
    if root:
        _pivot(root)
        _make_workdir(job)
    if job["read_only"]:
        _remount_read_only("/", 0 if job["privileged"] else MS_NODEV)
    return terminal


def _use_own_ids(job: Job, own_ids: int) -> None:
    inside = (layer for mount in job["mounts"] for layer in mount["layers"])
    user_ids.map_layers(job["layers_dir"], (*job["layers"], *inside), own_ids)
    user_ids.give(job, job["upper"])


def _mount_overlay(job: Job, root: str) -> None:
    """Layers by short relative names: the options of mount(2) must fit in one page."""
    os.chdir(job["layers_dir"])
    lower = ":".join(reversed(job["layers"]))
    options = f"lowerdir={lower},upperdir={job['upper']},workdir={job['work']}"
    try:
        kernel.mount("overlay", root, "overlay", 0 if job["privileged"] else MS_NODEV, options)
    except OSError as error:
        raise _unmounted(job, error) from None
    os.chdir("/")


def _unmounted(job: Job, error: OSError) -> Exception:
    for layer in job["layers"]:
        if not os.path.isdir(layer):
            return Unmountable(
                f'the layer {layer} of image "{job["image"]}" is not on this node any more: remove the image '
                "here, and pull or load it again"
            )
    if error.errno == errno.ENOSPC:
        return OSError(errno.ENOSPC, "cannot make the task's root: no space left on device")
    return Unmountable(
        f"cannot mount the image's layers ({os.strerror(error.errno or 0)}); the kernel needs overlayfs, and "
        "the data directory must not be on an overlay itself"
    )


def _mount_system(job: Job, root: str) -> tuple[int, int] | None:
    for path in ("/proc", "/sys", "/dev"):
        if root and not os.path.lexists(root + path):
            os.mkdir(root + path, 0o755)
        if root and not stat.S_ISDIR(os.lstat(root + path).st_mode):
            # a link would be followed on the node, whose root is still ours
            raise Unmountable(f'"{path}" in the image is not a folder, so the task cannot have its own there')
    groups = _hold_groups(job)
    kernel.mount("proc", root + "/proc", "proc", _SEALED)
    kernel.mount("sysfs", root + "/sys", "sysfs", _SEALED | (0 if job["privileged"] else MS_RDONLY))
    terminal = dev.mount_dev(job, root)
    if groups and os.path.isdir(root + _CGROUPS):
        _mount_groups(groups, root + _CGROUPS, is_whole=job["privileged"])
    return terminal


def _hold_groups(job: Job) -> list[tuple[int, str]]:
    """The task's own groups and what they are called; of a privileged task with v1, all as the node has them.
    With v2 what it knows as the root of all groups has to be its own: programs make groups right below."""
    wanted = job.get("cgroup_mounts", [])
    if job["privileged"] and not any(not name for _, name in wanted):
        wanted = [(_CGROUPS, "")]
    return [(os.open(folder, os.O_PATH | os.O_CLOEXEC), name) for folder, name in wanted]


def _mount_groups(groups: list[tuple[int, str]], place: str, *, is_whole: bool) -> None:
    """To be read, so that programs find their limits; ``is_whole``: to be changed, too. v1 has a folder for
    each hierarchy, v2 is one."""
    if any(name for _, name in groups):
        kernel.mount("tmpfs", place, "tmpfs", _SEALED, "mode=755")
    for held, name in groups:
        target = f"{place}/{name}" if name else place
        if name:
            os.mkdir(target)
        for controller in name.split(",") if "," in name else ():
            os.symlink(name, f"{place}/{controller}")
        kernel.mount(places.path_of(held), target, flags=MS_BIND | (MS_REC if is_whole else 0))
        os.close(held)
    if not is_whole:
        _seal_groups(place, [f"{place}/{name}" if name else place for _, name in groups])


def _seal_groups(place: str, mounted: list[str]) -> None:
    fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
        kernel.set_mount(fd, attributes, is_recursive=True)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        for path in mounted:
            _remount_read_only(path, _SEALED)
    finally:
        os.close(fd)


def _write_sysctls(job: Job, root: str) -> None:
    for name, value in (*job.get("default_sysctls", {}).items(), *job["sysctls"].items()):
        try:
            fd = os.open(f"{root}/proc/sys/{name.replace('.', '/')}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            if name not in job["sysctls"] and error.errno == errno.ENOENT:
                continue  # a kernel without it
            raise Unmountable(f'sysctl "{name}" cannot be set to "{value}": {error.strerror}') from None


def _bind_read_only(path: str) -> None:
    if os.path.exists(path):
        kernel.mount(path, path, flags=MS_BIND | MS_REC)
        _remount_read_only(path, _SEALED)


def _remount_read_only(path: str, flags: int) -> None:
    kernel.mount("", path, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | flags)


def _mask(path: str, null: str) -> None:
    """``null``: the task's own, which is read-only, and so is what is bound from it."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        kernel.mount("tmpfs", path, "tmpfs", _SEALED | MS_RDONLY, "size=0k")
    else:
        kernel.mount(null, path, flags=MS_BIND)


def _bind_file(job: Job, source: str, target: str, root: str) -> None:
    """One of our own files (resolv.conf, hosts, hostname) over the image's."""
    if job["is_host"]:
        if os.path.isfile(target):
            kernel.mount(source, target, flags=MS_BIND)
        return
    root_fd = places.open_root(root)
    place = places.make(root_fd, target, is_folder=False)
    tree = kernel.clone_tree(source, is_recursive=False)
    kernel.attach_tree(tree, place)
    if job["read_only"]:
        _remount_read_only(places.path_of(tree), 0)
    for fd in (tree, place, root_fd):
        os.close(fd)


def _link_mounts(root: str) -> None:
    """What old programs read to learn of file systems, where the image has nothing of its own. In the image's
    own /etc, not in what the user mounts there."""
    root_fd = places.open_root(root)
    etc = places.find(root_fd, "/etc")
    os.close(root_fd)
    if etc is None:
        return
    if os.path.isdir(places.path_of(etc)):
        with contextlib.suppress(FileExistsError):
            os.symlink("/proc/mounts", "mtab", dir_fd=etc)
    os.close(etc)


def _make_workdir(job: Job) -> None:
    """Docker makes one that the image lacks, root's. On the node's own disk we do not."""
    path = job["workdir"]
    root_fd = places.open_root("/")
    try:
        is_missing = places.find(root_fd, path) is None
        place = places.make(root_fd, path, is_folder=True)
        if is_missing:
            user_ids.give(job, places.path_of(place))
        os.close(place)
    except Unmountable as error:
        _require_folders(path)
        raise OSError(errno.EIO, str(error)) from None
    finally:
        os.close(root_fd)
    _require_folders(path)


def _require_folders(path: str) -> None:
    above = path
    while above.strip("/"):
        if os.path.lexists(above) and not os.path.isdir(above):
            raise OSError(errno.ENOTDIR, f"Cannot mkdir: {path} is not a directory")
        above = os.path.dirname(above.rstrip("/"))


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
