"""Whose the ids of this node are, read for ``id_ranges``: users, groups, and what they may give to others.

Users and groups come by the C library, so they may be of a directory service. One that lists nobody is still
asked for those that are named. Lines that are garbled are passed over, as shadow's tools do.
"""

from __future__ import annotations

import contextlib
import grp
import pwd
from pathlib import Path

from agent.executor.native import id_ranges
from agent.executor.native.id_ranges import IdRange, NodeIds, Subordinate, TaskIds

_NUMBER_MAX = 1 << 32
"""More would be too much for the C library to be asked for."""


def task_ids(remap: str) -> TaskIds | None:
    """What ``--userns-remap`` says, on this node. InvalidArgument if it cannot be."""
    return id_ranges.parse(remap, read(remap)) if remap else None


def read(remap: str, *, etc: Path = Path("/etc")) -> NodeIds:
    """``remap``: what was given, with the names that have to be known. ``etc``: where the ranges are."""
    user, _, group = remap.partition(":")
    users = {each.pw_name: each.pw_uid for each in pwd.getpwall()}
    groups = {each.gr_name: each.gr_gid for each in grp.getgrall()}
    with contextlib.suppress(KeyError):
        by_number = user.isdecimal() and int(user) < _NUMBER_MAX
        one = pwd.getpwuid(int(user)) if by_number else pwd.getpwnam(user)
        users[one.pw_name] = one.pw_uid
    with contextlib.suppress(KeyError):
        by_number = group.isdecimal() and int(group) < _NUMBER_MAX
        many = grp.getgrgid(int(group)) if by_number else grp.getgrnam(group)
        groups[many.gr_name] = many.gr_gid
    return NodeIds(
        users=users,
        groups=groups,
        sub_users=_subordinates(etc / "subuid"),
        sub_groups=_subordinates(etc / "subgid"),
    )


def _subordinates(path: Path) -> tuple[Subordinate, ...]:
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return ()
    found = []
    for line in lines:
        owner, *numbers = line.strip().split(":")
        if owner and not owner.startswith("#") and len(numbers) == 2 and all(map(str.isdecimal, numbers)):
            first, size = map(int, numbers)
            if size:
                found.append(Subordinate(owner, IdRange(first, size)))
    return tuple(found)
