"""``EngineExecutor``: tasks as containers of a Podman or Docker engine, over its API.

What it decides: which call of a task may run when (one at a time per task), and what became of a task. While
there is a container, the engine's inspection of it says so; a record in the task's folder, written before the
container is made, says what it is made from, and keeps its end when it is known.

An engine that is not reachable makes calls Unavailable, and nothing else: its tasks run on, and none of them
is taken for dead before the engine has said so. Containers of other nodes and of strangers are never touched:
ours have a label with the key of this node's data folder.

Podman is told the task's network namespace. Docker cannot be: there a pause container goes into the namespace
first, and the task joins it, so that it sees its network from its first instruction on.
"""

from __future__ import annotations

import asyncio
import os
import platform
import signal as signals
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog

from agent import trees, volume_calls
from agent.executor.base import (
    FROM_NOW_ON,
    Attachment,
    Capabilities,
    Channel,
    Command,
    Exit,
    ExitEvent,
    Found,
    ImageConfig,
    Launch,
    LaunchFile,
    LogLine,
    LogQuery,
    NotRunning,
    ProcessTable,
    Stats,
    log_folder,
)
from agent.executor.engine import looking, preflight, pulling, records, stats
from agent.executor.engine.client import DEFAULT_SOCKETS, Engine, Flavour, Refused
from agent.executor.engine.containers import Containers
from agent.executor.engine.ends import Ends
from agent.executor.engine.identity import Identity, OtherEngine
from agent.executor.engine.inside import Inside
from agent.executor.engine.joining import join
from agent.executor.engine.logs import Logs
from agent.executor.engine.making import Maker
from agent.executor.engine.pulling import Pulled
from agent.executor.engine.service import PodmanService
from agent.executor.engine.states import start_exit_code, state_of
from agent.executor.engine.task import KIND_PAUSE, Ended, EngineTask, Record
from agent.executor.engine.watching import Watch
from agent.executor.native import folders, process
from agent.executor.native.job import StartRecord
from agent.executor.native.task_files import TaskFiles
from agent.volumes import Volumes
from swarmpy.errors import (
    Conflict,
    FailedPrecondition,
    NotFound,
    SwarmError,
    TaskFailed,
    TaskRejected,
    Unavailable,
)
from swarmpy.limits import (
    EXECUTOR_THREADS_MAX,
    TASK_KILL_TIMEOUT_S,
    TASK_STARTS_PARALLEL_MAX,
)
from swarmpy.model.containers import ContainerFacts
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.model.objects import NodeVolume
from swarmpy.model.standalone import START_FAILED
from swarmpy.runtime import Clock, SystemClock

log = structlog.get_logger(__name__)

T = TypeVar("T")
_SYSTEMS_PODMAN: Final = DEFAULT_SOCKETS["podman"]
_CGROUP_V2: Final = Path("/sys/fs/cgroup/cgroup.controllers")


