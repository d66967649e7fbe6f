"""An executor without processes, for simulation and tests.

``FakeMachine`` holds the pretended processes and outlives the agent, as real ones do; ``FakeExecutor`` is one
daemon's view of it. Behaviour is scripted: ``script(verb, task_id)`` is asked before each call and returns a
delay in seconds or raises; ``plan(launch)`` says what a task does once it runs, ``answer(task_id, command)``
what a command in it does, ``load(task_id)`` how many CPUs it uses. The clock is the event loop's, so in
simulation a delay is virtual. It passes the same contract suites as the real executors.
"""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextvars import Context
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from agent.executor import fake_files
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
    Output,
    ProcessTable,
    Stats,
)
from agent.executor.fake_exec import KILLED, FakeAttached, FakeChannel, Reply, works
from swarmpy.errors import TaskRejected, Unimplemented
from swarmpy.model.containers import ContainerFacts
from swarmpy.model.ids import SECOND_NS, TaskId, Timestamp
from swarmpy.model.objects import NodeVolume
from swarmpy.model.states import MountType
from swarmpy.model.volumes import VOLUME_LIST, VolumeAnswer
from swarmpy.runtime import Clock, SystemClock


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What a started task does. ``run_s`` None: it runs until it is stopped."""

    run_s: float | None = None
    exit_code: int = 0
    stop_s: float | None = 0.0
    """Time from the stop signal to the end; None: it ignores the signal and has to be killed."""
    output: tuple[bytes, ...] = ()
    fails_to_start: str = ""


def no_trouble(verb: str, subject: str) -> float:
    """The script in which everything works at once."""
    return 0.0


def idle(task_id: TaskId) -> float:
    """The load of a task that only waits."""
    return 0.0


def runs_on(launch: Launch) -> Behaviour:
    """The plan in which every task runs until it is stopped."""
    return Behaviour()


@dataclass
class FakeTask:
    """One pretended container."""

    launch: Launch
    behaviour: Behaviour
    pid: int = 0
    reloads: list[int] = field(default_factory=list)
    """The signals that told it of newer files."""
    started_at: Timestamp | None = None
    cpu_s: float = 0.0
    read_s: float = 0.0
    """CPU time up to the last reading, and when that was, by the clock that nobody sets."""
    exit: Exit | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    channels: dict[FakeChannel, None] = field(default_factory=dict)
    """Of commands in it that have not ended, and of who is attached to it."""
    files: fake_files.Files = field(default_factory=lambda: {"/etc/hostname": b"fake\n"})


class FakeMachine:
    """The machine's part. ``starts`` counts each task's real starts; ``on_start`` hears of each."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        plan: Callable[[Launch], Behaviour] = runs_on,
        script: Callable[[str, str], float] = no_trouble,
        on_start: Callable[[TaskId], None] = lambda task_id: None,
    ) -> None:
        self.on_start = on_start
        self.answer: Callable[[TaskId, Command], Reply] = works
        self.load: Callable[[TaskId], float] = idle
        self.clock = clock if clock is not None else SystemClock()
        self.plan = plan
        self.script = script
        self.missing_images: set[str] = set()
        self.volumes: dict[str, NodeVolume] = {}
        self.tasks: dict[TaskId, FakeTask] = {}
        self.logs: dict[TaskId, list[LogLine]] = {}
        self.starts: dict[TaskId, int] = {}
        self.watchers: dict[asyncio.Queue[ExitEvent], None] = {}
        self.grown = asyncio.Event()
        self._pids = 1000

    def start(self, task: FakeTask) -> None:
        task_id = task.launch.task_id
        self._pids += 1
        task.pid = self._pids
        task.started_at = self.clock.now()
        task.read_s = self.clock.monotonic()
        self.starts[task_id] = self.starts.get(task_id, 0) + 1
        self.on_start(task_id)
        for line in task.behaviour.output:
            self.write_log(task_id, line)
        if task.behaviour.run_s is not None:
            self._end_later(task, task.behaviour.run_s, task.behaviour.exit_code)

    def end(self, task_id: TaskId, code: int, *, message: str = "") -> None:
        """End a running task, as its process would by itself."""
        task = self.tasks.get(task_id)
        if task is None or not task.pid or task.exit is not None:
            return
        task.exit = Exit(code=code, at=self.clock.now(), message=message)
        task.ended.set()
        for channel in task.channels:
            channel.end(code if isinstance(channel, FakeAttached) else KILLED)
        task.channels.clear()
        self._notify()
        for queue in self.watchers:
            queue.put_nowait(ExitEvent(task_id=task_id, exit=task.exit))

    def cpu_ns(self, task: FakeTask) -> int:
        """CPU time of a running task. Since the last reading it used as much as it does now."""
        now = self.clock.monotonic()
        task.cpu_s += self.load(task.launch.task_id) * max(now - task.read_s, 0.0)
        task.read_s = now
        return round(task.cpu_s * SECOND_NS)

    def signal(self, task: FakeTask, number: int) -> None:
        if not task.pid or task.exit is not None:
            return
        if number == signals.SIGKILL:
            self.end(task.launch.task_id, 128 + number)
        elif number in {signals.SIGTERM, signals.SIGINT} and task.behaviour.stop_s is not None:
            self._end_later(task, task.behaviour.stop_s, 128 + number)

    def write_log(self, task_id: TaskId, data: bytes, *, stream: int = 1) -> None:
        line = LogLine(timestamp=self.clock.now(), stream=stream, data=data)
        self.logs.setdefault(task_id, []).append(line)
        task = self.tasks.get(task_id)
        for channel in task.channels if task is not None else ():
            if isinstance(channel, FakeAttached):
                channel.tell(Output(stream, data))
        self._notify()

    def _end_later(self, task: FakeTask, delay_s: float, code: int) -> None:
        if delay_s <= 0:
            self.end(task.launch.task_id, code)
            return

        def end_this_one() -> None:
            if self.tasks.get(task.launch.task_id) is task:
                self.end(task.launch.task_id, code)

        # in nobody's name: what a machine runs ends also while its daemon is down
        asyncio.get_running_loop().call_later(delay_s, end_this_one, context=Context())

    def _notify(self) -> None:
        self.grown.set()
        self.grown = asyncio.Event()


