"""Commands in native tasks and attaching to them, where the kernel decides: rights, restarts, bounds."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from native_rig import NativeRig

from agent.executor.base import Channel, Command
from agent.executor.native.shim import inside
from swarmpy.model.ids import TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]
DEADLINE_S = 20.0
STAY = "while :; do sleep 0.1; done"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[NativeRig]:
    rig = NativeRig(tmp_path)
    await rig.open()
    yield rig
    await rig.close()


async def said(channel: Channel) -> str:
    async with asyncio.timeout(DEADLINE_S):
        text = b"".join([part.data async for part in channel.output()]).decode()
    await channel.close()
    return text


async def run(rig: NativeRig, task_id: TaskId, script: str, **options: object) -> str:
    command = Command(argv=("/bin/sh", "-c", script), **options)  # type: ignore[arg-type]
    return await said(await rig.executor.exec(task_id, command))


async def test_a_command_has_the_tasks_place_and_rights(rig: NativeRig) -> None:
    task_id = await rig.sh("t1", STAY)
    links = "for n in mnt pid net uts ipc cgroup; do readlink /proc/{}/ns/$n; done"
    assert await run(rig, task_id, links.format("self")) == await run(rig, task_id, links.format("1"))
    groups = "cat /proc/{}/cgroup"
    assert await run(rig, task_id, groups.format("self")) == await run(rig, task_id, groups.format("1"))
    rights = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/{}/status"
    assert await run(rig, task_id, rights.format("self")) == await run(rig, task_id, rights.format("1"))
    effective = "grep CapEff /proc/self/status"
    assert int((await run(rig, task_id, effective, user="nobody")).split()[1], 16) == 0
    ordinary = int((await run(rig, task_id, effective)).split()[1], 16)
    privileged = int((await run(rig, task_id, effective, is_privileged=True)).split()[1], 16)
    assert privileged & ordinary == ordinary != privileged
    assert (await run(rig, task_id, "grep Seccomp: /proc/self/status", is_privileged=True)).split()[1] == "0"


async def test_a_daemon_that_ends_takes_commands_along_and_not_tasks(rig: NativeRig) -> None:
    task_id = await rig.sh("t1", STAY)
    channel = await rig.executor.exec(task_id, Command(argv=("sleep", "1234")))
    await channel.close()  # all that the daemon's end does to it
    await rig.reopen()
    async with asyncio.timeout(DEADLINE_S):
        while any("sleep 1234" in " ".join(row) for row in (await rig.executor.top(task_id)).rows):
            await asyncio.sleep(0.02)
    assert await run(rig, task_id, "echo alive") == "alive\n"


async def test_who_does_not_read_does_not_slow_the_task_down(rig: NativeRig) -> None:
    task_id = await rig.sh("t1", "sleep 0.5; head -c 20000000 /dev/zero | tr '\\0' x; exit 4")
    lazy, keen = [await rig.executor.attach(task_id) for _ in range(2)]
    heard = 0
    async with asyncio.timeout(DEADLINE_S):
        async for part in keen.output():
            heard += len(part.data)
        assert (await rig.wait_exit(task_id)).exit.code == 4
    assert heard <= 20_000_000
    await lazy.close()
    await keen.close()


async def is_gone(rig: NativeRig, task_id: TaskId, words: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while any(words in " ".join(row) for row in (await rig.executor.top(task_id)).rows):
            await asyncio.sleep(0.02)


async def test_a_command_that_reads_nothing_is_let_go_of_all_the_same(rig: NativeRig) -> None:
    task_id = await rig.sh("t1", STAY)
    channel = await rig.executor.exec(task_id, Command(argv=("sleep", "1235"), has_input=True))
    feeding = asyncio.create_task(channel.write(bytes(1 << 24)))
    await asyncio.wait([feeding], timeout=0.5)  # as much of it as anybody takes
    assert not feeding.done()
    feeding.cancel()
    async with asyncio.timeout(DEADLINE_S):
        await channel.close()
    await is_gone(rig, task_id, "sleep 1235")


def test_who_lets_go_before_a_command_has_begun_is_heard() -> None:
    """A task may stop what enters it before it has become the command: its root may send it signals."""
    status_read, status_write = os.pipe()
    ours, theirs = socket.socketpair()
    ours.send(b"input for the command, which waits its turn")
    heard: list[bytes | None] = []
    waiting = threading.Thread(
        target=lambda: heard.append(inside.wait_begun(status_read, theirs.fileno())), daemon=True
    )
    waiting.start()
    ours.close()
    waiting.join(DEADLINE_S)
    assert heard == [None]
    os.close(status_write)
    theirs.close()


async def test_a_task_cannot_look_into_what_enters_it(rig: NativeRig) -> None:
    """Before it is the command, a process in the task holds files and a program of the node's."""
    spy = (
        "while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe 2>/dev/null) in "
        "*python*) echo seen $p;; esac; done; done"
    )
    task_id = await rig.sh("t1", spy)
    for _ in range(15):
        assert await run(rig, task_id, "echo alive") == "alive\n"
    assert [line for line in await rig.log(task_id) if b"seen" in line.data] == []
