"""What a task is to the engine: the order to make a container, out of its ``Launch``. Pure.

Decides what the engine would decide otherwise than native does: the command line, the environment and the
capabilities are worked out here and given in full; health checks are the agent's, so the engine's are off.
Nothing is left out in silence: what an engine cannot do rejects the task with a sentence that says so.
"""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from agent.executor.base import Launch
from agent.executor.engine import pause
from agent.executor.engine.client import Flavour
from agent.executor.engine.logs import log_config
from agent.executor.engine.parts import foreign_places, place_of
from agent.executor.engine.task import KIND_COPY, KIND_PAUSE, KIND_TASK, LABEL_KIND, LABEL_NODE, LABEL_TASK
from agent.executor.native.confinement import confine
from agent.executor.native.demands import check, demands_of
from agent.executor.native.devices import DeviceFile, choose_gpus
from agent.executor.native.job import (
    DEFAULT_CAPABILITIES,
    HOST_NETWORK,
    capabilities,
    command_line,
    environment,
)
from agent.executor.native.mounts import JobMount, plan_mounts
from swarmpy.errors import TaskRejected
from swarmpy.model.ids import TaskId
from swarmpy.model.image_names import HOST
from swarmpy.model.objects import NodeVolume
from swarmpy.model.specs import ContainerSpec, Mount, Privileges, SeccompOptions
from swarmpy.model.states import MountType

SECCOMP_FILE: Final = "seccomp.json"
"""In the task's folder: Podman takes a profile by its path."""
_SHM_BYTES: Final = 64 << 20
_OWN_ULIMITS: Final = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
_PODMAN_FILES_MAX: Final = 1 << 20
_UNCONFINED: Final = ("unconfined", "disabled")
_ROOT: Final = ("", "0", "root")
_PODMAN_CAPABILITIES: Final = frozenset(
    {
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID",
        "SETPCAP", "SETUID", "SYS_CHROOT",
    }
)  # fmt: skip
"""What every Podman since 3.0 gives a container by itself."""
_NAME_CHARS: Final = re.compile(r"[^a-zA-Z0-9_.-]+")

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Around:
    """What of the node has a part in it. ``folder``: the task's; ``node``: the key of this node's data.

    ``given``: secrets and configs, from where to where. ``ulimits``: what the daemon itself may have, by
    name, for an engine whose own defaults may be more than that.
    """

    folder: str
    node: str
    volumes: Mapping[str, NodeVolume] = field(default_factory=dict)
    given: tuple[tuple[str, str], ...] = ()
    gpus: tuple[DeviceFile, ...] = ()
    has_apparmor: bool = False
    cgroup_version: int = 0
    ulimits: tuple[tuple[str, int], ...] = ()


def container_name(launch: Launch) -> str:
    """Its task's name, which nobody else's container has: the id is in it."""
    name = launch.name if launch.task_id in launch.name else f"{launch.name}.{launch.task_id}"
    return _NAME_CHARS.sub("-", name).strip("-._") or launch.task_id


def pause_name(container: str) -> str:
    return f"{container}.pause"


def needs_pause(launch: Launch, flavour: Flavour) -> bool:
    return flavour == "docker" and launch.sandbox.netns not in ("", HOST_NETWORK)


def hostname_of(launch: Launch) -> str:
    return launch.hostname or launch.spec.hostname or launch.task_id[:12]


def container_body(launch: Launch, flavour: Flavour, around: Around) -> Body:
    """TaskRejected for what this engine cannot do."""
    spec, image = launch.spec, launch.image
    if image.reference == HOST:
        raise TaskRejected(
            f'{flavour} runs images only, and "{HOST}" is the node\'s own root: place the service on '
            "nodes with the executor native or oci"
        )
    words = _gpu_words(spec, around.gpus)
    body: Body = {
        "Image": image.digest or image.reference,
        "Entrypoint": command_line(launch),
        "Cmd": [],
        "Env": _environment(launch, flavour, words),
        "User": spec.user or image.user,
        "WorkingDir": spec.dir or image.workdir or "/",
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        # so that its input can be ended at all: agent/executor/engine/attached
        "StdinOnce": spec.open_stdin and not spec.tty,
        "AttachStdout": False,
        "AttachStderr": False,
        "Labels": launch.spec.labels | launch.labels | own_labels(launch.task_id, KIND_TASK, around.node),
        "HostConfig": _host_config(launch, flavour, around),
    }
    if spec.stop_signal or image.stop_signal:
        body["StopSignal"] = spec.stop_signal or image.stop_signal
    if image.healthcheck is not None:  # unasked, podman makes a timer even of none
        body["Healthcheck"] = {"Test": ["NONE"]}
    if not needs_pause(launch, flavour):
        body["Hostname"] = hostname_of(launch)
    return body


