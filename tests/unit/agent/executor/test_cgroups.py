"""Control groups: layouts found, limits written, missing controllers refused. v2 on a stand-in tree."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from agent.executor.native.cgroups import Cgroups, Layout, find_layout
from agent.executor.native.demands import Demands
from agent.executor.native.devices import Rule
from agent.executor.native.shim import inner, inside
from swarmpy.errors import TaskRejected
from swarmpy.model.specs import Limits

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
HYBRID_OWN = "4:memory:/user/me\n3:pids:/\n2:cpu,cpuacct:/slice\n1:name=systemd:/x\n0::/y\n"
PURE = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_hybrid_means_version_one() -> None:
    layout = find_layout("/swarmpy", mountinfo=HYBRID, own=HYBRID_OWN)
    assert layout.version == 1
    assert layout.roots == {
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct/swarmpy"),
        "cpuacct": Path("/sys/fs/cgroup/cpu,cpuacct/swarmpy"),
        "memory": Path("/sys/fs/cgroup/memory/swarmpy"),
        "pids": Path("/sys/fs/cgroup/pids/swarmpy"),
    }
    assert len(layout.folders("t")) == 3


def test_a_parent_below_the_daemons_own_group() -> None:
    layout = find_layout("swarmpy", mountinfo=HYBRID, own=HYBRID_OWN)
    assert layout.roots["memory"] == Path("/sys/fs/cgroup/memory/user/me/swarmpy")
    assert layout.roots["cpu"] == Path("/sys/fs/cgroup/cpu,cpuacct/slice/swarmpy")
    assert layout.roots["pids"] == Path("/sys/fs/cgroup/pids/swarmpy")


def test_a_mount_of_a_part_of_the_hierarchy() -> None:
    mounted = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    layout = find_layout("swarmpy", mountinfo=mounted, own="4:memory:/docker/abc/in\n")
    assert layout.roots["memory"] == Path("/sys/fs/cgroup/memory/in/swarmpy")


def test_pure_version_two() -> None:
    layout = find_layout("/swarmpy/lab", mountinfo=PURE, own="0::/system.slice/swarmpy.service\n")
    assert layout.version == 2
    assert set(layout.roots.values()) == {Path("/sys/fs/cgroup/swarmpy/lab")}
    own = find_layout("tasks", mountinfo=PURE, own="0::/system.slice/swarmpy.service\n")
    assert own.roots["cpu"] == Path("/sys/fs/cgroup/system.slice/swarmpy.service/tasks")


def test_a_daemon_that_starts_again_in_its_leaf() -> None:
    """Whoever started it had been moved there with it; its tasks are where they were."""
    layout = find_layout("tasks", mountinfo=PURE, own="0::/system.slice/swarmpy.service/swarmpy-daemon\n")
    assert layout.roots["cpu"] == Path("/sys/fs/cgroup/system.slice/swarmpy.service/tasks")
    assert layout.own == Path("/sys/fs/cgroup/system.slice/swarmpy.service")
    container = find_layout("/swarmpy", mountinfo=PURE, own="0::/swarmpy-daemon\n")
    assert container.own == Path("/sys/fs/cgroup")
    of_the_node = PURE.replace("0:26 / ", "0:26 /../.. ")
    assert find_layout("/swarmpy", mountinfo=of_the_node, own="0::/\n").own is None


def test_nothing_mounted() -> None:
    assert find_layout("/x", mountinfo="", own="") == Layout(version=0, roots={})


def mounted_at(root: Path, monkeypatch: pytest.MonkeyPatch, *, shared: str = "") -> list[tuple[str, str]]:
    """A stand-in for the tree of cgroup v2 that shares ``shared`` out; what is written to its groups."""
    written: list[tuple[str, str]] = []

    def write(path: Path, text: str) -> bool:
        written.append((str(path.relative_to(root)), text))
        return True

    for folder in (root, root / "swarmpy"):
        folder.mkdir()
        (folder / "cgroup.subtree_control").write_text(shared)
    line = f"30 23 0:26 / {root} rw - cgroup2 cgroup2 rw\n"
    monkeypatch.setattr(
        "agent.executor.native.cgroups._read_proc", lambda name: line if name == "mountinfo" else "0::/\n"
    )
    monkeypatch.setattr("agent.executor.native.cgroups._write", write)
    return written


@pytest.fixture
def unified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Cgroups, Path]:
    """A tree with the files of cgroup v2, as far as they are plain files: the writes are what is tested."""
    root = tmp_path / "cgroup"
    mounted_at(root, monkeypatch, shared="memory cpu pids")
    cgroups = Cgroups("/swarmpy")
    cgroups.prepare()
    return cgroups, root / "swarmpy"


def test_disks_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = mounted_at(tmp_path / "cgroup", monkeypatch)
    Cgroups("/swarmpy").prepare()
    assert ("cgroup.subtree_control", "+io") in written
    assert ("swarmpy/cgroup.subtree_control", "+io") in written


@pytest.mark.parametrize("is_container", [True, False])
def test_the_root_of_a_container_has_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_container: bool
) -> None:
    """It must not have any before it shares controllers out. The root of all groups may have them."""
    root = tmp_path / "cgroup"
    written = mounted_at(root, monkeypatch)
    (root / "cgroup.procs").write_text("0\n7\n8\n")
    if is_container:
        (root / "cgroup.type").touch()
    Cgroups("/swarmpy").prepare()
    moved = [text for path, text in written if path == "swarmpy-daemon/cgroup.procs"]
    assert set(moved) == ({"7", "8"} if is_container else set())
    assert [path for path, _ in written][: len(moved)] == ["swarmpy-daemon/cgroup.procs"] * len(moved)


def test_a_tree_without_controllers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its groups still hold a task's processes and the program that filters devices."""
    root = tmp_path / "cgroup"
    filtered: list[Path] = []
    mounted_at(root, monkeypatch, shared="pids")
    monkeypatch.setattr(
        "agent.executor.native.device_filter.attach", lambda group, rules: filtered.append(group)
    )
    cgroups = Cgroups("/swarmpy")
    cgroups.prepare()
    assert (cgroups.version, len(cgroups.missing())) == (2, 2)
    demands = Demands(device_rules=(Rule("c", 10, 1, "r"),))
    cgroups.create("t", demands)
    assert filtered == [root / "swarmpy/t"]
    assert cgroups.places("t", demands) == ([str(root / "swarmpy/t")], "")
    (root / "swarmpy/t/cpu.stat").write_text("usage_usec 2\n")  # that much every group counts
    assert cgroups.stats("t").cpu_ns == cgroups.in_full(cgroups.stats("t"), "t", os.getpid()).cpu_ns == 2_000
    with pytest.raises(TaskRejected, match="'memory' is not available"):
        cgroups.create("u", Demands(limits=Limits(memory_bytes=1 << 30)))


