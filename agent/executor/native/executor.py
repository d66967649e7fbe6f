"""``NativeExecutor``: tasks as processes in namespaces, with nothing but the kernel.

What it decides: which call of a task may run when (one at a time per task), and what became of a task
(``folders.read_state``). What it leaves to others: ``job`` what to run, the shim how, ``cgroups`` limits.

A task's truth is its folder; memory only holds what is being watched. So a daemon that starts again finds
every task, running or ended, by reading folders, and watches living shims by pidfd, which needs no
parenthood. Every end is announced once per life of the daemon, those of a former life too.

A task that waits for its start outlives a power failure, which takes its control groups and may tear its
files: creating it again, which the agent does in each of its lives before it starts a task, makes both anew.

Blocking work runs in a small thread pool; the loop itself only sends orders, reads reports and watches.
"""

from __future__ import annotations

import asyncio
import os
import signal as signals
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from msgspec.structs import replace

from agent import volume_calls
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
    ProcessTable,
    Stats,
    log_folder,
)
from agent.executor.images.store import ImageStore
from agent.executor.native import cgroups, folders, launcher, looking, preflight, process, processes, shims
from agent.executor.native.attached import Readers, Watched, of_removed
from agent.executor.native.folders import TaskState
from agent.executor.native.id_ranges import TaskIds
from agent.executor.native.inside import Inside, not_running
from agent.executor.native.job import ExitRecord, StartRecord
from agent.executor.native.log_reader import read_log
from agent.executor.native.making import Maker
from agent.executor.native.task_files import TaskFiles
from agent.executor.native.task_images import Fetch, TaskImages
from agent.trees import make_private
from agent.volumes import Volumes
from swarmpy.errors import SwarmError, TaskRejected, Unavailable
from swarmpy.limits import (
    EXECUTOR_THREADS_MAX,
    RETRY_DELAY_MAX_S,
    RETRY_DELAY_MIN_S,
    TASK_KILL_TIMEOUT_S,
    TASK_STARTS_PARALLEL_MAX,
)
from swarmpy.model.containers import ContainerFacts
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.model.objects import NodeVolume
from swarmpy.runtime import Clock, SystemClock

log = structlog.get_logger(__name__)

T = TypeVar("T")
_SHIM_LOST = "the task's shim was killed, and the task with it"
_KILLED = 128 + signals.SIGKILL


@dataclass(kw_only=True)
class Remembered:
    """What memory holds of one task. ``ended`` is set when the exit is known and announced."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    started: StartRecord | None = None
    exit: ExitRecord | None = None
    watch: int = -1
    """The shim's pidfd while it is watched."""
    is_ending: bool = False


