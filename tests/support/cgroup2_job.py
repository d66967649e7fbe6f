"""What runs in the virtual machine: the executors native and oci where all control groups are of version 2.

Every case is a function that returns facts; the tests judge them. A case that fails says so in its facts.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import native_rig
from kernel_vm import report
from native_rig import NativeRig
from oci_rig import OciRig
from suite_image import IMAGE, write_archive

from agent.executor.base import Command, Stats
from agent.executor.engine.stats import read_stats
from agent.executor.native import executor, inside, shims
from agent.executor.native.cgroups import Cgroups
from agent.executor.native.demands import Demands
from agent.executor.native.id_ranges import IdRange, TaskIds
from agent.executor.native.shim import kernel
from agent.executor.oci import monitor, runtimes
from agent.executor.oci.runtimes import Runtime
from swarmpy.errors import TaskRejected
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec, Device, Limits

Facts = dict[str, Any]
MIB = 1 << 20
GROUPS = Path("/sys/fs/cgroup")
DISK = "/dev/loop0"
MEMORY_BYTES, PIDS = 32 * MIB, 12
READ_BYTES, SHARED_BYTES = MIB, 8 * MIB
_LIMITS = Limits(memory_bytes=MEMORY_BYTES, nano_cpus=1_500_000_000, pids=PIDS)
_STDOUT = 1
_DISK_BYTES = 48 * MIB
_IDS = IdRange(700_000_000, 65_536)
_CASE_S = 300
_PATIENCE_S = 120.0
_POLL_S = 0.2
_LIMIT_FILES = ("memory.max", "memory.swap.max", "cpu.max", "pids.max", "cpuset.cpus")
_LOOK = f"""
cat /proc/self/cgroup
cd /sys/fs/cgroup; cat {" ".join(_LIMIT_FILES)}
mkdir own 2>/dev/null || echo cannot make
(echo max >pids.max) 2>/dev/null || echo cannot write
"""
_OPEN = f"""
: <{DISK} && echo read
(: >{DISK}) 2>&1 | grep -o 'not permitted'
"""
_FORK = "i=0; while [ $i -lt 20 ]; do sleep 1000 >/dev/null 2>&1 & i=$((i+1)); done"


def _use_up(skipped: int) -> str:
    """Disk, memory and time; ``skipped``: what of the disk others have read, and the kernel keeps."""
    return f"""
dd if={DISK} of=/dev/null bs={READ_BYTES} skip={skipped} count=1 2>/dev/null
dd if=/dev/zero of=/dev/shm/held bs={SHARED_BYTES} count=1 2>/dev/null
i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done
echo used up
"""


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not await condition():
            await asyncio.sleep(_POLL_S)


async def _said(rig: NativeRig, task_id: TaskId, last: str) -> list[str]:
    """The task's lines up to this one."""
    lines: list[str] = []

    async def has_come() -> bool:
        lines[:] = [line.data.decode().strip() for line in await rig.log(task_id)]
        return last in lines

    await _until(has_come, last)
    return lines


async def _exec(rig: NativeRig, task_id: TaskId, script: str) -> list[str]:
    channel = await rig.executor.exec(task_id, Command(argv=("/bin/sh", "-c", script)))
    said = b"".join([data async for stream, data in channel.output() if stream == _STDOUT])
    await channel.close()
    return said.decode().splitlines()


def _number(path: Path) -> int:
    return int(path.read_text())


def _cpu_ns(group: Path) -> int:
    return int((group / "cpu.stat").read_text().split()[1]) * 1_000


def _used(stats: Stats) -> Facts:
    """Of the disk that was read, not of what else the machine has."""
    read = sum(disk.read_bytes for disk in stats.disks if (disk.major, disk.minor) == (7, 0))
    return {
        "pids": stats.pids,
        "pids_limit": stats.pids_limit,
        "memory": SHARED_BYTES <= stats.memory_bytes <= stats.memory_max_bytes <= MEMORY_BYTES,
        "shared": stats.memory.get("shmem", 0),
        "read": READ_BYTES <= read < 2 * READ_BYTES,
        "parts": stats.cpu_user_ns + stats.cpu_system_ns <= stats.cpu_ns < stats.system_cpu_ns,
    }


# --- a task of each executor