def test_limits_of_version_two(unified: tuple[Cgroups, Path]) -> None:
    cgroups, root = unified
    demands = Demands(limits=Limits(memory_bytes=1 << 30, nano_cpus=1_500_000_000, pids=7))
    cgroups.create("t", demands)
    assert (root / "t/memory.max").read_text() == str(1 << 30)
    assert (root / "t/cpu.max").read_text() == "150000 100000"
    assert (root / "t/pids.max").read_text() == "7"
    assert cgroups.places("t", demands) == ([str(root / "t")], str(root / "t/memory.events"))
    assert cgroups.missing() == ()


def test_stats_of_version_two(unified: tuple[Cgroups, Path]) -> None:
    cgroups, root = unified
    cgroups.create("t", Demands())
    (root / "t/cpu.stat").write_text("usage_usec 1500\nuser_usec 1000\n")
    (root / "t/memory.current").write_text("4096\n")
    (root / "t/pids.current").write_text("3\n")
    stats = cgroups.stats("t")
    assert (stats.cpu_ns, stats.memory_bytes, stats.pids) == (1_500_000, 4096, 3)


def test_a_limit_without_its_controller_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.executor.native.cgroups._read_proc", lambda name: "")
    cgroups = Cgroups("/swarmpy")
    cgroups.prepare()
    assert cgroups.version == 0
    assert len(cgroups.missing()) == 3
    for limits in (Limits(memory_bytes=1 << 30), Limits(nano_cpus=1), Limits(pids=1)):
        with pytest.raises(TaskRejected, match="is not available on this node"):
            cgroups.create("t", Demands(limits=limits))
    cgroups.create("t", Demands())  # without limits, none is needed
    cgroups.remove("t")


