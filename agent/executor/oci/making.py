"""Making a task ready to run by an OCI runtime: as native does, and its bundle."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from agent.executor.base import Launch
from agent.executor.native import folders, preflight
from agent.executor.native.demands import demands_of
from agent.executor.native.devices import EVERY_TASK
from agent.executor.native.job import CAPABILITIES, Job
from agent.executor.native.making import Maker
from agent.executor.native.shim.dev import node_devices
from agent.executor.native.surroundings import Surroundings
from agent.executor.oci import records, runtimes
from agent.executor.oci.bundle import Around, DeviceNode, cgroup_path, plan_bundle, top_of
from agent.executor.oci.filters import plan_filter
from swarmpy.errors import TaskRejected, Unavailable

_SEALS_ALL_SINCE = (5, 12)


@dataclass(kw_only=True)
class OciMaker(Maker):
    """Blocks."""

    def _make(self, launch: Launch, around: Surroundings) -> None:
        if not around.devices.rules and not launch.spec.privileged:
            # a runtime limits devices by their control group alone: commands in the task must be in it, too
            around = replace(around, devices=around.devices._replace(rules=EVERY_TASK))
        super()._make(launch, around)
        folder = self.tasks_dir / launch.task_id
        job = folders.read_job(folder)
        if job is None:
            raise Unavailable(f"the record of task {launch.task_id} was gone at once")
        try:
            held = frozenset(CAPABILITIES[number] for number in job["capabilities"])
            node = _look(job, around)
            bundle = plan_bundle(job, node, seccomp=plan_filter(launch.spec, held))
            records.write_demands(folder, demands_of(launch, around.devices.rules))
            records.write_bundle(folder, bundle)
        except TaskRejected:
            (folder / "job.json").unlink(missing_ok=True)  # it is not created: see ``folders``
            raise
        except OSError as error:
            raise Unavailable(f"cannot prepare the bundle of task {launch.task_id}: {error}") from None


def _look(job: Job, around: Surroundings) -> Around:
    devices = {device["source"]: os.stat(device["source"]) for device in job["devices"]}
    if job["privileged"]:
        devices |= {f"/dev{below}": status for below, status in node_devices()}
    return Around(
        cgroup=cgroup_path(job["cgroups"], Path("/proc/self/mountinfo").read_text()),
        rules=around.devices.rules,
        devices={path: _device(path, status) for path, status in devices.items()},
        init=runtimes.find_init() if job["init"] else "",
        top=top_of(entry.name for entry in os.scandir("/") if not entry.is_symlink())
        if job["is_host"]
        else (),
        present=frozenset(target for _, target in job["files"] if os.path.isfile(target)),
        can_seal_all=_release() >= _SEALS_ALL_SINCE,
        sysctls=frozenset(name for name in job.get("default_sysctls", {}) if _has_sysctl(name)),
        capabilities=preflight.capabilities(),
    )


def _device(path: str, status: os.stat_result) -> DeviceNode:
    return DeviceNode(
        path=path,
        kind="b" if stat.S_ISBLK(status.st_mode) else "c",
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


def _has_sysctl(name: str) -> bool:
    return os.path.exists(f"/proc/sys/{name.replace('.', '/')}")


def _release() -> tuple[int, ...]:
    return tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])
