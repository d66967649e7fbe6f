"""Control groups of tasks, v1 (also the hybrid layout) and v2, by plain file writes.

Decides where a task's groups lie (``<hierarchy>/<parent>/<task>``), turns ``Limits`` into the kernel's
units, and refuses a limit whose controller is not on this node: a limit is kept or the task is rejected,
never ignored. All functions block for microseconds to a few milliseconds: call them in a thread.

``parent`` beginning with a slash is counted from the hierarchy's root, any other from the daemon's own
group. On v2 a group with processes cannot share controllers out to children, so in that second case the
daemon moves itself into a leaf first.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from agent.executor.base import Stats
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.limits import CGROUP_POLL_S, CGROUP_REMOVE_TIMEOUT_S
from swarmpy.model.ids import SECOND_NS
from swarmpy.model.specs import Limits

WANTED = ("memory", "cpu", "pids", "cpuacct")
_CPU_PERIOD_US = 100_000
_CPU_QUOTA_MIN_US = 1_000
_MEMORY_MIN_BYTES = 4 << 20
_DAEMON_LEAF = "swarmpy-daemon"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is mounted where. ``roots`` maps a controller to the folder that holds our tasks' groups."""

    version: int
    roots: dict[str, Path]

    def folders(self, task_id: str) -> list[Path]:
        """A task's groups, each once (v2 has one for all controllers)."""
        return [root / task_id for root in dict.fromkeys(self.roots.values())]


def find_layout(parent: str, *, mountinfo: str, own: str) -> Layout:
    """The layout out of /proc/self/mountinfo and /proc/self/cgroup. Pure."""
    v1: dict[str, Path] = {}
    v2: Path | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        mount_root, mount_point = fields[3], Path(fields[4])
        if kinds[0] == "cgroup2":
            v2 = v2 or mount_point / _below(parent, _own_path(own, ""), mount_root)
        elif kinds[0] == "cgroup":
            for controller in kinds[2].split(","):
                if controller in WANTED and controller not in v1:
                    v1[controller] = mount_point / _below(parent, _own_path(own, controller), mount_root)
    if v1:
        return Layout(version=1, roots=v1)
    if v2 is None:
        return Layout(version=0, roots={})
    return Layout(version=2, roots=dict.fromkeys(("memory", "cpu", "pids"), v2))


def _below(parent: str, own: str, mount_root: str) -> str:
    if parent.startswith("/"):
        return parent.strip("/")
    inside = own.removeprefix(mount_root) if mount_root != "/" else own
    return f"{inside.strip('/')}/{parent}".strip("/")


def _own_path(own: str, controller: str) -> str:
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return "/"