class NativeExecutor:
    """One per node. ``data_dir`` is the node's; tasks, images, volumes and logs lie below it. ``files_dir``:
    where secrets and configs are kept in memory; it must not outlive a boot, so a node's is in /run. ``ids``:
    those of the node that tasks have as theirs."""

    name = "native"
    make_maker: type[Maker] = Maker

    def __init__(
        self,
        data_dir: Path,
        *,
        cgroup_parent: str = "/swarmpy",
        hidden: tuple[Path, ...] = (Path("/run/swarmpy/netns"),),
        files_dir: Path | None = None,
        clock: Clock | None = None,
        fetch: Fetch | None = None,
        ids: TaskIds | None = None,
    ) -> None:
        data_dir = data_dir.absolute()
        self._clock = clock or SystemClock()
        self._tasks_dir = data_dir / "tasks"
        self._logs_dir = log_folder(data_dir)
        self.volumes = Volumes(
            data_dir / "volumes", partial(folders.volume_users, self._tasks_dir), self._clock.now
        )
        self._files = TaskFiles((files_dir or data_dir / "files").absolute())
        self.images = ImageStore(data_dir / "images")
        self._cgroups = cgroups.Cgroups(cgroup_parent)
        self._maker = self.make_maker(
            tasks_dir=self._tasks_dir,
            logs_dir=self._logs_dir,
            images=self.images,
            volumes=self.volumes,
            cgroups=self._cgroups,
            files=self._files,
            hidden=(*hidden, self._files.folder),
            ids=ids,
        )
        self._launcher = launcher.Launcher(data_dir / "shim.log")
        self._pool = ThreadPoolExecutor(EXECUTOR_THREADS_MAX, thread_name_prefix="native")
        self._images = TaskImages(self.images, self._tasks_dir, fetch, self._run)
        self._inside = Inside(self._launcher, self._folder, self._run)
        self._tasks: dict[TaskId, Remembered] = {}
        self._ended: deque[ExitEvent] = deque()
        self._has_ended = asyncio.Event()
        self._starts = asyncio.Semaphore(TASK_STARTS_PARALLEL_MAX)
        self._endings: set[asyncio.Task[None]] = set()
        self._readers = Readers()
        self._is_down = asyncio.Event()

    # --- life

    async def start_up(self) -> None:
        await self._run(self._prepare_node)
        for task_id, state in await self._run(self._scan):
            task = self._tasks.setdefault(task_id, Remembered())
            task.started = state.started
            if state.shim:
                self._watch(task_id, task, state.shim)
            elif state.ended or state.started:
                try:
                    await self._end(task_id, task)
                except (Unavailable, OSError):
                    self._begin_ending(task_id, task)

    async def shut_down(self) -> None:
        self._is_down.set()
        for task in self._tasks.values():
            self._unwatch(task)
        while self._endings:
            await asyncio.gather(*self._endings)
        await self._run(self._launcher.stop)
        self._pool.shutdown(wait=True)

    async def probe(self) -> Capabilities:
        missing = await self._run(partial(preflight.find_missing, self._tasks_dir.parent))
        if not missing:
            await self._run(self._cgroups.prepare)  # it may be asked without having been started
        return Capabilities(
            name=self.name,
            is_usable=not missing,
            cgroup_version=self._cgroups.version,
            missing=(*missing, *self._cgroups.missing()),
        )

    def _prepare_node(self) -> None:
        for folder in (self._tasks_dir, self._logs_dir):
            make_private(folder)
        self.volumes.prepare()
        self._cgroups.prepare()
        self.images.prepare()
        self._launcher.start()

    def _read_state(self, folder: Path) -> TaskState:
        return folders.read_state(folder)

    def _scan(self) -> list[tuple[TaskId, TaskState]]:
        """Every task that was created. Rubbish is removed: half-made folders, groups without a folder."""
        found = []
        for entry in sorted(os.scandir(self._tasks_dir), key=lambda entry: entry.name):
            folder = Path(entry.path)
            if folders.is_created(folder):
                found.append((TaskId(entry.name), self._read_state(folder)))
            else:
                self._kill_leftovers(entry.name)
                folders.remove_tree(folder)
        known = {task_id for task_id, _ in found}
        for task_id in self._cgroups.task_ids() - known:
            self._cgroups.remove(task_id)
        for task_id in self._files.task_ids() - known:
            self._files.remove(task_id)
        return found

    # --- images

    async def ensure_image(self, reference: str, *, registry_auth: str = "") -> ImageConfig:
        return await self._images.ensure(reference, registry_auth)

    async def load_image(self, path: Path, name: str = "") -> list[str]:
        """Load an archive or OCI layout; the references that it brought."""
        return await self._images.load(path, name)

    async def remove_image(self, reference: str) -> None:
        """Refused while a task on this node was created from it."""
        await self._images.remove(reference)

    # --- one task

    async def create(self, launch: Launch) -> None:
        task_id = launch.task_id
        folders.check_task_id(task_id)
        task = self._tasks.setdefault(task_id, Remembered())
        async with task.lock:
            try:
                await self._run(partial(self._maker.create, launch))
            except SwarmError:
                self._forget_unmade(task_id, task)
                raise

    def _forget_unmade(self, task_id: TaskId, task: Remembered) -> None:
        if not folders.is_created(self._folder(task_id)) and self._tasks.get(task_id) is task:
            del self._tasks[task_id]

    async def start(self, task_id: TaskId) -> Found:
        task = self._tasks.get(task_id)
        if task is None:
            raise TaskRejected(f"task {task_id} was not created on this node")
        async with task.lock:
            if task.started is None and task.exit is None:
                await self._start(task_id, task)
            if task.exit is not None:
                process.raise_unstarted(task.exit)
            return self._found(task_id, task)

    async def _start(self, task_id: TaskId, task: Remembered) -> None:
        folder = self._folder(task_id)
        async with self._starts:
            answer = await shims.order_start(self._launcher, folder, run=self._run, clock=self._clock)
        read = partial(self._run, partial(folders.read_state, folder))
        state = await shims.wait_started(read, self._clock) if answer == "taken" else await read()
        task.started = state.started
        if state.ended:
            await self._end(task_id, task)
        elif state.shim:
            self._watch(task_id, task, state.shim)
        elif state.started:
            await self._end(task_id, task)
        else:
            await self._run(partial(self._kill_leftovers, task_id))
            raise Unavailable(f"the shim of task {task_id} ended before it had started the task")

    async def signal(self, task_id: TaskId, signal: int) -> None:
        task = self._tasks.get(task_id)
        if task is not None and task.started is not None and task.exit is None:
            process.send_signal(task.started, signal)

    async def reload(self, task_id: TaskId, files: tuple[LaunchFile, ...]) -> None:
        task = self._tasks.get(task_id)
        if task is None or task.started is None or task.exit is not None:
            return
        send = partial(process.send_signal, task.started)
        async with task.lock:
            await self._run(partial(self._maker.renew, task_id, files, send))

    async def stop(self, task_id: TaskId, *, signal: int, grace_s: float) -> Exit | None:
        task = self._tasks.get(task_id)
        if task is None:
            return None
        if task.exit is None and task.started is not None:
            if grace_s > 0 and process.can_be_ended_by(task.started, signal):
                await self.signal(task_id, signal)
                await process.wait_set(task.ended, grace_s)
            if not task.ended.is_set():
                await self._kill(task_id, task)
        return process.exit_of(task.exit) if task.exit else None

    async def _kill(self, task_id: TaskId, task: Remembered) -> None:
        await self.signal(task_id, signals.SIGKILL)
        if not await process.wait_set(task.ended, TASK_KILL_TIMEOUT_S):
            raise Unavailable(f"task {task_id} does not die: it may be waiting for a device or a file server")

    async def remove(self, task_id: TaskId, *, keep_log: bool = False) -> None:
        task = self._tasks.get(task_id)
        if task is None:
            if folders.is_task_id(task_id):
                if not keep_log:
                    await self._readers.wait_gone(task_id)
                await self._run(partial(self._remove, task_id, keep_log=keep_log))
            return
        async with task.lock:
            if task.started is not None and task.exit is None:
                await self._kill(task_id, task)
            self._unwatch(task)
            if not keep_log:
                await self._readers.wait_gone(task_id)
            await self._run(partial(self._remove, task_id, keep_log=keep_log))
            if self._tasks.get(task_id) is task:
                del self._tasks[task_id]

    def _remove(self, task_id: TaskId, *, keep_log: bool) -> None:
        folder = self._folder(task_id)
        shims.kill(folder, self._clock)
        self._cgroups.remove(task_id)
        self._files.remove(task_id)
        folders.remove(folder)
        if not keep_log:
            folders.remove_tree(self._logs_dir / task_id)

    # --- reading

    async def events(self) -> AsyncIterator[ExitEvent]:
        while True:
            while self._ended:
                yield self._ended.popleft()
            self._has_ended.clear()
            await self._has_ended.wait()

    async def list(self) -> tuple[Found, ...]:
        return tuple(
            self._found(task_id, task)
            for task_id, task in sorted(self._tasks.items())
            if task.started or task.exit or folders.is_created(self._folder(task_id))
        )

    def logs(self, task_id: TaskId, query: LogQuery) -> AsyncIterator[LogLine]:
        def has_ended() -> bool:
            task = self._tasks.get(task_id)
            return task is None or task.exit is not None

        return read_log(self._logs_dir / task_id, query, has_ended=has_ended, run=self._run)

    async def stats(self, task_id: TaskId, *, is_full: bool = False) -> Stats:
        task = self._tasks.get(task_id)
        if task is None or task.started is None or task.exit is not None:
            return Stats()
        stats = await self._run(partial(self._cgroups.stats, task_id))
        if is_full:
            return await self._run(partial(self._cgroups.in_full, stats, task_id, task.started["pid"]))
        received, sent = await self._run(partial(processes.network_bytes, task.started["pid"]))
        return replace(stats, received_bytes=received, sent_bytes=sent)

    # --- inside a task

    def reported_volumes(self) -> tuple[NodeVolume, ...]:
        return self.volumes.snapshot()

    async def volume_call(self, name: str, body: bytes) -> bytes:
        return await self._run(partial(volume_calls.answer, self.volumes, name, body))

    async def exec(self, task_id: TaskId, command: Command) -> Channel:
        return await self._inside.exec(task_id, command)

    async def attach(self, task_id: TaskId, wish: Attachment = FROM_NOW_ON) -> Channel:
        task = self._tasks.get(task_id)
        if task is None:
            return of_removed(self._logs_dir, task_id, wish, readers=self._readers, run=self._run)
        watched = Watched(task_id, lambda: task.exit, task.ended, self._readers)
        return await self._inside.attach(task_id, wish, watched)

    async def look(self, task_id: TaskId, *, has_sizes: bool = False) -> ContainerFacts | None:
        image_of = self.images.config
        return await self._run(partial(looking.look, self._folder(task_id), image_of, has_sizes=has_sizes))

    async def top(self, task_id: TaskId, options: str = "") -> ProcessTable:
        task = self._tasks.get(task_id)
        if task is None or task.started is None or task.exit is not None:
            raise not_running(task_id)
        first, now = task.started["pid"], self._clock.now()
        return await self._run(lambda: processes.table(self._cgroups.pids(task_id), first, now, options))

    def copy_out(self, task_id: TaskId, path: str) -> AsyncGenerator[bytes]:
        return self._inside.copy_out(task_id, path)

    async def copy_in(self, task_id: TaskId, path: str, archive: AsyncIterator[bytes]) -> None:
        await self._inside.copy_in(task_id, path, archive)

    # --- watching

    def _watch(self, task_id: TaskId, task: Remembered, shim: int) -> None:
        """Have the shim's end noticed. A pidfd names the process even if its number is used again."""
        watch = process.open_pidfd(shim)
        if watch is None:
            self._begin_ending(task_id, task)
            return
        task.watch = watch
        if folders.lock_holder(self._folder(task_id)) != shim:
            self._unwatch(task)
            self._begin_ending(task_id, task)
            return
        asyncio.get_running_loop().add_reader(task.watch, self._begin_ending, task_id, task)

    def _unwatch(self, task: Remembered) -> None:
        if task.watch >= 0:
            asyncio.get_running_loop().remove_reader(task.watch)
            os.close(task.watch)
            task.watch = -1

    def _begin_ending(self, task_id: TaskId, task: Remembered) -> None:
        self._unwatch(task)
        if task.is_ending or task.exit is not None:
            return
        task.is_ending = True
        ending = asyncio.get_running_loop().create_task(self._end_surely(task_id, task))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _end_surely(self, task_id: TaskId, task: Remembered) -> None:
        """An end must not get lost: trouble on the way to it (a full disk, a full table of files) is waited
        out, and logged once. Whose end has not been written when we go is found by the daemon's next life."""
        failures = 0
        while True:
            try:
                return await self._end(task_id, task)
            except (Unavailable, OSError) as error:
                if not failures:
                    log.warning("task_end_delayed", task_id=task_id, error=str(error))
                delay_s = min(RETRY_DELAY_MIN_S * 2 ** min(failures, 10), RETRY_DELAY_MAX_S)
                failures += 1
                if await process.wait_set(self._is_down, delay_s):
                    return None

    async def _end(self, task_id: TaskId, task: Remembered) -> None:
        """The shim is gone: learn how the task ended, and announce it."""
        if task.exit is not None:
            return
        started, ended = await self._run(partial(self._settle, task_id))
        task.started = task.started or started
        task.is_ending = False
        if ended is None:
            return  # nothing had been run: the task is as created
        task.exit = ended
        task.ended.set()
        if ended["kind"] != "ended":
            return  # it never ran: the start order's error is the whole story
        self._ended.append(ExitEvent(task_id=task_id, exit=process.exit_of(ended)))
        self._has_ended.set()

    def _settle(self, task_id: TaskId) -> tuple[StartRecord | None, ExitRecord | None]:
        """The final word of a task without a shim. One that was lost gets its exit file here."""
        folder = self._folder(task_id)
        state = self._read_state(folder)
        if state.ended is not None or state.started is None:
            return state.started, state.ended
        self._kill_leftovers(task_id)
        ended = ExitRecord(
            code=_KILLED, is_oom_killed=False, at=self._clock.now(), message=_SHIM_LOST, kind="ended"
        )
        folders.record_exit(folder, ended)
        return state.started, ended

    def _kill_leftovers(self, task_id: str) -> None:
        """Whatever a shim that is gone may have left running; normally it all died with the shim."""
        folder = self._folder(task_id)
        shims.kill(folder, self._clock)
        state = folders.read_state(folder)
        if state.started is not None:
            process.send_signal(state.started, signals.SIGKILL)
        self._cgroups.kill(task_id)

    # --- small things

    def _folder(self, task_id: str) -> Path:
        return self._tasks_dir / task_id

    def _found(self, task_id: TaskId, task: Remembered) -> Found:
        return Found(
            task_id=task_id,
            pid=task.started["pid"] if task.started else 0,
            started_at=Timestamp(task.started["at"] if task.started else 0),
            exit=process.exit_of(task.exit) if task.exit else None,
        )

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
