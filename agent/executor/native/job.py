"""``Job``: the complete order for one task's shim, derived from its ``Launch``.

Pure. Decides what Docker decides between a spec and a process: the command line out of entrypoint and
arguments, the environment, the capabilities, the mounts. The shim carries it out without deciding more.
"""

from __future__ import annotations

import posixpath
import resource
from typing import NotRequired, TypedDict

from agent.executor.base import ImageConfig, Launch
from agent.executor.native.confinement import confine
from agent.executor.native.devices import JobDevice
from agent.executor.native.mounts import JobMount, JobVolume, image_volumes, plan_mounts, plan_volumes
from agent.executor.native.surroundings import Surroundings
from swarmpy.errors import TaskRejected
from swarmpy.limits import LOG_FILE_BYTES_MAX, LOG_FILES_MAX, LOG_LINE_BYTES_MAX
from swarmpy.model.image_names import HOST
from swarmpy.model.specs import ContainerSpec, Ulimit

HOST_NETWORK = "/proc/self/ns/net"
"""How a sandbox says that the task is in the node's own network."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL",
    "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON",
    "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
"""The kernel's capabilities, in the order of their numbers."""

DEFAULT_CAPABILITIES = frozenset(
    {
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
        "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    }
)  # fmt: skip
"""Docker's default set."""

RLIMITS = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}

_NETWORK_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
"""As in docker: in a network of its own, any account may take any port, and send pings."""

_OOM_SCORE_MAX = 1000

_SYSCTLS = ("net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm")
"""The settings that belong to a namespace; any other would change the node."""


class Job(TypedDict):
    """What the shim reads from ``job.json``. Paths are absolute; layers are lowest first."""

    task_id: str
    name: str
    image: str
    image_id: NotRequired[str]
    """Absent in jobs of versions that knew images by their names alone."""
    argv: list[str]
    env: list[str]
    workdir: str
    user: str
    groups: list[str]
    hostname: str
    netns: str
    is_host: bool
    layers_dir: str
    layers: list[str]
    root: str
    upper: str
    work: str
    files: list[tuple[str, str]]
    volumes: list[JobVolume]
    mounts: list[JobMount]
    devices: list[JobDevice]
    privileged: bool
    shm_size: int
    seccomp: NotRequired[str]
    no_new_privileges: NotRequired[bool]
    apparmor: NotRequired[str]
    read_only: bool
    sysctls: dict[str, str]
    default_sysctls: NotRequired[dict[str, str]]
    """Set where the kernel has them."""
    capabilities: list[int]
    rlimits: list[tuple[int, int, int]]
    oom_score_adj: int
    tty: bool
    open_stdin: NotRequired[bool]
    init: bool
    cgroups: list[str]
    cgroup_mounts: NotRequired[list[tuple[str, str]]]
    """Of the same groups, and where below /sys/fs/cgroup the task sees them."""
    oom_file: str
    hidden: list[str]
    ids: NotRequired[list[int]]
    """The first of the node's ids that the task has as its 0 and on, and how many; absent: the node's own."""
    group_ids: NotRequired[list[int]]
    """The same of groups; absent beside ``ids`` in jobs of versions that knew one range for both."""
    given: NotRequired[list[tuple[str, str]]]
    """Of secrets and configs: from where in the node's memory, to where in the task."""
    log_dir: str
    log_file_bytes_max: int
    log_files_max: int
    log_line_bytes_max: int


class StartRecord(TypedDict):
    """The shim's ``started`` file. ``pid_start`` is field 22 of /proc/PID/stat."""

    pid: int
    pid_start: int
    shim: int
    at: int


class ExitRecord(TypedDict):
    """The ``exit`` file. ``kind`` is "ended", or for a task that never ran "rejected" or "failed"."""

    code: int
    is_oom_killed: bool
    at: int
    message: str
    kind: str


class Report(TypedDict):
    """The shim's answer to a start order: "started", "ended" or "taken"; the files say the rest."""

    state: str


class Places(TypedDict):
    """Where a task's things lie on this node."""

    folder: str
    log_dir: str
    layers_dir: str
    cgroups: list[str]
    cgroup_mounts: NotRequired[list[tuple[str, str]]]
    oom_file: str
    hidden: list[str]
    given: list[tuple[str, str]]


def plan_job(launch: Launch, places: Places, around: Surroundings | None = None) -> Job:
    """The job for ``launch``. TaskRejected where the spec asks for what cannot be."""
    spec, image, folder = launch.spec, launch.image, places["folder"]
    around = around or Surroundings()
    is_host = image.reference == HOST
    hostname = launch.hostname or spec.hostname or launch.task_id[:12]
    has_own_network = launch.sandbox.netns != HOST_NETWORK
    held = capabilities(spec, is_host=is_host)
    _check_held(spec, around.capabilities)
    confinement = confine(spec, held, is_host=is_host, has_apparmor=around.has_apparmor)
    env = environment((*image.env, *spec.env), hostname, has_terminal=spec.tty)
    return Job(
        task_id=launch.task_id,
        name=launch.name,
        image=image.reference,
        image_id=image.digest,
        argv=command_line(launch),
        env=[*env, *(f"{name}={value}" for name, value in around.devices.env.items())],
        workdir=_workdir(spec, image),
        user=spec.user or image.user,
        groups=list(spec.groups),
        hostname=hostname,
        netns=launch.sandbox.netns,
        is_host=is_host,
        layers_dir=places["layers_dir"],
        layers=list(image.layers),
        root=f"{folder}/root",
        upper=f"{folder}/upper",
        work=f"{folder}/work",
        files=_files(launch, folder),
        volumes=plan_volumes(around.volumes, around.addresses),
        mounts=plan_mounts(
            (*spec.mounts, *image_volumes(image, spec.mounts)),
            folder=folder,
            volumes=around.volumes,
            layers=around.layers,
        ),
        devices=around.devices.devices,
        privileged=spec.privileged,
        shm_size=spec.shm_size,
        seccomp=confinement.seccomp,
        no_new_privileges=confinement.no_new_privileges,
        apparmor=confinement.apparmor,
        read_only=spec.read_only,
        sysctls=_sysctls(spec.sysctls, has_own_network=has_own_network),
        default_sysctls=_NETWORK_SYSCTLS if has_own_network else {},
        capabilities=sorted(CAPABILITIES.index(name) for name in held),
        rlimits=[_rlimit(ulimit) for ulimit in spec.ulimits],
        oom_score_adj=_oom_score(spec.oom_score_adj),
        tty=spec.tty,
        open_stdin=spec.open_stdin,
        init=bool(spec.init),
        cgroups=places["cgroups"],
        cgroup_mounts=places.get("cgroup_mounts", []),
        oom_file=places["oom_file"],
        hidden=places["hidden"],
        given=places["given"],
        log_dir=places["log_dir"],
        log_file_bytes_max=LOG_FILE_BYTES_MAX,
        log_files_max=LOG_FILES_MAX,
        log_line_bytes_max=LOG_LINE_BYTES_MAX,
    )


