"""What every executor must do. One suite in parts; an executor's own test module subclasses each class:

* here ``ExecutorContract``, in ``exec_suite`` ``ExecContract``, in ``inside_suite`` ``InsideContract``: every
  executor, also the one without processes, which knows the scripts by their text;
* those with processes also take ``life_suite``'s ``LifeContract`` and ``AdoptionContract``,
  ``log_suite.LogContract``, ``exec_suite.ProcessExecContract``, ``container_suite.ContainerContract``, and
  ``trouble_suite``'s ``TroubleContract`` and ``FullDiskContract``.

A module gives these fixtures, as functions of the module:

* ``executor(data_dir, ...)``: a started executor with no tasks, whose node keeps its data in ``data_dir``
  (a fixture of the suite's classes: ask for it, don't define it; it exists); taken down afterwards with all
  that it made. A real engine is a fixture of scope "module" below it, with the images loaded once;
* ``reopen``: ``await reopen()`` shuts the present executor down and returns a new, started one over the same
  state, as a restart of the daemon does (``await reopen(is_clean=False)``: without shutting down; the former
  one is let go at the end). ``await reopen(meanwhile=call)``: ``await call()`` after the one is down and
  before the other is made;
* ``sandbox``: ``await sandbox(task_id)`` returns the network namespace to run a task in;
* ``image(executor)``: the image to run. ``suite_image.IMAGE`` out of ``suite_image.write_archive(path)``,
  which the fixture has loaded into the executor's store (all three images of it); or ``host``, for the first
  three classes alone;
* ``left``: ``await left()`` names what there is still of tasks outside of ``data_dir``: containers of the
  engine, control groups, namespaces. Empty when no task is there.

See ``tests/contract/test_native_executor_contract.py``.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from msgspec.structs import replace

from agent.executor.base import Executor, Exit, Found, Launch, LaunchFile, LogLine, LogQuery, Sandbox
from swarmpy.errors import TaskFailed, TaskRejected
from swarmpy.model.ids import ID_BYTES, TaskId, Timestamp, make_id
from swarmpy.model.specs import ContainerSpec

DEADLINE_S = 20.0

RUN_ON = "trap 'exit 0' TERM; sleep 3600 & wait"
IGNORE_TERM = "trap '' TERM; sleep 3600 & wait"
EXIT_0 = "exit 0"
EXIT_3 = "exit 3"
SPEAK = "echo one; echo two; echo three; exit 0"
SPEAK_AND_RUN = "trap 'exit 0' TERM; echo one; sleep 3600 & wait"

MakeSandbox = Callable[[TaskId], Awaitable[Sandbox]]


async def nothing() -> None:
    """What happens while no daemon runs."""


class Reopen(Protocol):
    def __call__(
        self, *, is_clean: bool = True, meanwhile: Callable[[], Awaitable[None]] = nothing
    ) -> Awaitable[Executor]: ...


def task_id(number: int) -> TaskId:
    return TaskId(make_id(number.to_bytes(ID_BYTES)))


class Tasks:
    """Makes tasks on the executor of a test, each of its own number."""

    def __init__(self, executor: Executor, sandbox: MakeSandbox, image: str) -> None:
        self.executor = executor
        """The present one: a test that reopens sets it."""
        self._sandbox = sandbox
        self._image = image

    async def launch(self, number: int, script: str = "", *, image: str = "", **spec: Any) -> Launch:
        """``script``, if any, by the image's shell; with these fields of the specification."""
        id_ = task_id(number)
        name = image or self._image
        command = {"command": ("/bin/sh", "-c", script)} if script else {}
        return Launch(
            task_id=id_,
            name=f"web.{number}.{id_}",
            spec=replace(ContainerSpec(image=name), **(command | spec)),
            image=await self.executor.ensure_image(name),
            sandbox=await self._sandbox(id_),
            hostname=id_[-12:],
        )

    async def begin(self, launch: Launch) -> TaskId:
        """Create and start."""
        await self.executor.create(launch)
        await self.executor.start(launch.task_id)
        return launch.task_id

    async def run(self, number: int, script: str, **spec: Any) -> TaskId:
        return await self.begin(await self.launch(number, script, **spec))


