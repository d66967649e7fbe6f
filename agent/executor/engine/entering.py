"""A way into a container that an engine has made, for the processes of ``native/shim/inside``.

An engine's own exec costs a call, a runtime and a monitor each time, and Podman's monitors stay for minutes:
too much for probes of health. What such a process needs to become a member of a container is the same as of
a native task, and the kernel and the engine say it: here it is written down as a job, in the task's folder.

A way is sound or there is none: the process is the container's (its control groups have the container's
name), and all that confines it can be put upon another process by us. Not so where the container has a user
namespace, a security label or a filter of its own choice, or runs where its processes are not seen. Then the
engine has to do it.
"""

from __future__ import annotations

import base64
import json
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agent.executor.engine.groups import Groups, groups_of
from agent.executor.engine.task import EngineTask
from agent.executor.native import seccomp
from agent.executor.native.job import CAPABILITIES, RLIMITS, Job, StartRecord, environment
from agent.executor.native.shim.supervise import process_start, write_record

FOLDER: Final = "inside"
"""In the task's folder."""
_PROC: Final = Path("/proc")
_SELINUX: Final = Path("/sys/fs/selinux/enforce")
_APPARMOR: Final = Path("/sys/module/apparmor/parameters/enabled")
_FILTERED: Final = 2
"""What the kernel calls a process under a filter of system calls."""
_SYS_RESOURCE: Final = CAPABILITIES.index("SYS_RESOURCE")


def write_way(folder: Path, task: EngineTask, inspected: Mapping[str, Any]) -> StartRecord | None:
    """Make ``folder`` a task's as far as ``native.inside`` reads one; None if no way is sound. Blocks."""
    pid = task.started.pid if task.started is not None else 0
    begun = process_start(pid) if pid else 0
    groups = groups_of(pid, task.container) if begun else None
    if groups is None:
        return None
    facts = _facts_of(pid)
    if facts is None:
        return None
    job = job_of(task, inspected, facts, groups=groups)
    # what was read of the process was its own: its number is still that of the one that began then
    if job is None or process_start(pid) != begun:
        return None
    started = StartRecord(pid=pid, pid_start=begun, shim=0, at=0)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_record(f"{folder}/started", json.dumps(started))
    write_record(f"{folder}/job.json", json.dumps(job))
    return started


class ProcessFacts:
    """What the kernel says of a container's first process. ``limits``: number, soft, hard."""

    def __init__(
        self, *, status: Mapping[str, str], limits: list[tuple[int, int, int]], oom_score: int, profile: str
    ) -> None:
        self.capabilities = frozenset(
            name for bit, name in enumerate(CAPABILITIES) if int(status.get("CapBnd", "0"), 16) >> bit & 1
        )
        self.is_filtered = int(status.get("Seccomp", "0")) == _FILTERED
        self.has_no_new_privileges = status.get("NoNewPrivs") == "1"
        self.limits = limits
        self.oom_score = oom_score
        self.profile = profile


def job_of(
    task: EngineTask, inspected: Mapping[str, Any], facts: ProcessFacts, *, groups: Groups
) -> Job | None:
    """What a process has to be, to be one of the container's. None if it cannot be made so. Pure."""
    config, host = inspected.get("Config") or {}, inspected.get("HostConfig") or {}
    options = [str(option) for option in host.get("SecurityOpt") or ()]
    if any(_has_own_filter(option) for option in options):
        return None
    program = seccomp.default_program(facts.capabilities) if facts.is_filtered else b""
    if facts.is_filtered and not program:
        return None
    record = task.record
    hostname = str(config.get("Hostname") or record.hostname)
    return Job(
        task_id=record.task_id,
        name=record.name,
        image=record.image,
        image_id=record.image_id,
        argv=list(record.argv),
        env=environment(tuple(config.get("Env") or ()), hostname, has_terminal=False),
        workdir=str(config.get("WorkingDir") or "/"),
        user=str(config.get("User") or ""),
        groups=[str(group) for group in host.get("GroupAdd") or ()],
        hostname=hostname,
        netns=record.netns,
        is_host=False,
        layers_dir="",
        layers=[],
        root="",
        upper="",
        work="",
        files=[],
        volumes=[],
        mounts=[],
        devices=[],
        privileged=bool(host.get("Privileged")),
        shm_size=0,
        seccomp=base64.b64encode(program).decode(),
        no_new_privileges=facts.has_no_new_privileges,
        apparmor=facts.profile,
        read_only=False,
        sysctls={},
        capabilities=sorted(CAPABILITIES.index(name) for name in facts.capabilities),
        rlimits=facts.limits,
        oom_score_adj=facts.oom_score,
        tty=record.tty,
        open_stdin=record.open_stdin,
        init=False,
        cgroups=[str(folder) for folder in groups.joined],
        oom_file="",
        hidden=[],
        log_dir="",
        log_file_bytes_max=0,
        log_files_max=0,
        log_line_bytes_max=0,
    )


def _has_own_filter(option: str) -> bool:
    """A profile of system calls that is not the engine's default, nor none at all."""
    name, _, value = option.replace(":", "=", 1).partition("=")
    return name == "seccomp" and value not in ("", "unconfined", "default", "builtin")


def _facts_of(pid: int) -> ProcessFacts | None:
    """None if the process has gone, or is confined by what cannot be put upon others from here."""
    folder = _PROC / str(pid)
    try:
        if _SELINUX.exists() or os.stat(folder / "ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino:
            return None
        lines = (line.partition(":") for line in (folder / "status").read_text().splitlines())
        status = {name: value.strip() for name, _, value in lines}
        score = int((folder / "oom_score_adj").read_text())
        own_score = int(Path("/proc/self/oom_score_adj").read_text())
        return ProcessFacts(
            status=status,
            limits=_limits_of(pid),
            # a lower one than ours may not be had, and what runs beside the task need not have it
            oom_score=score if score > own_score else 0,
            profile=_profile_of(folder),
        )
    except (OSError, ValueError):
        return None


def _limits_of(pid: int) -> list[tuple[int, int, int]]:
    """Where more than our own may not be had, ours."""
    may_raise = _may_raise_limits()
    found = []
    for number in RLIMITS.values():
        soft, hard = resource.prlimit(pid, number)
        most = resource.getrlimit(number)[1]
        if not may_raise:
            soft, hard = _lesser(soft, most), _lesser(hard, most)
        found.append((number, soft, hard))
    return found


def _lesser(limit: int, most: int) -> int:
    unlimited = resource.RLIM_INFINITY
    if unlimited in (limit, most):
        return most if limit == unlimited else limit
    return min(limit, most)


def _may_raise_limits() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _SYS_RESOURCE & 1)
    return False


def _profile_of(folder: Path) -> str:
    """The AppArmor profile that the container is under; "" for none."""
    if not _APPARMOR.exists() or _APPARMOR.read_text().strip() != "Y":
        return ""
    name = (folder / "attr/current").read_text().partition(" (")[0].strip("\0\n ")
    return "" if name == "unconfined" else name
