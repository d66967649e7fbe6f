"""A task takes no more than it may: processes, memory, files, log, and what its node has to clear away."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from box_image import run
from native_rig import NativeRig, wait_until

from agent.executor.base import Command
from swarmpy.limits import LOG_FILE_BYTES_MAX, LOG_FILES_MAX
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec, Limits

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]
PIDS = 20


def trial(script: str, **fields: object) -> ContainerSpec:
    return ContainerSpec(image="trial:1", args=(script,), **fields)  # type: ignore[arg-type]


async def is_removed(rig: NativeRig, task_id: TaskId) -> None:
    async with asyncio.timeout(30):
        await rig.executor.remove(task_id)
    assert not (rig.data_dir / "tasks" / task_id).exists()


async def test_a_fork_bomb_stays_within_its_limit(rig: NativeRig) -> None:
    """And commands of the node's own (health checks, an administrator's) still get in."""
    task_id = await run(rig, trial("/escape bomb"), limits=Limits(pids=PIDS))
    await wait_until(
        lambda: len(rig.executor._cgroups.pids(task_id)) >= PIDS, "all processes that it may have"
    )
    for _ in range(3):
        assert len(rig.executor._cgroups.pids(task_id)) <= PIDS + 2
        channel = await rig.executor.exec(task_id, Command(argv=("/escape", "fds")))
        async with asyncio.timeout(20):
            assert b"fd 0" in b"".join([part.data async for part in channel.output()])
        await channel.close()
    await is_removed(rig, task_id)


async def test_memory_ends_the_task_and_nothing_else(rig: NativeRig) -> None:
    other = await run(rig, trial("sleep 100"))
    eat = "busybox dd if=/dev/zero of=/dev/shm/x bs=1M count=100"
    task_id = await run(rig, trial(f"{eat}; {eat}", shm_size=1 << 30), limits=Limits(memory_bytes=32 << 20))
    ended = await rig.wait_exit(task_id)
    assert ended.exit.is_oom_killed
    assert rig.executor._tasks[other].exit is None


async def test_a_flood_of_words_takes_so_much_disk(rig: NativeRig) -> None:
    """In long lines, and in one that has no end."""
    zeros = "busybox dd if=/dev/zero bs=1M count=20 2>/dev/null | busybox tr"
    task_id = await run(rig, trial(f"for i in 1 2; do {zeros} '\\000' x; echo; done"))
    await rig.wait_exit(task_id)
    sizes = [path.stat().st_size for path in (rig.data_dir / "logs" / task_id).iterdir()]
    assert len(sizes) == LOG_FILES_MAX
    assert max(sizes) <= LOG_FILE_BYTES_MAX


async def test_a_task_that_others_speak_for_ends_all_the_same(rig: NativeRig) -> None:
    """Its output may have been given to other processes, which never stop."""
    task_id = await run(rig, trial("while [ ! -e /go ]; do sleep 0.02; done"))
    started = rig.executor._tasks[task_id].started
    assert started is not None
    speakers = [speak(f"/proc/{started['pid']}/fd/1") for _ in range(3)]
    try:
        Path(f"/proc/{started['pid']}/root/go").touch()
        await rig.wait_exit(task_id)
    finally:
        for speaker in speakers:
            speaker.kill()
            speaker.wait()


def speak(into: str) -> subprocess.Popen[bytes]:
    with open(into, "wb") as theirs:
        return subprocess.Popen(["yes"], stdout=theirs)


async def test_folders_in_folders_without_end_are_removed(rig: NativeRig) -> None:
    """Deeper than any function can call itself."""
    task_id = await run(rig, trial("cd /tmp; /escape deep"))
    assert await rig.output(task_id) == "deep ok\n"
    assert await rig.executor.look(task_id, has_sizes=True) is not None
    await is_removed(rig, task_id)


async def test_files_that_may_not_be_removed_are(rig: NativeRig) -> None:
    script = (
        "mkdir -p /a/b/c; echo x >/a/b/c/d; busybox mknod /a/p p; busybox mknod /a/n c 1 3; "
        "busybox chmod 000 /a/b/c /a/b /a"
    )
    task_id = await run(rig, trial(script))
    await rig.wait_exit(task_id)
    await is_removed(rig, task_id)


async def test_open_files_are_its_own(rig: NativeRig) -> None:
    """A task that opens all that it may does not keep the node from looking into it."""
    opens = 'eval "exec $i</dev/null"'
    spec = trial(f"i=3; while [ $i -lt 900 ]; do {opens}; i=$((i+1)); done; echo full; sleep 100")
    task_id = await run(rig, spec)
    async with asyncio.timeout(20):
        while not await rig.log(task_id):
            await asyncio.sleep(0.02)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        channel = await rig.executor.attach(task_id)
        await channel.close()
        channel = await rig.executor.exec(task_id, Command(argv=("/escape", "fds")))
        assert b"fd 0" in b"".join([part.data async for part in channel.output()])
        await channel.close()
    await wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "the daemon's files are closed")


async def test_words_that_are_no_words(rig: NativeRig) -> None:
    """What a task says is data: nothing in it makes a record of its own in the node's log."""
    task_id = await run(rig, trial("printf 'one\\n1 2F forged\\n\\033[31mred\\r\\0nul\\n'"))
    await rig.wait_exit(task_id)
    lines = await rig.log(task_id)
    assert [line.data for line in lines] == [b"one\n", b"1 2F forged\n", b"\x1b[31mred\r\0nul\n"]
    assert {line.stream for line in lines} == {1}
