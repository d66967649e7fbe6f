"""What enters a task from the node (its own first steps, commands, copies) gives it nothing of the node.

While they are on their way these processes have all rights, and the task's processes may stop them, look at
them through /proc, and exchange every file and folder that they are about to use for a link.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from box_image import run
from isolation_rig import said
from native_rig import NativeRig, wait_until

from agent.executor.base import Command, NotThere
from swarmpy.errors import SwarmError, TaskFailed
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]
COMMANDS = 12
"""Commands that are caught on their way, or not; one that is shows all."""
COPIES = 12
STAY = "while :; do sleep 0.05; done"


def trial(script: str, **fields: object) -> ContainerSpec:
    return ContainerSpec(image="trial:1", args=(script,), **fields)  # type: ignore[arg-type]


async def heard(rig: NativeRig, task_id: TaskId, *argv: str, **options: object) -> str:
    channel = await rig.executor.exec(task_id, Command(argv=argv, **options))  # type: ignore[arg-type]
    text = b"".join([part.data async for part in channel.output()]).decode()
    await channel.close()
    return text


def interpreter() -> tuple[int, int, int]:
    found = os.stat(sys.executable)
    return found.st_mode, found.st_uid, found.st_ctime_ns


# --- what was open before


@pytest.mark.parametrize(
    "fields", [{}, {"init": True}, {"tty": True}, {"open_stdin": True}, {"user": "app"}], ids=str
)
async def test_a_task_begins_with_its_three_streams(rig: NativeRig, fields: dict[str, object]) -> None:
    lines = await said(rig, "/escape fds", **fields)
    assert sorted(line.split()[1] for line in lines) == ["0", "1", "2"]


@pytest.mark.parametrize(
    "options", [{}, {"has_terminal": True}, {"has_input": True}, {"user": "app"}], ids=str
)
async def test_a_command_begins_with_its_three_streams(rig: NativeRig, options: dict[str, object]) -> None:
    task_id = await run(rig, trial(STAY))
    lines = (await heard(rig, task_id, "/escape", "fds", **options)).splitlines()
    assert sorted(line.split()[1] for line in lines) == ["0", "1", "2"]


async def test_no_working_directory_is_one_of_the_nodes(rig: NativeRig) -> None:
    """What is open on the way in has names below /proc/self/fd."""
    task_id = await run(rig, trial(STAY))
    for number in range(3, 16):
        place = f"/proc/self/fd/{number}"
        with pytest.raises(TaskFailed):
            await run(rig, trial("pwd", dir=place))
        if number < 12:
            with pytest.raises(SwarmError):
                await heard(rig, task_id, "/bin/sh", "-c", "pwd", workdir=place)


# --- the program that enters


async def test_the_nodes_interpreter_stays_as_it_is(rig: NativeRig) -> None:
    """The command is a link to whatever executes it, whose libraries are the task's: so it does what the task
    likes. Here it is asked in its own language, for changes that would change nothing."""
    program = (
        "import os\n"
        "fd = os.open('/proc/self/exe', os.O_RDONLY)\n"
        "is_ = os.fstat(fd)\n"
        "for name, what in (('mode', lambda: os.fchmod(fd, is_.st_mode & 0o7777)),\n"
        "    ('owner', lambda: os.fchown(fd, is_.st_uid, is_.st_gid)),\n"
        "    ('time', lambda: os.utime(fd, ns=(is_.st_atime_ns, is_.st_mtime_ns))),\n"
        "    ('attribute', lambda: os.setxattr(fd, 'user.swarmpy', b'', os.XATTR_REPLACE)),\n"
        "    ('link', lambda: os.link(f'/proc/self/fd/{fd}', '/tmp/swarmpy-linked'))):\n"
        "    try: what(); print(name, 'ok', flush=True)\n"
        "    except OSError as error: print(name, error.strerror, flush=True)\n"
    )
    before = interpreter()
    argv = ("/proc/self/exe", "-I", "-S", "-c", program)
    lines = (await rig.output(await run(rig, ContainerSpec(image="host", command=argv)))).splitlines()
    refused = [f"{name} Read-only file system" for name in ("mode", "owner", "time", "attribute")]
    assert lines == [*refused, "link Invalid cross-device link"]
    # of an image: it needs the libraries of the image, and finds none
    for command in ("/me", "/proc/self/exe"):
        with contextlib.suppress(TaskFailed):
            await rig.output(await run(rig, ContainerSpec(image="trial:1", command=(command,))))
    assert interpreter() == before


async def test_the_first_process_of_a_task_with_init_shows_nothing(rig: NativeRig) -> None:
    names = ("exe", "root", "cwd", "environ", "mem", "fd/0", "maps")
    script = "; ".join(f"cat /proc/1/{name} 2>&1 >/dev/null" for name in names)
    lines = await said(rig, script, init=True)
    assert len(lines) == len(names)
    assert all("ermission denied" in line for line in lines), lines
    assert await said(rig, "cat /proc/1/cmdline | grep -c /", init=True) == ["0"]


# --- commands that are stopped on their way


async def test_a_command_on_its_way_has_nothing_of_the_node(rig: NativeRig) -> None:
    """The task stops whatever appears among its processes. None of them has the node's root or folder: the
    next command, which is root with all rights for a moment, could be led there by way of /proc/PID/root."""
    task_id = await run(rig, trial("while :; do kill -STOP -1; done"))
    started = rig.executor._tasks[task_id].started
    assert started is not None
    inside = os.stat(f"/proc/{started['pid']}/root")
    waiting = [asyncio.create_task(heard(rig, task_id, "/bin/sh", "-c", "true")) for _ in range(COMMANDS)]
    try:
        await wait_until(lambda: len(members(started["pid"])) > 1, "a command is among the task's processes")
        seen = 0
        for _ in range(50):
            for pid in members(started["pid"]):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    root, folder = os.stat(f"/proc/{pid}/root"), os.stat(f"/proc/{pid}/cwd")
                    assert (root.st_dev, root.st_ino) == (inside.st_dev, inside.st_ino)
                    assert folder.st_dev == inside.st_dev
                    seen += 1
            await asyncio.sleep(0.01)
        assert seen > 50
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)


def members(first: int) -> list[int]:
    """All processes of a task, by its pid namespace."""
    namespace = os.readlink(f"/proc/{first}/ns/pid")
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.readlink(f"/proc/{name}/ns/pid") == namespace:
                found.append(int(name))
    return found


async def test_no_code_of_the_task_is_loaded_by_what_enters_it(rig: NativeRig) -> None:
    """An image may have a library of its own where the node's interpreter looks for its."""
    folder = f"/usr/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    trap = "import os; os.system('touch /loaded')"
    names = ("encodings/__init__", "encodings/ascii", "encodings/idna", "grp", "pwd", "tarfile", "traceback")
    script = (
        f'mkdir -p {folder}/encodings; for n in {" ".join(names)}; do echo "{trap}" >{folder}/$n.py; done; '
        f"echo ready; {STAY}"
    )
    task_id = await run(rig, trial(script))
    await until_said(rig, task_id, "ready")
    await heard(rig, task_id, "/bin/ls")
    with pytest.raises(SwarmError):
        await heard(rig, task_id, "/none", user="nobody-here")
    [_ async for _ in rig.executor.copy_out(task_id, "/etc")]
    with pytest.raises(NotThere):
        [_ async for _ in rig.executor.copy_out(task_id, "/none\u00e9")]
    assert await heard(rig, task_id, "/bin/ls", "/loaded") != "/loaded\n"


