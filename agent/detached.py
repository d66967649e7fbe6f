"""Commands that run without a client: they are watched to their end, and their exit codes kept for a while.

The daemon holds no more of them than it holds of a command with a client, and they outlive it; what is known
of them does not.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agent.executor.base import Channel
from agent.executor.limits import DETACHED_KEPT_MAX
from swarmpy.errors import NotFound, SwarmError, Unavailable
from swarmpy.model.ids import TaskId


@dataclass
class _Command:
    """``watching`` None: it has ended."""

    task_id: TaskId
    pid: int
    code: int | None = None
    watching: asyncio.Task[None] | None = None


class DetachedCommands:
    """Of one node."""

    def __init__(self) -> None:
        self._commands: dict[str, _Command] = {}

    def make_room(self) -> None:
        """Before one more begins. Unavailable if as many as can be kept run."""
        if len(self._commands) < DETACHED_KEPT_MAX:
            return
        oldest = next((id_ for id_, each in self._commands.items() if each.watching is None), None)
        if oldest is None:
            raise Unavailable(f"{DETACHED_KEPT_MAX} detached commands run on this node: end some first")
        del self._commands[oldest]

    def add(self, task_id: TaskId, exec_id: str, channel: Channel) -> None:
        """It has begun. From now on the channel is closed here."""
        command = _Command(task_id, channel.pid)
        command.watching = asyncio.get_running_loop().create_task(_watch(command, channel))
        self._commands[exec_id] = command

    def state(self, task_id: TaskId, exec_id: str) -> tuple[int, int | None, bool]:
        """Pid, exit code, and whether it runs; the code is None if nobody heard how it ended. NotFound if it
        is not known, or not any more."""
        command = self._commands.get(exec_id)
        if command is None or command.task_id != task_id:
            raise NotFound(f"No such exec instance: {exec_id}")
        return command.pid, command.code, command.watching is not None

    async def close(self) -> None:
        """Stop watching; the commands run on."""
        watching = [each.watching for each in self._commands.values() if each.watching is not None]
        for task in watching:
            task.cancel()
        if watching:
            await asyncio.wait(watching)


async def _watch(command: _Command, channel: Channel) -> None:
    try:
        async for _ in channel.output():
            continue  # it has none, but for what a terminal might
        command.code = await channel.exit_code()
    except SwarmError:
        command.code = None
    finally:
        await channel.close()
        command.watching = None
