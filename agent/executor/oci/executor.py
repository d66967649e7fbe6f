"""``OciExecutor``: tasks as containers of crun or runc, each watched by a conmon.

All but the launcher is native's: images, volumes, secrets, control groups and their limits, what a task may
do, commands inside of it, copies, and the records in its folder. What is decided here: which runtime serves
this node, and how the truth is read from what conmon leaves (``life``, ``records``).

conmon outlives the daemon and keeps log and exit code meanwhile. A conmon that is killed takes its task with
it, once a daemon looks: a task whose end nobody would see is not left running.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import structlog

from agent.executor.base import FROM_NOW_ON, Attachment, Capabilities, Channel, LogLine, LogQuery
from agent.executor.native import folders, preflight, process
from agent.executor.native.attached import Watched
from agent.executor.native.executor import NativeExecutor, Remembered
from agent.executor.native.folders import TaskState
from agent.executor.native.inside import not_running
from agent.executor.native.job import ExitRecord, StartRecord
from agent.executor.native.task_images import Fetch
from agent.executor.oci import logs, monitor, records, runtimes
from agent.executor.oci.attached import LogChannel
from agent.executor.oci.choice import Choice
from agent.executor.oci.life import Life
from agent.executor.oci.limits import LOG_ROTATE_PERIOD_S, LOG_ROTATE_ROOM_BYTES
from agent.executor.oci.making import OciMaker
from agent.executor.oci.trial import Trial
from swarmpy.errors import SwarmError, Unavailable
from swarmpy.limits import LOG_FILE_BYTES_MAX
from swarmpy.model.ids import TaskId
from swarmpy.runtime import Clock

log = structlog.get_logger(__name__)


class OciExecutor(NativeExecutor):
    """One per node. ``runtime``: the name of the only one that may be used; empty: whatever works.
    ``choice``: of all that one daemon makes, of which the first to be asked tries the runtimes."""

    name = "oci"
    make_maker = OciMaker

    def __init__(
        self,
        data_dir: Path,
        *,
        cgroup_parent: str = "/swarmpy",
        hidden: tuple[Path, ...] = (Path("/run/swarmpy/netns"),),
        files_dir: Path | None = None,
        clock: Clock | None = None,
        fetch: Fetch | None = None,
        runtime: str = "",
        choice: Choice | None = None,
    ) -> None:
        super().__init__(
            data_dir,
            cgroup_parent=cgroup_parent,
            hidden=hidden,
            files_dir=files_dir,
            clock=clock,
            fetch=fetch,
        )
        # beside secrets and configs: what a runtime knows of containers must not outlive a boot either
        runtime_root = self._files.folder.parent / "oci"
        self.life = Life(
            tasks_dir=self._tasks_dir, runtime_root=runtime_root, cgroups=self._cgroups, clock=self._clock
        )
        self._trial = Trial(folder=data_dir.absolute() / "oci-trial", maker=self._maker, life=self.life)
        self._only = runtime
        self.choice = choice or Choice()
        self._choosing = asyncio.Lock()
        self._reopened: dict[TaskId, int] = {}
        self._rotating: asyncio.Task[None] | None = None

    # --- life

    async def start_up(self) -> None:
        self.life.conmon = runtimes.find("conmon")
        await super().start_up()
        await self._choose()
        self._rotating = asyncio.get_running_loop().create_task(self._rotate_logs())

    async def shut_down(self) -> None:
        if self._rotating is not None:
            self._rotating.cancel()
            await asyncio.wait([self._rotating])
            self._rotating = None
        await super().shut_down()

    async def probe(self) -> Capabilities:
        missing = await self._run(partial(preflight.find_missing, self._tasks_dir.parent))
        if not missing:
            await self._choose()
        is_usable = not missing and self.life.runtime is not None
        return Capabilities(
            name=self.name,
            is_usable=is_usable,
            cgroup_version=self._cgroups.version,
            missing=(*missing, *self.choice.reasons, *self._cgroups.missing()),
        )

    async def _choose(self) -> None:
        """Find a runtime that works here, by having each run a task until one does."""
        async with self._choosing:
            choice = self.choice
            if self.life.runtime is None and choice.runtime is None:
                choice.runtime, choice.reasons = await self._run(partial(self._trial.choose, self._only))
                if choice.runtime is None:
                    log.warning("no_oci_runtime", reasons=choice.reasons)
            self.life.runtime = self.life.runtime or choice.runtime

    # --- one task

    async def _start(self, task_id: TaskId, task: Remembered) -> None:
        async with self._starts:
            state = await self._run(partial(self.life.start, task_id))
        task.started = state.started
        if state.shim:
            self._watch(task_id, task, state.shim)
        else:
            await self._end(task_id, task)

    def _remove(self, task_id: TaskId, *, keep_log: bool) -> None:
        self.life.take_down(task_id)
        self.life.remove_groups(task_id)
        super()._remove(task_id, keep_log=keep_log)
        self._reopened.pop(task_id, None)

    # --- reading

    def logs(self, task_id: TaskId, query: LogQuery) -> AsyncIterator[LogLine]:
        def has_ended() -> bool:
            task = self._tasks.get(task_id)
            return task is None or task.exit is not None

        return logs.read_log(self._logs_dir / task_id, query, has_ended=has_ended, run=self._run)

    async def attach(self, task_id: TaskId, wish: Attachment = FROM_NOW_ON) -> Channel:
        task = self._tasks.get(task_id)
        logs_dir = self._logs_dir / task_id
        if task is None:
            return await self._attach_removed(task_id, wish)
        has_begun = task.started is not None
        if not has_begun or (task.exit is not None and not wish.replays):
            raise not_running(task_id)
        watched = Watched(task_id, lambda: task.exit, task.ended, self._readers)
        return await LogChannel.to(logs_dir, wish, watched, folder=self._folder(task_id), run=self._run)

    async def _attach_removed(self, task_id: TaskId, wish: Attachment) -> Channel:
        """The log that was kept of a task that has ended and was taken down."""
        logs_dir = self._logs_dir / task_id
        if not wish.replays or not folders.is_task_id(task_id) or not logs_dir.is_dir():
            raise not_running(task_id)
        over = Watched(task_id, lambda: UNKNOWN, asyncio.Event(), self._readers)
        over.ended.set()
        return await LogChannel.to(logs_dir, wish, over, folder=self._folder(task_id), run=self._run)

    async def _rotate_logs(self) -> None:
        """Keep logs to their bounds while they grow."""
        while True:
            await asyncio.sleep(LOG_ROTATE_PERIOD_S)
            running = [task_id for task_id, task in self._tasks.items() if task.started and not task.exit]
            if running:
                await self._run(partial(self._rotate, running))

    def _rotate(self, task_ids: list[TaskId]) -> None:
        for task_id in task_ids:
            folder = self._logs_dir / task_id
            try:
                logs.give_number(folder)
                found = os.stat(folder / logs.CURRENT)
                is_due = found.st_size >= LOG_FILE_BYTES_MAX and self._reopened.get(task_id) != found.st_ino
                is_named = found.st_nlink > 1  # one that is not would be lost
                if is_due and is_named and shutil.disk_usage(folder).free > LOG_ROTATE_ROOM_BYTES:
                    self._reopened[task_id] = found.st_ino
                    monitor.begin_log_anew(self._folder(task_id))
            except FileNotFoundError:
                continue  # it was removed meanwhile
            except OSError as error:
                log.warning("log_not_rotated", task_id=task_id, error=str(error))

    # --- watching

    def _read_state(self, folder: Path) -> TaskState:
        """At the start. One whose broken-off start cannot be cleared away must not keep the node from its
        other tasks: it counts as created, and who starts or removes it tries again."""
        try:
            return self.life.recover(folder.name)
        except Unavailable as error:
            log.warning("task_not_recovered", task_id=folder.name, error=str(error))
            return records.read_state(folder)

    def _watch(self, task_id: TaskId, task: Remembered, shim: int) -> None:
        """Whether conmon lives is asked after its pidfd was opened: the number may be another's by now."""
        watch = process.open_pidfd(shim)
        made = records.read_made(self._folder(task_id))
        if watch is None or made is None or not records.is_watched(made):
            if watch is not None:
                os.close(watch)
            self._begin_ending(task_id, task)
            return
        task.watch = watch
        asyncio.get_running_loop().add_reader(watch, self._begin_ending, task_id, task)

    async def _end(self, task_id: TaskId, task: Remembered) -> None:
        await super()._end(task_id, task)
        if task.exit is not None:
            await self._run(partial(self._release, task_id))

    def _release(self, task_id: TaskId) -> None:
        try:
            self.life.release(task_id, records.read_made(self._folder(task_id)))
        except (SwarmError, OSError) as error:
            log.warning(
                "container_not_released", task_id=task_id, error=str(error)
            )  # its removal tries again

    def _settle(self, task_id: TaskId) -> tuple[StartRecord | None, ExitRecord | None]:
        state = self.life.settle(task_id)
        return state.started, state.ended

    def _kill_leftovers(self, task_id: str) -> None:
        self.life.take_down(task_id)
        self.life.remove_groups(task_id)


UNKNOWN = ExitRecord(code=-1, is_oom_killed=False, at=0, message="", kind="ended")
