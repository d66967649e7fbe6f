"""What every executor must do when it is attached to its tasks, and with their processes and files. A test
module takes the suite by subclassing ``InsideContract`` with the fixtures of the executor suite.
"""

from __future__ import annotations

import asyncio
import io
import signal
import tarfile
from collections.abc import AsyncIterator, Iterable

import pytest
from exec_suite import first_output, printed
from executor_suite import DEADLINE_S, RUN_ON, Suite, Tasks, task_id
from msgspec.structs import replace

from agent.executor.base import Executor, NotRunning, NotThere
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.ids import TaskId


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 700):
        yield data[at : at + 700]


def archive_of(files: Iterable[tuple[str, bytes]]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return archive.getvalue()


async def copied(executor: Executor, id_: TaskId, path: str) -> dict[str, bytes]:
    """The files of the archive of what is there."""
    async with asyncio.timeout(DEADLINE_S):
        data = b"".join([chunk async for chunk in executor.copy_out(id_, path)])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [member for member in tar if member.isreg()]
        return {each.name: file.read() for each in members if (file := tar.extractfile(each)) is not None}


async def run_with_input(executor: Executor, tasks: Tasks) -> TaskId:
    launch = await tasks.launch(1, RUN_ON)
    spec = replace(launch.spec, command=("/bin/sh", "-c", "exec cat # " + RUN_ON), open_stdin=True)
    if executor.name == "fake":
        spec = replace(launch.spec, open_stdin=True)
    await executor.create(replace(launch, spec=spec))
    await executor.start(launch.task_id)
    return launch.task_id


class InsideContract(Suite):
    """The suite."""

    async def test_being_attached(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await run_with_input(executor, tasks)
        first = await executor.attach(id_)
        await first.write(b"one\n")
        assert (await first_output(first)).data == b"one\n"
        await first.close()
        with pytest.raises(Unavailable):
            await first.exit_code()
        second = await executor.attach(id_)  # the task runs on, and its input is still open
        await second.write(b"two\n")
        assert (await first_output(second)).data == b"two\n"
        await executor.stop(id_, signal=signal.SIGKILL, grace_s=DEADLINE_S)
        assert await printed(second) == {}
        assert await second.exit_code() == 128 + signal.SIGKILL
        await second.close()

    async def test_its_processes(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        table = await executor.top(id_)
        assert {"PID", "CMD"} <= set(table.titles)
        assert all(len(row) == len(table.titles) for row in table.rows)
        assert any(RUN_ON in row[table.titles.index("CMD")] for row in table.rows)

    async def test_files_out(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        assert list(await copied(executor, id_, "/etc/hostname")) == ["hostname"]
        assert "etc/hostname" in await copied(executor, id_, "etc")
        with pytest.raises(NotThere, match="Could not find the file /nowhere/at/all in container"):
            await copied(executor, id_, "/nowhere/at/all")

    async def test_files_in(self, executor: Executor, tasks: Tasks) -> None:
        id_ = await tasks.run(1, RUN_ON)
        # nowhere but in the task's own file system, whatever its root is
        folder, name = ("/dev/shm", "swarmpy-copied") if executor.name != "fake" else ("/etc", "copied")
        data = bytes(range(256)) * 1000
        await executor.copy_in(id_, folder, in_pieces(archive_of([(name, data)])))
        assert await copied(executor, id_, f"{folder}/{name}") == {name: data}
        with pytest.raises(NotThere):
            await executor.copy_in(id_, "/nowhere", in_pieces(archive_of([(name, data)])))
        with pytest.raises(TaskRejected, match="cannot be read"):
            await executor.copy_in(id_, folder, in_pieces(b"no archive" * 1000))

    async def test_only_of_running_tasks(self, executor: Executor) -> None:
        with pytest.raises(NotRunning):
            await executor.attach(task_id(99))
        with pytest.raises(NotRunning):
            await executor.top(task_id(99))
        with pytest.raises(NotRunning):
            await copied(executor, task_id(99), "/etc")
        with pytest.raises(NotRunning):
            await executor.copy_in(task_id(99), "/tmp", in_pieces(b""))
