"""A native executor on a scratch folder, and what tests of it look at: processes, cgroups, mounts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.executor.base import ExitEvent, Launch, LogLine, LogQuery, Sandbox
from agent.executor.native.executor import NativeExecutor
from agent.executor.native.id_ranges import TaskIds
from agent.executor.native.task_files import TaskFiles
from swarmpy.model.ids import TaskId
from swarmpy.model.specs import ContainerSpec, Limits

DEADLINE_S = 20.0
_CGROUPS = Path("/sys/fs/cgroup")


class NativeRig:
    """One node's executor, which may be restarted. ``close`` leaves nothing behind."""

    def __init__(self, folder: Path, *, ids: TaskIds | None = None) -> None:
        self._ids = ids
        self.data_dir = folder / "node"
        self.data_dir.mkdir(exist_ok=True)
        self.parent = f"/swarmpy-test/{os.getpid()}-{folder.name}"
        self.executor: NativeExecutor = self._make()
        self._left: list[NativeExecutor] = []

    def _make(self) -> NativeExecutor:
        return NativeExecutor(self.data_dir, cgroup_parent=self.parent, ids=self._ids)

    async def open(self) -> NativeExecutor:
        await self.executor.start_up()
        return self.executor

    async def reopen(
        self, *, is_clean: bool = True, meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> NativeExecutor:
        """As a restart of the daemon; not clean: the former one is left as it is."""
        if is_clean:
            await self.executor.shut_down()
        else:
            self._left.append(self.executor)
        if meanwhile is not None:
            await meanwhile()
        self.executor = self._make()
        await self.executor.start_up()
        return self.executor

    async def close(self) -> None:
        for found in await self.executor.list():
            await self.executor.remove(found.task_id)
        for executor in (*self._left, self.executor):
            await executor.shut_down()
        TaskFiles(self.data_dir / "files").unmount()
        for root in (_CGROUPS, *_CGROUPS.iterdir()):
            folder = root / self.parent.strip("/")
            for path in (folder, folder.parent):
                with contextlib.suppress(OSError):
                    path.rmdir()

    # --- tasks

    async def launch(
        self,
        name: str,
        *argv: str,
        limits: Limits | None = None,
        spec: ContainerSpec | None = None,
        image: str = "host",
    ) -> Launch:
        """Image ``host`` and a command, unless a whole spec is given."""
        return Launch(
            task_id=TaskId(name),
            name=name,
            spec=spec or ContainerSpec(image=image, command=argv),
            image=await self.executor.ensure_image(image),
            sandbox=Sandbox(netns=""),
            limits=limits or Limits(),
        )

    async def run(
        self,
        name: str,
        *argv: str,
        limits: Limits | None = None,
        spec: ContainerSpec | None = None,
        image: str = "host",
    ) -> TaskId:
        launch = await self.launch(name, *argv, limits=limits, spec=spec, image=image)
        await self.executor.create(launch)
        await self.executor.start(launch.task_id)
        return launch.task_id

    async def sh(self, name: str, script: str, *, limits: Limits | None = None) -> TaskId:
        return await self.run(name, "/bin/sh", "-c", script, limits=limits)

    async def wait_exit(self, task_id: TaskId) -> ExitEvent:
        async with asyncio.timeout(DEADLINE_S):
            async for ended in self.executor.events():
                if ended.task_id == task_id:
                    return ended
        raise AssertionError("the executor's events ended")

    async def output(self, task_id: TaskId) -> str:
        """All that the task has said, once it has ended."""
        await self.wait_exit(task_id)
        return b"".join([line.data for line in await self.log(task_id)]).decode()

    async def log(self, task_id: TaskId, query: LogQuery | None = None) -> list[LogLine]:
        async with asyncio.timeout(DEADLINE_S):
            return [line async for line in self.executor.logs(task_id, query or LogQuery())]


async def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not in {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.005)


def is_running(pid: int) -> bool:
    """A zombie counts as ended: only its parent is still to take notice."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
