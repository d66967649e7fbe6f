"""The user's mounts, and the volumes whose content is elsewhere.

Two moments. ``stage`` runs first of all, in the node's network and control groups (a file server is asked
from the node, a disk is opened by it), while the task's mount namespace is still a copy of the node's that
hears of it: there, trees that shall go on hearing are taken. ``mount_all`` runs when the task's root stands.

What a task gets is mounted ``nosuid`` and ``nodev``, with all below it, unless the task is privileged.
"""

from __future__ import annotations

import errno
import os
import re
import stat

from agent.executor.native.shim import copy_up, kernel, places, user_ids
from agent.executor.native.shim.kernel import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SLAVE,
)
from agent.executor.native.shim.places import Unmountable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.executor.native.job import Job
    from agent.executor.native.mounts import JobMount, JobVolume

_OCTAL = re.compile(rb"\\([0-7]{3})")
_SHARED = ("shared", "rshared")
_SLAVE = ("slave", "rslave")
_SEALED = MS_NOSUID | MS_NODEV | MS_NOEXEC


def stage(job: Job) -> dict[str, int]:
    """Trees that keep their ties to the node, by the target of their mount. Then the ties are cut."""
    trees = {}
    for mount in job["mounts"]:
        if mount["type"] == "bind":
            require_source(mount)
            if mount["propagation"] in (*_SHARED, *_SLAVE):
                require_ties(mount)
                trees[mount["target"]] = kernel.clone_tree(mount["source"])
    # slave: the node's later unmounts reach a task on its root, so it keeps no disk of the node busy
    kernel.mount("", "/", flags=MS_REC | (MS_SLAVE if job["is_host"] else MS_PRIVATE))
    for volume in job["volumes"]:
        mount_volume(volume, volume["mountpoint"])
    return trees


def mount_volume(volume: JobVolume, place: str) -> None:
    """One whose content is elsewhere. Unmountable, in docker's words, which name the volume's own folder."""
    try:
        kernel.mount(volume["device"], place, volume["kind"], volume["flags"], volume["data"])
    except OSError as error:
        raise Unmountable(
            f"failed to mount local volume: mount {volume['device']}:{volume['mountpoint']}, "
            f"flags: {volume['flags']:#x}, data: {volume['data']}: "
            f"{os.strerror(error.errno or 0).lower()}"
        ) from None


def mount_all(job: Job, root: str, trees: dict[str, int]) -> None:
    root_fd = places.open_root(root)
    for mount in job["mounts"]:
        try:
            _mount(job, mount, root_fd, trees.get(mount["target"]))
        except OSError as error:
            what = mount["source"] or mount["type"]
            raise Unmountable(
                f'cannot mount "{what}" on "{mount["target"]}": {os.strerror(error.errno or 0)}'
            ) from None
    os.close(root_fd)


def _mount(job: Job, mount: JobMount, root_fd: int, tree: int | None) -> None:
    if mount["type"] == "tmpfs":
        found = places.find(root_fd, mount["target"])
        own = 0o1777 if found is None else stat.S_IMODE(os.stat(places.path_of(found)).st_mode)
        _mount_tmpfs(job, mount, _target(job, mount, root_fd, is_folder=True), mount["mode"] or own)
        return
    if mount["layers"]:
        _mount_layers(job, mount)
    source = _source(mount)
    is_folder = os.path.isdir(places.path_of(source))
    target = _target(job, mount, root_fd, is_folder=is_folder)
    if mount["copies"] and is_folder and not job["is_host"]:
        copy_up.fill(places.path_of(target), mount["source"])
    if mount["type"] == "volume" and is_folder:
        _own_volume(job, places.path_of(source))
    if tree is None:
        tree = kernel.clone_tree(places.path_of(source), is_recursive=mount["is_recursive"])
    _attach(job, mount, tree, target)
    for fd in (source, tree, target):
        os.close(fd)


def _target(job: Job, mount: JobMount, root_fd: int, *, is_folder: bool) -> int:
    if not job["is_host"]:
        return places.make(root_fd, mount["target"], is_folder=is_folder)
    found = places.find(root_fd, mount["target"])
    if found is None:
        raise Unmountable(
            f'mount target "{mount["target"]}" does not exist on this node, and image host has no root of '
            "its own to make it in; create it on the node or choose another target"
        )
    return found