def pause_body(launch: Launch, around: Around, *, image: str) -> Body:
    """The container that holds a task's network. It has its hostname, too: Docker takes that from it."""
    return {
        "Image": image,
        "Entrypoint": [pause.PROGRAM],
        "Cmd": [],
        "Hostname": hostname_of(launch),
        "StopSignal": "SIGKILL",  # nothing else ends it: an engine that is stopped would wait for it
        "Labels": own_labels(launch.task_id, KIND_PAUSE, around.node),
        "HostConfig": {
            "NetworkMode": "none",
            "UsernsMode": "host",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": ["SYS_ADMIN"],
            "SecurityOpt": ["no-new-privileges:true"],
            "LogConfig": {"Type": "none"},
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": launch.sandbox.netns,
                    "Target": pause.NETNS,
                    "ReadOnly": True,
                }
            ],
        },
    }


def copy_body(image: str, task_id: TaskId, around: Around) -> Body:
    """A container that is never started."""
    return {
        "Image": image,
        "Entrypoint": [pause.PROGRAM],
        "Cmd": [],
        "Labels": own_labels(task_id, KIND_COPY, around.node),
        "HostConfig": {"NetworkMode": "none"},
    }


def own_ulimits() -> tuple[tuple[str, int], ...]:
    """What this process may have, and hence its tasks for sure. Blocks.

    Podman gives up what it may have beyond what it thinks of use: such a limit cannot be had back.
    """
    numbers = int(Path("/proc/sys/kernel/pid_max").read_text())
    most = {"nofile": _PODMAN_FILES_MAX, "nproc": min(numbers, _PODMAN_FILES_MAX)}
    found = {name: resource.getrlimit(number)[1] for name, number in _OWN_ULIMITS.items()}
    return tuple(
        (name, most[name] if value == resource.RLIM_INFINITY else min(value, most[name]))
        for name, value in found.items()
    )


def own_labels(task_id: TaskId, kind: str, node: str) -> dict[str, str]:
    return {LABEL_TASK: task_id, LABEL_KIND: kind, LABEL_NODE: node}


def own_filter(node: str, task_id: TaskId | None = None) -> str:
    """Of a list: this node's containers alone, or those of one task."""
    task = [f"{LABEL_TASK}={task_id}"] if task_id is not None else []
    return json.dumps({"label": [f"{LABEL_NODE}={node}", *task]})


# --- parts


def _environment(launch: Launch, flavour: Flavour, words: Mapping[str, str]) -> list[str]:
    """All of it. A variable of the image that is taken away is named without a value: docker's way."""
    spec, image = launch.spec, launch.image
    pairs = (*image.env, *spec.env, *(f"{name}={value}" for name, value in words.items()))
    found = environment(pairs, hostname_of(launch), has_terminal=spec.tty)
    names = {pair.partition("=")[0] for pair in found}
    gone = [name for name in dict.fromkeys(pair.partition("=")[0] for pair in image.env) if name not in names]
    if gone and flavour == "podman":
        raise TaskRejected(
            f"Podman cannot take variables of an image away ({', '.join(gone)}): give them empty values"
        )
    return [*found, *gone]


def _gpu_words(spec: ContainerSpec, gpus: tuple[DeviceFile, ...]) -> dict[str, str]:
    words: dict[str, str] = {}
    for request in spec.device_requests:
        words.update(choose_gpus(request, gpus)[1])
    return words