class FakeExecutor:
    """One daemon's view of the machine."""

    name = "fake"

    def __init__(self, machine: FakeMachine | None = None) -> None:
        self.machine = machine if machine is not None else FakeMachine()
        self._exits: asyncio.Queue[ExitEvent] = asyncio.Queue()

    async def start_up(self) -> None:
        self.machine.watchers[self._exits] = None
        for task_id, task in sorted(self.machine.tasks.items()):
            if task.exit is not None:
                self._exits.put_nowait(ExitEvent(task_id=task_id, exit=task.exit))

    async def shut_down(self) -> None:
        self.machine.watchers.pop(self._exits, None)

    async def probe(self) -> Capabilities:
        return Capabilities(name=self.name, is_usable=True)

    async def ensure_image(self, reference: str, *, registry_auth: str = "") -> ImageConfig:
        await self._pause("ensure_image", reference)
        if reference in self.machine.missing_images:
            raise TaskRejected(f"No such image: {reference}")
        return ImageConfig(reference=reference)

    async def create(self, launch: Launch) -> None:
        await self._pause("create", launch.task_id)
        if launch.task_id not in self.machine.tasks:
            task = FakeTask(launch=launch, behaviour=self.machine.plan(launch))
            self.machine.tasks[launch.task_id] = task
            self.machine.logs.setdefault(launch.task_id, [])
        elif not self.machine.tasks[launch.task_id].pid:
            self.machine.tasks[launch.task_id].launch = launch
        for mount in launch.spec.mounts:
            if mount.type is MountType.VOLUME and mount.source:
                made = NodeVolume(name=mount.source, driver="local", created_at=self.machine.clock.now())
                self.machine.volumes.setdefault(mount.source, made)

    async def start(self, task_id: TaskId) -> Found:
        await self._pause("start", task_id)
        task = self.machine.tasks.get(task_id)
        if task is None:
            raise TaskRejected(f"task {task_id} was not created on this node")
        if not task.pid:
            if task.behaviour.fails_to_start:
                raise TaskRejected(task.behaviour.fails_to_start)
            self.machine.start(task)
        return _found(task)

    def reported_volumes(self) -> tuple[NodeVolume, ...]:
        return tuple(volume for _, volume in sorted(self.machine.volumes.items()))

    async def volume_call(self, name: str, body: bytes) -> bytes:
        if name == VOLUME_LIST:
            return msgspec.json.encode(VolumeAnswer(volumes=self.reported_volumes()))
        raise Unimplemented(f"a simulated node has no call {name}")

    async def signal(self, task_id: TaskId, signal: int) -> None:
        await self._pause("signal", task_id)
        if (task := self.machine.tasks.get(task_id)) is not None:
            self.machine.signal(task, signal)

    async def reload(self, task_id: TaskId, files: tuple[LaunchFile, ...]) -> None:
        await self._pause("reload", task_id)
        task = self.machine.tasks.get(task_id)
        if task is None or not task.pid or task.exit is not None:
            return
        former = {each.target: each.data for each in task.launch.files}
        changed = [each for each in files if former.get(each.target) != each.data]
        task.launch = replace(task.launch, files=files)
        for number in sorted({each.reload_signal for each in changed if each.reload_signal}):
            task.reloads.append(number)

    async def stop(self, task_id: TaskId, *, signal: int, grace_s: float) -> Exit | None:
        await self._pause("stop", task_id)
        task = self.machine.tasks.get(task_id)
        if task is None or not task.pid:
            return None
        self.machine.signal(task, signal)
        try:
            async with asyncio.timeout(grace_s):
                await task.ended.wait()
        except TimeoutError:
            self.machine.end(task_id, 128 + signals.SIGKILL)
        return task.exit

    async def remove(self, task_id: TaskId, *, keep_log: bool = False) -> None:
        await self._pause("remove", task_id)
        self.machine.end(task_id, 128 + signals.SIGKILL)
        self.machine.tasks.pop(task_id, None)
        if not keep_log:
            self.machine.logs.pop(task_id, None)

    async def events(self) -> AsyncIterator[ExitEvent]:
        while True:
            yield await self._exits.get()

    async def list(self) -> tuple[Found, ...]:
        return tuple(_found(task) for _, task in sorted(self.machine.tasks.items()))

    async def logs(self, task_id: TaskId, query: LogQuery) -> AsyncIterator[LogLine]:
        position = 0
        is_first = True
        while True:
            grown = self.machine.grown
            everything = self.machine.logs.get(task_id, [])
            lines = [line for line in everything[position:] if _is_wanted(line, query)]
            position = len(everything)
            if is_first and query.tail >= 0:
                lines = lines[len(lines) - query.tail :] if query.tail < len(lines) else lines
            is_first = False
            for line in lines:
                yield line
            if not query.is_following or not self._may_grow(task_id):
                return
            await grown.wait()

    def _may_grow(self, task_id: TaskId) -> bool:
        task = self.machine.tasks.get(task_id)
        return task is not None and task.exit is None

    async def stats(self, task_id: TaskId, *, is_full: bool = False) -> Stats:
        task = self.machine.tasks.get(task_id)
        if task is None or not task.pid or task.exit is not None:
            return Stats()
        return Stats(cpu_ns=self.machine.cpu_ns(task), memory_bytes=1 << 20, pids=1)

    async def exec(self, task_id: TaskId, command: Command) -> Channel:
        await self._pause("exec", task_id)
        task = self._running(task_id)
        reply = self.machine.answer(task_id, command)
        if reply.refusal:
            raise TaskRejected(reply.refusal)
        return _opened(task, FakeChannel(reply, is_detached=command.is_detached))

    async def attach(self, task_id: TaskId, wish: Attachment = FROM_NOW_ON) -> Channel:
        await self._pause("attach", task_id)
        task = self.machine.tasks.get(task_id)
        ended = task.exit if task is not None else None
        if task is None or ended is None or not wish.replays:
            task = self._running(task_id)
        channel = FakeAttached(is_fed=task.launch.spec.open_stdin)
        for line in self.machine.logs.get(task_id, ()) if wish.replays else ():
            channel.tell(Output(line.stream, line.data))
        if ended is not None:
            channel.end(ended.code)
        return _opened(task, channel)

    async def look(self, task_id: TaskId, *, has_sizes: bool = False) -> ContainerFacts | None:
        task = self.machine.tasks.get(task_id)
        if task is None:
            return None
        ended, size = task.exit, 0 if has_sizes else -1
        return ContainerFacts(
            task_id=task_id,
            argv=(*task.launch.spec.command, *task.launch.spec.args),
            hostname=task.launch.hostname,
            pid=_found(task).pid,
            started_at=task.started_at or Timestamp(0),
            ended_at=ended.at if ended is not None else Timestamp(0),
            exit_code=ended.code if ended is not None else 0,
            size_rw=size,
            size_root=size,
        )

    async def top(self, task_id: TaskId, options: str = "") -> ProcessTable:
        await self._pause("top", task_id)
        task = self._running(task_id)
        argv = " ".join((*task.launch.spec.command, *task.launch.spec.args))
        return ProcessTable(titles=("PID", "CMD"), rows=((str(task.pid), argv),))

    async def copy_out(self, task_id: TaskId, path: str) -> AsyncGenerator[bytes]:
        await self._pause("copy_out", task_id)
        for chunk in fake_files.chunks(fake_files.pack(self._running(task_id).files, path)):
            yield chunk

    async def copy_in(self, task_id: TaskId, path: str, archive: AsyncIterator[bytes]) -> None:
        await self._pause("copy_in", task_id)
        await fake_files.unpack(self._running(task_id).files, path, archive)

    def _running(self, task_id: TaskId) -> FakeTask:
        task = self.machine.tasks.get(task_id)
        if task is None or not task.pid or task.exit is not None:
            raise NotRunning(f"Container {task_id} is not running")
        return task

    async def _pause(self, verb: str, subject: str) -> None:
        await asyncio.sleep(self.machine.script(verb, subject))


def _opened(task: FakeTask, channel: FakeChannel) -> FakeChannel:
    task.channels = {each: None for each in (*task.channels, channel) if not each.has_ended}
    return channel


def _found(task: FakeTask) -> Found:
    pid = task.pid if task.exit is None else 0
    return Found(
        task_id=task.launch.task_id, pid=pid, started_at=task.started_at or Timestamp(0), exit=task.exit
    )


def _is_wanted(line: LogLine, query: LogQuery) -> bool:
    if line.timestamp < query.since or (query.until and line.timestamp > query.until):
        return False
    return query.stdout if line.stream == 1 else query.stderr
