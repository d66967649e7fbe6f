"""Which engine has this node's tasks: what it says of itself is kept in the data folder, and asked again.

Another engine, as behind another socket, has none of our containers, and says so: taken at its word, every
task would have ended. So nothing that an engine does not have is believed before it has said who it is, and
while tasks are left no other one is taken for ours. With none left, whoever answers becomes the one.

Docker has an id, which several of its daemons on a machine may share, and a folder; Podman a folder. A data
folder without a record is of a version that kept none.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.executor.engine.client import Engine, Flavour
from agent.executor.native.shim.supervise import sync_record, write_record
from swarmpy.errors import Corrupt, Unavailable
from swarmpy.model.value import Value

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
_RECORD: Final = "engine.json"


class OtherEngine(Unavailable):
    """What answers is not the engine that has this node's tasks; these run on."""


class Known(Value, frozen=True, kw_only=True):
    """``engine.json``. ``socket``: where it was last met, for the user."""

    key: str
    socket: str


def key_of(flavour: Flavour, info: Mapping[str, Any]) -> str:
    """What an engine that says this of itself is known by; "" if it says nothing. Pure."""
    root = str(info.get("DockerRootDir") or "")
    return root if flavour == "podman" else f"{info.get('ID') or ''} {root}".strip()


class Identity:
    """``count_tasks``: how many tasks of this node are left. ``run`` calls what blocks in a thread."""

    def __init__(self, engine: Engine, data_dir: Path, *, count_tasks: Callable[[], int], run: Run) -> None:
        self._engine = engine
        self._place = data_dir / _RECORD
        self._count_tasks = count_tasks
        self._run = run
        self._is_confirmed = False

    def doubt(self) -> None:
        """The connection broke off: who answers next may be another."""
        self._is_confirmed = False

    async def require(self) -> None:
        """``OtherEngine`` if who answers now is not ours; asked once for each connection."""
        if not self._is_confirmed:
            await self.confirm()

    async def confirm(self) -> None:
        """As ``require``, and asked now: before it is believed that something of ours is not there."""
        self._is_confirmed = False
        info = await self._engine.call("GET", "/info") or {}
        found = Known(key=key_of(self._engine.flavour, info), socket=self._engine.socket)
        if not found.key:
            raise Unavailable(f"{self._engine.flavour} at {self._engine.socket} does not say who it is")
        kept = await self._run(partial(_read, self._place))
        if kept is not None and kept.key != found.key and (count := self._count_tasks()):
            raise OtherEngine(self._refusal(count, kept))
        if kept != found:
            await self._run(partial(_write, self._place, found))
        self._is_confirmed = True

    def _refusal(self, count: int, kept: Known) -> str:
        flavour = self._engine.flavour
        tasks = "1 task of this node is" if count == 1 else f"{count} tasks of this node are"
        return (
            f"what answers at {self._engine.socket} is another {flavour} than the one that {tasks} in: name "
            f"that one's socket with --engine-socket (it was {kept.socket}), drain the node, and change it "
            f"then. If that {flavour} is gone for good, remove {self._place}: its tasks then count as ended"
        )


def _read(place: Path) -> Known | None:
    try:
        return msgspec.json.decode(place.read_bytes(), type=Known)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise Corrupt(
            f"{place} is damaged: {error}; remove it if the engine is still the one that has the tasks"
        ) from None
    except OSError as error:
        raise Unavailable(f"cannot read {place}: {error.strerror or error}") from None


def _write(place: Path, known: Known) -> None:
    try:
        fresh = place.with_suffix(".new")
        write_record(str(fresh), msgspec.json.encode(known).decode())
        sync_record(str(fresh.parent), fresh.name)
        os.replace(fresh, place)
        sync_record(str(place.parent), place.name)
    except OSError as error:
        raise Unavailable(f"cannot keep the record {place}: {error.strerror or error}") from None
