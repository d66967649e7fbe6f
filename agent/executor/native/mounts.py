"""Mounts of tasks, from the spec's words to what the shim does one by one. Pure.

Refuses what the node cannot do, in docker's words where it has them. Orders mounts so that a folder is
mounted before what lies in it.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from typing import Final, TypedDict

from agent.executor.base import ImageConfig
from agent.executor.native.shim.kernel import MOUNT_FLAGS, MS_BIND, MS_REC
from swarmpy.errors import TaskRejected
from swarmpy.model.objects import NodeVolume
from swarmpy.model.specs import BindOptions, ImageOptions, Mount, VolumeOptions
from swarmpy.model.states import MountType
from swarmpy.model.volumes import VolumeRequest

_PROPAGATIONS: Final = ("", "private", "rprivate", "shared", "rshared", "slave", "rslave")


class JobMount(TypedDict):
    """``source`` is a path on the node. ``layers``: of an image, lowest first; then ``source`` is where they
    are put together. ``copies``: an empty volume begins with what the image has there."""

    type: str
    source: str
    target: str
    read_only: bool
    size: int
    mode: int
    propagation: str
    is_recursive: bool
    read_only_depth: str
    """How far a bind mount's read-only goes: "" as far as the kernel can, "top", or "all" or not at all."""
    makes_source: bool
    copies: bool
    subpath: str
    layers: list[str]


class JobVolume(TypedDict):
    """A volume whose content is elsewhere: mounted on its folder before anything else of the task is."""

    mountpoint: str
    device: str
    kind: str
    flags: int
    data: str


def volume_requests(mounts: tuple[Mount, ...]) -> tuple[VolumeRequest, ...]:
    """The named volumes that a task needs on its node."""
    requests = {}
    for mount in mounts:
        if mount.type is MountType.VOLUME and mount.source:
            options = mount.volume_options or VolumeOptions()
            driver = options.driver_config
            requests[mount.source] = VolumeRequest(
                name=mount.source,
                driver=driver.name if driver else "",
                driver_opts=driver.options if driver else {},
                labels=options.labels,
            )
    return tuple(requests.values())


