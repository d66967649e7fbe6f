"""Attached to native tasks: every byte once, whenever the client comes and however slowly it reads."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from typing import Final

import pytest
from msgspec.structs import replace
from native_rig import NativeRig

from agent.executor.base import Attachment, Channel, Command, NotRunning
from agent.executor.limits import ATTACH_POLL_S
from agent.executor.native.shim import attach
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="tasks need root"),
]

DEADLINE_S: Final = 30.0
FROM_START: Final = Attachment(replays=True)
_numbers = itertools.count()
WAITED_FOR: Final = Attachment(replays=True, is_waited_for=True)


async def created(rig: NativeRig, script: str, *, is_fed: bool = False) -> TaskId:
    spec = ContainerSpec(image="host", command=("/bin/sh", "-c", script), open_stdin=is_fed)
    # an id of its own: ends of former tasks may still be told
    launch = await rig.launch(f"attach-{next(_numbers)}", spec=spec)
    await rig.executor.create(launch)
    return launch.task_id


async def rest(channel: Channel) -> dict[int, bytes]:
    """What it prints to its end, by stream."""
    printed: dict[int, bytes] = {}
    async with asyncio.timeout(DEADLINE_S):
        async for stream, data in channel.output():
            printed[stream] = printed.get(stream, b"") + data
    return printed


async def attached_early(rig: NativeRig, task_id: TaskId, wish: Attachment) -> Channel:
    """As the agent does it."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await rig.executor.attach(task_id, wish)
            except NotRunning:
                await asyncio.sleep(ATTACH_POLL_S)


async def test_who_waits_for_the_start_misses_nothing(rig: NativeRig) -> None:
    task_id = await created(rig, "echo out; echo err >&2; printf end; exit 3")
    with pytest.raises(NotRunning):
        await rig.executor.attach(task_id, FROM_START)
    waiting = asyncio.create_task(attached_early(rig, task_id, FROM_START))
    await rig.executor.start(task_id)
    channel = await waiting
    assert await rest(channel) == {1: b"out\nend", 2: b"err\n"}
    assert await channel.exit_code() == 3
    await channel.close()


async def test_who_comes_while_it_starts_can_feed_it(rig: NativeRig) -> None:
    """At any moment of the start: seen as started, it has a socket for its input."""
    for _ in range(8):
        task_id = await created(rig, "cat", is_fed=True)
        starting = asyncio.create_task(rig.executor.start(task_id))
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    channel = await rig.executor.attach(task_id, WAITED_FOR)
                    break
                except NotRunning:
                    await asyncio.sleep(0)
        await channel.write(b"said")
        await channel.close_input()
        assert await rest(channel) == {1: b"said"}
        await channel.close()
        await starting
        await rig.executor.remove(task_id)


async def test_who_comes_after_the_end_finds_all_of_it(rig: NativeRig) -> None:
    task_id = await created(rig, "printf 'one\\ntwo'; exit 4")
    await rig.executor.start(task_id)
    await rig.wait_exit(task_id)
    with pytest.raises(NotRunning):
        await rig.executor.attach(task_id)
    channel = await rig.executor.attach(task_id, FROM_START)
    assert (await rest(channel), await channel.exit_code()) == ({1: b"one\ntwo"}, 4)
    await channel.close()
    await rig.executor.remove(task_id, keep_log=True)
    channel = await rig.executor.attach(task_id, FROM_START)
    assert await rest(channel) == {1: b"one\ntwo"}
    await channel.close()


async def test_between_the_log_and_the_socket_nothing_is_lost_or_doubled(rig: NativeRig) -> None:
    """Lines, pieces of lines, two streams, and clients that come at any time."""
    script = (
        "i=0; while [ $i -lt 400 ]; do printf $i; printf e$i >&2; echo; i=$((i+1)); done; sleep 0.1; printf x"
    )
    task_id = await created(rig, script)
    await rig.executor.start(task_id)
    channels = []
    for _ in range(6):
        channels.append(await rig.executor.attach(task_id, FROM_START))
        await asyncio.sleep(0.01)
    lines = b"".join(b"%d\n" % number for number in range(400)) + b"x"
    errors = b"".join(b"e%d" % number for number in range(400))
    for channel in channels:
        assert await rest(channel) == {1: lines, 2: errors}
        await channel.close()


@pytest.mark.parametrize("wish", [FROM_START, WAITED_FOR])
async def test_a_slow_client_has_every_byte(rig: NativeRig, wish: Attachment) -> None:
    """Far more than any buffer holds, and less than the log keeps; the task has long ended if it may."""
    size = 8 * attach.BACKLOG_BYTES_MAX
    task_id = await created(rig, f"sleep 0.2; head -c {size} /dev/zero | tr '\\0' x; printf end")
    await rig.executor.start(task_id)
    channel = await rig.executor.attach(task_id, wish)
    await asyncio.sleep(0.5)
    is_over = task_id in {each.task_id for each in await rig.executor.list() if each.exit is not None}
    assert not (wish.is_waited_for and is_over)
    printed = await rest(channel)
    assert len(printed[1]) == size + 3
    assert printed[1].endswith(b"xend")
    await channel.close()


async def test_the_end_of_input_reaches_the_task(rig: NativeRig) -> None:
    task_id = await created(rig, "wc -c", is_fed=True)
    await rig.executor.start(task_id)
    channel = await rig.executor.attach(task_id, FROM_START)
    await channel.write(bytes(3_000_000))
    await channel.close_input()
    assert (await rest(channel))[1].strip() == b"3000000"
    assert await channel.exit_code() == 0
    await channel.close()


async def test_a_log_is_not_removed_under_its_reader(rig: NativeRig) -> None:
    task_id = await created(rig, "echo words; exec sleep 1000")
    await rig.executor.start(task_id)
    channel = await rig.executor.attach(task_id, FROM_START)
    async with asyncio.timeout(DEADLINE_S):
        while not await rig.log(task_id):
            await asyncio.sleep(0.01)
    removing = asyncio.create_task(rig.executor.remove(task_id))
    assert await rest(channel) == {1: b"words\n"}
    assert await channel.exit_code() == 128 + signal.SIGKILL
    assert not removing.done()
    await channel.close()
    async with asyncio.timeout(DEADLINE_S):
        await removing


async def test_a_detached_command_outlives_the_daemon(rig: NativeRig) -> None:
    task_id = await created(rig, "exec sleep 1000")
    await rig.executor.start(task_id)
    quick = await rig.executor.exec(task_id, Command(argv=("sh", "-c", "exit 6"), is_detached=True))
    assert (await rest(quick), await quick.exit_code()) == ({}, 6)
    await quick.close()
    stays = await rig.executor.exec(
        task_id, Command(argv=("sleep", "4321"), is_detached=True, has_terminal=True)
    )
    assert stays.pid > 0
    await stays.close()
    await rig.reopen()
    rows = (await rig.executor.top(task_id)).rows
    assert any("sleep 4321" in " ".join(row) for row in rows)
    await rig.executor.stop(task_id, signal=signal.SIGKILL, grace_s=1)


async def test_a_terminal_begins_with_its_size(rig: NativeRig) -> None:
    task_id = await created(rig, "exec sleep 1000")
    await rig.executor.start(task_id)
    command = Command(argv=("stty", "size"), has_terminal=True)
    channel = await rig.executor.exec(task_id, replace(command, rows=33, columns=77))
    assert (await rest(channel))[1].strip() == b"33 77"
    await channel.close()
