"""What an engine cannot mount as it is asked to: part of a volume, and a volume whose content is elsewhere.

We mount it ourselves in the task's folder, where the engine takes it from; it goes with the task. A part is
found by the kernel within the volume, as if that were the root: a link that a task has put there leads
nowhere else, also if it is put there at this moment. All functions block.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.executor.native import folders
from agent.executor.native.mounts import JobMount, JobVolume, plan_volumes, server_names
from agent.executor.native.shim import kernel, mounting
from agent.executor.native.shim.places import Unmountable
from agent.executor.native.surroundings import address_of
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.objects import NodeVolume

_FOLDER: Final = "parts"
_UNMOUNTS_MAX: Final = 64


def place_of(mount: JobMount, folder: str, foreign: Mapping[str, str]) -> str:
    """Where the engine finds what is to be mounted. ``foreign``: by the volume's own folder. Pure."""
    if mount["subpath"]:
        # a target may be longer than a name can be
        return f"{folder}/{_FOLDER}/{hashlib.sha256(mount['target'].encode()).hexdigest()}"
    return foreign.get(mount["source"], mount["source"])


def foreign_places(volumes: Mapping[str, NodeVolume], folder: str) -> dict[str, str]:
    """Volumes whose content is elsewhere: their own folder -> where it is mounted. Pure."""
    return {
        volume.mountpoint: f"{folder}/{_FOLDER}/volume-{number}"
        for number, (_, volume) in enumerate(sorted(volumes.items()))
        if volume.options.get("device") or volume.options.get("type")
    }


def mount_parts(folder: str, mounts: list[JobMount], volumes: Mapping[str, NodeVolume]) -> None:
    """All anew. What cannot be mounted rejects the task, in docker's words."""
    unmount_parts(Path(folder))
    foreign = foreign_places(volumes, folder)
    if foreign:
        addresses = {name: address_of(name) for name in sorted(server_names(volumes))}
        for volume in plan_volumes(volumes, addresses):
            _mount_volume(volume, foreign[volume["mountpoint"]])
    for mount in mounts:
        if mount["subpath"]:
            _mount_part(
                mount, foreign.get(mount["source"], mount["source"]), place_of(mount, folder, foreign)
            )


def unmount_parts(folder: Path) -> None:
    """Before anything below is deleted: else it would be the volume's files that are."""
    parts = folder / _FOLDER
    for name in os.listdir(parts) if parts.is_dir() else ():
        _unmount(parts / name)
    folders.remove_tree(parts)


def _unmount(place: Path) -> None:
    for _ in range(_UNMOUNTS_MAX):
        try:
            kernel.unmount(str(place), kernel.MNT_DETACH)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # nothing is mounted there any more
                return
            raise Unavailable(f"{place} cannot be unmounted: {error.strerror}") from None
    raise Unavailable(f"{place} is still mounted")


def _mount_volume(volume: JobVolume, place: str) -> None:
    os.makedirs(place, 0o700, exist_ok=True)
    try:
        mounting.mount_volume(volume, place)
    except Unmountable as error:
        raise TaskRejected(str(error)) from None


def _mount_part(mount: JobMount, source: str, place: str) -> None:
    root = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = kernel.open_in_root(root, mount["subpath"])
    except OSError:
        raise TaskRejected(
            f'cannot find subpath "{mount["subpath"]}" in the {mount["type"]} mounted on {mount["target"]}'
        ) from None
    finally:
        os.close(root)
    path = f"/proc/self/fd/{found}"
    try:
        if os.path.isdir(path):
            os.makedirs(place, 0o700)
        else:
            os.makedirs(os.path.dirname(place), 0o700, exist_ok=True)
            Path(place).touch()
        kernel.mount(path, place, flags=kernel.MS_BIND | kernel.MS_REC)
    finally:
        os.close(found)
