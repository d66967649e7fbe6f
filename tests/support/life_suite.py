"""How tasks of every executor with processes begin and end, and that they outlive the daemon at any step.

A part of the suite of ``executor_suite``; taken by subclassing ``LifeContract``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar

import pytest
from executor_suite import (
    DEADLINE_S,
    EXIT_0,
    EXIT_3,
    RUN_ON,
    Reopen,
    Suite,
    Tasks,
    found,
    read_log,
    task_id,
    wait_exit,
    wait_log,
)
from msgspec.structs import replace
from native_rig import is_running

from agent.executor.base import Executor, ExitEvent
from swarmpy.errors import TaskFailed
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import Limits

STEPS_S = (0.0, 0.004, 0.015, 0.05, 0.15)
"""After how long a call is broken off, as by the daemon's death: from the first to about the last step."""
SAY_BEGUN = "trap 'exit 0' TERM; echo begun; sleep 3600 & wait"

Left = Callable[[], Awaitable[list[str]]]


async def nothing_left(data_dir: Path, left: Left) -> None:
    """Polled: what ends in the kernel or in an engine may take a moment more."""
    deadline = time.monotonic() + DEADLINE_S
    while remains := _remains(data_dir) + await left():
        assert time.monotonic() < deadline, f"still there: {remains}"
        await asyncio.sleep(0.02)


def _remains(data_dir: Path) -> list[str]:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    below = [line for line in mounts if f" {data_dir}/tasks/" in line]
    folder = data_dir / "tasks"
    return below + ([str(path) for path in folder.iterdir()] if folder.is_dir() else [])


async def broken_off(work: Awaitable[object], after_s: float) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=after_s)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def told_ends(executor: Executor, last: TaskId) -> list[ExitEvent]:
    """All ends that are told, up to that of ``last``."""
    told = []
    async with asyncio.timeout(DEADLINE_S):
        async for ended in executor.events():
            told.append(ended)
            if ended.task_id == last:
                break
    return told


