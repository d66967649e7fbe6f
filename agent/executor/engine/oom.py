"""Hearing from the kernel that a task ran out of memory, since not every engine hears it.

Podman's monitor misses it on machines that have both versions of control groups. With version 1 the kernel
tells who asks for it in a task's group; the group goes with the task, which is told the same way, and is no
answer. With version 2 the monitor is enough.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from agent.executor.engine.groups import groups_of
from agent.executor.engine.limits import ENGINE_JOIN_POLL_S
from agent.executor.engine.task import EngineTask

_MEMORY: Final = Path("/sys/fs/cgroup/memory")
_PODMANS: Final = ("libpod_parent/libpod-{}", "machine.slice/libpod-{}.scope")
"""Where Podman makes a container's group, by itself or by systemd."""
_CONTROL: Final = "memory.oom_control"
_EVENTS: Final = "cgroup.event_control"


class OomWatches:
    """One per executor. ``run`` calls what blocks in a thread."""

    def __init__(self, run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._run = run
        self._fds: dict[str, int] = {}

    async def watch(self, task: EngineTask) -> None:
        """From now on, ``task.is_out_of_memory`` is set as soon as the kernel kills one of its processes."""
        pid = task.started.pid if task.started is not None else 0
        container = task.container
        if not pid or not container or container in self._fds:
            return
        group = await self._run(partial(_group_of, pid, container))
        if group is not None and container not in self._fds and task.is_running:
            self._arm(task, container, group)

    def _arm(self, task: EngineTask, container: str, group: Path) -> bool:
        fd = _listen(group)  # not in a thread: nobody would close it if we were cancelled meanwhile
        if fd is None:
            return False
        self._fds[container] = fd
        asyncio.get_running_loop().add_reader(fd, self._hear, task, container, group)
        return True

    @asynccontextmanager
    async def during_start(self, task: EngineTask) -> AsyncGenerator[None]:
        """Watch from before its first instruction on: it may not live until its number is known."""
        job = asyncio.create_task(self._await_group(task))
        try:
            yield
        finally:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    async def _await_group(self, task: EngineTask) -> None:
        container = task.container
        places = [_MEMORY / path.format(container) for path in _PODMANS]
        while _MEMORY.is_dir() and container not in self._fds:
            if any(self._arm(task, container, group) for group in places):
                return
            await asyncio.sleep(ENGINE_JOIN_POLL_S)

    def _hear(self, task: EngineTask, container: str, group: Path) -> None:
        """``container``: the task may have another one by now."""
        os.eventfd_read(self._fds[container])
        if not (group / _CONTROL).exists():
            self._drop(container)
        elif task.container == container:  # it is told before the kill is counted
            task.is_out_of_memory = True

    def forget(self, task: EngineTask) -> None:
        self._drop(task.container)

    def _drop(self, container: str) -> None:
        fd = self._fds.pop(container, -1)
        if fd >= 0:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def close(self) -> None:
        for fd in self._fds.values():
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
        self._fds.clear()


def _group_of(pid: int, container: str) -> Path | None:
    """Of version 1."""
    groups = groups_of(pid, container)
    return groups.layout.roots.get("memory") if groups is not None and groups.layout.version == 1 else None


def _listen(group: Path) -> int | None:
    """None if the group is not there, or the kernel tells nobody any more."""
    if not group.is_dir():
        return None
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        control = os.open(group / _CONTROL, os.O_RDONLY | os.O_CLOEXEC)
        try:
            (group / _EVENTS).write_text(f"{fd} {control}")
        finally:
            os.close(control)
    except OSError:
        os.close(fd)
        return None
    return fd