def _host_config(launch: Launch, flavour: Flavour, around: Around) -> Body:
    spec, limits = launch.spec, launch.limits
    check(demands_of(launch, ()), version=around.cgroup_version)
    config: Body = {
        "NetworkMode": _network(launch, flavour),
        "RestartPolicy": {"Name": "no"},
        "Init": bool(spec.init),
        "Privileged": spec.privileged,
        "ReadonlyRootfs": spec.read_only,
        "GroupAdd": list(spec.groups),
        "Sysctls": _sysctls(launch),
        "OomScoreAdj": spec.oom_score_adj,
        "ShmSize": spec.shm_size or _SHM_BYTES,
        "CpusetCpus": spec.cpuset_cpus,
        "CpusetMems": spec.cpuset_mems,
        "NanoCpus": limits.nano_cpus,
        "Memory": limits.memory_bytes,
        "PidsLimit": limits.pids or -1,
        "Ulimits": _ulimits(spec, flavour, around),
        "SecurityOpt": _security(spec, flavour, around),
        "Devices": _devices(spec, around.gpus),
        "Mounts": _mounts(launch, flavour, around),
        "LogConfig": log_config(flavour),
        **({"UsernsMode": spec.userns_mode} if spec.userns_mode else {}),
        **_capability_lists(spec, flavour, user=spec.user or launch.image.user),
    }
    if limits.memory_bytes:
        swap = limits.memory_bytes if launch.swap_bytes is None else launch.swap_bytes
        config["MemorySwap"] = -1 if swap < 0 else limits.memory_bytes + swap
    if launch.memory_swappiness is not None and launch.memory_swappiness >= 0:
        config["MemorySwappiness"] = launch.memory_swappiness
    return config


def _network(launch: Launch, flavour: Flavour) -> str:
    netns = launch.sandbox.netns
    match netns:
        case "":
            return "none"
        case _ if netns == HOST_NETWORK:
            return "host"
    return f"ns:{netns}" if flavour == "podman" else f"container:{pause_name(container_name(launch))}"


def _sysctls(launch: Launch) -> dict[str, str]:
    """The engine knows which settings have a namespace, but not that the network is the node's own."""
    for name in launch.spec.sysctls:
        if name.startswith("net.") and launch.sandbox.netns == HOST_NETWORK:
            raise TaskRejected(f'sysctl "{name}" not allowed in host network namespace')
    return dict(launch.spec.sysctls)


def _ulimits(spec: ContainerSpec, flavour: Flavour, around: Around) -> list[Body]:
    wanted = {limit.name.lower().removeprefix("rlimit_"): (limit.soft, limit.hard) for limit in spec.ulimits}
    if flavour == "podman":  # its defaults may be more than it can give
        for name, value in around.ulimits:
            wanted.setdefault(name, (value, value))
    return [{"Name": name, "Soft": soft, "Hard": hard} for name, (soft, hard) in wanted.items()]


# --- security


def _capability_lists(spec: ContainerSpec, flavour: Flavour, *, user: str) -> Body:
    """As differences from what the engine gives, or the whole: either way the set that native would give.

    Podman hands what is *added* to users that are not root, too, as their own: so for those only what was
    asked for is added there.
    """
    held = capabilities(spec, is_host=False)  # rejects unknown names
    if spec.privileged:
        return {}
    asked = {name.upper().removeprefix("CAP_") for name in spec.capability_add}
    dropped = sorted({name.upper().removeprefix("CAP_") for name in spec.capability_drop} - {"ALL"})
    if "ALL" in asked:
        return {"CapAdd": ["ALL"], "CapDrop": dropped}
    if flavour == "docker":
        return {"CapAdd": sorted(held), "CapDrop": ["ALL"]}
    given = _PODMAN_CAPABILITIES
    added = held - given if user.partition(":")[0] in _ROOT else held & asked
    return {"CapAdd": sorted(added), "CapDrop": sorted((given | DEFAULT_CAPABILITIES) - held)}


def _security(spec: ContainerSpec, flavour: Flavour, around: Around) -> list[str]:
    wish = spec.privileges or Privileges()
    # what is the engine's to do is taken out: what is left is refused as native refuses it
    bare = replace(spec, privileges=replace(wish, seccomp=None, selinux_context=None))
    confined = confine(bare, frozenset(), is_host=False, has_apparmor=around.has_apparmor)
    found = _seccomp(wish.seccomp, flavour, around)
    if wish.no_new_privileges:
        found.append("no-new-privileges:true" if flavour == "docker" else "no-new-privileges")
    if confined.apparmor:
        found.append(f"apparmor={confined.apparmor}")
    elif wish.app_armor is not None and wish.app_armor.mode in _UNCONFINED:
        found.append("apparmor=unconfined")
    if wish.selinux_context is not None:
        labels = wish.selinux_context
        parts = {"user": labels.user, "role": labels.role, "type": labels.type, "level": labels.level}
        found += (
            ["label=disable"]
            if labels.disable
            else [f"label={key}:{value}" for key, value in parts.items() if value]
        )
    return found


