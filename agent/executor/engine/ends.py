"""``Ends``: what became of tasks that run, asked of the engine, kept on disk, and told once per life.

An event or a comparison of everything only says at which task to look; the container's inspection says what
became of it. Trouble on the way is waited out, and a task is never taken for ended because nobody answers.
"""

from __future__ import annotations

import asyncio
import signal as signals
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from msgspec.structs import replace

from agent.executor.base import ExitEvent, NotRunning
from agent.executor.engine import records
from agent.executor.engine.containers import Containers, Listed
from agent.executor.engine.firsts import FirstProcesses
from agent.executor.engine.identity import Identity, OtherEngine
from agent.executor.engine.limits import ENGINE_CONMON_GRACE_S, ENGINE_CONMON_POLL_S, ENGINE_END_POLL_S
from agent.executor.engine.oom import OomWatches
from agent.executor.engine.states import NOT_TOLD, RUNNING, ContainerState, lost, state_of
from agent.executor.engine.task import KIND_PAUSE, KIND_TASK, Ended, EngineTask
from agent.executor.native import process
from swarmpy.errors import NotFound, SwarmError, TaskRejected, Unavailable
from swarmpy.limits import RETRY_DELAY_MAX_S, RETRY_DELAY_MIN_S
from swarmpy.model.ids import TaskId
from swarmpy.runtime import Clock

log = structlog.get_logger(__name__)

Run = Callable[[Callable[[], Any]], Awaitable[Any]]


