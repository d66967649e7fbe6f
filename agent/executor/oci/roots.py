"""A task's files on the node's side: its root put together, its volumes filled, and all of it taken down.

Made at the start and found again by where it is mounted: below the task's folder. So whatever a crash left is
found by reading the table of mounts, and a reboot leaves nothing. Blocks.

A file server or device of a volume is mounted from the node, for this task alone. No path that a task may
have made is trusted: places in its root are found by the kernel as if it were the root.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.executor.native.job import Job
from agent.executor.native.mounts import JobMount
from agent.executor.native.shim import accounts, copy_up, inner, kernel, mounting, places
from agent.executor.native.shim.accounts import Account
from agent.executor.native.shim.kernel import MNT_DETACH, MS_BIND, MS_NODEV, MS_PRIVATE, MS_RDONLY, MS_REC
from agent.executor.native.shim.places import Unmountable

_CLONE_FS: Final = 0x200
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_SYSTEM: Final = ("/proc", "/sys", "/dev")
_TIED: Final = ("shared", "rshared", "slave", "rslave")


def put_together(job: Job, folder: Path) -> dict[str, str]:
    """Make the task's root and what is mounted into it; where each of its mounts is to be taken from, by its
    target. Unmountable."""
    if job["is_host"]:
        _make_links(Path(job["root"]))
    else:
        try:
            _in_folder(job["layers_dir"], lambda: _mount_overlay(job))
        except OSError as error:
            raise Unmountable(
                f"cannot mount the image's layers ({error.strerror}); the kernel needs overlayfs, and the "
                "data directory must not be on an overlay itself"
            ) from None
    foreign = _mount_volumes(job, folder)
    sources = {}
    for number, mount in enumerate(job["mounts"]):
        if mount["type"] == "tmpfs":
            continue
        try:
            sources[mount["target"]] = _prepare(job, mount, folder, (number, foreign))
        except OSError as error:
            raise Unmountable(
                f'cannot mount "{mount["source"]}" on "{mount["target"]}": {os.strerror(error.errno or 0)}'
            ) from None
    _require_given(job)
    if job["is_host"]:
        _require_places(job)
    else:
        _make_places(job, sources)
    return sources


def account_of(job: Job) -> Account:
    """Whom the task runs as, by its own root's files. UnknownAccount."""
    root = "/" if job["is_host"] else job["root"]
    return accounts.resolve(job["user"], job["groups"], _read(root, "/etc/passwd"), _read(root, "/etc/group"))


def take_apart(folder: Path) -> None:
    """Unmount all below the folder, what is on top first. Nothing there is fine."""
    for point in reversed(mounts_below(folder, Path("/proc/self/mountinfo").read_bytes())):
        try:
            kernel.unmount(point, MNT_DETACH)
        except OSError:
            continue  # it went with what it was mounted on


def mounts_below(folder: Path, mountinfo: bytes) -> list[str]:
    """In the order in which they were mounted. Pure."""
    inside = os.fsencode(f"{folder}/")
    fields = [line.split(b" ") for line in mountinfo.splitlines()]
    points = [_ESCAPE.sub(lambda match: bytes((int(match[1], 8),)), row[4]) for row in fields if len(row) > 4]
    return [os.fsdecode(point) for point in points if point.startswith(inside)]


def _mount_overlay(job: Job) -> None:
    """Layers by short relative names: the options of mount(2) must fit in one page."""
    lower = ":".join(reversed(job["layers"]))
    options = f"lowerdir={lower},upperdir={job['upper']},workdir={job['work']}"
    kernel.mount("overlay", job["root"], "overlay", 0 if job["privileged"] else MS_NODEV, options)


def _in_folder(folder: str, call: Callable[[], None]) -> None:
    """Call it with this working directory, which is a thread's own for once."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            kernel.unshare(_CLONE_FS)
            os.chdir(folder)
            call()
        except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="oci-mount")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _make_links(root: Path) -> None:
    """Of the node's root what is no link is bound by the runtime, which makes the places for it."""
    root.mkdir(mode=0o755, exist_ok=True)
    for entry in os.scandir("/"):
        if entry.is_symlink() and not os.path.lexists(root / entry.name):
            os.symlink(os.readlink(entry.path), root / entry.name)


def _mount_volumes(job: Job, folder: Path) -> dict[str, str]:
    """The volumes whose content is elsewhere; where that is found, by the volume's own folder."""
    found = {}
    for number, volume in enumerate(job["volumes"]):
        place = folder / "foreign" / str(number)
        place.mkdir(parents=True, exist_ok=True)
        mounting.mount_volume(volume, str(place))
        found[volume["mountpoint"]] = str(place)
    return found