def _seccomp(wish: SeccompOptions | None, flavour: Flavour, around: Around) -> list[str]:
    match wish.mode if wish else "":
        case "" | "default":
            return []
        case "unconfined":
            return ["seccomp=unconfined"]
        case "custom" if wish is not None:
            if flavour == "podman":
                return [f"seccomp={around.folder}/{SECCOMP_FILE}"]
            return [f"seccomp={wish.profile.decode(errors='replace')}"]
        case mode:
            raise TaskRejected(f'unknown seccomp mode "{mode}": give default, unconfined or custom')


def custom_profile(spec: ContainerSpec) -> bytes:
    """Empty if there is none."""
    wish = spec.privileges.seccomp if spec.privileges else None
    return wish.profile if wish is not None and wish.mode == "custom" else b""


def _devices(spec: ContainerSpec, gpus: tuple[DeviceFile, ...]) -> list[Body]:
    found = [
        {
            "PathOnHost": wish.path_on_host,
            "PathInContainer": wish.path_in_container or wish.path_on_host,
            "CgroupPermissions": wish.cgroup_permissions or "rwm",
        }
        for wish in spec.devices
    ]
    for request in spec.device_requests:
        found += [
            {"PathOnHost": one.path, "PathInContainer": one.path, "CgroupPermissions": "rwm"}
            for one in choose_gpus(request, gpus)[0]
        ]
    return list({one["PathInContainer"]: one for one in found}.values())


# --- mounts


def planned_mounts(spec: ContainerSpec, flavour: Flavour, around: Around) -> list[JobMount]:
    """As native plans them; what engines cannot do safely is refused."""
    for mount in spec.mounts:
        _check_mount(mount, flavour)
    return plan_mounts(spec.mounts, folder=around.folder, volumes=around.volumes, layers={})


def _mounts(launch: Launch, flavour: Flavour, around: Around) -> list[Body]:
    """The user's mounts win where they have the place of ours."""
    foreign = foreign_places(around.volumes, around.folder)
    planned = [
        _mount(mount, place_of(mount, around.folder, foreign))
        for mount in planned_mounts(launch.spec, flavour, around)
    ]
    sandbox = launch.sandbox
    small = ((sandbox.resolv_conf, "/etc/resolv.conf"), (sandbox.hosts, "/etc/hosts"))
    taken = {mount["Target"] for mount in planned}
    ours = [
        _bind(source, target, is_read_only=is_read_only)
        for source, target, is_read_only in (
            *((source, target, False) for source, target in small if source),
            *((source, target, True) for source, target in around.given),
        )
        if target not in taken
    ]
    if flavour == "podman":
        _check_words(mount.get("Source", "") + mount["Target"] for mount in (*planned, *ours))
    return [*planned, *ours]


def _bind(source: str, target: str, *, is_read_only: bool) -> Body:
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": is_read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _mount(mount: JobMount, source: str) -> Body:
    if mount["type"] == "tmpfs":
        options = {"SizeBytes": mount["size"], "Mode": mount["mode"]}
        return {
            "Type": "tmpfs",
            "Target": mount["target"],
            "ReadOnly": mount["read_only"],
            "TmpfsOptions": {key: value for key, value in options.items() if value},
        }
    body = _bind(source, mount["target"], is_read_only=mount["read_only"])
    body["BindOptions"] = {"Propagation": mount["propagation"] or "rprivate"}
    if not mount["is_recursive"]:
        body["BindOptions"]["NonRecursive"] = True
    return body


def _check_mount(mount: Mount, flavour: Flavour) -> None:
    where = f"the mount at {mount.target}: place the service on nodes with the native executor"
    if mount.type is MountType.IMAGE:
        raise TaskRejected(f"{flavour} nodes do not mount images, as {where}")
    bind = mount.bind_options
    if bind is not None and bind.read_only_force_recursive:
        raise TaskRejected(f"{flavour} nodes do not know bind-recursive=readonly, as {where}")


def _check_words(paths: Iterable[str]) -> None:
    """Podman takes mounts apart at commas."""
    if any("," in path for path in paths):
        raise TaskRejected(
            "Podman cannot mount paths that have a comma in them: rename what is to be mounted"
        )
