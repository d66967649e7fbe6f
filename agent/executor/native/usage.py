"""What a task uses, in full: docker's statistics, out of its control groups and its network namespace.

Blocks. What a kernel does not tell, or a group that has gone, counts as nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from agent.executor.base import DiskUsage, LinkUsage, Stats
from swarmpy.model.ids import SECOND_NS

_USEC_NS = 1_000
_CPU_FIELDS = 8
"""Of /proc/stat: what comes after is counted in the first ones already."""
_PROC = Path("/proc")


def in_full(stats: Stats, *, version: int, roots: Mapping[str, Path], task_id: str, pid: int) -> Stats:
    """``stats`` has what is cheap already."""
    read = _v2 if version == 2 else _v1
    links = _links(pid)
    return replace(
        read(stats, roots, task_id),
        system_cpu_ns=_system_cpu_ns(),
        links=links,
        received_bytes=sum(link.received[0] for link in links),
        sent_bytes=sum(link.sent[0] for link in links),
    )


def _v1(stats: Stats, roots: Mapping[str, Path], task_id: str) -> Stats:
    def lines(root: str, name: str) -> dict[str, int]:
        return _fields(roots[root] / task_id / name) if root in roots else {}

    tick_ns = SECOND_NS // os.sysconf("SC_CLK_TCK")
    times, held = lines("cpuacct", "cpuacct.stat"), lines("cpu", "cpu.stat")
    return replace(
        stats,
        cpu_user_ns=times.get("user", 0) * tick_ns,
        cpu_system_ns=times.get("system", 0) * tick_ns,
        cpu_periods=held.get("nr_periods", 0),
        throttled_periods=held.get("nr_throttled", 0),
        throttled_ns=held.get("throttled_time", 0),
        memory=lines("memory", "memory.stat"),
        memory_max_bytes=_number(roots["memory"] / task_id / "memory.max_usage_in_bytes")
        if "memory" in roots
        else 0,
        pids_limit=_number(roots["pids"] / task_id / "pids.max") if "pids" in roots else 0,
        disks=_v1_disks(roots["blkio"] / task_id) if "blkio" in roots else (),
    )


def _v2(stats: Stats, roots: Mapping[str, Path], task_id: str) -> Stats:
    folder = next(iter(roots.values())) / task_id  # v2 has one for all controllers
    cpu = _fields(folder / "cpu.stat")
    return replace(
        stats,
        cpu_user_ns=cpu.get("user_usec", 0) * _USEC_NS,
        cpu_system_ns=cpu.get("system_usec", 0) * _USEC_NS,
        cpu_periods=cpu.get("nr_periods", 0),
        throttled_periods=cpu.get("nr_throttled", 0),
        throttled_ns=cpu.get("throttled_usec", 0) * _USEC_NS,
        memory=_fields(folder / "memory.stat"),
        memory_max_bytes=_number(folder / "memory.peak"),
        pids_limit=_number(folder / "pids.max"),
        disks=_disks(folder / "io.stat"),
    )


def _system_cpu_ns() -> int:
    """Of all processors, idle or not."""
    first = (_PROC / "stat").read_text().partition("\n")[0].split()[1 : 1 + _CPU_FIELDS]
    return sum(map(int, first)) * (SECOND_NS // os.sysconf("SC_CLK_TCK"))


def _links(pid: int) -> tuple[LinkUsage, ...]:
    """Of the task's network namespace, but for its loopback."""
    try:
        lines = (_PROC / str(pid) / "net/dev").read_text().splitlines()
    except OSError:
        return ()
    found = []
    for line in lines:
        name, is_link, counters = line.partition(":")
        if is_link and name.strip() != "lo":
            numbers = [int(each) for each in counters.split()]
            received, sent = numbers[0:4], numbers[8:12]
            found.append(LinkUsage(name=name.strip(), received=tuple(received), sent=tuple(sent)))
    return tuple(found)


def _v1_disks(folder: Path) -> tuple[DiskUsage, ...]:
    """Lines such as ``8:0 Read 4096``, in one file the bytes and in another how often."""
    found: dict[tuple[int, int], DiskUsage] = {}
    for name, fields in (
        ("io_service_bytes", {"Read": "read_bytes", "Write": "written_bytes"}),
        ("io_serviced", {"Read": "reads", "Write": "writes"}),
    ):
        for line in _lines(folder / f"blkio.throttle.{name}_recursive"):
            device, _, rest = line.partition(" ")
            what, _, value = rest.partition(" ")
            major, _, minor = device.partition(":")
            if what in fields and major.isdigit() and minor.isdigit() and value.isdigit():
                key = int(major), int(minor)
                disk = found.get(key) or DiskUsage(major=key[0], minor=key[1])
                found[key] = replace(disk, **{fields[what]: int(value)})
    return tuple(disk for _, disk in sorted(found.items()))


def _disks(path: Path) -> tuple[DiskUsage, ...]:
    """Lines such as ``8:0 rbytes=1 wbytes=2 rios=3 wios=4``. Some kernels forget to end the line of a device
    that has nothing to tell."""
    found = []
    for line in _lines(path):
        devices = [word for word in line.split() if "=" not in word]
        major, _, minor = devices[-1].partition(":") if devices else ("", "", "")
        pairs = (word.partition("=") for word in line.split() if "=" in word)
        values = {name: int(value) for name, _, value in pairs if value.isdigit()}
        if values and major.isdigit() and minor.isdigit():
            found.append(
                DiskUsage(
                    major=int(major),
                    minor=int(minor),
                    read_bytes=values.get("rbytes", 0),
                    written_bytes=values.get("wbytes", 0),
                    reads=values.get("rios", 0),
                    writes=values.get("wios", 0),
                )
            )
    return tuple(found)


def _fields(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int:
    """0 for ``max``, and for what is not there."""
    text = "".join(_lines(path)[:1]).strip()
    return int(text) if text.isdigit() else 0
