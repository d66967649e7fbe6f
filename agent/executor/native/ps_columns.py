"""Which columns ``docker top`` asks for, in the options of ps, and what they say of one process.

``-ef`` and ``aux`` with what they are made of, and ``-o`` with a list of the columns below; as ps has it, a
column that it does not know is refused. The rest of ps has no use here: which processes are shown is not the
client's to choose. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from swarmpy.errors import SwarmError

_CHOOSERS: Final = frozenset("aAedxTrNwf")
"""Letters that say which processes to show, or how wide: a container's are always shown, whole."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process as /proc tells of it. Times in seconds."""

    pid: int
    ppid: int
    group: int
    session: int
    user: str
    uid: int
    state: str
    flags: str
    nice: int
    threads: int
    name: str
    command: str
    terminal: str
    used_s: float
    lived_s: float
    start: str
    virtual_bytes: int
    resident_bytes: int
    memory_bytes: int
    """Of the machine."""


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def _bsd_time(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def _elapsed(seconds: float) -> str:
    whole = int(seconds)
    days, hours = whole // 86_400, whole // 3600 % 24
    tail = f"{whole // 60 % 60:02}:{whole % 60:02}"
    if days:
        return f"{days}-{hours:02}:{tail}"
    return f"{hours:02}:{tail}" if hours else tail


def _cpu(process: Process) -> float:
    return min(process.used_s * 100 / process.lived_s, 999.0) if process.lived_s > 0 else 0.0


def _memory(process: Process) -> str:
    share = process.resident_bytes * 100 / process.memory_bytes if process.memory_bytes else 0.0
    return f"{share:.1f}"


Column = tuple[str, Callable[[Process], str]]
"""Its title, and what stands in it."""

_COLUMNS: Final[dict[str, Column]] = {
    "pid": ("PID", lambda it: str(it.pid)),
    "ppid": ("PPID", lambda it: str(it.ppid)),
    "pgid": ("PGID", lambda it: str(it.group)),
    "pgrp": ("PGRP", lambda it: str(it.group)),
    "sid": ("SID", lambda it: str(it.session)),
    "sess": ("SESS", lambda it: str(it.session)),
    "user": ("USER", lambda it: it.user),
    "euser": ("EUSER", lambda it: it.user),
    "uid": ("UID", lambda it: str(it.uid)),
    "euid": ("EUID", lambda it: str(it.uid)),
    "comm": ("COMMAND", lambda it: it.name),
    "ucmd": ("CMD", lambda it: it.name),
    "cmd": ("CMD", lambda it: it.command),
    "args": ("COMMAND", lambda it: it.command),
    "command": ("COMMAND", lambda it: it.command),
    "stat": ("STAT", lambda it: it.state + it.flags),
    "state": ("S", lambda it: it.state),
    "s": ("S", lambda it: it.state),
    "ni": ("NI", lambda it: str(it.nice)),
    "nice": ("NI", lambda it: str(it.nice)),
    "nlwp": ("NLWP", lambda it: str(it.threads)),
    "thcount": ("THCNT", lambda it: str(it.threads)),
    "tty": ("TT", lambda it: it.terminal),
    "tt": ("TT", lambda it: it.terminal),
    "tname": ("TTY", lambda it: it.terminal),
    "time": ("TIME", lambda it: _clock(it.used_s)),
    "cputime": ("TIME", lambda it: _clock(it.used_s)),
    "bsdtime": ("TIME", lambda it: _bsd_time(it.used_s)),
    "etime": ("ELAPSED", lambda it: _elapsed(it.lived_s)),
    "etimes": ("ELAPSED", lambda it: str(int(it.lived_s))),
    "stime": ("STIME", lambda it: it.start),
    "c": ("C", lambda it: str(min(int(_cpu(it)), 99))),
    "%cpu": ("%CPU", lambda it: f"{_cpu(it):.1f}"),
    "pcpu": ("%CPU", lambda it: f"{_cpu(it):.1f}"),
    "%mem": ("%MEM", _memory),
    "pmem": ("%MEM", _memory),
    "vsz": ("VSZ", lambda it: str(it.virtual_bytes >> 10)),
    "vsize": ("VSZ", lambda it: str(it.virtual_bytes >> 10)),
    "rss": ("RSS", lambda it: str(it.resident_bytes >> 10)),
    "rssize": ("RSS", lambda it: str(it.resident_bytes >> 10)),
}  # fmt: skip
_UNIX: Final = tuple(
    _COLUMNS[name] if name != "user" else ("UID", _COLUMNS["user"][1])
    for name in ("user", "pid", "ppid", "c", "stime", "tname", "time", "cmd")
)
_BSD: Final = tuple(
    _COLUMNS[name] if name != "stime" else ("START", _COLUMNS["stime"][1])
    for name in ("user", "pid", "%cpu", "%mem", "vsz", "rss", "tname", "stat", "stime", "bsdtime", "args")
)


def columns_of(options: str) -> tuple[Column, ...]:
    """SwarmError, in the words of ps and docker, for what there is not."""
    words = options.split()
    if not words:
        return _UNIX
    if words in (["aux"], ["axu"], ["-aux"], ["u"], ["ux"], ["au"]):
        return _BSD
    chosen: list[Column] = []
    form: tuple[Column, ...] = ()
    while words:
        word = words.pop(0)
        letters, has_list, rest = word.removeprefix("-").partition("o")
        if has_list and set(letters) <= _CHOOSERS:
            chosen += _named(rest or (words.pop(0) if words else ""))
        elif re.fullmatch(r"-[a-zA-Z]+", word) and set(word[1:]) <= _CHOOSERS:
            form = _UNIX
        else:
            raise SwarmError(f"ps: error: unsupported option {word}: choose -ef, aux, or -o and columns")
    if chosen and not any(column is _COLUMNS["pid"] for column in chosen):
        raise SwarmError("Couldn't find PID field in ps output")
    return tuple(chosen) or form


def _named(text: str) -> list[Column]:
    found = []
    for name in text.split(","):
        if name not in _COLUMNS:
            raise SwarmError(f'ps: error: unknown user-defined format specifier "{name}"')
        found.append(_COLUMNS[name])
    return found
