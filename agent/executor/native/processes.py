"""The processes of a task as ``ps -ef`` prints them, read from /proc.

The numbers are the node's, as docker's are: they are of use to whoever is on the node. Names of accounts are
the node's too. A process that ends while it is read is left out.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterable
from pathlib import Path

from agent.executor.base import ProcessTable
from swarmpy.limits import TOP_COMMAND_BYTES_MAX
from swarmpy.model.ids import SECOND_NS, Timestamp

TITLES = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
_DAY_S = 86_400
_TTY_MAJOR_PTS = range(136, 144)
_PROC = Path("/proc")


def table(pids: Iterable[int], first: int, now: Timestamp) -> ProcessTable:
    """Of the processes of these numbers, and of ``first``, which a task always has."""
    boot_at, now_s = _boot_time(), now / SECOND_NS
    found = [_row(pid, boot_at, now_s) for pid in sorted({*pids, first})]
    rows = [row for row in found if row is not None]
    return ProcessTable(titles=TITLES, rows=tuple(rows))


def network_bytes(pid: int) -> tuple[int, int]:
    """Received and sent in the process's network namespace, but for its loopback. Zeros if it has ended."""
    received = sent = 0
    try:
        lines = (_PROC / str(pid) / "net/dev").read_text().splitlines()
    except OSError:
        return 0, 0
    for line in lines:
        name, is_link, counters = line.partition(":")
        if is_link and name.strip() != "lo":
            fields = counters.split()
            received, sent = received + int(fields[0]), sent + int(fields[8])
    return received, sent


def _row(pid: int, boot_at: int, now_s: float) -> tuple[str, ...] | None:
    folder = _PROC / str(pid)
    try:
        head, _, tail = folder.joinpath("stat").read_text(errors="replace").rpartition(")")
        with open(folder / "cmdline", "rb", buffering=0) as file:
            # bounded: a task may give each of its processes megabytes of arguments
            command = file.read(TOP_COMMAND_BYTES_MAX).replace(b"\0", b" ").decode(errors="replace").strip()
        uid = folder.stat().st_uid
    except OSError:
        return None
    fields = tail.split()
    ticks = os.sysconf("SC_CLK_TCK")
    used_s = (int(fields[11]) + int(fields[12])) / ticks
    started_at = boot_at + int(fields[19]) / ticks
    name = head.partition("(")[2]
    return (
        _account(uid),
        str(pid),
        fields[1],
        str(_percent(used_s, now_s - started_at)),
        _start(started_at, now_s),
        _terminal(int(fields[4])),
        _duration(int(used_s)),
        command or f"[{name}]",
    )


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _percent(used_s: float, lived_s: float) -> int:
    return min(int(used_s * 100 / lived_s), 99) if lived_s > 0 else 0


def _start(started_at: float, now_s: float) -> str:
    is_today = now_s - started_at < _DAY_S
    return time.strftime("%H:%M" if is_today else "%b%d", time.localtime(started_at))


def _terminal(number: int) -> str:
    major, minor = os.major(number), os.minor(number)
    return f"pts/{minor + 256 * (major - _TTY_MAJOR_PTS.start)}" if major in _TTY_MAJOR_PTS else "?"


def _duration(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _boot_time() -> int:
    for line in _PROC.joinpath("stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0
