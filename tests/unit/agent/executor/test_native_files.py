"""Secrets and configs in real tasks: where they are, who may read them, and that no disk ever holds them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from native_rig import NativeRig

from agent.executor.base import LaunchFile
from agent.executor.native.shim import kernel
from agent.executor.native.task_files import TaskFiles
from swarmpy.errors import TaskRejected
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec, Mount, TmpfsOptions
from swarmpy.model.states import MountType

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount"),
]
WORD = b"hunter2-of-nobody-else"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[NativeRig]:
    rig = NativeRig(tmp_path)
    await rig.open()
    yield rig
    await rig.close()


def key(data: bytes = WORD, **fields: object) -> LaunchFile:
    return replace(LaunchFile(target="/run/secrets/key", data=data), **fields)


async def start(rig: NativeRig, script: str, *files: LaunchFile, **fields: object) -> TaskId:
    spec = replace(ContainerSpec(image="host", command=("/bin/sh", "-c", script)), **fields)
    launch = replace(await rig.launch("said", spec=spec), files=files)
    await rig.executor.create(launch)
    await rig.executor.start(launch.task_id)
    return launch.task_id


async def said(rig: NativeRig, script: str, *files: LaunchFile, **fields: object) -> list[str]:
    return (await rig.output(await start(rig, script, *files, **fields))).splitlines()


async def wait_line(rig: NativeRig, task_id: TaskId, count: int) -> list[str]:
    """Until the task has said so many lines."""
    async with asyncio.timeout(20):
        while len(lines := [line.data.decode().strip() for line in await rig.log(task_id)]) < count:
            await asyncio.sleep(0.01)
    return lines


# --- in the task


async def test_a_secret_is_in_memory_read_only_and_owned_as_asked(rig: NativeRig) -> None:
    script = """
        cat /run/secrets/key; echo
        stat -c '%u %g %a' /run/secrets/key /run/secrets/deep/er /run/secrets
        (echo x > /run/secrets/key) 2>&1 | grep -o 'Read-only file system'
        touch /run/secrets/new 2>&1 | grep -o 'Read-only file system'
        stat -f -c %T /run/secrets
        grep ' /run/secrets ' /proc/self/mounts | cut -d' ' -f4
    """
    lines = await said(
        rig, script, key(), key(b"x", target="/run/secrets/deep/er", uid=1000, gid=50, mode=0o400)
    )
    assert lines[:6] == [
        WORD.decode(),
        "0 0 444",
        "1000 50 400",
        "0 0 755",
        *["Read-only file system"] * 2,
    ]
    assert lines[6] in ("tmpfs", "ramfs")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(lines[7].split(","))


async def test_a_config_may_be_anywhere_and_what_lies_beside_it_stays(rig: NativeRig, tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "beside").write_text("still here")
    (folder / "page").write_text("of the node")
    config = LaunchFile(target=f"{folder}/page", data=b"hello", mode=0o440)
    lines = await said(
        rig, f"cat {folder}/page {folder}/beside; echo; (echo x > {folder}/page) 2>&1 | tail -c 23", config
    )
    assert lines[0] == "hellostill here"
    assert "Read-only file system" in lines[1]
    assert (folder / "page").read_text() == "of the node", "nothing of it is seen outside"


async def test_files_lie_above_what_the_user_mounts(rig: NativeRig, tmp_path: Path) -> None:
    folder = tmp_path / "over"
    folder.mkdir()
    mount = Mount(type=MountType.TMPFS, target=str(folder), tmpfs_options=TmpfsOptions())
    config = LaunchFile(target=f"{folder}/page", data=b"hello")
    assert await said(rig, f"cat {folder}/page", config, mounts=(mount,)) == ["hello"]


async def test_a_task_sees_its_own_files_only(rig: NativeRig) -> None:
    other = replace(await rig.launch("other", "sleep", "1000"), files=(key(b"of the other"),))
    await rig.executor.create(other)
    hidden = rig.data_dir / "files"
    assert (hidden / "other" / "secrets" / "key").read_bytes() == b"of the other"
    lines = await said(rig, f"cat /run/secrets/key; echo; ls -A {hidden} | wc -l; cat {hidden}/*/*/*", key())
    assert lines == [WORD.decode(), "0", f"cat: '{hidden}/*/*/*': No such file or directory"]


async def test_a_place_that_cannot_be_is_said(rig: NativeRig, tmp_path: Path) -> None:
    for target, sentence in (
        (f"{tmp_path}/no/such/page", "does not exist on this node"),
        (str(tmp_path), "a folder is there"),
    ):
        launch = await rig.launch("refused", "true")
        await rig.executor.create(replace(launch, files=(LaunchFile(target=target, data=b"x"),)))
        with pytest.raises(TaskRejected, match=sentence):
            await rig.executor.start(launch.task_id)
        await rig.executor.remove(launch.task_id)


# --- newer data


WAIT_AND_SAY = "trap 'cat $F; echo' USR1; echo ready; while :; do sleep 0.02; done"


@pytest.mark.parametrize("target", ["/run/secrets/key", "beside"])
async def test_newer_data_and_their_signal(rig: NativeRig, tmp_path: Path, target: str) -> None:
    if target == "beside":
        (tmp_path / "page").touch()
        target = f"{tmp_path}/page"
    file = key(target=target, reload_signal=signal.SIGUSR1)
    task_id = await start(rig, WAIT_AND_SAY.replace("$F", target), file, key(target="/run/secrets/other"))
    assert await wait_line(rig, task_id, 1) == ["ready"]
    for number, data in enumerate((b"a longer text than " + WORD, b"short"), 2):
        newer = (replace(file, data=data), key(target="/run/secrets/other"))
        await rig.executor.reload(task_id, newer)
        await rig.executor.reload(task_id, newer)  # nothing differs: no signal
        assert (await wait_line(rig, task_id, number))[1:][number - 2] == data.decode()
    assert len(await wait_line(rig, task_id, 3)) == 3
    await rig.executor.stop(task_id, signal=signal.SIGKILL, grace_s=0)
    await rig.executor.reload(task_id, (file,))  # it has ended: fine


async def test_no_target_leads_out_of_the_memory(tmp_path: Path) -> None:
    files = TaskFiles(tmp_path / "files")
    try:
        files.write(
            "t1", [key(target="/run/secrets/../../../../../outside"), key(target="/run/secrets/a/../b")]
        )
        found = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        assert [path.name for path in found if path.parent.name == "secrets"] == ["b"]
        assert all((tmp_path / "files" / "t1") in path.parents for path in found)
        assert len(found) == 2
        with pytest.raises(TaskRejected, match="not in this node's memory any more"):
            files.renew("t2", [key()], lambda number: None)
    finally:
        files.unmount()


async def test_tasks_read_their_files_whatever_mask_the_daemon_was_started_with(tmp_path: Path) -> None:
    files = TaskFiles(tmp_path / "files")
    former = os.umask(0o077)
    try:
        files.write("t1", [key(target="/run/secrets/deep/er/key"), key(target="/etc/page")])
        inside = tmp_path / "files" / "t1"
        modes = {path.stat().st_mode & 0o777 for path in inside.rglob("*") if path.is_dir()}
        assert modes | {inside.stat().st_mode & 0o777} == {0o755}
    finally:
        os.umask(former)
        files.unmount()


async def test_a_signal_that_may_not_have_been_sent_is_sent(tmp_path: Path) -> None:
    """A daemon that is killed between the new data and the signal."""
    files = TaskFiles(tmp_path / "files")
    try:
        file = key(reload_signal=signal.SIGHUP)
        files.write("t1", [file])
        newer = replace(file, data=b"newer")

        def killed(number: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            files.renew("t1", [newer], killed)
        sent: list[int] = []
        TaskFiles(tmp_path / "files").renew("t1", [newer], sent.append)
        TaskFiles(tmp_path / "files").renew("t1", [newer], sent.append)
        assert sent == [signal.SIGHUP]
    finally:
        files.unmount()


# --- beside the task


async def test_no_disk_ever_holds_a_secret(rig: NativeRig) -> None:
    """Below the node's folder, on the disk that it is on: the rest of it is memory."""
    task_id = await start(
        rig, "sleep 1000", key(reload_signal=signal.SIGHUP), key(WORD, target="/etc/hostname")
    )
    await rig.executor.reload(task_id, (key(WORD + b"2", reload_signal=signal.SIGHUP),))
    device = os.stat(rig.data_dir).st_dev
    written = [path for path in rig.data_dir.rglob("*") if path.is_file() and path.stat().st_dev == device]
    assert any(path.name == "job.json" and b"/run/secrets" in path.read_bytes() for path in written)
    assert not [path for path in written if WORD in path.read_bytes()]