def command_line(launch: Launch) -> list[str]:
    """Docker's rule: ``command`` replaces the image's entrypoint and drops its command with it."""
    spec, image = launch.spec, launch.image
    if spec.command:
        argv = [*spec.command, *spec.args]
    else:
        argv = [*image.entrypoint, *(spec.args or image.command)]
    if not argv:
        raise TaskRejected(
            f'no command specified: image "{image.reference}" names none, so the service must give one'
        )
    if any("\0" in word for word in argv):
        raise TaskRejected("a command's words cannot hold the NUL character")
    return argv


def environment(pairs: tuple[str, ...], hostname: str, *, has_terminal: bool) -> list[str]:
    """Later entries win; a name without ``=`` takes the variable away, as in Docker."""
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if has_terminal:
        merged["TERM"] = "xterm"
    for pair in pairs:
        name, has_value, value = pair.partition("=")
        if not has_value:
            merged.pop(name, None)
        elif name:
            merged[name] = value
    if any("\0" in name + value for name, value in merged.items()):
        raise TaskRejected("an environment variable cannot hold the NUL character")
    return [f"{name}={value}" for name, value in merged.items()]


def capabilities(spec: ContainerSpec, *, is_host: bool) -> frozenset[str]:
    """Docker's default set, ``ALL`` understood in both lists. Adding beats dropping, as in Docker."""
    added, dropped = (
        {_capability(name) for name in names} for names in (spec.capability_add, spec.capability_drop)
    )
    if spec.privileged:
        return frozenset(CAPABILITIES)
    kept = set(DEFAULT_CAPABILITIES)
    if is_host:
        kept.discard("MKNOD")  # the node's own disk is not mounted nodev
    if "ALL" in added:
        kept = set(CAPABILITIES) - dropped
    elif "ALL" in dropped:
        kept = added
    else:
        kept = (kept - dropped) | added
    return frozenset(kept - {"ALL"})


def _check_held(spec: ContainerSpec, own: frozenset[int] | None) -> None:
    """What is asked for by name is there or refused; ``ALL`` and privileged tasks get what the node has."""
    if own is None or spec.privileged:
        return
    for name in spec.capability_add:
        short = _capability(name)
        if short != "ALL" and CAPABILITIES.index(short) not in own:
            raise TaskRejected(
                f'the capability "{short}" cannot be given to tasks of this node: its daemon does not have '
                "it; take it out, or place the service on other nodes"
            )


def _capability(name: str) -> str:
    short = name.upper().removeprefix("CAP_")
    if short != "ALL" and short not in CAPABILITIES:
        raise TaskRejected(f'invalid capability "{name}": the kernel has no capability of this name')
    return short


def _files(launch: Launch, folder: str) -> list[tuple[str, str]]:
    """Our own small files over the image's."""
    wanted = (
        (launch.sandbox.resolv_conf, "/etc/resolv.conf"),
        (launch.sandbox.hosts, "/etc/hosts"),
        (f"{folder}/hostname", "/etc/hostname"),
    )
    return [(source, target) for source, target in wanted if source]


def _sysctls(wanted: dict[str, str], *, has_own_network: bool) -> dict[str, str]:
    for name in wanted:
        if not name.startswith(_SYSCTLS) or "/" in name or ".." in name:
            raise TaskRejected(f'sysctl "{name}" is not in a separate kernel namespace')
        if name.startswith("net.") and not has_own_network:
            raise TaskRejected(f'sysctl "{name}" not allowed in host network namespace')
    return dict(wanted)


def _workdir(spec: ContainerSpec, image: ImageConfig) -> str:
    if spec.dir and not spec.dir.startswith("/"):
        raise TaskRejected(f"the working directory '{spec.dir}' is invalid, it needs to be an absolute path")
    return posixpath.join("/", spec.dir or image.workdir)


def _oom_score(score: int) -> int:
    if not -_OOM_SCORE_MAX <= score <= _OOM_SCORE_MAX:
        raise TaskRejected(f"Invalid value {score}, range for oom score adj is [-1000, 1000]")
    return score


def _rlimit(ulimit: Ulimit) -> tuple[int, int, int]:
    number = RLIMITS.get(ulimit.name.lower().removeprefix("rlimit_"))
    if number is None:
        raise TaskRejected(f"invalid ulimit type: {ulimit.name}")
    soft, hard = ulimit.soft, ulimit.hard
    if hard != -1 and (soft == -1 or soft > hard):
        raise TaskRejected(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return number, soft, hard
