"""What every executor must do with commands inside its tasks. A test module takes the suite by subclassing
``ExecContract`` with the fixtures ``executor`` and ``sandbox`` of the executor suite.

An executor without processes knows these few commands by their words.
"""

from __future__ import annotations

import asyncio
import signal

import pytest
from executor_suite import DEADLINE_S, EXIT_0, RUN_ON, Suite, Tasks, task_id, wait_exit

from agent.executor.base import Channel, Command, Executor, Output
from swarmpy.errors import TaskRejected

SAY_AND_FAIL = ("/bin/sh", "-c", "echo out; echo err >&2; exit 3")
HANG = ("/bin/sh", "-c", "echo begun; while :; do sleep 0.05; done")
ECHO = ("/bin/cat",)
MISSING = ("no-such-command",)


async def printed(channel: Channel) -> dict[int, bytes]:
    """All that the command prints, by stream."""
    found: dict[int, bytes] = {}
    async with asyncio.timeout(DEADLINE_S):
        async for stream, data in channel.output():
            found[stream] = found.get(stream, b"") + data
    return found


async def first_output(channel: Channel) -> Output:
    async with asyncio.timeout(DEADLINE_S):
        async for part in channel.output():
            return part
    raise AssertionError("the command printed nothing")


class ExecContract(Suite):
    """The suite."""

    async def test_a_command_prints_and_ends(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        channel = await executor.exec(id_, Command(argv=SAY_AND_FAIL))
        assert await printed(channel) == {1: b"out\n", 2: b"err\n"}
        assert await channel.exit_code() == 3
        await channel.close()
        await channel.close()  # again is fine

    async def test_a_command_reads_its_input(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        channel = await executor.exec(id_, Command(argv=ECHO, has_input=True))
        await channel.write(b"one\n")
        await channel.close_input()
        assert await printed(channel) == {1: b"one\n"}
        assert await channel.exit_code() == 0
        await channel.close()

    async def test_closing_kills_the_command_and_not_the_task(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        channel = await executor.exec(id_, Command(argv=HANG))
        assert await first_output(channel) == Output(1, b"begun\n")
        await channel.close()
        async with asyncio.timeout(DEADLINE_S):
            assert await channel.exit_code() == 128 + signal.SIGKILL
        assert [item.exit for item in await executor.list()] == [None]

    async def test_the_end_of_the_task_ends_the_command(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        channel = await executor.exec(id_, Command(argv=HANG))
        await executor.stop(id_, signal=signal.SIGKILL, grace_s=DEADLINE_S)
        assert await printed(channel) in ({}, {1: b"begun\n"})
        async with asyncio.timeout(DEADLINE_S):
            assert await channel.exit_code() == 128 + signal.SIGKILL
        await channel.close()

    async def test_a_command_that_is_not_there(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        with pytest.raises(TaskRejected, match="no-such-command"):
            await executor.exec(id_, Command(argv=MISSING))

    async def test_only_running_tasks_take_commands(self, executor: Executor, tasks: Tasks) -> None:
        with pytest.raises(TaskRejected):
            await executor.exec(task_id(99), Command(argv=ECHO))
        launch = await tasks.launch(1, RUN_ON)
        await executor.create(launch)
        with pytest.raises(TaskRejected, match="is not running"):
            await executor.exec(launch.task_id, Command(argv=ECHO))
        ended = await tasks.run(2, EXIT_0)
        await wait_exit(executor, ended)
        with pytest.raises(TaskRejected, match="is not running"):
            await executor.exec(ended, Command(argv=ECHO))