class Ends:
    """``tasks`` is the executor's, which adds and removes."""

    def __init__(
        self,
        tasks: dict[TaskId, EngineTask],
        containers: Containers,
        *,
        identity: Identity,
        tasks_dir: Path,
        run: Run,
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._containers = containers
        self._identity = identity
        self._tasks_dir = tasks_dir
        self._run = run
        self._clock = clock
        self._ended: deque[ExitEvent] = deque()
        self._has_ended = asyncio.Event()
        self.oom = OomWatches(run)
        self._firsts = FirstProcesses(run, self._look_late)
        self._looks: dict[TaskId, asyncio.Task[None]] = {}
        self._is_swept = False
        """Whether containers without a record were removed, and nobody has left any since."""

    async def close(self) -> None:
        """What is not known yet is found by the next life."""
        looks = list(self._looks.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        self.oom.close()
        self._firsts.close()

    async def events(self) -> AsyncIterator[ExitEvent]:
        while True:
            while self._ended:
                yield self._ended.popleft()
            self._has_ended.clear()
            await self._has_ended.wait()

    def tell(self, task: EngineTask, ended: Ended) -> None:
        task.end = ended
        task.ended.set()
        self._ended.append(ExitEvent(task_id=task.record.task_id, exit=ended.exit))
        self._has_ended.set()

    async def end(self, task: EngineTask, ended: Ended) -> None:
        """Kept first, then told."""
        self.oom.forget(task)
        self._firsts.forget(task)
        if task.is_out_of_memory and not ended.exit.is_oom_killed:
            ended = replace(ended, exit=replace(ended.exit, is_oom_killed=True))
        folder = self._tasks_dir / task.record.task_id
        if task.end is None and folder.exists():
            try:
                await self._run(partial(records.write_ended, folder, ended))
            except Unavailable as error:  # its container says it again, for as long as it is there
                log.warning("task_end_not_kept", task_id=task.record.task_id, reason=str(error))
        if task.end is None:
            self.tell(task, ended)

    async def begun(self, task: EngineTask, state: ContainerState) -> None:
        """The engine says that it has run."""
        assert state.started is not None
        folder = self._tasks_dir / task.record.task_id
        await self._run(partial(records.write_started, folder, state.started))
        task.started = state.started
        if state.ended is not None:
            await self.end(task, state.ended)
        else:
            await self._watch(task)

    async def _watch(self, task: EngineTask) -> None:
        await self.oom.watch(task)
        if self._containers.flavour == "podman":
            await self._firsts.hold(task)

    async def container_of(self, task: EngineTask) -> str:
        """Its id, asked of the engine if it is not known yet."""
        if not task.container:
            for one in await self._containers.find(task.record.task_id):
                _take_id(task, one)
        if not task.container:
            await self._identity.confirm()
            raise TaskRejected(f"task {task.record.task_id} has no container any more")
        return task.container

    async def wait(self, task: EngineTask, timeout_s: float) -> bool:
        """Whether it has ended by then. Looks for itself now and then: the event may be late."""
        deadline = self._clock.monotonic() + timeout_s
        while not task.ended.is_set():
            left = deadline - self._clock.monotonic()
            if left <= 0:
                return False
            if not await process.wait_set(task.ended, min(left, ENGINE_END_POLL_S)):
                self.look_at(task)
        return True

    # --- looking

    def heard(self, container: str) -> None:
        for task in self._tasks.values():
            if task.container == container and task.is_running:
                self.look_at(task)

    def look_at(self, task: EngineTask) -> None:
        """Have it seen whether the task has ended; one look at a time."""
        task_id = task.record.task_id
        if task_id not in self._looks:
            look = asyncio.get_running_loop().create_task(self._look(task))
            self._looks[task_id] = look
            look.add_done_callback(lambda _: self._looks.pop(task_id, None))

    def _look_late(self, task: EngineTask) -> None:
        """Its process has ended, and its monitor should have said so by now."""
        if task.is_running:
            self.look_at(task)

    async def _look(self, task: EngineTask) -> None:
        delay = RETRY_DELAY_MIN_S
        while True:
            try:
                return await self._settle(task)
            except (SwarmError, OSError) as error:
                log.warning("task_end_delayed", task_id=task.record.task_id, error=str(error))
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_DELAY_MAX_S)

    async def _settle(self, task: EngineTask) -> None:
        try:
            container = await self.container_of(task)
            state = state_of(await self._containers.inspect(container))
            if await self._has_nobody(container, state):
                state = await self._wait_told(container, state)
            # podman forgets after a reboot that a container has run
            has_run = state.started is not None
            ended = state.ended if has_run else lost("it was not running any more", self._clock.now())
        except (NotFound, TaskRejected):
            await self._identity.confirm()
            ended = lost(f"its container was removed from {self._containers.flavour}", self._clock.now())
        if ended is not None:
            await self.end(task, self._told(task, ended))

    async def _wait_told(self, container: str, state: ContainerState) -> ContainerState:
        """For its monitor to tell Podman, should there be one."""
        deadline = self._clock.monotonic() + ENGINE_CONMON_GRACE_S
        while state.is_running:
            if self._clock.monotonic() >= deadline:
                return ContainerState(state.started, lost(NOT_TOLD, self._clock.now()))
            await asyncio.sleep(ENGINE_CONMON_POLL_S)
            state = state_of(await self._containers.inspect(container))
        return state

    def _told(self, task: EngineTask, ended: Ended) -> Ended:
        """The kernel may know what Podman does not."""
        code = self._firsts.code_of(task) if ended.exit.message == NOT_TOLD else None
        return ended if code is None else replace(ended, exit=replace(ended.exit, code=code, message=""))

    async def _has_nobody(self, container: str, state: ContainerState) -> bool:
        """Whether what is said to run has ended: Podman says so until conmon tells it otherwise, for ever if
        that was killed. Its runtime knows better, and is asked by a signal that changes nothing."""
        if (
            self._containers.flavour != "podman"
            or state.ended
            or not await self._run(partial(_is_gone, state))
        ):
            return False
        try:
            await self._containers.kill(container, signals.SIGCONT)
        except NotRunning:
            return True
        return False

    async def reconcile(self) -> None:
        """Compare the engine's containers with what is known: adopt, look at what has stopped, sweep."""
        await self._identity.require()
        running: set[TaskId] = set()
        rubbish: list[Listed] = []
        for one in await self._containers.find():
            task = self._tasks.get(one.task_id)
            if task is None:
                rubbish.append(one)
                continue
            _take_id(task, one)
            if one.kind == KIND_TASK and one.state in RUNNING:
                running.add(one.task_id)
        is_whole = True
        for task_id, task in list(self._tasks.items()):
            try:
                await self._compare(task, has_processes=task_id in running)
            except OtherEngine:
                raise
            except (SwarmError, OSError) as error:  # one that is stuck must not hide the others
                log.warning("task_not_compared", task_id=task_id, reason=str(error))
                is_whole = False
                if task.is_running:
                    self.look_at(task)
        if not self._is_swept:
            self._is_swept = await self._sweep(rubbish) and is_whole

    async def _compare(self, task: EngineTask, *, has_processes: bool) -> None:
        if task.record.task_id in self._looks:
            return  # it is being looked at
        if task.started is None and task.container and not self._is_swept and not task.lock.locked():
            await self._adopt(task)
        elif task.is_running and not has_processes:
            await self._settle(task)
        elif task.is_running:
            await self._watch(task)
            if self._containers.flavour == "podman" and await self._run(
                partial(_is_gone, ContainerState(task.started, None))
            ):
                self.look_at(task)

    async def _adopt(self, task: EngineTask) -> None:
        """Of a former life that ended between a start and its record."""
        try:
            state = state_of(await self._containers.inspect(task.container))
        except NotFound:
            return
        if state.started is not None:
            await self.begun(task, state)

    def sweep_again(self) -> None:
        self._is_swept = False

    async def _sweep(self, rubbish: list[Listed]) -> bool:
        """Whether all has gone. Not each time: what has no task here may just be coming or going."""
        is_clean = True
        for one in sorted(rubbish, key=lambda one: one.kind == KIND_PAUSE):
            if one.task_id in self._tasks:
                continue  # it has been made meanwhile
            try:
                await self._containers.remove(one.id)
            except SwarmError as error:
                log.warning("rubbish_not_removed", container=one.id, reason=str(error))
                is_clean = False
        return is_clean


def _is_gone(state: ContainerState) -> bool:
    """Whether its first process is not to be seen, which it may not be for other reasons, too; or waits for
    who does not come to hear of its end."""
    pid = state.started.pid if state.started is not None else 0
    return pid > 0 and process.is_zombie(pid)


def _take_id(task: EngineTask, one: Listed) -> None:
    if one.kind == KIND_TASK:
        task.container = one.id
    elif one.kind == KIND_PAUSE:
        task.pause = one.id
