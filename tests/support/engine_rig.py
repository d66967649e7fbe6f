"""An engine executor over an engine that a whole module shares: one node's, which may be restarted."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

from executor_suite import nothing

from agent.dataplane.linux import namespaces
from agent.executor.base import Sandbox
from agent.executor.engine.client import Flavour
from agent.executor.engine.executor import EngineExecutor
from agent.executor.native.task_files import TaskFiles

CROWD = 12
"""Tasks at once: each costs an engine several processes, two containers of Docker's."""

_numbers = itertools.count()


class SharedEngine:
    """``folder``: seen by the engine, with all that is mounted below it later. ``files_dir`` is in memory."""

    def __init__(self, flavour: Flavour, socket: str, folder: Path) -> None:
        self.flavour: Flavour = flavour
        self.socket = socket
        self.folder = folder
        self.files_dir = folder / "files"
        self.loaded: set[Path] = set()


class EngineRig:
    """``close`` leaves nothing behind but the engine."""

    def __init__(self, data_dir: Path, engine: SharedEngine) -> None:
        self.data_dir = data_dir
        self.engine = engine
        self.executor = self._make()
        self._left: list[EngineExecutor] = []
        self._spaces: list[Path] = []

    def _make(self) -> EngineExecutor:
        return EngineExecutor(
            self.data_dir,
            flavour=self.engine.flavour,
            socket=self.engine.socket,
            files_dir=self.engine.files_dir,
        )

    async def open(self) -> EngineExecutor:
        await self.executor.start_up()
        return self.executor

    async def reopen(
        self, *, is_clean: bool = True, meanwhile: Callable[[], Awaitable[None]] = nothing
    ) -> EngineExecutor:
        if is_clean:
            await self.executor.shut_down()
        else:
            self._left.append(self.executor)
        await meanwhile()
        self.executor = self._make()
        return await self.open()

    def sandbox(self) -> Sandbox:
        """A fresh namespace with nothing but loopback."""
        path = self.engine.folder / f"net-{next(_numbers)}"
        namespaces.make(path).close()
        self._spaces.append(path)
        return Sandbox(netns=str(path))

    async def load(self, archive: Path) -> None:
        """Once for all tests of a module."""
        if archive in self.engine.loaded:
            return
        engine = self.executor.engine
        headers = {"Content-Type": "application/x-tar"}
        data = archive.read_bytes()
        async with engine.stream("POST", "/images/load", data=data, headers=headers) as answer:
            said = b"".join([piece async for piece in engine.chunks(answer)])
        assert b'"error"' not in said, said
        self.engine.loaded.add(archive)

    async def left(self) -> list[str]:
        """What there is in the engine, and of files in memory, of this node's tasks."""
        key = (self.data_dir / "engine.key").read_text()
        params = {"all": "1", "filters": f'{{"label":["io.swarmpy.node={key}"]}}'}
        found = await self.executor.engine.call("GET", "/containers/json", params=params)
        files = TaskFiles(self.engine.files_dir).task_ids()
        return [one["Names"][0] for one in found] + [f"files of {task_id}" for task_id in files]

    async def close(self) -> None:
        for found in await self.executor.list():
            await self.executor.remove(found.task_id)
        for executor in (*self._left, self.executor):
            await executor.shut_down()
        for path in self._spaces:
            namespaces.remove(path)