async def wait_exit(executor: Executor, id_: TaskId) -> Exit:
    """The end of the task, as the executor's events tell it."""
    async with asyncio.timeout(DEADLINE_S):
        async for ended in executor.events():
            if ended.task_id == id_:
                return ended.exit
    raise AssertionError("the executor's events ended")


async def found(executor: Executor, id_: TaskId) -> Found | None:
    for item in await executor.list():
        if item.task_id == id_:
            return item
    return None


async def read_log(executor: Executor, id_: TaskId, query: LogQuery | None = None) -> list[LogLine]:
    lines: list[LogLine] = []
    async with asyncio.timeout(DEADLINE_S):
        async for line in executor.logs(id_, query or LogQuery()):
            lines.append(line)  # noqa: PERF401 - inside the timeout
    return lines


async def wait_log(executor: Executor, id_: TaskId, count: int) -> list[LogLine]:
    async with asyncio.timeout(DEADLINE_S):
        while len(lines := await read_log(executor, id_)) < count:
            await asyncio.sleep(0.01)
    return lines


class Suite:
    """What the parts of the suite have in common."""

    @pytest.fixture
    def data_dir(self, tmp_path: Path) -> Path:
        folder = tmp_path / "node"
        folder.mkdir()
        return folder

    @pytest.fixture
    def tasks(self, executor: Executor, sandbox: MakeSandbox, image: str) -> Tasks:
        return Tasks(executor, sandbox, image)