class Cgroups:
    """The node's groups. ``prepare`` before anything else."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._layout = Layout(version=0, roots={})

    @property
    def version(self) -> int:
        return self._layout.version

    def prepare(self) -> None:
        """Find what is mounted, make our parent groups. Controllers that cannot be had are left out."""
        layout = find_layout(
            self._parent,
            mountinfo=_read_proc("mountinfo"),
            own=_read_proc("cgroup"),
        )
        if layout.version == 2:
            usable = _prepare_v2(layout.roots["memory"], is_own=not self._parent.startswith("/"))
        else:
            usable = {name for name, root in layout.roots.items() if _make(root)}
        roots = {name: root for name, root in layout.roots.items() if name in usable}
        self._layout = Layout(version=layout.version if roots else 0, roots=roots)

    def missing(self) -> tuple[str, ...]:
        """Sentences for the controllers that limits need and this node lacks."""
        return tuple(
            f"The cgroup controller {name!r} is not available, so tasks with a {name} limit are rejected; "
            "mount it, or delegate it to the daemon."
            for name in ("memory", "cpu", "pids")
            if name not in self._layout.roots
        )

    def places(self, task_id: str) -> tuple[list[str], str]:
        """The groups that a task joins, and the file that counts its memory kills."""
        folders = [str(folder) for folder in self._layout.folders(task_id)]
        memory = self._layout.roots.get("memory")
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return folders, str(memory / task_id / name) if memory else ""

    def create(self, task_id: str, limits: Limits) -> None:
        """Make the task's groups and set its limits; of groups that stand, set them again."""
        self._check(limits)
        for folder in self._layout.folders(task_id):
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise Unavailable(f"cannot make the cgroup {folder}: {error.strerror}") from None
        for name, value in _limit_files(limits, version=self.version):
            path = self._layout.roots[name.partition(".")[0]] / task_id / name
            try:
                path.write_text(value)
            except OSError as error:
                raise TaskRejected(f"the limit {name} = {value} was refused: {error.strerror}") from None

    def _check(self, limits: Limits) -> None:
        wanted = {"memory": limits.memory_bytes, "cpu": limits.nano_cpus, "pids": limits.pids}
        for name, value in wanted.items():
            if value < 0:
                raise TaskRejected(f"a {name} limit cannot be negative, but {value} was asked for")
            if value and name not in self._layout.roots:
                raise TaskRejected(
                    f"the task asks for a {name} limit, but the cgroup controller {name!r} is not available "
                    "on this node; mount it, or run the task elsewhere or without the limit"
                )
        if 0 < limits.memory_bytes < _MEMORY_MIN_BYTES:
            raise TaskRejected(f"invalid memory value {limits.memory_bytes}: Must be at least 4MiB")

    def kill(self, task_id: str) -> None:
        """Kill whatever is left in the task's groups and wait for it to go."""
        self._until_empty(task_id, CGROUP_REMOVE_TIMEOUT_S)

    def remove(self, task_id: str) -> None:
        """Kill what is left and remove the groups. None there is fine."""
        for folder in self._layout.folders(task_id):
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise Unavailable(f"cannot remove the cgroup {folder}: {error.strerror}") from None
                self._remove_busy(task_id, folder)

    def task_ids(self) -> set[str]:
        """Every task that has a group here."""
        found: set[str] = set()
        for root in dict.fromkeys(self._layout.roots.values()):
            if root.is_dir():
                found.update(entry.name for entry in os.scandir(root) if entry.is_dir())
        return found

    def stats(self, task_id: str) -> Stats:
        roots = self._layout.roots
        if self.version == 2:
            folder = roots["memory"] / task_id
            usage = _field(folder / "cpu.stat", "usage_usec") * 1_000
            return Stats(
                cpu_ns=usage,
                memory_bytes=_number(folder / "memory.current"),
                pids=_number(folder / "pids.current"),
            )
        return Stats(
            cpu_ns=_number(roots["cpuacct"] / task_id / "cpuacct.usage") if "cpuacct" in roots else 0,
            memory_bytes=_number(roots["memory"] / task_id / "memory.usage_in_bytes")
            if "memory" in roots
            else 0,
            pids=_number(roots["pids"] / task_id / "pids.current") if "pids" in roots else 0,
        )

    def _until_empty(self, task_id: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while pids := self.pids(task_id):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if time.monotonic() > deadline:
                raise Unavailable(f"processes {sorted(pids)} of task {task_id} do not die")
            time.sleep(CGROUP_POLL_S)

    def _remove_busy(self, task_id: str, folder: Path) -> None:
        """A task may have made groups of its own below; a dying process holds its group a little longer."""
        deadline = time.monotonic() + CGROUP_REMOVE_TIMEOUT_S
        while True:
            self._until_empty(task_id, CGROUP_REMOVE_TIMEOUT_S)
            for below, _, _ in os.walk(folder, topdown=False):
                try:
                    os.rmdir(below)
                except OSError:
                    continue  # counted below: the folder itself still stands
            if not folder.exists():
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"the cgroup {folder} cannot be removed: it stays busy")
            time.sleep(CGROUP_POLL_S)

    def pids(self, task_id: str) -> set[int]:
        """All processes of a task; none if there are no control groups here."""
        pids: set[int] = set()
        for folder in self._layout.folders(task_id):
            for below, _, _ in os.walk(folder):
                try:
                    pids.update(map(int, Path(below, "cgroup.procs").read_text().split()))
                except OSError:
                    continue  # the group went while we looked
        return pids - {0}  # a process of a foreign pid namespace; to kill(2), 0 is the caller's own group


def _limit_files(limits: Limits, *, version: int) -> list[tuple[str, str]]:
    """(file, text) of every limit that is set."""
    files: list[tuple[str, str]] = []
    if limits.memory_bytes:
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        files.append((name, str(limits.memory_bytes)))
    if limits.nano_cpus:
        quota = max(limits.nano_cpus * _CPU_PERIOD_US // SECOND_NS, _CPU_QUOTA_MIN_US)
        if version == 2:
            files.append(("cpu.max", f"{quota} {_CPU_PERIOD_US}"))
        else:
            files.append(("cpu.cfs_period_us", str(_CPU_PERIOD_US)))
            files.append(("cpu.cfs_quota_us", str(quota)))
    if limits.pids:
        files.append(("pids.max", str(limits.pids)))
    return files


def _read_proc(name: str) -> str:
    return Path("/proc/self", name).read_text()


def _make(root: Path) -> bool:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False  # a read-only or foreign hierarchy: its controllers count as missing
    return True


def _prepare_v2(root: Path, *, is_own: bool) -> set[str]:
    """Share controllers out from the mount's root down to ``root``. The ones that arrived."""
    if not _make(root):
        return set()
    if is_own:
        leaf = root.parent / _DAEMON_LEAF
        if _make(leaf):
            for pid in (root.parent / "cgroup.procs").read_text().split():
                _write(leaf / "cgroup.procs", pid)
    chain = [folder for folder in (root, *root.parents) if (folder / "cgroup.subtree_control").exists()]
    for folder in reversed(chain):
        for name in ("memory", "cpu", "pids"):
            _write(folder / "cgroup.subtree_control", f"+{name}")
    return set((root / "cgroup.subtree_control").read_text().split()) & {"memory", "cpu", "pids"}


def _write(path: Path, text: str) -> bool:
    try:
        path.write_text(text)
    except OSError:
        return False  # seen afterwards, by what subtree_control then holds
    return True


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