def _source(mount: JobMount) -> int:
    source = os.open(mount["source"], os.O_PATH | os.O_CLOEXEC)
    if not mount["subpath"]:
        return source
    found = places.find(source, mount["subpath"])
    os.close(source)
    if found is None:
        raise Unmountable(
            f'cannot find subpath "{mount["subpath"]}" in the {mount["type"]} mounted on '
            f'"{mount["target"]}": no such file or directory'
        )
    return found


def require_source(mount: JobMount) -> None:
    if mount["makes_source"]:
        try:
            os.makedirs(mount["source"], 0o755, exist_ok=True)
        except FileExistsError:
            return  # a file: it may be mounted as well
    elif not os.path.exists(mount["source"]):
        raise Unmountable(
            f'invalid mount config for type "bind": bind source path does not exist: {mount["source"]}'
        )


def _own_volume(job: Job, path: str) -> None:
    """A volume that nobody has written to is the task's root's, as if its node had no other ids."""
    if "ids" in job and os.stat(path).st_uid == 0 and not os.listdir(path):
        user_ids.give(job, path)


def _mount_tmpfs(job: Job, mount: JobMount, target: int, mode: int) -> None:
    """Without a mode of its own it has that of the folder it lies over, as in docker."""
    size = f",size={mount['size']}" if mount["size"] else ""
    flags = _SEALED | (MS_RDONLY if mount["read_only"] else 0)
    options = f"mode={mode:o}{size}{user_ids.owner_options(job)}"
    kernel.mount("tmpfs", places.path_of(target), "tmpfs", flags, options)


def _mount_layers(job: Job, mount: JobMount) -> None:
    """An image's files, to be read: put together in the task's folder, where nobody else sees it."""
    os.chdir(job["layers_dir"])
    layers = mount["layers"]
    if len(layers) == 1:
        kernel.mount(layers[0], mount["source"], flags=MS_BIND)
    else:
        options = f"lowerdir={':'.join(reversed(layers))}"
        kernel.mount("overlay", mount["source"], "overlay", MS_RDONLY | MS_NODEV, options)
    os.chdir("/")


def _attach(job: Job, mount: JobMount, tree: int, target: int) -> None:
    """Put the tree there, with what may not be done through it and what it hears of the node's.

    That is settled before the tree has a place, which others may share, and never by the place's name: by
    the time it is looked up again, another task may have put something else there.
    """
    sealed = 0 if job["privileged"] else MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    read_only = MOUNT_ATTR_RDONLY if mount["read_only"] else 0
    deep = sealed if mount["read_only_depth"] == "top" else sealed | read_only
    propagation = MS_PRIVATE if mount["propagation"] not in (*_SHARED, *_SLAVE) else 0
    if mount["propagation"] in _SLAVE:
        propagation = MS_SLAVE
    try:
        kernel.set_mount(tree, deep, propagation=propagation, is_recursive=True)
        kernel.set_mount(tree, sealed | read_only)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        if mount["read_only_depth"] == "all":
            raise Unmountable(
                "bind-readonly-force-recursive: read-only for all below needs Linux 5.12 or newer"
            ) from None
        kernel.attach_tree(tree, target)
        _restrict_top(tree, sealed | read_only, propagation)
    else:
        kernel.attach_tree(tree, target)


def _restrict_top(tree: int, attributes: int, propagation: int) -> None:
    """For kernels that do it neither with all below nor before the tree has its place."""
    path = places.path_of(tree)
    if propagation:
        kernel.mount("", path, flags=propagation | MS_REC)
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        attributes |= MS_NOEXEC
    # the three attributes have the numbers of mount(2)'s flags
    kernel.mount("", path, flags=MS_BIND | MS_REMOUNT | attributes)


def _plain(field: str) -> str:
    """A path as the kernel lists it, with its spaces and line ends spelled out in octal."""
    raw = _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), os.fsencode(field))
    return os.fsdecode(raw)


def require_ties(mount: JobMount) -> None:
    """Docker's rule: what is to be shared must lie on a mount that the node shares."""
    source = os.path.realpath(mount["source"])
    at, ties = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, _ = line.partition(" - ")
            fields = left.split()
            point = _plain(fields[4])
            is_above = point == "/" or source == point or source.startswith(f"{point}/")
            if is_above and len(point) >= len(at):
                at, ties = point, " ".join(fields[6:])
    if "shared:" not in ties and (mount["propagation"] in _SHARED or "master:" not in ties):
        kind = "a shared" if mount["propagation"] in _SHARED else "a shared or slave"
        raise Unmountable(
            f"path {mount['source']} is mounted on {at} but it is not {kind} mount; on the node: "
            f"mount --make-rshared {at}"
        )
