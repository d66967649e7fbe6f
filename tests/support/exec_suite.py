"""What every executor must do with commands inside its tasks. A test module takes the suite by subclassing
``ExecContract`` with the fixtures ``executor`` and ``sandbox`` of the executor suite.

An executor without processes knows these few commands by their words.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from executor_suite import DEADLINE_S, EXIT_0, RUN_ON, Suite, Tasks, task_id, wait_exit

from agent.executor.base import Channel, Command, Executor, Output
from swarmpy.errors import TaskRejected
from swarmpy.model.ids import TaskId

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


async def said(executor: Executor, id_: TaskId, script: str, **fields: Any) -> bytes:
    """What a script that ends well says on stdout, run as a command inside the task."""
    command = Command(argv=("/bin/sh", "-c", script), **fields)
    channel = await executor.exec(id_, command)
    output = await printed(channel)
    assert await channel.exit_code() == 0, output
    await channel.close()
    return output.get(1, b"")


async def _until(channel: Channel, words: bytes) -> bytes:
    """What comes, up to these words."""
    seen = b""
    async with asyncio.timeout(DEADLINE_S):
        async for _, data in channel.output():
            seen += data
            if words in seen:
                return seen
    raise AssertionError(f"the command ended; it had printed {seen!r}")


class ProcessExecContract(Suite):
    """The suite of those with processes."""

    async def test_where_and_as_whom_it_runs(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON, env=("FIRST=1", "SECOND=2"), user="app", dir="/data/deep")
        own = "echo $(id -u) $(id -g) $PWD $FIRST $SECOND"
        assert await said(executor, id_, own) == b"1001 1001 /data/deep 1 2\n"
        other = await said(executor, id_, own, env=("SECOND=other",), user="0:0", workdir="/tmp")
        assert other == b"0 0 /tmp 1 other\n"
        assert await said(executor, id_, "cat; echo end") == b"end\n"  # no input: nothing to wait for
        table = await said(executor, id_, "cat /proc/1/cmdline")
        assert b"trap" in table, "it is in the task's process namespace"
        with pytest.raises(TaskRejected, match="nobody-here"):
            await executor.exec(id_, Command(argv=ECHO, user="nobody-here"))
        with pytest.raises(TaskRejected, match="permission denied"):
            await executor.exec(id_, Command(argv=("/bin/no-program",)))

    async def test_much_input_and_output(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        data = bytes(range(256)) * 4096
        channel = await executor.exec(id_, Command(argv=ECHO, has_input=True))

        async def feed() -> None:
            for at in range(0, len(data), 50_000):
                await channel.write(data[at : at + 50_000])
            await channel.close_input()

        feeding = asyncio.create_task(feed())
        assert await printed(channel) == {1: data}
        await feeding
        assert await channel.exit_code() == 0
        await channel.write(b"nobody reads this")  # fine
        await channel.close()

    async def test_a_terminal(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        shell = Command(argv=("/bin/sh",), has_terminal=True, has_input=True, rows=40, columns=100)
        channel = await executor.exec(id_, shell)
        await channel.write(b"stty size; tty; echo fi''rst\n")
        seen = await _until(channel, b"first")
        assert b"40 100" in seen
        assert b"/dev/pts/" in seen, "it has a name"
        await channel.resize(rows=25, columns=90)
        await channel.write(b"stty size; echo sec''ond >&2\n")
        assert b"25 90" in await _until(channel, b"second")
        await channel.write(b"exit 5\n")
        await printed(channel)
        assert await channel.exit_code() == 5
        await channel.close()
        channel = await executor.exec(id_, Command(argv=ECHO, has_terminal=True, has_input=True))
        await channel.write(b"echoed\n\x04")
        assert await printed(channel) == {1: b"echoed\r\nechoed\r\n"}
        assert await channel.exit_code() == 0
        await channel.close()

    async def test_closing_leaves_nothing_of_it(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        script = "trap '' HUP TERM; sleep 1234 & echo begun; wait"
        channels = [
            await executor.exec(id_, Command(argv=("/bin/sh", "-c", script), has_terminal=has_terminal))
            for has_terminal in (False, True)
        ]
        for channel in channels:
            await _until(channel, b"begun")
            await channel.close()
        async with asyncio.timeout(DEADLINE_S):
            while any(script in " ".join(row) for row in (await executor.top(id_)).rows):
                await asyncio.sleep(0.02)

    async def test_detached(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        script = "sleep 0.1; echo there > /tmp/there; sleep 3600"
        channel = await executor.exec(id_, Command(argv=("/bin/sh", "-c", script), is_detached=True))
        await channel.close()
        waits = "while ! cat /tmp/there 2>/dev/null; do sleep 0.05; done"
        assert await said(executor, id_, waits) == b"there\n"

    async def test_twenty_at_once(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        each = await asyncio.gather(*(said(executor, id_, f"echo {number}") for number in range(20)))
        assert each == [b"%d\n" % number for number in range(20)]

    async def test_twenty_in_a_task_that_ends(self, executor: Executor, tasks: Tasks) -> None:
        """Each has come to an end, too, or was never begun."""
        id_ = await tasks.run(1, RUN_ON)

        async def one() -> int:
            try:
                channel = await executor.exec(id_, Command(argv=HANG))
            except TaskRejected:
                return -1
            await printed(channel)
            code = await channel.exit_code()
            await channel.close()
            return code

        running = [asyncio.create_task(one()) for _ in range(20)]
        await asyncio.sleep(0.05)
        await executor.stop(id_, signal=signal.SIGKILL, grace_s=0)
        async with asyncio.timeout(DEADLINE_S):
            assert set(await asyncio.gather(*running)) <= {-1, 128 + signal.SIGKILL}
