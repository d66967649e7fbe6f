"""Commands in running tasks, being attached to them, and copies out of and into them.

Decides what docker decides between a request and a process: the environment, the account, the words for what
cannot be run. The work is done by processes that the launcher forks (``shim/inside``) and by the task's own
shim (``shim/attach``); a socket to each is all that the daemon holds, so a daemon that ends takes its
commands with it, but for those that are detached, and leaves the tasks alone.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from agent.executor.base import Attachment, Command, NotRunning, NotThere
from agent.executor.native import folders
from agent.executor.native.attached import AttachedChannel, Watched
from agent.executor.native.channel import Refused, SocketChannel
from agent.executor.native.job import CAPABILITIES, Job
from agent.executor.native.launcher import Launcher
from agent.executor.native.shim import attach, frames
from agent.folder_sockets import connect_in
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.limits import (
    COMMAND_BYTES_MAX,
    COMMAND_START_TIMEOUT_S,
    COMMANDS_PER_NODE_MAX,
)
from swarmpy.model.ids import TaskId

_REFUSED = "OCI runtime exec failed: exec failed: unable to start container process: "
_REFUSED_END = ": unknown"
Run = Callable[[Callable[[], Any]], Awaitable[Any]]


class Inside:
    """``folder_of`` names a task's folder; ``run`` is the executor's way to call what blocks."""

    def __init__(self, launcher: Launcher, folder_of: Callable[[TaskId], Path], run: Run) -> None:
        self._launcher = launcher
        self._folder_of = folder_of
        self._run = run
        self._open = 0

    async def exec(self, task_id: TaskId, command: Command) -> SocketChannel:
        job = await self._job(task_id)
        order = json.dumps(_order_of(command, job)).encode()
        if len(order) > COMMAND_BYTES_MAX:
            raise TaskRejected(
                f"the command and its environment are {len(order)} bytes long, {COMMAND_BYTES_MAX} at most"
            )
        try:
            return await self._enter(task_id, order)
        except Refused as error:
            raise TaskRejected(_REFUSED + error.message + _REFUSED_END) from None

    async def attach(self, task_id: TaskId, wish: Attachment, task: Watched) -> AttachedChannel:
        folder = self._folder_of(task_id)
        # in this order: of what had not started then, a socket that is not there says nothing
        state = await self._run(partial(folders.read_state, folder))
        found = await _greeted(await self._run(partial(_connect, folder)))
        # without one the shim has ended, or nobody can be attached to it: the log has all, once there is one
        if found is None and not (wish.replays and (state.started or state.ended)):
            raise not_running(task_id)
        channel: AttachedChannel | None = None
        try:
            job = await self._run(partial(folders.read_job, folder))
            if job is None:
                raise not_running(task_id)
            logs = Path(job["log_dir"])
            channel = AttachedChannel(logs, wish=wish, socket=found, task=task, run=self._run)
            await channel.start()
        except BaseException:  # who asked has gone, perhaps: the loop would hold the connection for ever
            opened = channel or found
            if opened is not None:
                await opened.close()
            raise
        return channel

    async def copy_out(self, task_id: TaskId, path: str) -> AsyncGenerator[bytes]:
        channel = await self._copy(task_id, "read", path)
        problem = b""
        try:
            async for stream, data in channel.output():
                if stream == frames.STDOUT:
                    yield data
                else:
                    problem += data
            await _require_success(channel, problem)
        finally:
            await channel.close()

    async def copy_in(self, task_id: TaskId, path: str, archive: AsyncIterator[bytes]) -> None:
        channel = await self._copy(task_id, "write", path)
        try:
            feeding = asyncio.create_task(_feed(channel, archive))
            try:
                problem = b"".join([data async for _, data in channel.output()])
                if feeding.done() and not feeding.cancelled() and (error := feeding.exception()) is not None:
                    raise error
                await _require_success(channel, problem)
            finally:
                feeding.cancel()
                await asyncio.wait([feeding])
        finally:
            await channel.close()

    async def _copy(self, task_id: TaskId, verb: str, path: str) -> SocketChannel:
        if "\0" in path:
            raise TaskRejected("a path cannot hold the NUL character")
        await self._job(task_id)
        try:
            return await self._enter(task_id, json.dumps(_copy_order(verb, path)).encode())
        except Refused as error:
            if error.kind == "rejected":
                raise NotThere(error.message) from None
            raise TaskRejected(error.message) from None

    async def _job(self, task_id: TaskId) -> Job:
        job: Job | None = None
        if folders.is_task_id(task_id):
            job = await self._run(partial(folders.read_job, self._folder_of(task_id)))
        if job is None:
            raise not_running(task_id)
        return job

    async def _enter(self, task_id: TaskId, order: bytes) -> SocketChannel:
        """Have a process carry out the order inside the task. Refused if it cannot."""
        if self._open >= COMMANDS_PER_NODE_MAX:
            raise Unavailable(
                f"{self._open} commands and copies are under way in tasks of this node: end some first",
                delay_s=1.0,
            )
        self._open += 1
        try:
            channel = await SocketChannel.over(await self._run(partial(self._dial, task_id)), self._ended)
        except BaseException:
            self._ended()
            raise
        try:
            async with asyncio.timeout(COMMAND_START_TIMEOUT_S):
                await channel.begin(order)
        except BaseException as error:
            await channel.close()
            if isinstance(error, TimeoutError):
                raise Unavailable(
                    f"task {task_id} could not be entered in {COMMAND_START_TIMEOUT_S:g} s"
                ) from None
            if isinstance(error, Refused) and error.kind == "gone":
                raise not_running(task_id) from None
            raise
        return channel

    def _dial(self, task_id: TaskId) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                self._launcher.enter(self._folder_of(task_id), theirs.fileno())
            except OSError as error:
                ours.close()
                raise Unavailable(f"the task launcher takes no orders: {error}") from None
            except BaseException:
                ours.close()
                raise
        return ours

    def _ended(self) -> None:
        self._open -= 1


async def _greeted(sock: socket.socket | None) -> SocketChannel | None:
    """The channel on which the shim has said that it is there; None if it has not."""
    if sock is None:
        return None
    channel = await SocketChannel.over(sock)
    try:
        async with asyncio.timeout(COMMAND_START_TIMEOUT_S):
            await channel.begin()
    except (TimeoutError, Unavailable):
        await channel.close()
        return None
    except BaseException:
        await channel.close()
        raise
    return channel


def not_running(task_id: TaskId) -> NotRunning:
    return NotRunning(f"Container {task_id} is not running")


def _order_of(command: Command, job: Job) -> dict[str, object]:
    """Docker's rules: the command's environment over the task's, everything else the task's unless given."""
    if not command.argv or not command.argv[0]:
        raise TaskRejected("No exec command specified")
    env = dict(pair.split("=", 1) for pair in job["env"])
    if command.has_terminal:
        env.setdefault("TERM", "xterm")
    for pair in command.env:
        name, has_value, value = pair.partition("=")
        if has_value and name:
            env[name] = value
        else:
            env.pop(name, None)
    words = (*command.argv, *env, *env.values(), command.user, command.workdir)
    if any("\0" in word for word in words):
        raise TaskRejected(
            "a command, its environment, user and working directory cannot hold the NUL character"
        )
    return {
        "verb": "exec",
        "path": "",
        "argv": list(command.argv),
        "env": [f"{name}={value}" for name, value in env.items()],
        "user": command.user or job["user"],
        "workdir": command.workdir or job["workdir"],
        "tty": command.has_terminal,
        "has_input": command.has_input,
        "privileged": command.is_privileged,
        "detached": command.is_detached,
        "rows": command.rows,
        "columns": command.columns,
        "capabilities": list(range(len(CAPABILITIES))) if command.is_privileged else job["capabilities"],
    }


def _copy_order(verb: str, path: str) -> dict[str, object]:
    """What an order says besides is a command's."""
    return {"verb": verb, "path": path, "tty": False, "has_input": verb == "write"}


def _connect(folder: Path) -> socket.socket | None:
    """The socket that the task's shim listens on; None if it does not, or no longer does."""
    try:
        return connect_in(folder, attach.SOCKET, socket.SOCK_STREAM)
    except OSError:
        return None


async def _feed(channel: SocketChannel, archive: AsyncIterator[bytes]) -> None:
    async for chunk in archive:
        await channel.write(chunk)
    await channel.close_input()


async def _require_success(channel: SocketChannel, problem: bytes) -> None:
    code = await channel.exit_code()
    if code or problem:
        text = problem.decode(errors="replace").strip()
        raise TaskRejected(text or f"the copy was ended by the node (exit code {code})")
