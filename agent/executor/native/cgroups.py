"""Control groups of tasks, v1 (also the hybrid layout) and v2, by plain file writes.

Decides where a task's groups lie (``<hierarchy>/<parent>/<task>``), turns ``Limits`` into the kernel's
units, and refuses a limit whose controller is not on this node: a limit is kept or the task is rejected,
never ignored. All functions block for microseconds to a few milliseconds: call them in a thread.

``parent`` beginning with a slash is counted from the hierarchy's root, any other from the daemon's own
group. On v2 a group with processes cannot share controllers out to children. So where the tasks' groups come
to lie below the daemon's own (in that second case, and in a container, whose own group is the root that it
sees), all that is in there moves into a leaf first.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agent.executor.base import Stats
from agent.executor.native import demands as demands_
from agent.executor.native import device_filter, devices, usage
from agent.executor.native.demands import Demands
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.limits import CGROUP_POLL_S, CGROUP_REMOVE_TIMEOUT_S
from swarmpy.model.ids import ID_CHARS

WANTED = ("memory", "cpu", "pids", "cpuacct", "blkio")
"""``blkio`` only counts."""
EXTRA = ("cpuset", "devices")
"""Controllers that only tasks with such wishes have groups of."""
_CORE = "cgroup"
"""Of v2: what every group has, whatever controllers it has been given."""
_V2 = ("memory", "cpu", "pids", "cpuset", "io")
_TASK_ID = re.compile(rf"[0-9a-z]{{{ID_CHARS}}}")
_DAEMON_LEAF = "swarmpy-daemon"
_MOVES_MAX = 10
"""How often a group is looked into for processes that were forked while others were moved out of it."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is mounted where. ``roots`` maps a controller to the folder that holds our tasks' groups; ``own``
    is the group that the daemon was started in, with v2."""

    version: int
    roots: dict[str, Path]
    names: dict[Path, str] = field(default_factory=dict)
    """What the hierarchy of each root is called where it is mounted; v2's has no name."""
    own: Path | None = None

    def folders(self, task_id: str, extra: tuple[str, ...] = EXTRA) -> list[Path]:
        """A task's groups, each once (v2 has one for all controllers)."""
        roots = [root for name, root in self.roots.items() if name in extra or name not in EXTRA]
        return [root / task_id for root in dict.fromkeys(roots)]


def find_layout(parent: str, *, mountinfo: str, own: str) -> Layout:
    """The layout out of /proc/self/mountinfo and /proc/self/cgroup. Pure."""
    v1: dict[str, Path] = {}
    names: dict[Path, str] = {}
    v2: tuple[Path, Path | None] | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        mount_root, mount_point = fields[3], Path(fields[4])
        if kinds[0] == "cgroup2":
            path = _started_in(_own_path(own, ""))
            # a mount that begins above what we know as the root does not say where in it we are
            own_group = None if mount_root.startswith("/..") else mount_point / _below("", path, mount_root)
            v2 = v2 or (mount_point / _below(parent, path, mount_root), own_group)
        elif kinds[0] == "cgroup":
            for controller in kinds[2].split(","):
                if controller in (*WANTED, *EXTRA) and controller not in v1:
                    root = mount_point / _below(parent, _own_path(own, controller), mount_root)
                    v1[controller], names[root] = root, mount_point.name
    if v1:
        return Layout(version=1, roots=v1, names=names)
    if v2 is None:
        return Layout(version=0, roots={})
    root, own_group = v2
    return Layout(version=2, roots=dict.fromkeys((_CORE, *_V2), root), own=own_group)


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