async def life(rig: NativeRig, skipped: int) -> Facts:
    """From its start to its removal, with a death of the daemon in the middle."""
    able = await rig.executor.probe()
    script = f"{_LOOK}{_OPEN}{_use_up(skipped)} read line"
    disk = Device(path_on_host=DISK, cgroup_permissions="r")
    spec = ContainerSpec(
        image=IMAGE, command=("/bin/sh", "-c", script), cpuset_cpus="1", devices=(disk,), open_stdin=True
    )
    task_id = await rig.run("whole-life", spec=spec, image=IMAGE, limits=_LIMITS)
    group = GROUPS / rig.parent.strip("/") / task_id
    facts: Facts = {"version": [able.cgroup_version, able.missing]}
    facts["saw"] = await _said(rig, task_id, "used up")
    before = _cpu_ns(group)
    stats = await rig.executor.stats(task_id, is_full=True)
    facts["used"] = _used(stats)
    facts["time_is_true"] = 0 < before <= stats.cpu_ns <= _cpu_ns(group)
    [pid] = [found.pid for found in await rig.executor.list()]
    of_engine = read_stats(pid, task_id, is_full=True)
    facts["as_engine"] = _used(of_engine) == facts["used"] and of_engine.cpu_ns >= stats.cpu_ns
    await rig.reopen(is_clean=False)
    facts["adopted"] = [found.pid == pid for found in await rig.executor.list()]
    facts["inside"] = await _exec(rig, task_id, f"cat /proc/self/cgroup; {_OPEN} tail /dev/zero; echo $?")
    looked = await rig.executor.look(task_id)
    facts["out_of_memory"] = looked is not None and looked.pid == pid and looked.is_oom_killed
    facts["forks"] = await _exec(rig, task_id, f"({_FORK}) 2>&1")
    facts["most"] = _number(group / "pids.peak")
    ended = await rig.executor.stop(task_id, signal=15, grace_s=0)
    facts["end"] = [ended.code, ended.is_oom_killed] if ended is not None else None
    facts["left_running"] = (group / "cgroup.procs").read_text().split() if group.exists() else []
    await rig.executor.remove(task_id)
    facts["left"] = [path.name for path in (GROUPS / rig.parent.strip("/")).iterdir() if path.is_dir()]
    return facts


def _sh(script: str, **fields: Any) -> ContainerSpec:
    return ContainerSpec(image=IMAGE, command=("/bin/sh", "-c", script), **fields)


async def privileged(rig: NativeRig) -> Facts:
    """What a container engine or an init does in a task: groups below its own, with controllers."""
    script = """
    cd /sys/fs/cgroup; mkdir inner && echo $$ >inner/cgroup.procs
    cat cgroup.procs; echo +memory >cgroup.subtree_control; cat cgroup.subtree_control
    echo ready; read line
    """
    disk = Device(path_on_host=DISK)
    spec = _sh(script, privileged=True, devices=(disk,), open_stdin=True)
    task_id = await rig.run("nested", spec=spec, image=IMAGE)
    facts: Facts = {"saw": await _said(rig, task_id, "ready")}
    facts["inside"] = await _exec(rig, task_id, ": </dev/loop-control && echo open; cat /proc/self/cgroup")
    group = GROUPS / rig.parent.strip("/") / task_id
    await rig.executor.remove(task_id)
    facts["is_left"] = group.exists()
    return facts


async def user_ids(rig: NativeRig) -> Facts:
    script = f"id -u; cat /proc/self/uid_map; {_LOOK} exit 7"
    task_id = await rig.run("mapped", spec=_sh(script, cpuset_cpus="0"), image=IMAGE, limits=_LIMITS)
    ended = await rig.wait_exit(task_id)
    said = [line.data.decode().split() for line in await rig.log(task_id)]
    return {"said": [" ".join(words) for words in said], "code": ended.exit.code}


# --- where the daemon is