@pytest.mark.parametrize(
    ("demands", "refused"),
    [
        (Demands(cpuset_cpus="2,0", cpuset_mems="0"), ""),
        (Demands(cpuset_cpus="0-1"), "Requested CPUs are not available - requested 0-1, available: 0,2-3"),
        (Demands(cpuset_mems="1"), "Requested memory nodes are not available - requested 1, available: 0"),
    ],
)
def test_processors_that_the_group_above_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demands: Demands, refused: str
) -> None:
    """The kernel takes them, and runs the task on others."""
    root = tmp_path / "cgroup"
    mounted_at(root, monkeypatch, shared="cpuset")
    (root / "swarmpy/t").mkdir()
    for name, had in (("cpus", "0,2-3\n"), ("mems", "0\n")):
        (root / f"swarmpy/t/cpuset.{name}.effective").write_text(had)
    cgroups = Cgroups("/swarmpy")
    cgroups.prepare()
    with pytest.raises(TaskRejected, match=refused) if refused else contextlib.nullcontext():
        cgroups.create("t", demands)


def test_all_processes_are_killed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before one of them can fork."""
    written = mounted_at(tmp_path / "cgroup", monkeypatch)
    cgroups = Cgroups("/swarmpy")
    cgroups.prepare()
    cgroups.kill("t")
    assert written[-1] == ("swarmpy/t/cgroup.kill", "1")


def test_removing_what_is_not_there(unified: tuple[Cgroups, Path]) -> None:
    cgroups, _ = unified
    cgroups.remove("never")
    assert cgroups.task_ids() == set()


@pytest.mark.parametrize(
    ("files", "pid", "written"),
    [
        (("tasks", "cgroup.procs"), 0, {"tasks": "0", "cgroup.procs": ""}),
        (("tasks", "cgroup.procs"), 12, {"tasks": "", "cgroup.procs": "12"}),
        (("cgroup.procs",), 0, {"cgroup.procs": "0"}),
    ],
)
def test_who_joins_by_itself_holds_nobody_up(
    tmp_path: Path, files: tuple[str, ...], pid: int, written: dict[str, str]
) -> None:
    for name in files:
        (tmp_path / name).touch()
    inner.join_cgroups({"cgroups": [str(tmp_path)]}, pid)  # type: ignore[typeddict-item]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == written


@pytest.mark.parametrize(
    ("shared", "membership", "expected"),
    [
        (None, "0::/swarmpy/t\n", "t"),  # v1
        ("\n", "0::/swarmpy/t\n", "t"),
        ("\n", "0::/swarmpy/t/init.scope\n", "t"),
        ("memory pids\n", "1:name=systemd:/\n0::/swarmpy/t/deep/init.scope\n", "t/deep/init.scope"),
        ("memory pids\n", "0::/elsewhere\n", "t"),
    ],
)
def test_commands_join_the_group_that_the_tasks_first_process_is_in(
    tmp_path: Path, shared: str | None, membership: str, expected: str
) -> None:
    """A group of v2 that shares controllers out takes no processes."""
    for folder in ("t", "proc/12"):
        (tmp_path / folder).mkdir(parents=True)
    if shared is not None:
        (tmp_path / "t/cgroup.subtree_control").write_text(shared)
    (tmp_path / "proc/12/cgroup").write_text(membership)
    found = inside.joinable_group(f"{tmp_path}/t", 12, proc=f"{tmp_path}/proc")
    assert found == f"{tmp_path}/{expected}"
