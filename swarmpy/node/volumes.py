"""The node's volumes, as its own API asks for them; they are there whether the node is in a swarm or not.

A volume is in use while any task's folder names it, whatever executor wrote that: tasks of the former one may
still be there.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from agent import volume_calls
from agent.executor.engine import records
from agent.executor.native import folders
from agent.volumes import Volumes
from swarmpy.runtime import Clock


class NodeVolumes:
    """Beside the executor, on the same folder."""

    def __init__(self, data_dir: Path, clock: Clock) -> None:
        self._volumes = Volumes(data_dir / "volumes", partial(users, data_dir / "tasks"), clock.now)

    def prepare(self) -> None:
        self._volumes.prepare()

    async def call(self, name: str, body: bytes) -> bytes:
        return await asyncio.to_thread(volume_calls.answer, self._volumes, name, body)


def users(tasks_dir: Path) -> dict[str, tuple[str, ...]]:
    """Which tasks have which named volume, in the records of all executors."""
    of_native, of_engines = folders.volume_users(tasks_dir), records.volume_users(tasks_dir)
    return {
        name: (*of_native.get(name, ()), *of_engines.get(name, ()))
        for name in dict.fromkeys([*of_native, *of_engines])
    }
