"""What a node remembers of its place in a swarm, beside its identity: one small file, replaced whole.

It has a checksum, since a flipped bit would make another address of an address. Who edits the file by hand
takes the checksum out.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import msgspec
from msgspec.structs import replace

from swarmpy.errors import Corrupt
from swarmpy.runtime import Disk


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses are ``host:port``. ``advertise_addr`` may lack its host until a manager has seen it."""

    listen_addr: str
    advertise_addr: str
    data_path_addr: str = ""
    """Where overlay traffic is taken, without a port; empty: the address that others reach us under."""
    managers: tuple[str, ...] = ()
    """``host:port`` of the managers known when the file was written; the agent keeps a fresher list."""


class _Stored(NodeState, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A name that was damaged is no field, so a checksum can't be lost unseen."""

    crc32: int | None = None


class StateFile:
    """``state.json`` in the node's data folder."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._disk = disk
        self._path = folder / "state.json"

    def load(self) -> NodeState | None:
        if not self._disk.exists(self._path):
            return None
        try:
            stored = msgspec.json.decode(self._disk.read(self._path), type=_Stored)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Corrupt(f"{self._path} is damaged: {error}") from error
        if stored.crc32 not in (None, _checksum(stored)):
            raise Corrupt(f"{self._path} is damaged: its checksum is wrong (if you edited it, remove that)")
        return NodeState(**{name: getattr(stored, name) for name in NodeState.__struct_fields__})

    def save(self, state: NodeState) -> None:
        stored = _Stored(**{name: getattr(state, name) for name in NodeState.__struct_fields__})
        stored = replace(stored, crc32=_checksum(stored))
        self._disk.write_atomic(self._path, msgspec.json.format(msgspec.json.encode(stored)))

    def remove(self) -> None:
        self._disk.remove(self._path)


def _checksum(stored: _Stored) -> int:
    return zlib.crc32(msgspec.json.encode(replace(stored, crc32=None)))
