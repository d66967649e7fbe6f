"""The control groups that a runtime has put a task into, of each hierarchy that it found. Pure.

They are more than those that limits need: commands inside are to be in all of them, too.
"""

from __future__ import annotations


def joined(table: str, mountinfo: str, path: str) -> list[str]:
    """Folders of the groups at ``path``, from their hierarchies' roots, in a process's table of groups.

    A group elsewhere, which the process has from who started it, is none of the task's.
    """
    folders = []
    for kinds, point, root in _hierarchies(mountinfo):
        for row in table.splitlines():
            number, controllers, place = row.split(":", 2)
            is_here = set(controllers.split(",")) <= kinds if controllers else number == "0" and not kinds
            if is_here and place.removeprefix(root.rstrip("/")) == path:
                folders.append(point + path)
    return list(dict.fromkeys(folders))


def _hierarchies(mountinfo: str) -> list[tuple[set[str], str, str]]:
    """What each is for (nothing: it is v2's), where it is mounted, and which of its groups is there."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, words = left.split(), right.split()
        if len(fields) < 5 or len(words) < 3 or words[0] not in ("cgroup", "cgroup2"):
            continue
        kinds = set(words[2].split(",")) if words[0] == "cgroup" else set()
        found.append((kinds, fields[4], fields[3]))
    return found