class EngineExecutor:
    """One per node. ``socket``: the engine's; "" is its flavour's default. ``files_dir``: where secrets and
    configs are kept in memory; it must not outlive a boot, so a node's is in /run. ``service``: what serves
    Podman if no system service does."""

    def __init__(
        self,
        data_dir: Path,
        *,
        flavour: Flavour,
        socket: str = "",
        files_dir: Path | None = None,
        clock: Clock | None = None,
        service: PodmanService | None = None,
        pulled: Pulled | None = None,
    ) -> None:
        data_dir = data_dir.absolute()
        self.name: str = flavour
        self._pulled = pulled
        if service is None and flavour == "podman" and not socket and not os.path.exists(_SYSTEMS_PODMAN):
            service = PodmanService(data_dir)
        self._service = service
        self.engine = Engine(flavour, service.socket if service else socket)
        self._clock = clock or SystemClock()
        self._data_dir = data_dir
        self._tasks_dir = data_dir / "tasks"
        self._logs_dir = log_folder(data_dir)
        self.volumes = Volumes(
            data_dir / "volumes", partial(records.volume_users, self._tasks_dir), self._clock.now
        )
        self._files = TaskFiles((files_dir or data_dir / "files").absolute())
        self._pool = ThreadPoolExecutor(EXECUTOR_THREADS_MAX, thread_name_prefix="engine")
        self._log = Logs(
            self.engine, self.find, logs_dir=self._logs_dir, know=self._know_container, run=self._run
        )
        self._inside = Inside(
            self.engine, self.find, logs=self._log, data_dir=data_dir, run=self._run, clock=self._clock
        )
        self._tasks: dict[TaskId, EngineTask] = {}
        self._identity = Identity(self.engine, data_dir, count_tasks=self._count, run=self._run)
        self._starts = asyncio.Semaphore(TASK_STARTS_PARALLEL_MAX)
        self._watching: asyncio.Task[None] | None = None

    def find(self, task_id: TaskId) -> EngineTask | None:
        return self._tasks.get(task_id)

    # --- life

    async def start_up(self) -> None:
        """With an engine that is not reachable, too: it is then found as soon as it is. FailedPrecondition if
        it is another one than has the tasks."""
        await self._run(self._prepare_node)
        for task in await self._run(partial(records.scan, self._tasks_dir)):
            self._tasks[task.record.task_id] = task
            if task.end is not None:
                self._ends.tell(task, task.end)
        known = set(self._tasks)
        for task_id in await self._run(self._files.task_ids) - known:
            await self._run(partial(self._files.remove, task_id))
        try:
            await self._reconcile_served()
        except OtherEngine as error:
            await self._ends.close()
            raise FailedPrecondition(str(error)) from None
        except SwarmError as error:
            log.warning("engine_not_heard", engine=self.name, reason=str(error))
        watch = Watch(
            self.engine,
            self._node,
            clock=self._clock,
            reconcile=self._reconcile_served,
            heard=self._ends.heard,
            broke_off=self._identity.doubt,
        )
        self._watching = asyncio.get_running_loop().create_task(watch.run())

    def _prepare_node(self) -> None:
        for folder in (self._tasks_dir, self._logs_dir):
            trees.make_private(folder)
        self.volumes.prepare()
        self._files.prepare()  # a service of our own is to see what is mounted there
        self._log.prepare()
        self._node = records.node_key(self._data_dir)
        self._containers = Containers(self.engine, self._node, platform.machine())
        self._ends = Ends(
            self._tasks,
            self._containers,
            identity=self._identity,
            tasks_dir=self._tasks_dir,
            run=self._run,
            clock=self._clock,
        )
        self._maker = Maker(
            engine=self.engine,
            containers=self._containers,
            node=self._node,
            tasks_dir=self._tasks_dir,
            volumes=self.volumes,
            files=self._files,
            cgroup_version=2 if _CGROUP_V2.exists() else 1,
            run=self._run,
            has_left=self._ends.sweep_again,
        )

    async def shut_down(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            await self._ends.close()
        await self._inside.close()
        await self.engine.close()
        if self._service:
            await self._service.stop()
        self._pool.shutdown(wait=True)

    async def probe(self) -> Capabilities:
        """May be asked before the start."""
        await self._run(partial(self._data_dir.mkdir, parents=True, exist_ok=True))
        trial = partial(preflight.find_missing, self.engine, self._data_dir, clock=self._clock, run=self._run)
        missing = await (self._service.choose(self.engine, trial) if self._service else trial())
        return Capabilities(
            name=self.name,
            is_usable=not missing,
            cgroup_version=2 if _CGROUP_V2.exists() else 1,
            missing=missing,
        )

    async def ensure_image(self, reference: str, *, registry_auth: str = "") -> ImageConfig:
        return await pulling.ensure_image(
            self.engine, reference, registry_auth=registry_auth, pulled=self._pulled
        )

    # --- one task

    async def create(self, launch: Launch) -> None:
        task_id = launch.task_id
        folders.check_task_id(task_id)
        await self._identity.require()
        task = self._tasks.get(task_id)
        if task is None:  # known from now on, so that no other call makes it at the same time
            task = self._tasks[task_id] = EngineTask(record=_unmade(launch))
        async with task.lock:
            if task.started is not None or task.end is not None:
                return
            try:
                async with self._starts:
                    await self._maker.create(launch, task)
            except SwarmError:
                if not task.is_created and self._tasks.get(task_id) is task:
                    del self._tasks[task_id]
                raise

    async def start(self, task_id: TaskId) -> Found:
        task = self._tasks.get(task_id)
        if task is None:
            raise TaskRejected(f"task {task_id} was not created on this node")
        async with task.lock:
            if task.started is None and task.end is None:
                await self._identity.require()
                async with self._starts:
                    await self._start(task)
            if task.end is not None:
                _raise_unstarted(task.end)
            return _found(task)

    async def _start(self, task: EngineTask) -> None:
        container = await self._ends.container_of(task)
        try:
            state = state_of(await self._containers.inspect(container))
            if state.started is None:
                if task.pause:
                    await join(self._containers, task.pause, task.record.netns, self._clock)
                if self.name == "podman" and task.record.has_memory_limit:
                    async with self._ends.oom.during_start(task):
                        await self._containers.start(container)
                else:
                    await self._containers.start(container)
                state = state_of(await self._containers.inspect(container))
        except Conflict as error:
            raise Unavailable(str(error)) from None
        except NotFound as error:
            await self._identity.confirm()
            raise TaskRejected(f"the container of task {task.record.task_id} is gone: {error}") from None
        except Refused as error:
            code = start_exit_code(str(error))
            await self._ends.end(task, Ended(exit=Exit(code=code, message=str(error)), kind="failed"))
            return
        if state.started is None:
            raise Unavailable(f"{self.name} has not started the container of task {task.record.task_id}")
        await self._ends.begun(task, state)

    async def signal(self, task_id: TaskId, signal: int) -> None:
        task = self._tasks.get(task_id)
        if task is not None and task.is_running:
            try:
                await self._containers.kill(await self._ends.container_of(task), signal)
            except (NotRunning, NotFound):
                return

    async def reload(self, task_id: TaskId, files: tuple[LaunchFile, ...]) -> None:
        task = self._tasks.get(task_id)
        if task is None or not task.is_running:
            return
        loop = asyncio.get_running_loop()

        def send(signal: int) -> None:
            asyncio.run_coroutine_threadsafe(self.signal(task_id, signal), loop).result()

        async with task.lock:
            await self._run(partial(self._files.renew, task_id, files, send))

    async def stop(self, task_id: TaskId, *, signal: int, grace_s: float) -> Exit | None:
        task = self._tasks.get(task_id)
        if task is None:
            return None
        if task.is_running:
            if grace_s > 0 and await self._run(partial(_can_be_ended_by, task, signal)):
                await self.signal(task_id, signal)
                await self._ends.wait(task, grace_s)
            if not task.ended.is_set():
                await self._kill(task)
        return task.end.exit if task.end else None

    async def _kill(self, task: EngineTask) -> None:
        await self.signal(task.record.task_id, signals.SIGKILL)
        if not await self._ends.wait(task, TASK_KILL_TIMEOUT_S):
            raise Unavailable(
                f"task {task.record.task_id} does not die: it may be waiting for a device or a file server"
            )

    async def remove(self, task_id: TaskId, *, keep_log: bool = False) -> None:
        await self._identity.require()
        task = self._tasks.get(task_id)
        if task is None:
            if folders.is_task_id(task_id):
                await self._discard(task_id)
                if not keep_log:
                    await self._log.forget(task_id)
            return
        async with task.lock:
            if task.is_running:
                await self._kill(task)
            if keep_log and task.started is not None:
                await self._log.keep(task)
            await self._discard(task_id)
            if self._tasks.get(task_id) is task:
                del self._tasks[task_id]
            task.ended.set()  # who waits for the end of one that never ran
            if not keep_log:
                await self._log.forget(task_id)

    async def _discard(self, task_id: TaskId) -> None:
        """Its containers first: what is on the node says that they are there. The task before its network."""
        found = await self._containers.find(task_id)
        if not found:
            await self._identity.confirm()
        for one in sorted(found, key=lambda one: one.kind == KIND_PAUSE):
            await self._containers.remove(one.id)
        await self._run(partial(self._maker.clear, task_id))

    # --- what became of tasks

    def events(self) -> AsyncIterator[ExitEvent]:
        return self._ends.events()

    async def list(self) -> tuple[Found, ...]:
        return tuple(_found(task) for _, task in sorted(self._tasks.items()) if task.is_created)

    async def _reconcile_served(self) -> None:
        if self._service:
            await self._service.ensure(self.engine)  # it may have ended
        await self._ends.reconcile()

    # --- of the modules beside

    def logs(self, task_id: TaskId, query: LogQuery) -> AsyncIterator[LogLine]:
        return self._log.read(task_id, query)

    async def stats(self, task_id: TaskId, *, is_full: bool = False) -> Stats:
        task = self._tasks.get(task_id)
        if task is None or not task.is_running:
            return Stats()
        return await stats.stats(task, run=self._run, is_full=is_full)

    def reported_volumes(self) -> tuple[NodeVolume, ...]:
        return self.volumes.snapshot()

    async def volume_call(self, name: str, body: bytes) -> bytes:
        return await self._run(partial(volume_calls.answer, self.volumes, name, body))

    async def exec(self, task_id: TaskId, command: Command) -> Channel:
        return await self._inside.exec(task_id, command)

    async def attach(self, task_id: TaskId, wish: Attachment = FROM_NOW_ON) -> Channel:
        return await self._inside.attach(task_id, wish)

    async def look(self, task_id: TaskId, *, has_sizes: bool = False) -> ContainerFacts | None:
        task = self._tasks.get(task_id)
        return await looking.look(self.engine, task, has_sizes=has_sizes) if task is not None else None

    async def top(self, task_id: TaskId, options: str = "") -> ProcessTable:
        return await self._inside.top(task_id, options)

    def copy_out(self, task_id: TaskId, path: str) -> AsyncGenerator[bytes]:
        return self._inside.copy_out(task_id, path)

    async def copy_in(self, task_id: TaskId, path: str, archive: AsyncIterator[bytes]) -> None:
        await self._inside.copy_in(task_id, path, archive)

    # --- small things

    async def _know_container(self, task: EngineTask) -> bool:
        """Whether it has one. Of a former life it may not be known yet which: the engine has to say it."""
        if not task.container and task.started is not None:
            await self._identity.require()
            with suppress(TaskRejected):
                await self._ends.container_of(task)
        return bool(task.container)

    def _count(self) -> int:
        """Tasks that the engine has something of."""
        return sum(task.is_created for task in self._tasks.values())

    def _folder(self, task_id: TaskId) -> Path:
        return self._tasks_dir / task_id

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


def _unmade(launch: Launch) -> Record:
    return Record(task_id=launch.task_id, name=launch.name, container="", image=launch.image.reference)


def _found(task: EngineTask) -> Found:
    started, ended = task.started, task.end
    return Found(
        task_id=task.record.task_id,
        pid=started.pid if started is not None and ended is None else 0,
        started_at=started.at if started is not None else Timestamp(0),
        exit=ended.exit if ended is not None else None,
    )


def _raise_unstarted(ended: Ended) -> None:
    """Each start order of a task that cannot run gets the same answer."""
    if ended.kind == "failed":
        raise TaskFailed(f"{START_FAILED}: {ended.exit.message}", exit_code=ended.exit.code)


def _can_be_ended_by(task: EngineTask, signal: int) -> bool:
    """As for native tasks: a process 1 is shielded from what it does not catch."""
    pid = task.started.pid if task.started is not None else 0
    return process.can_be_ended_by(StartRecord(pid=pid, pid_start=0, shim=0, at=0), signal)