def _prepare(job: Job, mount: JobMount, folder: Path, found: tuple[int, dict[str, str]]) -> str:
    number, foreign = found
    if mount["type"] == "bind":
        mounting.require_source(mount)
        if mount["propagation"] in _TIED:
            mounting.require_ties(mount)
        elif not mount["is_recursive"]:
            # crun takes along what is mounted below, asked for or not
            return _hold(os.open(mount["source"], os.O_PATH | os.O_CLOEXEC), folder / "flat" / str(number))
        return mount["source"]
    if mount["layers"]:
        _in_folder(job["layers_dir"], lambda: _mount_layers(mount))
    source = foreign.get(mount["source"], mount["source"])
    if mount["copies"] and not job["is_host"]:
        _fill(job, mount["target"], source)
    return _below(source, mount, folder / "subpaths" / str(number)) if mount["subpath"] else source


def _mount_layers(mount: JobMount) -> None:
    """An image's files, to be read."""
    layers = mount["layers"]
    if len(layers) == 1:
        kernel.mount(layers[0], mount["source"], flags=MS_BIND)
    else:
        options = f"lowerdir={':'.join(reversed(layers))}"
        kernel.mount("overlay", mount["source"], "overlay", MS_RDONLY | MS_NODEV, options)


def _fill(job: Job, target: str, volume: str) -> None:
    """An empty volume begins with what the image has in its place."""
    root = places.open_root(job["root"])
    try:
        place = places.find(root, target)
        if place is None:
            return
        try:
            if os.path.isdir(places.path_of(place)) and os.path.isdir(volume):
                copy_up.fill(places.path_of(place), volume)
        finally:
            os.close(place)
    finally:
        os.close(root)


def _below(source: str, mount: JobMount, place: Path) -> str:
    """A part of a volume or image, held by a mount: its name could lead elsewhere by the time it is used."""
    root = os.open(source, os.O_PATH | os.O_CLOEXEC)
    try:
        found = places.find(root, mount["subpath"])
    finally:
        os.close(root)
    if found is None:
        raise Unmountable(
            f'cannot find subpath "{mount["subpath"]}" in the {mount["type"]} mounted on '
            f'"{mount["target"]}": no such file or directory'
        )
    return _hold(found, place, depth=MS_REC)


def _hold(found: int, place: Path, *, depth: int = 0) -> str:
    """Mount what is open there, and close it."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.isdir(places.path_of(found)):
            place.mkdir(exist_ok=True)
        else:
            place.touch()
        kernel.mount(places.path_of(found), str(place), flags=MS_BIND | depth)
        kernel.mount("", str(place), flags=MS_PRIVATE | MS_REC)
    finally:
        os.close(found)
    return str(place)


def _require_given(job: Job) -> None:
    for source, target in job.get("given", ()):
        if not os.path.exists(source):
            raise Unmountable(
                f"the secrets and configs of this task are gone from this node's memory: {target}"
            )


def _make_places(job: Job, sources: dict[str, str]) -> None:
    """What is mounted over, in the task's own layer: runtimes differ in what they make of links there."""
    for path in _SYSTEM:
        if os.path.lexists(job["root"] + path) and not stat.S_ISDIR(os.lstat(job["root"] + path).st_mode):
            raise Unmountable(f'"{path}" in the image is not a folder, so the task cannot have its own there')
    root = places.open_root(job["root"])
    try:
        for mount in job["mounts"]:
            source = sources.get(mount["target"], "")
            os.close(places.make(root, mount["target"], is_folder=not source or os.path.isdir(source)))
        for source, target in (*job["files"], *job.get("given", ())):
            is_folder = os.path.isdir(source)
            place = places.make(root, target, is_folder=is_folder)
            is_mismatch = os.path.isdir(places.path_of(place)) and not is_folder
            os.close(place)
            if is_mismatch:
                raise Unmountable(f'cannot put a secret or config at "{target}": a folder is there')
    finally:
        os.close(root)


def _require_places(job: Job) -> None:
    """On the node's own root nothing is made for a task, but it has to be there."""
    for mount in job["mounts"]:
        if not os.path.exists(mount["target"]):
            raise Unmountable(
                f'mount target "{mount["target"]}" does not exist on this node, and image host has no root '
                "of its own to make it in; create it on the node or choose another target"
            )
    for source, target in job.get("given", ()):
        if os.path.isdir(target) and not os.path.isdir(source):
            raise Unmountable(f'cannot put a secret or config at "{target}": a folder is there')
        if not os.path.isdir(os.path.dirname(target)):
            raise Unmountable(
                f'the folder of "{target}" does not exist on this node, and image host has no root of its '
                "own to make it in; create it on the node or choose another target"
            )


def _read(root: str, path: str) -> str:
    """A file of the task's root, whatever its image made of the way there."""
    root_fd = places.open_root(root)
    try:
        place = places.find(root_fd, path)
    except Unmountable:
        return ""
    finally:
        os.close(root_fd)
    if place is None:
        return ""
    try:
        return inner.read_accounts(places.path_of(place))
    finally:
        os.close(place)