class ExecutorContract(Suite):
    """The suite."""

    async def test_starts_with_nothing(self, executor: Executor) -> None:
        assert (await executor.probe()).is_usable
        assert await executor.list() == ()

    async def test_a_missing_image_rejects(self, executor: Executor) -> None:
        with pytest.raises(TaskRejected):
            await executor.ensure_image("no-such-image:1")

    async def test_newer_files_of_a_running_task(self, executor: Executor, tasks: Tasks) -> None:
        launch = await tasks.launch(1, RUN_ON)
        file = LaunchFile(target="/run/secrets/key", data=b"old", reload_signal=signal.SIGUSR2)
        await executor.create(replace(launch, files=(file,)))
        await executor.create(replace(launch, files=(replace(file, data=b"older"),)))  # made anew
        await executor.reload(launch.task_id, (file,))  # not started: fine
        await executor.start(launch.task_id)
        await executor.reload(launch.task_id, (replace(file, data=b"new"),))
        assert (await found(executor, launch.task_id) or Found(task_id=launch.task_id)).exit is None
        await executor.stop(launch.task_id, signal=signal.SIGTERM, grace_s=5)
        for id_ in (launch.task_id, task_id(9)):
            await executor.reload(id_, (file,))

    async def test_a_created_task_does_not_run(self, executor: Executor, tasks: Tasks) -> None:
        launch = await tasks.launch(1, RUN_ON)
        await executor.create(launch)
        await executor.create(launch)  # again, as after a crash
        item = await found(executor, launch.task_id)
        assert item is not None
        assert item.pid == 0
        assert item.exit is None

    async def test_start_gives_a_pid_and_starts_once(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        first = await found(executor, id_)
        assert first is not None
        assert first.pid > 0
        assert first.started_at > 0
        again = await executor.start(id_)
        assert again.pid == first.pid

    async def test_start_of_an_unknown_task(self, executor: Executor) -> None:
        with pytest.raises((TaskRejected, TaskFailed)):
            await executor.start(task_id(99))

    @pytest.mark.parametrize(("script", "code"), [(EXIT_0, 0), (EXIT_3, 3)])
    async def test_an_end_is_an_event(self, executor: Executor, tasks: Tasks, script: str, code: int) -> None:
        id_ = await tasks.run(1, script)
        assert (await wait_exit(executor, id_)).code == code
        item = await found(executor, id_)
        assert item is not None
        assert item.exit is not None
        assert item.exit.code == code
        again = await executor.start(id_)  # an ended task is not run again
        assert again.exit is not None
        assert again.exit.code == code

    async def test_stop_asks_first(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, SPEAK_AND_RUN)
        await wait_log(executor, id_, 1)
        exit = await executor.stop(id_, signal=signal.SIGTERM, grace_s=DEADLINE_S)
        assert exit is not None
        assert exit.code in {0, 128 + signal.SIGTERM}
        assert await executor.stop(id_, signal=signal.SIGTERM, grace_s=DEADLINE_S) == exit

    async def test_stop_kills_after_the_grace(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, IGNORE_TERM)
        exit = await executor.stop(id_, signal=signal.SIGTERM, grace_s=0.3)
        assert exit is not None
        assert exit.code == 128 + signal.SIGKILL

    async def test_stop_of_what_never_ran(self, executor: Executor, tasks: Tasks) -> None:
        assert await executor.stop(task_id(99), signal=signal.SIGTERM, grace_s=1.0) is None
        launch = await tasks.launch(1, RUN_ON)
        await executor.create(launch)
        assert await executor.stop(launch.task_id, signal=signal.SIGTERM, grace_s=1.0) is None

    async def test_signal_kills(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        await executor.signal(id_, signal.SIGKILL)
        assert (await wait_exit(executor, id_)).code == 128 + signal.SIGKILL
        await executor.signal(id_, signal.SIGKILL)  # it has ended: fine

    async def test_remove_takes_all_down(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        await executor.remove(id_)
        await executor.remove(id_)
        assert await executor.list() == ()
        assert await read_log(executor, id_) == []

    async def test_the_log_outlives_the_task(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, SPEAK)
        await wait_exit(executor, id_)
        await executor.remove(id_, keep_log=True)
        assert await executor.list() == ()
        lines = await read_log(executor, id_)
        assert [line.data for line in lines] == [b"one\n", b"two\n", b"three\n"]
        assert [line.stream for line in lines] == [1, 1, 1]
        await executor.remove(id_)
        assert await read_log(executor, id_) == []

    async def test_log_tail_and_since(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, SPEAK)
        await wait_exit(executor, id_)
        lines = await wait_log(executor, id_, 3)
        assert [line.data for line in await read_log(executor, id_, LogQuery(tail=1))] == [b"three\n"]
        assert await read_log(executor, id_, LogQuery(tail=0)) == []
        later = Timestamp(lines[-1].timestamp + 1)
        assert await read_log(executor, id_, LogQuery(since=later)) == []
        assert await read_log(executor, id_, LogQuery(stdout=False)) == []

    async def test_following_ends_with_the_task(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, SPEAK_AND_RUN)
        following = asyncio.create_task(read_log(executor, id_, LogQuery(is_following=True)))
        await wait_log(executor, id_, 1)
        await executor.stop(id_, signal=signal.SIGTERM, grace_s=DEADLINE_S)
        assert [line.data for line in await following][:1] == [b"one\n"]

    async def test_a_task_outlives_the_daemon(self, executor: Executor, tasks: Tasks, reopen: Reopen) -> None:
        id_ = await tasks.run(1, RUN_ON)
        before = await found(executor, id_)
        executor = await reopen()
        assert await found(executor, id_) == before
        exit = await executor.stop(id_, signal=signal.SIGKILL, grace_s=DEADLINE_S)
        assert exit is not None
        assert exit.code == 128 + signal.SIGKILL

    async def test_an_end_between_two_daemons_is_told(
        self, executor: Executor, tasks: Tasks, reopen: Reopen
    ) -> None:
        id_ = await tasks.run(1, EXIT_3)
        await wait_exit(executor, id_)
        executor = await reopen(is_clean=False)
        assert (await wait_exit(executor, id_)).code == 3
        item = await found(executor, id_)
        assert item is not None
        assert item.exit is not None
        assert item.exit.code == 3

    async def test_a_created_task_can_be_started_by_the_next_daemon(
        self, executor: Executor, tasks: Tasks, reopen: Reopen
    ) -> None:
        launch = await tasks.launch(1, EXIT_3)
        await executor.create(launch)
        executor = await reopen(is_clean=False)
        await executor.create(launch)
        await executor.start(launch.task_id)
        assert (await wait_exit(executor, launch.task_id)).code == 3

    async def test_many_at_once(self, executor: Executor, tasks: Tasks) -> None:
        ids = await asyncio.gather(*(tasks.run(n, RUN_ON) for n in range(1, 9)))
        assert {item.task_id for item in await executor.list()} == set(ids)
        await asyncio.gather(*(executor.remove(id_) for id_ in ids))
        assert await executor.list() == ()