class LifeContract(Suite):
    """The suite. ``crowd``: how many tasks are run at once; an engine takes half a second for each."""

    crowd: ClassVar[int] = 50

    async def test_exit_codes(self, executor: Executor, tasks: Tasks) -> None:
        scripts = {
            1: EXIT_0,
            2: EXIT_3,
            3: "exit 255",
            4: "sh -c 'kill -SEGV $$'; exit $?",
            5: "no-such; exit $?",
        }
        await asyncio.gather(*(tasks.run(number, script) for number, script in scripts.items()))
        wanted = {task_id(number): code for number, code in zip(scripts, (0, 3, 255, 139, 127), strict=True)}
        ended: dict[TaskId, int] = {}
        async with asyncio.timeout(DEADLINE_S):
            async for event in executor.events():
                ended[event.task_id] = event.exit.code
                if len(ended) == len(wanted):
                    break
        assert ended == wanted
        assert all(item.exit is not None and item.exit.at > 0 for item in await executor.list())

    async def test_a_program_that_cannot_be_run(self, executor: Executor, tasks: Tasks, image: str) -> None:
        missing = await tasks.launch(1, command=("no-such-program", "-x"))
        with pytest.raises(TaskFailed, match=r"no-such-program.*executable file not found in") as failed:
            await tasks.begin(missing)
        assert failed.value.exit_code == 127
        with pytest.raises(TaskFailed):  # each start has the same answer
            await executor.start(missing.task_id)
        folder = await tasks.launch(2, command=("/bin/no-program",))
        with pytest.raises(TaskFailed, match="permission denied") as failed:
            await tasks.begin(folder)
        assert failed.value.exit_code == 126
        bare = await tasks.launch(3, "exit 0", image=image.replace("suite:", "suite-bare:"))
        with pytest.raises(
            TaskFailed, match=r"no such file or directory|executable file not found"
        ) as failed:
            await tasks.begin(bare)
        assert failed.value.exit_code == 127
        await asyncio.gather(*(executor.remove(task_id(number)) for number in (1, 2, 3)))
        assert await executor.list() == ()

    async def test_signals_reach_process_1(self, executor: Executor, tasks: Tasks) -> None:
        traps = "trap 'echo usr1' USR1; trap 'echo hup' HUP; trap 'exit 9' INT"
        id_ = await tasks.run(1, f"{traps}; echo $$; while :; do sleep 0.05; done")
        assert [line.data for line in await wait_log(executor, id_, 1)] == [b"1\n"]
        await executor.signal(id_, signal.SIGUSR1)
        await wait_log(executor, id_, 2)
        await executor.signal(id_, signal.SIGHUP)
        assert [line.data for line in await wait_log(executor, id_, 3)] == [b"1\n", b"usr1\n", b"hup\n"]
        await executor.signal(id_, signal.SIGINT)
        assert (await wait_exit(executor, id_)).code == 9

    async def test_grace(self, executor: Executor, tasks: Tasks) -> None:
        async def ends(number: int, trap: str, sent: int, grace_s: float) -> int:
            id_ = await tasks.run(number, f"{trap}; echo up; while :; do sleep 3600 & wait; done")
            await wait_log(executor, id_, 1)
            exit = await executor.stop(id_, signal=sent, grace_s=grace_s)
            assert exit is not None
            return exit.code

        codes = await asyncio.gather(
            ends(1, "trap 'sleep 0.2; exit 7' TERM", signal.SIGTERM, DEADLINE_S),
            ends(2, "trap 'exit 5' USR1", signal.SIGUSR1, DEADLINE_S),
            ends(3, "trap '' TERM", signal.SIGTERM, 0.3),
            ends(4, "trap 'exit 6' TERM", signal.SIGTERM, 0.0),
        )
        assert list(codes) == [7, 5, 137, 137]

    async def test_out_of_memory_is_told(self, executor: Executor, tasks: Tasks) -> None:
        launch = await tasks.launch(1, command=("/bin/tail", "/dev/zero"))
        id_ = await tasks.begin(replace(launch, limits=Limits(memory_bytes=24 << 20)))
        exit = await wait_exit(executor, id_)
        assert (exit.code, exit.is_oom_killed) == (137, True)
        item = await found(executor, id_)
        assert item is not None
        assert item.exit is not None
        assert item.exit.is_oom_killed
        assert not [path for path in (Path("oom"), Path("/oom")) if path.exists()], "conmon's note lies about"

    async def test_a_crowd_in_parallel(
        self, executor: Executor, tasks: Tasks, data_dir: Path, left: Left
    ) -> None:
        ids = await asyncio.gather(*(tasks.run(number, RUN_ON) for number in range(1, self.crowd + 1)))
        items = await executor.list()
        assert {item.task_id for item in items} == set(ids)
        assert len({item.pid for item in items if item.pid and item.exit is None}) == self.crowd
        half = ids[: self.crowd // 2]
        for id_ in half:
            await executor.signal(id_, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            ended: set[TaskId] = set()
            async for event in executor.events():
                ended.add(event.task_id)
                if len(ended) == len(half):
                    break
        assert ended == set(half)
        await asyncio.gather(*(executor.remove(id_) for id_ in ids))
        assert await executor.list() == ()
        await nothing_left(data_dir, left)


class AdoptionContract(Suite):
    """The daemon dies at any step, and its successor goes on."""

    async def test_death_while_a_task_is_created(
        self, tasks: Tasks, reopen: Reopen, data_dir: Path, left: Left
    ) -> None:
        launches = [await tasks.launch(number, EXIT_3) for number in range(1, len(STEPS_S) + 1)]
        executor = tasks.executor
        await asyncio.gather(
            *(broken_off(executor.create(each), s) for each, s in zip(launches, STEPS_S, strict=True))
        )
        executor = tasks.executor = await reopen(is_clean=False)
        await asyncio.gather(*(tasks.begin(launch) for launch in launches))
        for launch in launches:
            await _wait_ended(executor, launch.task_id, 3)
        await asyncio.gather(*(executor.remove(launch.task_id) for launch in launches))
        await nothing_left(data_dir, left)

    async def test_death_while_a_task_starts(self, tasks: Tasks, reopen: Reopen) -> None:
        """It runs once, whatever became of the order."""
        launches = [await tasks.launch(number, SAY_BEGUN) for number in range(1, len(STEPS_S) + 1)]
        executor = tasks.executor
        await asyncio.gather(*(executor.create(launch) for launch in launches))
        starts = zip(launches, STEPS_S, strict=True)
        await asyncio.gather(*(broken_off(executor.start(each.task_id), s) for each, s in starts))
        executor = tasks.executor = await reopen(is_clean=False)
        for launch in launches:
            item = await found(executor, launch.task_id)
            assert item is not None
            if not item.started_at:
                await executor.create(launch)
            assert (await executor.start(launch.task_id)).pid > 0
            assert [line.data for line in await wait_log(executor, launch.task_id, 1)] == [b"begun\n"]
        for launch in launches:
            exit = await executor.stop(launch.task_id, signal=signal.SIGTERM, grace_s=DEADLINE_S)
            assert exit is not None
            assert exit.code == 0
            assert len(await read_log(executor, launch.task_id)) == 1

    async def test_death_while_tasks_run_and_end(self, tasks: Tasks, reopen: Reopen) -> None:
        runs, ended, ends = [
            await tasks.run(number, script)
            for number, script in enumerate((SAY_BEGUN, EXIT_3, RUN_ON), start=1)
        ]
        traps = "trap 'exit 0' TERM; trap 'echo asked' WINCH; echo up"
        stopped = await tasks.run(4, f"{traps}; while :; do sleep 3600 & wait; done")
        executor = tasks.executor
        await _wait_ended(executor, ended, 3)
        before = await found(executor, runs)
        assert before is not None
        await wait_log(executor, stopped, 1)
        stopping = asyncio.create_task(executor.stop(stopped, signal=signal.SIGWINCH, grace_s=DEADLINE_S))
        await wait_log(executor, stopped, 2)
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await executor.signal(ends, signal.SIGKILL)  # nobody may notice its end before the next life
        executor = tasks.executor = await reopen(is_clean=False)
        assert await found(executor, runs) == before
        assert await executor.start(runs) == before  # not run again
        assert (await executor.stop(runs, signal=signal.SIGKILL, grace_s=0)) is not None
        told = await told_ends(executor, runs)
        last = await tasks.run(9, EXIT_0)
        told += await told_ends(executor, last)
        codes = {event.task_id: event.exit.code for event in told}
        assert (codes[ended], codes[runs]) == (3, 137)
        assert len({event.task_id for event in told}) == len(told), "an end was told twice in one life"
        exit = await executor.stop(stopped, signal=signal.SIGTERM, grace_s=DEADLINE_S)
        assert exit is not None
        assert exit.code == 0

    async def test_an_end_while_no_daemon_runs(self, tasks: Tasks, reopen: Reopen) -> None:
        ends = await tasks.run(1, "trap 'echo down; exit 4' TERM; echo up; sleep 3600 & wait")
        executor = tasks.executor
        await wait_log(executor, ends, 1)
        pid = next(item.pid for item in await executor.list() if item.task_id == ends)

        async def until_it_has_ended() -> None:
            assert is_running(pid)
            os.kill(pid, signal.SIGTERM)
            async with asyncio.timeout(DEADLINE_S):
                while is_running(pid):
                    await asyncio.sleep(0.01)

        executor = tasks.executor = await reopen(meanwhile=until_it_has_ended)
        assert (await wait_exit(executor, ends)).code == 4
        assert [line.data for line in await read_log(executor, ends)] == [b"up\n", b"down\n"]

    async def test_death_while_a_task_is_removed(
        self, tasks: Tasks, reopen: Reopen, data_dir: Path, left: Left
    ) -> None:
        ids = [await tasks.run(number, RUN_ON) for number in range(1, len(STEPS_S) + 1)]
        executor = tasks.executor
        removals = zip(ids, STEPS_S, strict=True)
        await asyncio.gather(*(broken_off(executor.remove(id_), s) for id_, s in removals))
        executor = tasks.executor = await reopen(is_clean=False)
        for id_ in ids:
            await executor.remove(id_)
        assert await executor.list() == ()
        await nothing_left(data_dir, left)
        again = await tasks.run(1, EXIT_3)  # and its name is free
        await _wait_ended(executor, again, 3)

    async def test_rubbish_of_a_former_life(
        self, tasks: Tasks, reopen: Reopen, data_dir: Path, left: Left
    ) -> None:
        """A folder of which nothing is on record belongs to nobody."""
        (data_dir / "tasks" / task_id(7) / "work").mkdir(parents=True)
        executor = tasks.executor = await reopen(is_clean=False)
        assert await executor.list() == ()
        await nothing_left(data_dir, left)


async def _wait_ended(executor: Executor, id_: TaskId, code: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (item := await found(executor, id_)) is None or item.exit is None:
            await asyncio.sleep(0.01)
    assert item.exit.code == code
