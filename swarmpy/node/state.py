"""What a node remembers of its place in a swarm, beside its identity: one small file, replaced whole."""

from __future__ import annotations

from pathlib import Path

import msgspec

from swarmpy.errors import Corrupt
from swarmpy.runtime import Disk


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses are ``host:port``. ``advertise_addr`` may lack its host until a manager has seen it."""

    listen_addr: str
    advertise_addr: str
    managers: tuple[str, ...] = ()
    """``host:port`` of the managers known when the file was written; the agent keeps a fresher list."""


class StateFile:
    """``state.json`` in the node's data folder."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._disk = disk
        self._path = folder / "state.json"

    def load(self) -> NodeState | None:
        if not self._disk.exists(self._path):
            return None
        try:
            return msgspec.json.decode(self._disk.read(self._path), type=NodeState)
        except msgspec.DecodeError as error:
            raise Corrupt(f"{self._path} is damaged: {error}") from error

    def save(self, state: NodeState) -> None:
        self._disk.write_atomic(self._path, msgspec.json.format(msgspec.json.encode(state)))

    def remove(self) -> None:
        self._disk.remove(self._path)
