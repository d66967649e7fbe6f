"""The control groups of a container that an engine has made: where they lie, and that they are its own.

An engine is asked for a process's number; the kernel says in which groups that process is. A container's
groups have its id in their names, with every engine and manager of groups: a process in such a group is the
container's, whatever its number was used for before. Where it is in none, as behind a pid namespace of the
engine's own or with groups switched off, there is nothing to tell from here.

Reading files blocks; ``find_groups`` is pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.executor.native.cgroups import Layout

_PROC: Final = Path("/proc")
_V2: Final = ("memory", "cpu", "pids", "cpuset")


@dataclass(frozen=True, kw_only=True)
class Groups:
    """``layout``: the container's own groups, to be read with an empty name. ``joined``: those of its first
    process, which may lie deeper: an init that manages groups by itself makes some."""

    layout: Layout
    joined: tuple[Path, ...]

    @property
    def folders(self) -> list[Path]:
        return list(dict.fromkeys(self.layout.roots.values()))


def groups_of(pid: int, container: str) -> Groups | None:
    """None if the process has gone, or is not seen to be the container's."""
    try:
        mountinfo = (_PROC / "self/mountinfo").read_text()
        memberships = (_PROC / str(pid) / "cgroup").read_text()
    except OSError:
        return None
    return find_groups(container, mountinfo=mountinfo, memberships=memberships)


def find_groups(container: str, *, mountinfo: str, memberships: str) -> Groups | None:
    """Out of what the kernel says is mounted, and of the groups of the container's first process. Pure."""
    places = {name: place for place, names in _hierarchies(mountinfo) for name in names}
    roots: dict[str, Path] = {}
    joined: list[Path] = []
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        own = _own_part(path, container)
        if not own:
            continue
        for controller in controllers.split(","):
            if controller not in places:
                continue
            mount_point, mount_root = places[controller]
            joined.append(mount_point / _below(path, mount_root))
            roots[controller] = mount_point / _below(own, mount_root)
    if not roots:
        return None
    unified = roots.pop("", None)
    if roots:
        return Groups(layout=Layout(version=1, roots=roots), joined=tuple(dict.fromkeys(joined)))
    assert unified is not None
    return Groups(layout=Layout(version=2, roots=dict.fromkeys(_V2, unified)), joined=tuple(joined))


def _hierarchies(mountinfo: str) -> Iterator[tuple[tuple[Path, str], list[str]]]:
    """Mount point and root of each hierarchy, and its controllers; v2's is the one without a name."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) < 5 or not kinds:
            continue
        if kinds[0] == "cgroup2":
            yield (Path(fields[4]), fields[3]), [""]
        elif kinds[0] == "cgroup":
            yield (Path(fields[4]), fields[3]), kinds[-1].split(",")


def _own_part(path: str, container: str) -> str:
    """The path down to the container's own group; "" if it is not in one."""
    parts = path.split("/")
    for count, part in enumerate(parts, 1):
        if container in part:
            return "/".join(parts[:count])
    return ""


def _below(path: str, mount_root: str) -> str:
    inside = path.removeprefix(mount_root) if mount_root != "/" else path
    return inside.strip("/")