def _started_in(path: str) -> str:
    """A daemon that has moved into its leaf was started above it, and so will be the one after it."""
    return path.removesuffix(_DAEMON_LEAF) if path.endswith(f"/{_DAEMON_LEAF}") else path


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
            usable = _prepare_v2(layout.roots[_CORE], layout.own)
        else:
            usable = {name for name, root in layout.roots.items() if _make(root)}
            if "cpuset" in usable:
                _inherit_cpuset(layout.roots["cpuset"])
        roots = {name: root for name, root in layout.roots.items() if name in usable}
        self._layout = Layout(version=layout.version if roots else 0, roots=roots, names=layout.names)

    def missing(self) -> tuple[str, ...]:
        """Sentences for the controllers that limits need and this node lacks."""
        return tuple(
            f"The cgroup controller {name!r} is not available, so tasks with a {name} limit are rejected; "
            "mount it, or delegate it to the daemon."
            for name in ("memory", "cpu", "pids")
            if name not in self._layout.roots
        )

    def places(self, task_id: str, demands: Demands) -> tuple[list[str], str]:
        """The groups that a task joins, and the file that counts its memory kills."""
        folders = [str(folder) for folder in self._layout.folders(task_id, demands.extra)]
        memory = self._layout.roots.get("memory")
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return folders, str(memory / task_id / name) if memory else ""

    def mounts(self, task_id: str, demands: Demands) -> list[tuple[str, str]]:
        """The same groups, and in which folder of /sys/fs/cgroup the task finds each ("": it is all)."""
        names = self._layout.names
        folders = self._layout.folders(task_id, demands.extra)
        return [(str(folder), names.get(folder.parent, "")) for folder in folders]

    def create(self, task_id: str, demands: Demands) -> None:
        """Make the task's groups and set its limits; of groups that stand, set them again."""
        self._check(demands)
        for folder in self._layout.folders(task_id, demands.extra):
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise Unavailable(f"cannot make the cgroup {folder}: {error.strerror}") from None
        roots = self._layout.roots
        if self.version == 1 and "cpuset" in demands.extra:
            _inherit_cpuset(roots["cpuset"] / task_id)
        for file in demands_.files(demands, version=self.version):
            controller = file.name.partition(".")[0]
            if controller not in roots:
                continue  # devices, where nothing but who may open what depends on it: see _check
            path = roots[controller] / task_id / file.name
            if not file.is_required and not path.exists():
                continue
            try:
                path.write_text(file.value)
            except OSError as error:
                raise TaskRejected(
                    f"the limit {file.name} = {file.value} was refused: {error.strerror}"
                ) from None
        if self.version == 2:
            _require_cpuset(roots[_CORE] / task_id, demands)
        if self.version == 2 and demands.device_rules:
            self._filter_devices(roots[_CORE] / task_id, demands)

    def _check(self, demands: Demands) -> None:
        demands_.check(demands, version=self.version)
        limits = demands.limits
        wanted = {
            "memory": limits.memory_bytes or demands.swap_bytes,
            "cpu": limits.nano_cpus,
            "pids": limits.pids,
            "cpuset": demands.cpuset_cpus or demands.cpuset_mems,
            "devices": self.version != 2 and _has_lesser_access(demands),
        }
        for name, value in wanted.items():
            if value and name not in self._layout.roots:
                raise TaskRejected(
                    f"the task asks for a {name} limit, but the cgroup controller {name!r} is not available "
                    "on this node; mount it, or run the task elsewhere or without the limit"
                )

    def _filter_devices(self, folder: Path, demands: Demands) -> None:
        """Where it cannot be had, a task still opens none but its own devices: its file systems see to it."""
        try:
            device_filter.attach(folder, demands.device_rules)
        except OSError as error:
            if _has_lesser_access(demands):
                raise TaskRejected(
                    f"the permissions of a device cannot be limited on this node ({error.strerror}): the "
                    "kernel needs CONFIG_CGROUP_BPF; ask for rwm"
                ) from None

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
        """Every task that has a group here. Others may be beside them, where the parent is not ours alone:
        those of the node's services, say."""
        found: set[str] = set()
        for root in dict.fromkeys(self._layout.roots.values()):
            if root.is_dir():
                found.update(entry.name for entry in os.scandir(root) if entry.is_dir())
        return {name for name in found if _TASK_ID.fullmatch(name)}

    def stats(self, task_id: str) -> Stats:
        return stats_of(self._layout, task_id)

    def in_full(self, stats: Stats, task_id: str, pid: int) -> Stats:
        """The same and all the rest that there is to tell."""
        return usage.in_full(stats, version=self.version, roots=self._layout.roots, task_id=task_id, pid=pid)

    def _until_empty(self, task_id: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        if self.version == 2:
            # all at once, before they can fork; Linux 5.14
            _write(self._layout.roots[_CORE] / task_id / "cgroup.kill", "1")
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
        return pids_of(self._layout.folders(task_id))


def stats_of(layout: Layout, task_id: str) -> Stats:
    """What is cheap to tell of a task's groups."""
    roots = layout.roots
    if layout.version == 2:
        folder = next(iter(roots.values())) / task_id  # all controllers have the same one
        return Stats(
            cpu_ns=_field(folder / "cpu.stat", "usage_usec") * 1_000,
            memory_bytes=_number(folder / "memory.current"),
            pids=_number(folder / "pids.current"),
        )
    return Stats(
        cpu_ns=_number(roots["cpuacct"] / task_id / "cpuacct.usage") if "cpuacct" in roots else 0,
        memory_bytes=_number(roots["memory"] / task_id / "memory.usage_in_bytes") if "memory" in roots else 0,
        pids=_number(roots["pids"] / task_id / "pids.current") if "pids" in roots else 0,
    )


def pids_of(groups: Iterable[Path]) -> set[int]:
    """The processes in these groups and in those below them."""
    pids: set[int] = set()
    for group in groups:
        for below, _, _ in os.walk(group):
            try:
                pids.update(map(int, Path(below, "cgroup.procs").read_text().split()))
            except OSError:
                continue  # the group went while we looked
    return pids - {0}  # a process of a foreign pid namespace; to kill(2), 0 is the caller's own group


def _has_lesser_access(demands: Demands) -> bool:
    """Whether some device is not to be had with all permissions."""
    granted = [rule for rule in demands.device_rules if rule not in devices.EVERY_TASK]
    return any(set(rule.access) != set(devices.ALL) for rule in granted)


def _require_cpuset(group: Path, demands: Demands) -> None:
    """v2 takes what the group above does not have, and has the task run on others instead."""
    for kind, asked, what in (
        ("cpus", demands.cpuset_cpus, "CPUs"),
        ("mems", demands.cpuset_mems, "memory nodes"),
    ):
        if asked and (file := group / f"cpuset.{kind}.effective").exists():
            had = file.read_text().strip()
            if not demands_.numbers(asked) <= demands_.numbers(had):
                raise TaskRejected(
                    f"Requested {what} are not available - requested {asked}, available: {had}"
                )


def _inherit_cpuset(folder: Path) -> None:
    """A new group of v1 has no processors at all until it is given some: first those of the group above."""
    empty = []
    while (folder / "cpuset.cpus").exists() and not (folder / "cpuset.cpus").read_text().strip():
        empty.append(folder)
        folder = folder.parent
    for inner in reversed(empty):
        for name in ("cpuset.cpus", "cpuset.mems"):
            (inner / name).write_text((inner.parent / name).read_text())


def _read_proc(name: str) -> str:
    return Path("/proc/self", name).read_text()


def _make(root: Path) -> bool:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False  # a read-only or foreign hierarchy: its controllers count as missing
    return True


def _prepare_v2(root: Path, own: Path | None) -> set[str]:
    """Share controllers out from the mount's root down to ``root``. The ones that arrived."""
    if not _make(root):
        return set()
    # the root of all groups is the only one that has no type, and may have processes beside children
    if own is not None and own in (root, *root.parents) and (own / "cgroup.type").exists():
        _empty(own)  # first: controllers that processes may compete for would keep them from moving
    chain = [folder for folder in (root, *root.parents) if (folder / "cgroup.subtree_control").exists()]
    for folder in reversed(chain):
        for name in _V2:
            _write(folder / "cgroup.subtree_control", f"+{name}")
    return {_CORE, *(set((root / "cgroup.subtree_control").read_text().split()) & set(_V2))}


def _empty(group: Path) -> None:
    """Move its processes into the daemon's leaf. What does not go there is seen by the controllers that then
    cannot be shared out."""
    leaf = group / _DAEMON_LEAF
    if not _make(leaf):
        return
    for _ in range(_MOVES_MAX):
        pids = [pid for pid in (group / "cgroup.procs").read_text().split() if pid != "0"]  # of elsewhere
        moved = [_write(leaf / "cgroup.procs", pid) for pid in pids]
        if not any(moved):
            return


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
