"""``plan_bundle``: a task's job in the words of the OCI runtime specification. Pure.

What a task is to be was decided when its job was planned, for native and for this executor alike; here it is
only said in another language. What can be known no sooner than at the start, because it stands in the task's
root, is added by ``with_account``.

Unlike native's, the runtime's own device files are made anew; what may be opened of all that a task could
make is decided by its devices control group, and its root is mounted ``nodev``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent.executor.native.devices import EVERY_TASK, Rule
from agent.executor.native.job import CAPABILITIES, HOST_NETWORK, RLIMITS, Job
from agent.executor.native.mounts import JobMount
from agent.executor.native.shim.accounts import Account
from agent.executor.native.shim.rootfs import MASKED, READ_ONLY
from swarmpy.errors import TaskRejected

Bundle = dict[str, Any]
INIT: Final = "/dev/init"
"""Where a task with an init finds it: below what is the task's own in any image."""
_VERSION: Final = "1.0.2"
_SHM_BYTES: Final = 64 << 20
_UNLIMITED: Final = (1 << 64) - 1
_SEALED: Final = ("nosuid", "noexec", "nodev")
_NAMESPACES: Final = ("pid", "mount", "ipc", "uts", "cgroup")
_NUMBERS: Final = {number: f"RLIMIT_{name.upper()}" for name, number in RLIMITS.items()}
_OWN_FOLDERS: Final = ("proc", "sys", "dev")
"""What every task has of its own, of the node's root, too."""


@dataclass(frozen=True, kw_only=True)
class DeviceNode:
    """A device file of the node."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True)
class Around:
    """What the node has that a bundle tells of. ``cgroup``: the task's, from the hierarchies' roots.

    ``devices``: by the path on the node; of a privileged task all of them. ``init``: a static program that
    reaps, empty if there is none. ``top``: what lies in the node's root folder, but for links. ``present``:
    those of our own small files that the node's root has a place for. ``can_seal_all``: whether the kernel
    makes a whole tree of mounts read-only. ``sysctls``: which of those that are set by default it has.
    ``capabilities``: what the daemon has to give.
    """

    cgroup: str = ""
    rules: tuple[Rule, ...] = EVERY_TASK
    devices: Mapping[str, DeviceNode] = field(default_factory=dict)
    init: str = ""
    top: tuple[str, ...] = ()
    present: frozenset[str] = frozenset()
    can_seal_all: bool = True
    sysctls: frozenset[str] = frozenset()
    capabilities: frozenset[int] = frozenset(range(len(CAPABILITIES)))


def plan_bundle(job: Job, around: Around, *, seccomp: dict[str, Any] | None) -> Bundle:
    """The bundle's config.json but for the account. TaskRejected for what the node cannot do."""
    if job["init"] and not around.init:
        raise TaskRejected(
            "the task asks for an init, but this node has none for containers: install tini-static or "
            "docker-init (a static program), or run the task without"
        )
    propagations = {mount["propagation"] for mount in job["mounts"]}
    return {
        "ociVersion": _VERSION,
        "root": {"path": job["root"], "readonly": job["read_only"]},
        "hostname": job["hostname"],
        "process": _process(job, around),
        "mounts": _mounts(job, around),
        "linux": {
            "namespaces": _namespaces(job["netns"]),
            "cgroupsPath": around.cgroup,
            "sysctl": _sysctls(job, around),
            "devices": [
                _device(around.devices[device["source"]], device["target"]) for device in job["devices"]
            ]
            + ([_device(each, each.path) for each in around.devices.values()] if job["privileged"] else []),
            "resources": {"devices": _rules(job, around.rules)},
            "maskedPaths": [*(() if job["privileged"] else MASKED), *_hidden(job)],
            "readonlyPaths": [] if job["privileged"] else list(READ_ONLY),
            **({"seccomp": seccomp} if seccomp else {}),
            **({"rootfsPropagation": _propagation(propagations)} if propagations - {""} else {}),
        },
    }


def with_account(bundle: Bundle, account: Account) -> Bundle:
    """The same for this account, which the task's root names. Only root has capabilities from the start, by
    the kernel's own rule."""
    process = bundle["process"]
    has_home = any(pair.startswith("HOME=") for pair in process["env"])
    return bundle | {
        "process": process
        | {
            "user": {
                "uid": account.uid,
                "gid": account.gid,
                "additionalGids": list(account.groups),
            },
            "env": process["env"] if has_home else [*process["env"], f"HOME={account.home}"],
        }
    }


def cgroup_path(groups: Iterable[str], mountinfo: str) -> str:
    """Where a task's control groups lie, from their hierarchies' roots: a runtime knows one path for all."""
    points = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup"):
            points.append(left.split()[4])
    paths = set()
    for group in groups:
        above = [point for point in points if group.startswith(f"{point}/")]
        paths.add(group.removeprefix(max(above, key=len, default="")))
    if len(paths) != 1:
        raise TaskRejected(
            "the oci executor needs the same control group path for all controllers, and has "
            f"{', '.join(sorted(paths)) or 'none'}: give the daemon a cgroup parent that begins with a slash"
        )
    return paths.pop()


