"""``Inside``: commands in containers of an engine, being attached to them, copies, and their processes.

What can be done from here as soundly as by the engine is done from here: ``entering`` says where, and the
processes are native's (``native/inside``), at a hundredth of the cost. Elsewhere the engine does it. Either
way texts and rules are docker's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from agent.executor.base import FROM_NOW_ON, Attachment, Channel, Command, NotThere, ProcessTable
from agent.executor.engine import attached, commands
from agent.executor.engine.client import Engine, Refused
from agent.executor.engine.entering import FOLDER, write_way
from agent.executor.engine.groups import groups_of
from agent.executor.engine.logs import Logs
from agent.executor.engine.task import EngineTask
from agent.executor.native import cgroups, inside, processes
from agent.executor.native.launcher import Launcher
from swarmpy.errors import NotFound, TaskRejected, Unavailable
from swarmpy.limits import COMMANDS_PER_NODE_MAX
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.runtime import Clock

Run = Callable[[Callable[[], Any]], Awaitable[Any]]


class Inside:
    """``find`` says None for a task that is not here; ``run`` calls what blocks in a thread. ``data_dir`` is
    the node's. ``close`` at the end."""

    def __init__(
        self,
        engine: Engine,
        find: Callable[[TaskId], EngineTask | None],
        *,
        logs: Logs,
        data_dir: Path,
        run: Run,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._find = find
        self._run = run
        self._clock = clock
        self._tasks_dir = data_dir / "tasks"
        self._launcher = Launcher(data_dir / "shim.log")
        self._own = inside.Inside(self._launcher, self._folder, run)
        self._logs = logs
        self._ways: dict[TaskId, tuple[str, int, bool]] = {}
        """Of which container and process there is a way, or is none."""
        self._open = 0

    async def close(self) -> None:
        """Commands that are not detached end with this."""
        await self._run(self._launcher.stop)

    # --- commands

    async def exec(self, task_id: TaskId, command: Command) -> Channel:
        task = self._running(task_id)
        if await self._has_way(task):
            return await self._own.exec(task_id, command)
        if not command.argv or not command.argv[0]:
            raise TaskRejected("No exec command specified")
        return await self._by_engine(task, command)

    async def _by_engine(self, task: EngineTask, command: Command) -> Channel:
        if self._open >= COMMANDS_PER_NODE_MAX:
            raise Unavailable(
                f"{self._open} commands are under way in tasks of this node: end some first", delay_s=1.0
            )
        self._open += 1
        try:
            return await commands.start(self._engine, task, command, self._ended)
        except NotFound:
            self._ended()
            raise inside.not_running(task.record.task_id) from None
        except BaseException:
            self._ended()
            raise

    def _ended(self) -> None:
        self._open -= 1

    async def attach(self, task_id: TaskId, wish: Attachment = FROM_NOW_ON) -> Channel:
        task = self._find(task_id)
        if task is None:
            return self._logs.of_removed(task_id, wish)
        return await attached.attach(self._engine, task, wish, logs=self._logs, run=self._run)

    # --- processes and files

    async def top(self, task_id: TaskId, options: str = "") -> ProcessTable:
        task = self._running(task_id)
        pid = task.started.pid if task.started is not None else 0
        now = self._clock.now()
        table = await self._run(lambda: _table(pid, task.container, now, options)) if pid else None
        if isinstance(table, ProcessTable):
            return table
        params = {"ps_args": options} if options else {}
        try:
            found = await self._engine.call("GET", f"/containers/{task.container}/top", params=params)
        except NotFound:
            raise inside.not_running(task_id) from None
        rows = tuple(tuple(map(str, row)) for row in found.get("Processes") or ())
        return ProcessTable(titles=tuple(found.get("Titles") or ()), rows=rows)

    async def copy_out(self, task_id: TaskId, path: str) -> AsyncGenerator[bytes]:
        task = self._running(task_id)
        has_way = await self._has_way(task)
        chunks = self._own.copy_out(task_id, path) if has_way else self._archive_of(task, path)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def copy_in(self, task_id: TaskId, path: str, archive: AsyncIterator[bytes]) -> None:
        task = self._running(task_id)
        if await self._has_way(task):
            return await self._own.copy_in(task_id, path, archive)
        address = f"/containers/{task.container}/archive"
        try:
            async with self._engine.stream("PUT", address, params={"path": path}, data=archive) as content:
                await content.read()
        except NotFound:
            raise _not_there(task_id, path) from None
        except Refused as error:
            raise TaskRejected(f"the archive cannot be read: {error}") from None

    async def _archive_of(self, task: EngineTask, path: str) -> AsyncGenerator[bytes]:
        address = f"/containers/{task.container}/archive"
        try:
            async with self._engine.stream("GET", address, params={"path": path}) as content:
                async for chunk in self._engine.chunks(content):
                    yield chunk
        except NotFound:
            raise _not_there(task.record.task_id, path) from None

    # --- ways

    async def _has_way(self, task: EngineTask) -> bool:
        """Whether our own processes can enter; what they need is written down once for each start."""
        task_id, pid = task.record.task_id, task.started.pid if task.started is not None else 0
        async with task.entering:  # an engine may be long about one container
            known = self._ways.get(task_id)
            if known is not None and known[:2] == (task.container, pid):
                return known[2]
            try:
                inspected = await self._engine.call("GET", f"/containers/{task.container}/json")
            except NotFound:
                raise inside.not_running(task_id) from None
            write = partial(write_way, self._folder(task_id), task, inspected or {})
            try:
                has_way = await self._run(write) is not None
            except OSError as error:
                raise Unavailable(f"cannot write down the way into task {task_id}: {error}") from None
            self._ways = {id_: way for id_, way in self._ways.items() if self._find(id_) is not None}
            self._ways[task_id] = (task.container, pid, has_way)
            return has_way

    def _folder(self, task_id: TaskId) -> Path:
        return self._tasks_dir / task_id / FOLDER

    def _running(self, task_id: TaskId) -> EngineTask:
        task = self._find(task_id)
        if task is None or not task.is_running:
            raise inside.not_running(task_id)
        if not task.container:  # of a former life, and the engine has not been heard yet
            raise Unavailable(
                f"{self._engine.flavour} has not answered yet which container is task {task_id}'s"
            )
        return task


def _table(pid: int, container: str, now: Timestamp, options: str) -> ProcessTable | None:
    groups = groups_of(pid, container)
    if groups is None:
        return None
    return processes.table(cgroups.pids_of(groups.folders), pid, now, options)


def _not_there(task_id: TaskId, path: str) -> NotThere:
    return NotThere(f"Could not find the file {path} in container {task_id}")