async def test_files_outlive_the_daemon_and_go_with_their_task(rig: NativeRig) -> None:
    folder = rig.data_dir / "files"
    task_id = await start(
        rig, WAIT_AND_SAY.replace("$F", "/run/secrets/key"), key(reload_signal=signal.SIGUSR1)
    )
    await wait_line(rig, task_id, 1)
    await rig.reopen()
    await rig.executor.reload(task_id, (key(b"newer", reload_signal=signal.SIGUSR1),))
    assert (await wait_line(rig, task_id, 2))[1] == "newer"
    (folder / "rubbish").mkdir()
    await rig.reopen(is_clean=False)
    assert [path.name for path in folder.iterdir()] == [task_id]
    await rig.executor.remove(task_id)
    assert list(folder.iterdir()) == []


async def test_a_task_that_waits_is_made_anew_after_the_memory_is_gone(rig: NativeRig) -> None:
    spec = ContainerSpec(image="host", command=("cat", "/run/secrets/key"))
    launch = replace(await rig.launch("said", spec=spec), files=(key(),))
    await rig.executor.create(launch)
    TaskFiles(rig.data_dir / "files").unmount()
    with pytest.raises(TaskRejected, match="gone from this node's memory"):
        await rig.executor.start(launch.task_id)
    await rig.executor.remove(launch.task_id)

    await rig.executor.create(launch)
    TaskFiles(rig.data_dir / "files").unmount()
    await rig.executor.create(replace(launch, files=(key(b"newer"),)))
    await rig.executor.start(launch.task_id)
    assert await rig.output(launch.task_id) == "newer"


def test_the_first_tasks_of_a_boot_at_once_share_one_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second mount above the first would hide what was written there."""
    files = TaskFiles(tmp_path / "files")
    mount, all_are_here = kernel.mount, threading.Barrier(4)

    def slow_mount(*arguments: Any, **more: Any) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            all_are_here.wait(0.2)  # whoever else found nothing mounted comes this far, too
        mount(*arguments, **more)

    monkeypatch.setattr(kernel, "mount", slow_mount)
    tasks = [f"task{number}" for number in range(4)]
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: files.write(name, [key()]), tasks))
        assert files.task_ids() == set(tasks)
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        assert len([line for line in mounts if f" {files.folder} " in line]) == 2  # itself, and the memory
    finally:
        files.unmount()