def _process(job: Job, around: Around) -> dict[str, Any]:
    # what is asked for by name was refused before if it cannot be had; of "all", it is left out
    held = [f"CAP_{CAPABILITIES[number]}" for number in job["capabilities"] if number in around.capabilities]
    return {
        "terminal": job["tty"],
        "args": [INIT, "--", *job["argv"]] if job["init"] else job["argv"],
        "env": job["env"],
        "cwd": job["workdir"],
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), held),
        "noNewPrivileges": job.get("no_new_privileges", True),
        "rlimits": [
            {"type": _NUMBERS[number], "soft": _limit(soft), "hard": _limit(hard)}
            for number, soft, hard in job["rlimits"]
        ],
        **({"apparmorProfile": job["apparmor"]} if job.get("apparmor") else {}),
        **({"oomScoreAdj": job["oom_score_adj"]} if job["oom_score_adj"] else {}),
    }


def _sysctls(job: Job, around: Around) -> dict[str, str]:
    defaults = job.get("default_sysctls", {})
    return {name: value for name, value in defaults.items() if name in around.sysctls} | job["sysctls"]


def _limit(value: int) -> int:
    return _UNLIMITED if value < 0 else value


def _namespaces(netns: str) -> list[dict[str, str]]:
    found = [{"type": name} for name in _NAMESPACES]
    if netns == HOST_NETWORK:
        return found
    return [*found, {"type": "network", **({"path": netns} if netns else {})}]


def _rules(job: Job, rules: tuple[Rule, ...]) -> list[dict[str, Any]]:
    if job["privileged"]:
        return [{"allow": True, "access": "rwm"}]
    allowed = [*EVERY_TASK, *(rule for rule in rules if rule not in EVERY_TASK)]
    return [
        {"allow": False, "access": "rwm"},
        *(
            {
                "allow": True,
                "type": rule.kind,
                **({"major": rule.major} if rule.major >= 0 else {}),
                **({"minor": rule.minor} if rule.minor >= 0 else {}),
                "access": rule.access,
            }
            for rule in allowed
        ),
    ]


def _device(node: DeviceNode, target: str) -> dict[str, Any]:
    return {
        "path": target,
        "type": node.kind,
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
    }


def _hidden(job: Job) -> list[str]:
    """What lies in the node's own root and is no task's business."""
    return job["hidden"] if job["is_host"] else []


def _propagation(wanted: set[str]) -> str:
    return "rshared" if wanted & {"shared", "rshared"} else "rslave"


def _mounts(job: Job, around: Around) -> list[dict[str, Any]]:
    read_only = ("ro",) if job["read_only"] else ()
    tops = around.top if job["is_host"] else ()
    found = [_bind(f"/{name}", f"/{name}", "rbind", "rslave", *read_only) for name in tops]
    found += _system(job)
    for source, target in job["files"]:
        if not job["is_host"] or target in around.present:
            found.append(_bind(source, target, "bind", "rprivate"))
    found += [_user_mount(mount, job, around) for mount in job["mounts"]]
    found += [
        _bind(source, target, "bind", "rprivate", "ro", *_SEALED) for source, target in job.get("given", ())
    ]
    if job["init"]:
        found.append(_bind(around.init, INIT, "bind", "rprivate", "ro", "nosuid", "nodev"))
    return found


def _system(job: Job) -> list[dict[str, Any]]:
    shm_bytes = job["shm_size"] or _SHM_BYTES
    read_only = () if job["privileged"] else ("ro",)
    found = [
        _mount("proc", "/proc", "proc", *_SEALED),
        _mount("tmpfs", "/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "devpts",
            "/dev/pts",
            "devpts",
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ),
        _mount("sysfs", "/sys", "sysfs", *_SEALED, *read_only),
        _mount("shm", "/dev/shm", "tmpfs", *_SEALED, "mode=1777", f"size={shm_bytes}"),
        _mount("mqueue", "/dev/mqueue", "mqueue", *_SEALED),
    ]
    if job["privileged"] and not _is_unified(job):
        found.append(_bind("/sys/fs/cgroup", "/sys/fs/cgroup", "rbind", "rslave"))
    else:
        found.append(_mount("cgroup", "/sys/fs/cgroup", "cgroup", *_SEALED, *read_only))
    return found


def _is_unified(job: Job) -> bool:
    """Whether the node has v2, where a task's groups are one; ``shim/rootfs`` says what that is for."""
    return any(not name for _, name in job.get("cgroup_mounts", []))


def _user_mount(mount: JobMount, job: Job, around: Around) -> dict[str, Any]:
    read_only: tuple[str, ...] = ("ro",) if mount["read_only"] else ()
    if mount["type"] == "tmpfs":
        size = (f"size={mount['size']}",) if mount["size"] else ()
        mode = f"mode={mount['mode'] or 0o1777:o}"
        return _mount("tmpfs", mount["target"], "tmpfs", *_SEALED, mode, *size, *read_only)
    if read_only and mount["is_recursive"] and mount["read_only_depth"] != "top":
        if around.can_seal_all:
            read_only = ("ro", "rro")
        elif mount["read_only_depth"] == "all":
            raise TaskRejected(
                "bind-readonly-force-recursive: read-only for all below needs Linux 5.12 or newer"
            )
    kind = "rbind" if mount["is_recursive"] else "bind"
    sealed = () if job["privileged"] else ("nosuid", "nodev")
    propagation = mount["propagation"] or "rprivate"
    return _bind(mount["source"], mount["target"], kind, propagation, *sealed, *read_only)


def _mount(source: str, target: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _bind(source: str, target: str, *options: str) -> dict[str, Any]:
    return _mount(source, os.path.normpath(target), "bind", *options)


def top_of(names: Iterable[str]) -> tuple[str, ...]:
    """What of a root folder is bound into tasks that have the node's root."""
    return tuple(sorted(name for name in names if name not in _OWN_FOLDERS))