def places() -> Facts:
    """Ends in a namespace in which nothing else can be tried."""
    service = GROUPS / "system.slice/swarmpy.service"
    service.mkdir(parents=True)
    _join(service)
    facts: Facts = {"below_the_root": _tried(Cgroups("/swarmpy"))}
    facts["stayed"] = Path("/proc/self/cgroup").read_text().strip()
    cgroups = Cgroups("tasks")
    facts["below_its_own"] = _tried(cgroups)
    facts["asked_again"] = _tried(cgroups)
    facts["started_again"] = _tried(Cgroups("tasks"))
    (service / "tasks/cpuset.cpus").write_text("0")
    try:
        cgroups.create("tried", Demands(cpuset_cpus="1"))
    except TaskRejected as error:
        facts["refused"] = str(error)
    cgroups.remove("tried")
    facts["moved"] = Path("/proc/self/cgroup").read_text().strip()
    container = GROUPS / "container"
    container.mkdir()
    _join(container)
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWCGROUP)
    _run("mount", "--make-rprivate", "/")
    _run("umount", "--lazy", str(GROUPS))
    _run("mount", "-t", "cgroup2", "cgroup2", str(GROUPS))
    facts["in_a_container"] = _tried(Cgroups("/swarmpy"))
    return facts


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _join(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _tried(cgroups: Cgroups) -> Facts:
    cgroups.prepare()
    cgroups.create("tried", Demands(limits=_LIMITS))
    folders, _ = cgroups.places("tried", Demands())
    cgroups.remove("tried")
    return {"group": folders, "missing": cgroups.missing()}


# --- all of them


class CrunRig(OciRig):
    """Without a search for what works."""

    known = Runtime(name="crun", path=runtimes.find("crun"), root=Path("/"))


_Case = tuple[str, Callable[[NativeRig], Awaitable[Facts]]]


async def _try_all(rig: NativeRig, cases: tuple[_Case, ...], told: Facts) -> None:
    """Each in its turn, and what the last one leaves is removed."""
    for name, case in cases:
        began = _busy_s()
        told[name] = await _facts(case(rig))
        told[name]["cpu_s"] = _busy_s() - began
    await rig.close()


async def _facts(case: Awaitable[Facts]) -> Facts:
    try:
        async with asyncio.timeout(_CASE_S):
            return await case
    except Exception:  # noqa: BLE001 - told to the tests, which fail with it
        return {"failed": traceback.format_exc()}


def _busy_s() -> float:
    """Of the machine's processors, since it was started."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    return (sum(map(int, fields)) - int(fields[3]) - int(fields[4])) / os.sysconf("SC_CLK_TCK")


def _mount_disk(folder: Path) -> Path:
    """A disk with a file system that can map ids."""
    disk, mounted = folder / "disk", folder / "mounted"
    mounted.mkdir()
    with disk.open("wb") as file:
        file.truncate(_DISK_BYTES)
    _run("mkfs.ext4", "-q", "-O", "^has_journal", str(disk))
    _run("losetup", DISK, str(disk))
    _run("mount", DISK, str(mounted))
    return mounted


async def executors(folder: Path, told: Facts) -> None:
    """One after the other in the same data folder, so that the image is unpacked once."""
    native = NativeRig(folder)
    await (await native.open()).load_image(write_archive(folder / "images.tar"))
    await _try_all(native, (("native", lambda rig: life(rig, 8)), ("privileged", privileged)), told)
    crun = CrunRig(folder)
    await crun.open()
    await _try_all(crun, (("crun", lambda rig: life(rig, 12)),), told)
    mapped = NativeRig(folder, ids=TaskIds(_IDS, _IDS))
    await mapped.open()
    await _try_all(mapped, (("user_ids", user_ids),), told)


def _be_patient() -> None:
    """A machine that is emulated by a busy one is slow."""
    for module in (native_rig, executor, inside, shims, monitor):
        for name in ("DEADLINE_S", "COMMAND_START_TIMEOUT_S", "TASK_START_TIMEOUT_S", "TASK_KILL_TIMEOUT_S"):
            if hasattr(module, name):
                setattr(module, name, _PATIENCE_S)


def main() -> None:
    _be_patient()
    _run("mount", "-t", "cgroup2", "-o", "nsdelegate", "cgroup2", str(GROUPS))
    told: Facts = {"ready_cpu_s": _busy_s()}
    for part in (_executors, _places):
        try:
            part(told)
        except Exception:  # noqa: BLE001 - the rest has its turn; the tests see what is missing
            told[part.__name__] = {"failed": traceback.format_exc()}
    told["cpu_s"] = _busy_s()
    report(told)


def _executors(told: Facts) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mounted = _mount_disk(Path(folder))
        asyncio.run(executors(mounted, told))
        _run("umount", str(mounted))


def _places(told: Facts) -> None:
    told["places"] = places()


if __name__ == "__main__":
    main()
