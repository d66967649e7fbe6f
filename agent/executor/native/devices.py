"""Device files of tasks: which of the node's they get, and what the kernel is told about it.

A wish names a device file or a folder of them, or asks for devices by what they can do (GPUs). ``find`` looks
at the node; ``plan`` is pure. Who has no wish gets none but the harmless ones that every task has: every file
system of a task is mounted so that device files on it do not open.

Read and write permissions are enforced by the devices control group (v1), or by a program of the same effect
(v2, ``device_filter``).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, TypedDict

from swarmpy.errors import TaskRejected
from swarmpy.limits import DEVICES_MAX
from swarmpy.model.specs import ContainerSpec, Device, DeviceRequest

ALL: Final = "rwm"
_GPU_NUMBERED: Final = re.compile(r"nvidia(\d+)\Z")
_GPU_CONTROL: Final = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
_GPU_FOLDERS: Final = ("dri", "nvidia-caps")
_RENDER: Final = re.compile(r"renderD(\d+)\Z")
_DRIVER_CAPABILITIES: Final = frozenset({"compute", "compat32", "graphics", "utility", "video", "display"})


class DeviceFile(NamedTuple):
    """One of the node's: ``kind`` is "c" or "b"."""

    path: str
    kind: str
    major: int
    minor: int


class JobDevice(TypedDict):
    source: str
    target: str


class Rule(NamedTuple):
    """What a task may do with a device: kind, major and minor number (-1: any), letters of "rwm"."""

    kind: str
    major: int
    minor: int
    access: str


class DevicePlan(NamedTuple):
    devices: list[JobDevice]
    rules: tuple[Rule, ...]
    """Empty: the task has no devices of its own, or all of the node's, and needs no rules."""
    env: dict[str, str]


EVERY_TASK: Final = (
    Rule("c", -1, -1, "m"),
    Rule("b", -1, -1, "m"),
    *(Rule("c", 1, minor, ALL) for minor in (3, 5, 7, 8, 9)),
    *(Rule("c", 5, minor, ALL) for minor in (0, 1, 2)),
    Rule("c", 136, -1, ALL),
)
"""Making device files (they do not open), null, zero, full, random, urandom, terminals."""


def find(path: str) -> tuple[DeviceFile, ...]:
    """The device file of that name; of a folder, all in it. TaskRejected if there is none."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise TaskRejected(
            f'error gathering device information while adding custom device "{path}": {text}'
        ) from None
    if stat.S_ISDIR(mode):
        found = [
            one
            for folder, _, names in os.walk(path.rstrip("/"))
            for name in sorted(names)
            if (one := _device(f"{folder}/{name}")) is not None
        ]
    else:
        found = [one for one in (_device(path),) if one is not None]
    if not found:
        raise TaskRejected(
            f'error gathering device information while adding custom device "{path}": not a device node'
        )
    return tuple(found)


def find_gpus(dev: Path = Path("/dev")) -> tuple[DeviceFile, ...]:
    """All device files that belong to this node's GPUs."""
    names = sorted(
        name for name in _names(dev) if _GPU_NUMBERED.match(name) or name in (*_GPU_CONTROL, "kfd")
    )
    paths = [f"{dev}/{name}" for name in names]
    paths += [f"{dev}/{folder}/{name}" for folder in _GPU_FOLDERS for name in sorted(_names(dev / folder))]
    return tuple(one for path in paths if (one := _device(path)) is not None)


def plan(
    spec: ContainerSpec, found: dict[str, tuple[DeviceFile, ...]], gpus: tuple[DeviceFile, ...]
) -> DevicePlan:
    """What the task gets. ``found``: by the path of each wish."""
    devices: list[JobDevice] = []
    rules: list[Rule] = []
    env: dict[str, str] = {}
    for wish in spec.devices:
        for one in found[wish.path_on_host]:
            devices.append(JobDevice(source=one.path, target=_target(wish, one)))
            rules.append(Rule(one.kind, one.major, one.minor, wish.cgroup_permissions or ALL))
    for request in spec.device_requests:
        chosen, words = choose_gpus(request, gpus)
        env.update(words)
        devices += [JobDevice(source=one.path, target=_beside(one)) for one in chosen]
        rules += [Rule(one.kind, one.major, one.minor, ALL) for one in chosen]
    if len(devices) > DEVICES_MAX:
        raise TaskRejected(
            f"the task asks for {len(devices)} device files, at most {DEVICES_MAX} may be given"
        )
    unique = {device["target"]: device for device in devices}
    every = tuple(dict.fromkeys((*EVERY_TASK, *rules))) if rules and not spec.privileged else ()
    return DevicePlan(devices=list(unique.values()), rules=every, env=env)


