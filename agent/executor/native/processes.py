"""The processes of a task as ``ps`` prints them, read from /proc.

The numbers are the node's, as docker's are: they are of use to whoever is on the node. Names of accounts are
the node's too. A process that ends while it is read is left out.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from agent.executor.base import ProcessTable
from agent.executor.native.ps_columns import Process, columns_of
from swarmpy.limits import TOP_COMMAND_BYTES_MAX
from swarmpy.model.ids import SECOND_NS, Timestamp

_DAY_S = 86_400
_TTY_MAJOR_PTS = range(136, 144)
_PROC = Path("/proc")


def table(pids: Iterable[int], first: int, now: Timestamp, options: str = "") -> ProcessTable:
    """Of the processes of these numbers, and of ``first``, which a task always has; ``options`` are those of
    ps."""
    columns = columns_of(options)
    machine = _Machine(_boot_time(), now / SECOND_NS, _memory_bytes())
    found = [_read(pid, machine) for pid in sorted({*pids, first})]
    rows = [tuple(cell(each) for _, cell in columns) for each in found if each is not None]
    return ProcessTable(titles=tuple(title for title, _ in columns), rows=tuple(rows))


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


class _Machine(NamedTuple):
    boot_at: int
    now_s: float
    memory_bytes: int


def _read(pid: int, machine: _Machine) -> Process | None:
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
    started_at = machine.boot_at + int(fields[19]) / ticks
    group, session, terminal, nice, threads = (int(fields[n]) for n in (2, 3, 4, 16, 17))
    name = head.partition("(")[2]
    flags = ("<" if nice < 0 else "N" if nice > 0 else "") + ("s" if session == pid else "")
    flags += ("l" if threads > 1 else "") + ("+" if int(fields[5]) == group else "")
    return Process(
        pid=pid,
        ppid=int(fields[1]),
        group=group,
        session=session,
        user=_account(uid),
        uid=uid,
        state=fields[0],
        flags=flags,
        nice=nice,
        threads=threads,
        name=name,
        command=command or f"[{name}]",
        terminal=_terminal(terminal),
        used_s=(int(fields[11]) + int(fields[12])) / ticks,
        lived_s=machine.now_s - started_at,
        start=_start(started_at, machine.now_s),
        virtual_bytes=int(fields[20]),
        resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        memory_bytes=machine.memory_bytes,
    )


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _start(started_at: float, now_s: float) -> str:
    is_today = now_s - started_at < _DAY_S
    return time.strftime("%H:%M" if is_today else "%b%d", time.localtime(started_at))


def _terminal(number: int) -> str:
    major, minor = os.major(number), os.minor(number)
    return f"pts/{minor + 256 * (major - _TTY_MAJOR_PTS.start)}" if major in _TTY_MAJOR_PTS else "?"


def _boot_time() -> int:
    for line in _PROC.joinpath("stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0
