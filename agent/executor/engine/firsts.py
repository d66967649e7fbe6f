"""The first processes of Podman's containers, held by descriptors: the kernel says how one has ended if its
monitor does not come to say it, having been killed itself.

A container whose monitor lives is its monitor's affair: only some time after its process has ended is anybody
asked to look. The kernel tells a process's end to who has held it before: of one that nobody has reaped yet
at any time, of others since Linux 6.15. An older one leaves it at what Podman says, which is nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from agent.executor.engine.groups import groups_of
from agent.executor.engine.limits import ENGINE_CONMON_GRACE_S
from agent.executor.engine.task import EngineTask
from agent.executor.native.process import open_pidfd

_PROC: Final = Path("/proc")
_INFO: Final = struct.Struct("=QQ11Ii")
"""What the kernel tells of a process: which of it, its groups, eleven numbers, how it has ended."""
_GET_INFO: Final = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11
_HAS_EXIT: Final = 1 << 3
_SIGNALLED: Final = 128


class Held(NamedTuple):
    fd: int
    pid: int


class FirstProcesses:
    """``run`` calls what blocks in a thread. ``is_late``: the task's process ended a while ago."""

    def __init__(
        self, run: Callable[[Callable[[], Any]], Awaitable[Any]], is_late: Callable[[EngineTask], None]
    ) -> None:
        self._run = run
        self._is_late = is_late
        self._held: dict[str, Held] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def hold(self, task: EngineTask) -> None:
        pid = task.started.pid if task.started is not None else 0
        container = task.container
        if not pid or not container or container in self._held:
            return
        fd = open_pidfd(pid)
        if fd is None:
            return
        try:  # held first, and then looked at: the number may have been another's by now
            is_own = await self._run(partial(groups_of, pid, container)) is not None
            if is_own and container not in self._held and task.is_running:
                self._held[container] = Held(fd, pid)
                asyncio.get_running_loop().add_reader(fd, self._ended, container, task)
                fd = -1
        finally:
            if fd >= 0:
                os.close(fd)

    def _ended(self, container: str, task: EngineTask) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._held[container].fd)
        self._timers[container] = loop.call_later(ENGINE_CONMON_GRACE_S, self._is_late, task)

    def code_of(self, task: EngineTask) -> int | None:
        """With which code the process has ended; None if the kernel does not tell."""
        held = self._held.get(task.container)
        if held is None:
            return None
        # it may be reaped between one question and the other
        status = next(
            (found for ask in (_reaped, _waiting, _reaped) if (found := ask(held)) is not None), None
        )
        if status is None:
            return None
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else _SIGNALLED - code

    def forget(self, task: EngineTask) -> None:
        self._drop(task.container)

    def _drop(self, container: str) -> None:
        timer = self._timers.pop(container, None)
        if timer is not None:
            timer.cancel()
        held = self._held.pop(container, None)
        if held is not None:
            asyncio.get_running_loop().remove_reader(held.fd)
            os.close(held.fd)

    def close(self) -> None:
        for container in list(self._held):
            self._drop(container)


def _reaped(held: Held) -> int | None:
    told = bytearray(_INFO.size)
    _INFO.pack_into(told, 0, _HAS_EXIT, *(0,) * 13)
    try:
        fcntl.ioctl(held.fd, _GET_INFO, told)
    except OSError:
        return None  # the kernel is older
    mask, *_, status = _INFO.unpack(told)
    return int(status) if mask & _HAS_EXIT else None


def _waiting(held: Held) -> int | None:
    """Of one that waits to be reaped: its number is its own until then."""
    try:
        words = (_PROC / str(held.pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(words[-1]) if words[:1] == [b"Z"] else None