def _target(wish: Device, one: DeviceFile) -> str:
    """A file of a folder keeps its place below that folder."""
    base = (wish.path_in_container or wish.path_on_host).rstrip("/")
    return base + one.path.removeprefix(wish.path_on_host.rstrip("/"))


def _beside(one: DeviceFile) -> str:
    """A GPU's device file has its usual name in the task, wherever the node's folder of devices is."""
    folder, name = os.path.split(one.path)
    inner = os.path.basename(folder)
    return f"/dev/{inner}/{name}" if inner in _GPU_FOLDERS else f"/dev/{name}"


# --- GPUs


def choose_gpus(
    request: DeviceRequest, gpus: tuple[DeviceFile, ...]
) -> tuple[list[DeviceFile], dict[str, str]]:
    """The device files for one request, and what the task's environment says of them."""
    capabilities = set(request.capabilities)
    if request.driver not in ("", "nvidia", "amd", "cdi") or "gpu" not in capabilities:
        raise TaskRejected(
            f'could not select device driver "{request.driver}" with capabilities: '
            f"[[{' '.join(request.capabilities)}]]: this node knows devices of the capability gpu only"
        )
    if not gpus:
        raise TaskRejected(
            "the task asks for a GPU and this node has none: no /dev/nvidia*, /dev/dri or /dev/kfd is here; "
            "install the driver, or place the service on nodes that have one (--constraint)"
        )
    units = _units(gpus)
    wanted = _wanted(request, units)
    if wanted is None:
        chosen, shown = list(gpus), "all"
    else:
        left_out = {path for name, paths in units.items() if name not in wanted for path in paths}
        chosen = [one for one in gpus if one.path not in left_out]
        shown = ",".join(wanted)
    env = {"NVIDIA_VISIBLE_DEVICES": shown} if any("nvidia" in one.path for one in gpus) else {}
    if env and (words := sorted(capabilities & _DRIVER_CAPABILITIES)):
        env["NVIDIA_DRIVER_CAPABILITIES"] = ",".join(words)
    return chosen, env


def _wanted(request: DeviceRequest, units: dict[str, list[str]]) -> list[str] | None:
    """Which units; None: all of them."""
    if request.device_ids:
        missing = [name for name in request.device_ids if name not in units]
        if missing:
            raise TaskRejected(
                f"this node has no GPU {', '.join(missing)}: it has {', '.join(units)}; GPUs are named by "
                "their numbers"
            )
        return list(request.device_ids)
    if request.count < 0:
        return None
    count = request.count or 1
    if count > len(units):
        raise TaskRejected(f"the task asks for {count} GPUs and this node has {len(units)}")
    return list(units)[:count]


def _units(gpus: Iterable[DeviceFile]) -> dict[str, list[str]]:
    """By number: the device files that belong to one GPU alone. Others are shared by all."""
    numbered = {
        match[1]: [one.path]
        for one in gpus
        if (match := _GPU_NUMBERED.match(os.path.basename(one.path))) is not None
    }
    if not numbered:
        render = [one.path for one in gpus if _RENDER.match(os.path.basename(one.path))]
        numbered = {str(number): [path] for number, path in enumerate(sorted(render))}
    return dict(sorted(numbered.items(), key=lambda item: int(item[0])))


def _device(path: str) -> DeviceFile | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        return None
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b"
    return DeviceFile(path, kind, os.major(found.st_rdev), os.minor(found.st_rdev))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
