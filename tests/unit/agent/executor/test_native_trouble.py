"""Tasks on a node in trouble: its disk is full, a part of an image has gone, memory runs out."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from box_image import box, layer, run
from image_files import tar_of, write_layout
from native_rig import DEADLINE_S, NativeRig, wait_until
from structlog.testing import capture_logs

from agent.executor.native.folders import lock_holder
from agent.executor.native.job import ExitRecord, StartRecord
from agent.executor.native.shim import kernel
from agent.executor.native.shim.log_writer import LogWriter
from agent.executor.native.shim.supervise import reserve_record, write_record
from swarmpy.errors import TaskFailed, TaskRejected, Unavailable
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec, Limits

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

WAITS = "trap 'told=1' USR1"
UNTIL_TOLD = 'until [ "$told" ]; do sleep 0.02; done'
CHUNK = b"x" * 65_536


def fill(folder: Path) -> Path:
    """Not a byte is left on the disk."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        for chunk in (CHUNK, b"x"):
            try:
                while file.write(chunk):
                    pass
            except OSError:
                continue
    return filler


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Path]:
    """A folder on a small disk of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    kernel.mount("tmpfs", str(folder), "tmpfs", 0, "size=32m")
    yield folder
    kernel.unmount(str(folder), kernel.MNT_DETACH)


async def test_a_full_disk_loses_lines_and_no_end(small: Path, box_image: Path) -> None:
    rig = NativeRig(small)
    await rig.open()
    await rig.executor.load_image(box_image)
    count = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done"
    talks = await run(rig, box(f"{WAITS}; echo up; {UNTIL_TOLD}; {count}; exit 3"))
    logs = small / f"node/logs/{talks}"
    await wait_until(lambda: any(path.stat().st_size for path in logs.glob("*.log")), "its first word")
    fails = await rig.launch("fails", spec=box("true"), image="box:1")
    await rig.executor.create(fails)
    filler = fill(small)
    with pytest.raises(
        Unavailable, match=r"cannot prepare the folder of task late: .* No space left on device"
    ):
        await rig.executor.create(await rig.launch("late", spec=box("true"), image="box:1"))
    await rig.executor.signal(talks, signal.SIGUSR1)
    ended = await rig.wait_exit(talks)
    assert (ended.exit.code, ended.exit.message) == (3, "")
    lines = [line.data for line in await rig.log(talks)]
    assert lines[0] == b"up\n"
    assert all(line.endswith(b"\n") for line in lines)
    filler.unlink()
    await rig.executor.start(fails.task_id)
    assert (await rig.wait_exit(fails.task_id)).exit.code == 0
    await rig.close()


async def test_a_record_is_written_in_the_room_that_was_taken(small: Path) -> None:
    reserve_record(str(small / "exit"))
    fill(small)
    write_record(str(small / "exit"), '{"code": 1}')
    assert (small / "exit").read_text() == '{"code": 1}'
    with pytest.raises(OSError, match="No space left on device"):
        write_record(str(small / "other"), "x" * 9000)
    assert not (small / "other").exists()


async def test_room_is_not_taken_where_a_shim_is_writing(tmp_path: Path) -> None:
    """A daemon that was started again may repeat the creation of a task that is just being started."""
    (tmp_path / "started.tmp").write_text('{"pid": 1}')
    reserve_record(str(tmp_path / "started"))
    assert (tmp_path / "started.tmp").read_text() == '{"pid": 1}'


async def test_an_end_that_cannot_be_written_is_waited_for_and_told_once(rig: NativeRig) -> None:
    task_id = await rig.sh("unwritten", "sleep 1000")
    folder = rig.data_dir / "tasks" / task_id
    (folder / "exit.tmp").unlink()
    (folder / "exit.tmp").mkdir()  # in its way
    settle, tries = rig.executor._settle, list[str]()

    def count(task: TaskId) -> tuple[StartRecord | None, ExitRecord | None]:
        tries.append(task)
        return settle(task)

    with capture_logs() as logs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.executor, "_settle", count)
        os.kill(lock_holder(folder), signal.SIGKILL)
        await wait_until(lambda: len(tries) >= 4, "it was tried again and again")
    text = "cannot write how task unwritten has ended: Is a directory"
    assert [(log["event"], log["error"]) for log in logs] == [("task_end_delayed", text)]
    # the daemon is neither kept from stopping by it nor from starting
    await rig.reopen()
    assert (await rig.executor.list())[0].exit is None
    (folder / "exit.tmp").rmdir()
    assert (await rig.wait_exit(task_id)).exit.code == 137


async def test_the_log_goes_on_once_there_is_room_again(small: Path) -> None:
    with closing(
        LogWriter(str(small / "log"), file_bytes_max=1 << 20, files_max=2, line_bytes_max=100)
    ) as log:
        log.feed(1, b"first\n", 1)
        filler = fill(small)
        log.feed(1, b"lost\n" * 10_000, 2)
        filler.unlink()
        log.feed(1, b"last\n", 3)
    assert (small / "log/00000001.log").read_bytes() == b"1 1F first\n3 1F last\n"


async def test_a_log_that_cannot_be_begun(rig: NativeRig) -> None:
    launch = await rig.launch("mute", spec=box("true"), image="box:1")
    await rig.executor.create(launch)
    (rig.data_dir / "logs/mute").write_text("a file is where the folder should be")
    with pytest.raises(TaskFailed, match="cannot write the task's log: file exists"):
        await rig.executor.start(launch.task_id)
    (rig.data_dir / "logs/mute").unlink()


# --- broken images


async def test_a_layer_that_has_gone(rig: NativeRig, tmp_path: Path) -> None:
    top = tar_of(("top", b"of this image alone"))
    await rig.executor.load_image(write_layout(tmp_path / "image", [layer(), top], name="broken:1"))
    config = await rig.executor.ensure_image("broken:1")
    shutil.rmtree(rig.data_dir / "images/layers" / config.layers[1])
    with pytest.raises(TaskRejected) as caught:
        await run(rig, ContainerSpec(image="broken:1", command=("/bin/sh",)))
    assert str(caught.value) == (
        f'the layer {config.layers[1]} of image "broken:1" is not on this node any more: remove the image '
        "here, and pull or load it again"
    )


@pytest.mark.parametrize(
    ("name", "content", "code", "text"),
    [
        ("/other-arch", b"\x7fELF" + bytes(60), 126, 'exec: "/other-arch": exec format error'),
        ("/no-interpreter", b"#!/none\n", 127, 'exec: "/no-interpreter": no such file or directory'),
        ("/no-shebang", b"echo hello\n", 126, 'exec: "/no-shebang": exec format error'),
        ("/empty", b"", 126, 'exec: "/empty": exec format error'),
    ],
)
async def test_a_program_that_is_none(
    rig: NativeRig, tmp_path: Path, name: str, content: bytes, code: int, text: str
) -> None:
    files = tar_of((name.lstrip("/"), content), ("etc/passwd", b"root:x:0:0::/:/bin/sh\n"))
    await rig.executor.load_image(write_layout(tmp_path / "image", [files], name="programs:1"))
    (rig.data_dir / "images/layers").joinpath(
        (await rig.executor.ensure_image("programs:1")).layers[0], name.lstrip("/")
    ).chmod(0o755)
    with pytest.raises(TaskFailed) as caught:
        await run(rig, ContainerSpec(image="programs:1", command=(name,)))
    assert (str(caught.value), caught.value.exit_code) == (f"starting container failed: {text}", code)


# --- memory


async def test_a_child_that_runs_out_of_memory_is_seen_at_once(rig: NativeRig) -> None:
    script = f"{WAITS}; grep -c x /dev/zero; echo child $?; {UNTIL_TOLD}; exit 4"
    task = await run(rig, box(script), limits=Limits(memory_bytes=24 << 20))

    async def is_seen() -> bool:
        facts = await rig.executor.look(task)
        return facts is not None and facts.is_oom_killed and facts.pid != 0

    async with asyncio.timeout(DEADLINE_S):
        while not await is_seen():
            await asyncio.sleep(0.005)
    await rig.executor.signal(task, signal.SIGUSR1)
    ended = await rig.wait_exit(task)
    assert (ended.exit.code, ended.exit.is_oom_killed) == (4, True)
    assert b"child 137\n" in [line.data for line in await rig.log(task)]
