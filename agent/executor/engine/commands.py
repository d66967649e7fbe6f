"""``EngineCommand``: a command in a container, run by the engine, for where our own way in is not sound.

It is slower than our own by a runtime and a monitor, and whether it has begun has to be asked for. A command
that cannot be run is told from one that has run by what the engine says of its process: there was none.
"""

from __future__ import annotations

import asyncio
import os
import signal as signals
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from agent.executor.base import Command, Output
from agent.executor.engine.client import Engine, Hijacked, Refused
from agent.executor.engine.groups import groups_of
from agent.executor.engine.limits import ENGINE_EXEC_POLL_S
from agent.executor.engine.task import EngineTask
from agent.executor.native.process import open_pidfd
from agent.executor.native.shim.relay import kill_session
from swarmpy.errors import NotFound, TaskRejected, Unavailable
from swarmpy.limits import CHANNEL_READ_BYTES_MAX, COMMAND_START_TIMEOUT_S

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
KILLED: Final = 128 + signals.SIGKILL
_HEAD_BYTES: Final = 8
_NOT_STARTED: Final = (126, 127)
_FAILURE: Final = b"Error: "
"""How Podman begins what it says in the place of a command that cannot be run."""


async def frames_of(connection: Hijacked, *, is_terminal: bool) -> AsyncIterator[Output]:
    """What an engine sends of a process's streams: a terminal's as it is, others' in frames."""
    while True:
        if is_terminal:
            data = await connection.read()
            if not data:
                return
            yield Output(1, data)
            continue
        head = await connection.read_exactly(_HEAD_BYTES)
        if not head:
            return
        stream, left = 2 if head[0] == 2 else 1, int.from_bytes(head[4:8])
        while left:
            data = await connection.read_exactly(min(left, CHANNEL_READ_BYTES_MAX))
            if not data:
                return
            left -= len(data)
            yield Output(stream, data)


class EngineCommand:
    """``start`` makes one."""

    def __init__(
        self, engine: Engine, container: str, *, exec_id: str, command: Command, connection: Hijacked | None
    ) -> None:
        self.on_close: Callable[[], None] = lambda: None
        self._engine = engine
        self._container = container
        self._id = exec_id
        self._command = command
        self._connection = connection
        self._code: int | None = None
        self._early: list[Output] = []
        self._is_closed = False
        self._is_input_over = not command.has_input
        self.pid = 0
        """0 where the engine does not say it, or counts otherwise than this node."""

    async def output(self) -> AsyncIterator[Output]:
        for part in self._early:
            yield part
        self._early = []
        if self._connection is not None:
            async for part in frames_of(self._connection, is_terminal=self._command.has_terminal):
                yield part

    async def write(self, data: bytes) -> None:
        if self._connection is not None and not self._is_input_over:
            await self._connection.write(data)

    async def close_input(self) -> None:
        if self._connection is not None and not self._command.has_terminal:
            self._is_input_over = True
            await self._connection.close_input()

    async def resize(self, *, rows: int, columns: int) -> None:
        with suppress(TaskRejected, NotFound):  # it has ended
            await self._engine.call(
                "POST", f"/exec/{self._id}/resize", params={"h": str(rows), "w": str(columns)}
            )

    async def exit_code(self) -> int:
        while self._code is None:
            try:
                state = await self._engine.call("GET", f"/exec/{self._id}/json")
            except NotFound:  # its container has gone
                self._code = KILLED
                break
            if state.get("Running"):
                await asyncio.sleep(ENGINE_EXEC_POLL_S)
            else:
                self._code = KILLED if state.get("ExitCode") is None else int(state["ExitCode"])
        return self._code

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.on_close()
        if self._connection is not None:
            await self._connection.close()
        if not self._command.is_detached and self._code is None and self.pid:
            kill(self.pid, self._container)

    async def begin(self) -> None:
        """Wait until it runs. TaskRejected, in the engine's words, if it cannot."""
        while True:
            state = await self._engine.call("GET", f"/exec/{self._id}/json")
            if state.get("Pid"):
                self.pid = int(state["Pid"])
            if self.pid and (state.get("Running") or self._engine.flavour == "docker"):
                return
            if not state.get("Running") and state.get("ExitCode") is not None:
                break
            await asyncio.sleep(ENGINE_EXEC_POLL_S)
        code = int(state["ExitCode"])
        if code not in _NOT_STARTED:
            return
        printed = [part async for part in self.output()]
        text = b"".join(part.data for part in printed)
        # of Docker it had no process; Podman forgets the process of one that has ended at once
        if self._engine.flavour == "podman" and not text.startswith(_FAILURE):
            self._early, self._code = printed, code
            return
        raise TaskRejected(text.removeprefix(_FAILURE).decode(errors="replace").strip())


async def start(
    engine: Engine, task: EngineTask, command: Command, on_close: Callable[[], None]
) -> EngineCommand:
    """Docker's rules for what it begins with are the engine's own. TaskRejected if it cannot be run.

    ``on_close`` hears once of the end of a command that has begun.
    """
    streams = not command.is_detached
    try:
        made = await engine.call(
            "POST",
            f"/containers/{task.container}/exec",
            body={
                "AttachStdin": command.has_input and streams,
                "AttachStdout": streams,
                "AttachStderr": streams,
                "Tty": command.has_terminal,
                "Cmd": list(command.argv),
                "Env": list(command.env),
                "User": command.user,
                "WorkingDir": command.workdir,
                "Privileged": command.is_privileged,
                "Detach": command.is_detached,
            },
        )
        exec_id, wish = str(made["Id"]), {"Detach": command.is_detached, "Tty": command.has_terminal}
        connection = None
        if command.is_detached:
            await engine.call("POST", f"/exec/{exec_id}/start", body=wish)
        else:
            connection = await engine.hijack(f"/exec/{exec_id}/start", body=wish)
    except Refused as error:
        raise TaskRejected(str(error)) from None
    channel = EngineCommand(engine, task.container, exec_id=exec_id, command=command, connection=connection)
    try:
        async with asyncio.timeout(COMMAND_START_TIMEOUT_S):
            await channel.begin()
            if command.has_terminal and command.rows and command.columns:
                await channel.resize(rows=command.rows, columns=command.columns)
    except TimeoutError:
        await channel.close()
        raise Unavailable(
            f"{engine.flavour} did not run the command in {COMMAND_START_TIMEOUT_S:g} s"
        ) from None
    except BaseException:
        await channel.close()
        raise
    channel.on_close = on_close
    return channel


def kill(pid: int, container: str) -> None:
    """A command and its session, if the number is seen to be one of the container's processes."""
    fd = open_pidfd(pid)
    if fd is None:
        return
    try:
        groups = groups_of(pid, container)
        if groups is not None:
            signals.pidfd_send_signal(fd, signals.SIGKILL)
            kill_session(pid, [str(folder) for folder in groups.joined])
    except ProcessLookupError:
        return
    finally:
        os.close(fd)