async def until_said(rig: NativeRig, task_id: TaskId, word: str) -> None:
    async with asyncio.timeout(20):
        while word not in b"".join([line.data for line in await rig.log(task_id)]).decode():
            await asyncio.sleep(0.01)


# --- copies


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    folder = tmp_path / "canary"
    folder.mkdir()
    (folder / "file").write_text("of the node")
    return folder


async def test_a_copy_does_not_follow_a_link_that_comes_meanwhile(rig: NativeRig, canary: Path) -> None:
    """The task exchanges a folder for a link to where the canary is on the node, and back, all the time."""
    script = (
        f"mkdir -p /real /aside; echo mine >/real/file; ln -s {canary} /link; echo ready; "
        "while :; do mv -T /real /aside/real 2>/dev/null && mv -T /link /real && mv -T /real /link "
        "&& mv -T /aside/real /real; done"
    )
    task_id = await run(rig, trial(script))
    await until_said(rig, task_id, "ready")
    archive = tar_of("file", b"ESCAPED")
    done = 0
    for _ in range(COPIES):
        with contextlib.suppress(SwarmError):
            data = b"".join([chunk async for chunk in rig.executor.copy_out(task_id, "/real/file")])
            assert b"of the node" not in data
            done += 1
        with contextlib.suppress(SwarmError):
            await rig.executor.copy_in(task_id, "/real", chunks(archive))
            done += 1
    assert done
    assert (canary / "file").read_text() == "of the node"
    assert os.listdir(canary) == ["file"]


@pytest.mark.parametrize("name", ["../leaked", "/../../leaked", "a/../../leaked", "real/../../../leaked"])
async def test_a_copied_archive_stays_in_its_folder(rig: NativeRig, name: str) -> None:
    task_id = await run(rig, trial(f"mkdir -p /deep/real; {STAY}"))
    await until_made(rig, task_id, "/deep/real")
    with pytest.raises(SwarmError, match="leads out of its folder"):
        await rig.executor.copy_in(task_id, "/deep/real", chunks(tar_of(name, b"x")))
    assert "leaked" not in (await heard(rig, task_id, "/bin/ls", "/deep", "/")).split()


async def until_made(rig: NativeRig, task_id: TaskId, path: str) -> None:
    async with asyncio.timeout(20):
        while path not in await heard(rig, task_id, "/bin/ls", "-d", path):
            await asyncio.sleep(0.01)


async def test_what_is_copied_in_is_of_the_task_only(rig: NativeRig) -> None:
    """Device files are made, as docker does, and are of no more use than those that the task makes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        disk = tarfile.TarInfo("disk")
        disk.type, disk.devmajor, disk.devminor, disk.mode = tarfile.CHRTYPE, 1, 1, 0o666
        archive.addfile(disk)
    task_id = await run(rig, trial(f"mkdir /real; {STAY}"))
    await until_made(rig, task_id, "/real")
    await rig.executor.copy_in(task_id, "/real", chunks(buffer.getvalue()))
    assert "ermission denied" in await heard(rig, task_id, "/bin/cat", "/real/disk")


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


def tar_of(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
