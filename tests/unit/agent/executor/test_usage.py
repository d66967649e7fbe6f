"""What a task uses, out of control groups as kernels have written them: v1 and v2, and the ends of memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.executor.base import DiskUsage, Stats
from agent.executor.native.cgroups import Cgroups, Layout, find_layout, stats_of
from agent.executor.native.demands import Demands
from agent.executor.native.shim.supervise import has_oom_kill
from agent.executor.native.usage import in_full

V1 = {
    "cpu/t/cpu.stat": "nr_periods 20\nnr_throttled 4\nthrottled_time 900000000\n",
    "cpuacct/t/cpuacct.usage": "2500000000\n",
    "cpuacct/t/cpuacct.stat": "user 150\nsystem 90\n",
    "memory/t/memory.usage_in_bytes": "8192000\n",
    "memory/t/memory.max_usage_in_bytes": "9000000\n",
    "memory/t/memory.stat": "cache 4096\nrss 8000000\nhierarchical_memory_limit 67108864\n"
    "total_inactive_file 2048\n",
    "pids/t/pids.current": "3\n",
    "pids/t/pids.max": "100\n",
    "blkio/t/blkio.throttle.io_service_bytes_recursive": "254:0 Read 4096\n254:0 Write 512\n254:0 Sync 4608\n"
    "254:0 Total 4608\n8:16 Read 1\nTotal 4609\n",
    "blkio/t/blkio.throttle.io_serviced_recursive": "254:0 Read 2\n254:0 Write 1\n254:0 Total 3\nTotal 3\n",
}
V2 = {
    "t/cpu.stat": "usage_usec 2500000\nuser_usec 1500000\nsystem_usec 900000\nnr_periods 20\nnr_throttled 4\n"
    "throttled_usec 900000\n",
    "t/memory.current": "8192000\n",
    "t/memory.peak": "9000000\n",
    "t/memory.stat": "anon 8000000\nfile 4096\ninactive_file 2048\n",
    "t/pids.current": "3\n",
    "t/pids.max": "100\n",
    "t/io.stat": "254:0 rbytes=4096 wbytes=512 rios=2 wios=1 dbytes=0\n7:1 8:16 rbytes=1 wbytes=0 rios=0\n",
}
DISKS = (
    DiskUsage(major=8, minor=16, read_bytes=1),
    DiskUsage(major=254, minor=0, read_bytes=4096, written_bytes=512, reads=2, writes=1),
)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def layout_of(version: int, root: Path) -> Layout:
    if version == 2:
        return Layout(version=2, roots=dict.fromkeys(("memory", "cpu", "pids"), root))
    names = ("cpu", "cpuacct", "memory", "pids", "blkio")
    return Layout(version=1, roots={name: root / name for name in names})


def read(version: int, root: Path) -> Stats:
    layout = layout_of(version, root)
    return in_full(stats_of(layout, "t"), version=version, roots=layout.roots, task_id="t", pid=os.getpid())


@pytest.mark.parametrize(("version", "files"), [(1, V1), (2, V2)])
def test_both_versions_tell_the_same(tmp_path: Path, version: int, files: dict[str, str]) -> None:
    write(tmp_path, files)
    stats = read(version, tmp_path)
    assert stats.cpu_ns == 2_500_000_000
    assert (stats.cpu_user_ns, stats.cpu_system_ns) == (1_500_000_000, 900_000_000)
    assert (stats.cpu_periods, stats.throttled_periods, stats.throttled_ns) == (20, 4, 900_000_000)
    assert (stats.memory_bytes, stats.memory_max_bytes) == (8_192_000, 9_000_000)
    assert (stats.pids, stats.pids_limit) == (3, 100)
    assert sorted(stats.disks, key=lambda disk: disk.major) == list(DISKS)
    assert stats.system_cpu_ns > 0
    # by the kernel's own names, as docker passes them on
    assert stats.memory["inactive_file" if version == 2 else "total_inactive_file"] == 2048


@pytest.mark.parametrize("version", [1, 2])
def test_groups_that_have_gone_and_numbers_that_are_none(tmp_path: Path, version: int) -> None:
    gone = read(version, tmp_path)
    assert (gone.cpu_ns, gone.memory_bytes, gone.pids, gone.pids_limit, gone.disks) == (0, 0, 0, 0, ())
    odd = dict.fromkeys(V1 if version == 1 else V2, "max\n8:0 nonsense here=there\n")
    write(tmp_path, odd)
    assert read(version, tmp_path).pids_limit == 0


@pytest.mark.parametrize(
    ("text", "is_killed"),
    [
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", True),  # v1, memory.oom_control
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", False),
        ("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n", True),  # v2, memory.events
        ("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\noom_group_kill 0\n", False),
        ("", False),
    ],
)
def test_memory_that_ran_out(tmp_path: Path, text: str, *, is_killed: bool) -> None:
    (tmp_path / "events").write_text(text)
    assert has_oom_kill(str(tmp_path / "events")) is is_killed
    assert not has_oom_kill(str(tmp_path / "none"))
    assert not has_oom_kill("")


HYBRID = """\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
"""


def test_where_a_task_finds_its_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = find_layout("/swarmpy", mountinfo=HYBRID, own="")
    assert sorted(layout.names.values()) == ["cpu,cpuacct", "memory"]
    for folder in ("cpu,cpuacct", "memory", "one"):
        (tmp_path / folder / "swarmpy").mkdir(parents=True)
    for lines, expected in (
        (HYBRID.replace("/sys/fs/cgroup", str(tmp_path)), {"cpu,cpuacct": "cpu,cpuacct", "memory": "memory"}),
        (f"30 23 0:26 / {tmp_path}/one rw - cgroup2 cgroup2 rw\n", {"one": ""}),
    ):
        monkeypatch.setattr(
            "agent.executor.native.cgroups._read_proc",
            lambda name, lines=lines: lines if name == "mountinfo" else "0::/\n",
        )
        monkeypatch.setattr("agent.executor.native.cgroups._write", lambda path, text: True)
        (tmp_path / "one/swarmpy/cgroup.subtree_control").write_text("memory cpu pids")
        cgroups = Cgroups("/swarmpy")
        cgroups.prepare()
        found = cgroups.mounts("t", Demands())
        assert found == [(f"{tmp_path}/{folder}/swarmpy/t", name) for folder, name in expected.items()]