def image_volumes(image: ImageConfig, mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
    """The volumes that the image itself asks for, but where the task has mounts of its own."""
    taken = {os.path.normpath(mount.target) for mount in mounts}
    wanted = dict.fromkeys(posixpath.normpath(posixpath.join("/", path)) for path in image.volumes)
    return tuple(Mount(type=MountType.VOLUME, target=path) for path in wanted if path not in taken | {"/"})


def plan_mounts(
    mounts: tuple[Mount, ...],
    *,
    folder: str,
    volumes: Mapping[str, NodeVolume],
    layers: Mapping[str, tuple[str, ...]],
) -> list[JobMount]:
    """``folder`` is the task's; ``layers`` those of each image that is mounted."""
    planned = [
        _plan(mount, (f"{folder}/mounts/{number}", f"{folder}/volumes/{number}"), volumes, layers)
        for number, mount in enumerate(mounts)
    ]
    return sorted(planned, key=lambda mount: os.path.normpath(mount["target"]).count("/"))


def _plan(
    mount: Mount,
    places: tuple[str, str],
    volumes: Mapping[str, NodeVolume],
    layers: Mapping[str, tuple[str, ...]],
) -> JobMount:
    """``places``: in the task's folder, of an image's files and of a nameless volume."""
    if not mount.target.startswith("/"):
        raise TaskRejected(f'invalid mount target "{mount.target}": mount path must be absolute')
    bind = mount.bind_options or BindOptions()
    volume = mount.volume_options or VolumeOptions()
    image = mount.image_options or ImageOptions()
    planned = JobMount(
        type=mount.type.value,
        source=mount.source,
        target=mount.target,
        read_only=mount.read_only,
        size=mount.tmpfs_options.size_bytes if mount.tmpfs_options else 0,
        mode=mount.tmpfs_options.mode if mount.tmpfs_options else 0,
        propagation="",
        is_recursive=True,
        read_only_depth="",
        makes_source=False,
        copies=False,
        subpath="",
        layers=[],
    )
    match mount.type:
        case MountType.BIND:
            _plan_bind(planned, bind)
        case MountType.VOLUME:
            planned["source"] = _volume_folder(mount, places[1], volumes)
            planned["copies"] = not (volume.no_copy or volume.subpath)
            planned["subpath"] = volume.subpath
        case MountType.TMPFS:
            planned["source"] = ""
        case MountType.IMAGE:
            planned["source"], planned["read_only"] = places[0], True
            planned["layers"] = list(layers[mount.source])
            planned["subpath"] = image.subpath
        case MountType.CLUSTER:
            raise TaskRejected(
                "cluster volumes (CSI) are not supported yet: use a local volume (type=volume)"
            )
        case _:
            raise TaskRejected(f'mounts of type "{mount.type}" are not supported on Linux nodes')
    _check_subpath(planned["subpath"])
    return planned


def _plan_bind(planned: JobMount, options: BindOptions) -> None:
    if not planned["source"].startswith("/"):
        raise TaskRejected(
            f'invalid bind mount source "{planned["source"]}", must be an absolute path: give the full path '
            "on the node"
        )
    if options.propagation not in _PROPAGATIONS:
        raise TaskRejected(f"invalid propagation mode: {options.propagation}")
    planned["propagation"] = options.propagation
    planned["is_recursive"] = not options.non_recursive
    planned["makes_source"] = options.create_mountpoint
    if options.read_only_non_recursive:
        planned["read_only_depth"] = "top"
    elif options.read_only_force_recursive:
        planned["read_only_depth"] = "all"


def _volume_folder(mount: Mount, place: str, volumes: Mapping[str, NodeVolume]) -> str:
    """A named volume outlives its tasks; a nameless one lies in the task's folder and goes with it.

    It is known by its number there: a name made of the target could be that of another, or lead elsewhere.
    """
    if mount.source:
        return volumes[mount.source].mountpoint
    if mount.read_only:
        raise TaskRejected(
            'invalid mount config for type "volume": must not set ReadOnly mode when using anonymous volumes'
        )
    options = mount.volume_options
    if options is not None and options.driver_config is not None and options.driver_config.options:
        raise TaskRejected("a volume with driver options needs a name: give the mount a source")
    return f"{place}/_data"


def _check_subpath(subpath: str) -> None:
    if subpath.startswith("/") or ".." in subpath.split("/"):
        raise TaskRejected(f'subpath must be a relative path within the volume, and "{subpath}" is not')


# --- what the local driver's options mean


def plan_volumes(volumes: Mapping[str, NodeVolume], addresses: Mapping[str, str]) -> list[JobVolume]:
    """The volumes whose content is on a device, a server or elsewhere on the node.

    ``addresses``: of the servers that options name, as the node resolves them.
    """
    return [
        _foreign(volume, addresses)
        for _, volume in sorted(volumes.items())
        if volume.options.get("device") or volume.options.get("type")
    ]


def server_names(volumes: Mapping[str, NodeVolume]) -> set[str]:
    """What ``addr=`` in options names: the kernel wants an address there."""
    names = set()
    for volume in volumes.values():
        for word in volume.options.get("o", "").split(","):
            if word.startswith("addr="):
                names.add(word.removeprefix("addr="))
    return names


def _foreign(volume: NodeVolume, addresses: Mapping[str, str]) -> JobVolume:
    flags, data = 0, []
    for word in volume.options.get("o", "").split(","):
        if word in MOUNT_FLAGS:
            is_set, bits = MOUNT_FLAGS[word]
            flags = flags | bits if is_set else flags & ~bits
        elif word.startswith("addr="):
            name = word.removeprefix("addr=")
            data.append(f"addr={addresses.get(name, name)}")
        elif word:
            data.append(word)
    kind = volume.options.get("type", "")
    if kind == "bind":
        flags |= MS_BIND
    if flags & MS_BIND:
        kind, flags = "none", flags | MS_REC
    return JobVolume(
        mountpoint=volume.mountpoint,
        device=volume.options.get("device", ""),
        kind="" if kind == "none" else kind,
        flags=flags,
        data=",".join(data),
    )
