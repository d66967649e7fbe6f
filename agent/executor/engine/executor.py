"""``EngineExecutor``: tasks as containers of a Podman or Docker engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from agent.executor.base import (
    FROM_NOW_ON,
    Attachment,
    Channel,
    Command,
    LogLine,
    LogQuery,
    ProcessTable,
    Stats,
    log_folder,
)
from agent.executor.engine.client import Engine, Flavour
from agent.executor.engine.task import EngineTask
from swarmpy.model.containers import ContainerFacts
from swarmpy.model.ids import TaskId
from swarmpy.runtime import Clock, SystemClock


class EngineExecutor:
    """What the modules beside this one are called with:

    * ``inside.Inside(engine, find, logs, run)``: ``exec(task_id, command) -> Channel`` (awaited),
      ``attach(task_id, wish) -> Channel`` (awaited), ``top(task_id, options) -> ProcessTable`` (awaited),
      ``copy_out(task_id, path) -> AsyncGenerator[bytes]``, ``copy_in(task_id, path, archive)`` (awaited).
    * ``logs.Logs(engine, find, logs_dir, run)``: ``read(task_id, query) -> AsyncIterator[LogLine]``;
      ``await keep(task)`` before the container of an ended task is removed with ``keep_log``: afterwards
      ``read`` finds the whole log without a container; may be repeated. ``await forget(task_id)``: the log
      goes for good. ``find`` says None for a task that was removed.
    * ``stats.stats(engine, task, is_full=) -> Stats`` (awaited; of a task that runs).
    * ``looking.look(engine, task, has_sizes=) -> ContainerFacts | None`` (awaited).

    ``find(task_id) -> EngineTask | None``; ``run`` calls what blocks in a thread: ``await run(callable)``.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        flavour: Flavour,
        socket: str = "",
        files_dir: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = flavour
        self.engine = Engine(flavour, socket)
        self._clock = clock or SystemClock()
        self._logs_dir = log_folder(data_dir.absolute())
        self._tasks: dict[TaskId, EngineTask] = {}

    def find(self, task_id: TaskId) -> EngineTask | None:
        return self._tasks.get(task_id)

    # --- of the modules beside

    def logs(self, task_id: TaskId, query: LogQuery) -> AsyncIterator[LogLine]:
        raise NotImplementedError

    async def stats(self, task_id: TaskId, *, is_full: bool = False) -> Stats:
        raise NotImplementedError

    async def exec(self, task_id: TaskId, command: Command) -> Channel:
        raise NotImplementedError

    async def attach(self, task_id: TaskId, wish: Attachment = FROM_NOW_ON) -> Channel:
        raise NotImplementedError

    async def look(self, task_id: TaskId, *, has_sizes: bool = False) -> ContainerFacts | None:
        raise NotImplementedError

    async def top(self, task_id: TaskId, options: str = "") -> ProcessTable:
        raise NotImplementedError

    def copy_out(self, task_id: TaskId, path: str) -> AsyncGenerator[bytes]:
        raise NotImplementedError

    async def copy_in(self, task_id: TaskId, path: str, archive: AsyncIterator[bytes]) -> None:
        raise NotImplementedError
