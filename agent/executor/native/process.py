"""Small verbs on processes and records: signalling, waiting, reading a report, what an exit record means."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import signal as signals

from agent.executor.base import Exit
from agent.executor.native import syscalls
from agent.executor.native.job import ExitRecord, StartRecord
from agent.executor.native.shim.supervise import process_start
from swarmpy.errors import TaskFailed, TaskRejected
from swarmpy.model.ids import Timestamp
from swarmpy.model.standalone import START_FAILED

_REPORT_BYTES_MAX = 4096
_NO_PROCESS = (errno.ESRCH, errno.ENOENT, errno.EINVAL)
"""What pidfd_open says: there is nothing; or there is a thread, as kernels since 6.16 and before say it."""
_SIGNAL_MASKS = ("SigCgt:", "SigIgn:", "SigBlk:")


def exit_of(record: ExitRecord) -> Exit:
    return Exit(
        code=record["code"],
        is_oom_killed=record["is_oom_killed"],
        at=Timestamp(record["at"]),
        message=record["message"],
    )


def raise_unstarted(record: ExitRecord) -> None:
    """Each start order of a task that cannot run gets the same answer."""
    if record["kind"] == "rejected":
        raise TaskRejected(record["message"])
    if record["kind"] == "failed":
        raise TaskFailed(f"{START_FAILED}: {record['message']}", exit_code=record["code"])


def open_pidfd(pid: int) -> int | None:
    """None if no process has this number: nobody, or by now a thread of some process."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:
            return None
        raise


def send_signal(started: StartRecord, signal: int) -> None:
    """To the very process that was started: its pidfd is opened first, then its start time is compared."""
    fd = open_pidfd(started["pid"])
    if fd is None:
        return
    try:
        if process_start(started["pid"]) == started["pid_start"]:
            signals.pidfd_send_signal(fd, signal)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)


def can_be_ended_by(started: StartRecord, signal: int) -> bool:
    """Whether the signal may have an effect on the task's process 1.

    The kernel shields a process 1 from signals that it left at their default: nothing will come of waiting.
    One that it catches, ignores on purpose, or blocks (to read it from a file descriptor) is its affair. One
    that it waits for at this moment, as init programs do, is shown as none of these.
    """
    if signal == signals.SIGKILL:
        return True
    try:
        with open(f"/proc/{started['pid']}/status", encoding="ascii", errors="replace") as file:
            masks = [int(line.split()[1], 16) for line in file if line.startswith(_SIGNAL_MASKS)]
    except OSError:
        return True  # it is ending by itself
    return any(mask >> (signal - 1) & 1 for mask in masks) or _waits_for_signals(started["pid"])


def _waits_for_signals(pid: int) -> bool:
    """Whether it is in rt_sigtimedwait now."""
    machine = syscalls.of_machine(platform.machine())
    try:
        with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
            number = file.read().split()[0]
    except (OSError, IndexError):
        return False
    return any(number == str(each.numbers.get("rt_sigtimedwait")) for each in machine)


def is_zombie(pid: int) -> bool:
    """Whether it has ended, and perhaps nobody has reaped it yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


async def wait_set(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def read_report(fd: int) -> bytes:
    """What the shim says, in one piece (it is far shorter than a pipe's atomic write); empty if it died."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(fd, readable.set_result, None)
    try:
        await readable
    finally:
        loop.remove_reader(fd)
    return os.read(fd, _REPORT_BYTES_MAX)
