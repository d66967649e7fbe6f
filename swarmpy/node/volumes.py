"""The node's volumes, as its own API asks for them; they are there whether the node is in a swarm or not."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from agent import volume_calls
from agent.executor.native import folders
from agent.volumes import Volumes
from swarmpy.runtime import Clock


class NodeVolumes:
    """Beside the executor, on the same folder."""

    def __init__(self, data_dir: Path, clock: Clock) -> None:
        self._volumes = Volumes(
            data_dir / "volumes", partial(folders.volume_users, data_dir / "tasks"), clock.now
        )

    def prepare(self) -> None:
        self._volumes.prepare()

    async def call(self, name: str, body: bytes) -> bytes:
        return await asyncio.to_thread(volume_calls.answer, self._volumes, name, body)
