"""Who a task runs as: ``user[:group]`` looked up in the root filesystem's own passwd and group files.

Pure. Docker's rules: names or numbers; what is a number is an id, and needs no entry; with an explicit group
the supplementary groups of the user do not apply; error texts are Docker's.
"""

from __future__ import annotations

import re

_ID_MAX = 2147483647
_NUMBER = re.compile(r"[+-]?[0-9]+")


class UnknownAccount(Exception):
    """The text is for the user."""


class Account:
    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


def resolve(user: str, extra_groups: list[str], passwd: str, group: str) -> Account:
    """The account for ``user`` ("", "name", "1000", "name:group", "1000:1000")."""
    wanted, has_group, wanted_group = user.partition(":")
    wanted = wanted or "0"
    entry = _find(_rows(passwd, 6), wanted)
    if entry is None and not _NUMBER.fullmatch(wanted):
        raise UnknownAccount(f"unable to find user {wanted}: no matching entries in passwd file")
    uid = int(entry[2]) if entry is not None else _checked(int(wanted))
    gid = int(entry[3]) if entry is not None and entry[3].isdecimal() else 0
    home = entry[5] if entry is not None else "/"
    group_rows = _rows(group, 3)
    groups: list[int] = []
    if has_group and wanted_group:
        gid = _group_id(group_rows, wanted_group)
    elif entry is not None:
        groups = [int(row[2]) for row in group_rows if len(row) > 3 and entry[0] in row[3].split(",")]
    groups += [_group_id(group_rows, name, "Unable") for name in extra_groups]
    return Account(uid, gid, sorted({gid, *groups}), home or "/")


def _group_id(rows: list[list[str]], wanted: str, unable: str = "unable") -> int:
    row = _find(rows, wanted)
    if row is not None:
        return int(row[2])
    if not _NUMBER.fullmatch(wanted):
        raise UnknownAccount(f"{unable} to find group {wanted}: no matching entries in group file")
    return _checked(int(wanted))


def _checked(number: int) -> int:
    if not 0 <= number <= _ID_MAX:
        raise UnknownAccount(f"uids and gids must be in range 0-{_ID_MAX}")
    return number


def _find(rows: list[list[str]], wanted: str) -> list[str] | None:
    if _NUMBER.fullmatch(wanted):
        return next((row for row in rows if int(row[2]) == int(wanted)), None)
    return next((row for row in rows if row[0] == wanted), None)


def _rows(text: str, fields: int) -> list[list[str]]:
    """The well-formed lines: enough fields, and a number for the id."""
    rows = [line.rstrip("\n").split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= fields and row[0] and row[2].isdecimal()]
