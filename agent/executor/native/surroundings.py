"""What a task's spec refers to on this node: volumes, images to mount, devices. Looked up once, as values."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.executor.images.store import ImageStore
from agent.executor.native import devices, mounts, preflight
from agent.executor.native.devices import DevicePlan
from swarmpy.errors import InvalidArgument, NotFound, TaskRejected
from swarmpy.model.objects import NodeVolume
from swarmpy.model.specs import ContainerSpec
from swarmpy.model.states import MountType

_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
_NO_DEVICES = DevicePlan(devices=[], rules=(), env={})


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """``layers``: of each image that is mounted; ``addresses``: of the file servers that volumes name."""

    volumes: Mapping[str, NodeVolume] = field(default_factory=dict)
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    devices: DevicePlan = _NO_DEVICES
    has_apparmor: bool = False
    capabilities: frozenset[int] | None = None
    """What the daemon has to give, where a task asks for more than is usual."""


def look(
    spec: ContainerSpec, volumes: Mapping[str, NodeVolume], images: ImageStore, *, dev: Path = Path("/dev")
) -> Surroundings:
    """Blocks. TaskRejected for what is not on this node."""
    gpus = devices.find_gpus(dev) if spec.device_requests else ()
    found = {wish.path_on_host: devices.find(wish.path_on_host) for wish in spec.devices}
    return Surroundings(
        volumes=volumes,
        layers={
            mount.source: _layers(images, mount.source)
            for mount in spec.mounts
            if mount.type is MountType.IMAGE
        },
        addresses={name: address_of(name) for name in sorted(mounts.server_names(volumes))},
        devices=devices.plan(spec, found, gpus) if found or spec.device_requests else _NO_DEVICES,
        has_apparmor=has_apparmor(),
        capabilities=preflight.capabilities() if spec.capability_add else None,
    )


def has_apparmor() -> bool:
    try:
        return _APPARMOR.read_text().strip() == "Y"
    except OSError:
        return False


def _layers(images: ImageStore, reference: str) -> tuple[str, ...]:
    try:
        config = images.use(reference)
    except (NotFound, InvalidArgument) as error:
        raise TaskRejected(str(error)) from None
    if not config.layers:
        raise TaskRejected(f'the image "{reference}" has no files of its own to mount')
    return config.layers


def address_of(name: str) -> str:
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise TaskRejected(f"error resolving passed in network volume address: {name}: {error}") from None
