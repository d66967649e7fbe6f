"""What a container of an engine uses, read from the kernel: the engine's own answer takes seconds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace

from agent.executor.base import Stats
from agent.executor.engine.groups import groups_of
from agent.executor.engine.task import EngineTask
from agent.executor.native import cgroups, processes, usage

Run = Callable[[Callable[[], Any]], Awaitable[Any]]


async def stats(task: EngineTask, *, run: Run, is_full: bool = False) -> Stats:
    """All zero of a task that does not run, or whose processes cannot be seen from here."""
    if not task.is_running or task.started is None or not task.started.pid:
        return Stats()
    pid, container = task.started.pid, task.container
    found: Stats = await run(lambda: read_stats(pid, container, is_full=is_full))
    return found


def read_stats(pid: int, container: str, *, is_full: bool) -> Stats:
    """Blocks."""
    groups = groups_of(pid, container)
    if groups is None:
        return Stats()
    layout = groups.layout
    cheap = cgroups.stats_of(layout, "")
    if is_full:
        return usage.in_full(cheap, version=layout.version, roots=layout.roots, task_id="", pid=pid)
    received, sent = processes.network_bytes(pid)
    return replace(cheap, received_bytes=received, sent_bytes=sent)
