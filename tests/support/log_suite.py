"""That every executor with processes keeps logs exact to the byte, and answers every question about them.

A part of the suite of ``executor_suite``; taken by subclassing ``LogContract``.
"""

from __future__ import annotations

import asyncio
import signal

from executor_suite import DEADLINE_S, RUN_ON, Suite, Tasks, found, read_log, wait_exit, wait_log
from msgspec.structs import replace

from agent.executor.base import Executor, LaunchFile, LogLine, LogQuery
from swarmpy.model.ids import TaskId, Timestamp

ALL_BYTES = bytes(range(256)) * 3
LONG_LINE = b"x" * (1 << 20) + b"\n"
LINE = 1000
LINES = 12_000
"""More than one file of a log that is rotated every 10 MiB, as docker's and ours are by default."""
FILL = f"yes {'y' * (LINE - 1)} | head -n {LINES}"


def of_stream(lines: list[LogLine], stream: int) -> bytes:
    return b"".join(line.data for line in lines if line.stream == stream)


async def ended_with(executor: Executor, tasks: Tasks, number: int, script: str, data: bytes = b"") -> TaskId:
    """A task that has ended; ``data`` is its file /run/secrets/data."""
    launch = await tasks.launch(number, script)
    file = LaunchFile(target="/run/secrets/data", data=data)
    id_ = await tasks.begin(replace(launch, files=(file,) if data else ()))
    async with asyncio.timeout(DEADLINE_S):
        while (item := await found(executor, id_)) is None or item.exit is None:
            await asyncio.sleep(0.01)
    return id_


class LogContract(Suite):
    """The suite."""

    async def test_every_byte(self, executor: Executor, tasks: Tasks) -> None:
        cat = "cat /run/secrets/data"
        every, long, words, streams, silent = await asyncio.gather(
            ended_with(executor, tasks, 1, cat, ALL_BYTES),
            ended_with(executor, tasks, 2, cat, LONG_LINE),
            ended_with(executor, tasks, 3, "printf 'a\\r\\n\\n b '; printf last >&2"),
            ended_with(
                executor,
                tasks,
                4,
                "i=0; while [ $i -lt 500 ]; do echo out$i; echo err$i >&2; i=$((i+1)); done",
            ),
            ended_with(executor, tasks, 5, "exit 0"),
        )
        assert of_stream(await read_log(executor, every), 1) == ALL_BYTES
        assert of_stream(await read_log(executor, long), 1) == LONG_LINE
        lines = await read_log(executor, words)
        assert [line.data for line in lines if line.stream == 1] == [b"a\r\n", b"\n", b" b "]
        assert [line.data for line in lines if line.stream == 2] == [b"last"]
        lines = await read_log(executor, streams)
        assert of_stream(lines, 1) == b"".join(b"out%d\n" % number for number in range(500))
        assert of_stream(lines, 2) == b"".join(b"err%d\n" % number for number in range(500))
        for stream in (1, 2):  # across streams nobody promises an order
            times = [line.timestamp for line in lines if line.stream == stream]
            assert times == sorted(times)
        only = await read_log(executor, streams, LogQuery(stdout=False, tail=2))
        assert [(line.stream, line.data) for line in only] == [(2, b"err498\n"), (2, b"err499\n")]
        assert await read_log(executor, silent) == []

    async def test_a_terminal_has_one_stream(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, "echo out; echo err >&2; exit 0", tty=True)
        await wait_exit(executor, id_)
        lines = await read_log(executor, id_)
        assert of_stream(lines, 1) == b"out\r\nerr\r\n"
        assert of_stream(lines, 2) == b""

    async def test_times(self, executor: Executor, tasks: Tasks) -> None:
        """``since`` and ``until`` count the line itself in."""
        id_ = await tasks.run(1, "for i in 1 2 3 4; do echo $i; sleep 0.02; done; " + RUN_ON)
        lines = await wait_log(executor, id_, 4)
        second, third = lines[1].timestamp, lines[2].timestamp

        async def told(query: LogQuery) -> list[LogLine]:
            return await read_log(executor, id_, query)

        # lines that a busy node reads in one go are of one moment
        assert await told(LogQuery(since=third)) == [each for each in lines if each.timestamp >= third]
        assert await told(LogQuery(until=second)) == [each for each in lines if each.timestamp <= second]
        both = LogQuery(since=second, until=third)
        assert await told(both) == [each for each in lines if second <= each.timestamp <= third]
        past = LogQuery(until=third, is_following=True)  # nothing can come any more
        assert await told(past) == [each for each in lines if each.timestamp <= third]

    async def test_much_and_what_is_rotated(self, executor: Executor, tasks: Tasks) -> None:
        launch = await tasks.launch(1, f"trap 'exit 0' TERM; {FILL}; echo done; sleep 3600 & wait")
        await executor.create(launch)
        following = asyncio.create_task(_count(executor, launch.task_id))
        await executor.start(launch.task_id)
        id_ = launch.task_id
        async with asyncio.timeout(3 * DEADLINE_S):
            while await read_log(executor, id_, LogQuery(tail=1)) == []:
                await asyncio.sleep(0.05)
            while (await read_log(executor, id_, LogQuery(tail=1)))[-1].data != b"done\n":
                await asyncio.sleep(0.05)
        line = b"y" * (LINE - 1) + b"\n"
        tail = [each.data for each in await read_log(executor, id_, LogQuery(tail=3))]
        assert tail == [line, line, b"done\n"]
        far = await read_log(executor, id_, LogQuery(tail=LINES))
        assert len(far) == LINES
        since = LogQuery(since=far[-5].timestamp)
        assert (await read_log(executor, id_, since))[-5:] == far[-5:]
        everything = of_stream(await read_log(executor, id_), 1)
        assert everything == line * LINES + b"done\n"
        await executor.stop(id_, signal=signal.SIGTERM, grace_s=DEADLINE_S)
        assert await following == len(everything)
        assert of_stream(await read_log(executor, id_, LogQuery(tail=1, is_following=True)), 1) == b"done\n"
        await executor.remove(id_, keep_log=True)
        assert len(of_stream(await read_log(executor, id_), 1)) == len(everything)
        assert of_stream(await read_log(executor, id_, LogQuery(tail=1)), 1) == b"done\n"
        later = LogQuery(since=Timestamp(far[-1].timestamp + 1), is_following=True)
        assert await read_log(executor, id_, later) == []
        await executor.remove(id_)
        assert await read_log(executor, id_) == []


async def _count(executor: Executor, id_: TaskId) -> int:
    """Bytes that who follows the log from before its first line gets to see."""
    seen = 0
    async with asyncio.timeout(3 * DEADLINE_S):
        async for line in executor.logs(id_, LogQuery(is_following=True)):
            seen += len(line.data)
    return seen
