"""What every executor with processes says when it cannot run a task, and that nothing of it is left.

A part of the suite of ``executor_suite``; taken by subclassing ``TroubleContract``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from executor_suite import EXIT_3, RUN_ON, Suite, Tasks, wait_exit
from life_suite import Left, nothing_left
from msgspec.structs import replace

from agent.executor.base import Executor, LaunchFile
from swarmpy.errors import SwarmError, TaskRejected, Unavailable
from swarmpy.model.specs import Mount
from swarmpy.model.states import MountType

DISK_BYTES = 48 << 20


def fill_up(filler: Path) -> None:
    """To the last byte of its file system."""
    with filler.open("wb", buffering=0) as target:
        for piece in (bytes(1 << 16), b"0"):
            with suppress(OSError):
                while target.write(piece):
                    pass


class TroubleContract(Suite):
    """The suite."""

    async def test_a_missing_image(self, executor: Executor) -> None:
        with pytest.raises(TaskRejected, match=r"(?i)no such image: .*no-such-image:1"):
            await executor.ensure_image("no-such-image:1")
        for name in ("Not A Name", "UPPER:1", ""):
            with pytest.raises(TaskRejected, match=r"(?i)invalid reference format|repository name must be"):
                await executor.ensure_image(name)

    async def test_what_cannot_be_mounted(
        self, executor: Executor, tasks: Tasks, data_dir: Path, left: Left
    ) -> None:
        bind = Mount(type=MountType.BIND, source="/no/such/folder/here", target="/here")
        launch = await tasks.launch(1, RUN_ON, mounts=(bind,))
        with pytest.raises(TaskRejected, match="/no/such/folder/here"):
            await tasks.begin(launch)
        await executor.remove(launch.task_id)
        assert await executor.list() == ()
        await nothing_left(data_dir, left)

    async def test_an_unknown_user(self, executor: Executor, tasks: Tasks) -> None:
        launch = await tasks.launch(1, RUN_ON, user="nobody-here")
        with pytest.raises(SwarmError, match="nobody-here"):
            await tasks.begin(launch)
        await executor.remove(launch.task_id)


class FullDiskContract(Suite):
    """The node's data folder has no space left."""

    @pytest.fixture
    def data_dir(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "node"
        folder.mkdir()
        options = f"size={DISK_BYTES},nr_inodes=4096"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "suite-disk", folder], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--recursive", "--lazy", folder], check=True)

    async def test_a_full_disk(self, executor: Executor, tasks: Tasks, data_dir: Path, left: Left) -> None:
        file = LaunchFile(target="/run/secrets/key", data=b"key")
        launch = replace(await tasks.launch(1, EXIT_3), files=(file,))
        running = await tasks.run(2, RUN_ON)
        filler = data_dir / "filler"
        fill_up(filler)
        try:
            with pytest.raises((TaskRejected, Unavailable), match=r"(?i)no space left on device|full"):
                await tasks.begin(launch)
            assert {item.task_id for item in await executor.list() if item.exit is None} >= {running}
            await executor.remove(launch.task_id)
            assert [item.task_id for item in await executor.list()] == [running]
        finally:
            filler.unlink()
        await tasks.begin(launch)
        assert (await wait_exit(executor, launch.task_id)).code == 3
        for id_ in (launch.task_id, running):
            await executor.remove(id_)
        await nothing_left(data_dir, left)
