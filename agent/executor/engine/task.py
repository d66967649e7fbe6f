"""What memory and disk hold of one task that is a container of an engine.

``record.json`` in the task's folder is written before the container is made and says all that the container
is made from; its presence means: created, as ``job.json``'s for native tasks. ``started`` and ``exit`` are
written when the engine says so, so that an end is known also after the container is gone. The engine's own
inspection stays the truth for as long as there is a container.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from agent.executor.base import Exit
from swarmpy.model.containers import ContainerMount
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.model.value import Value

LABEL_TASK = "io.swarmpy.task"
LABEL_NODE = "io.swarmpy.node"
LABEL_PAUSE = "io.swarmpy.pause"
"""On the container that holds a task's network for Docker; its value is the task's id."""


class Record(Value, frozen=True, kw_only=True):
    """``record.json``. ``container`` is the container's name in the engine. ``networks`` is where the task's
    network namespace lies; ``image_id`` the image's digest as the engine has it."""

    task_id: TaskId
    name: str
    container: str
    image: str
    image_id: str = ""
    argv: tuple[str, ...] = ()
    hostname: str = ""
    netns: str = ""
    tty: bool = False
    open_stdin: bool = False
    volumes: tuple[str, ...] = ()
    """Names of those that it has mounted."""
    mounts: tuple[ContainerMount, ...] = ()


class Started(Value, frozen=True, kw_only=True):
    """``pid`` as the node counts; 0 if it is not known any more."""

    at: Timestamp
    pid: int = 0


class Ended(Value, frozen=True, kw_only=True):
    """``kind`` is "ended", or for a task that never ran "rejected" or "failed"."""

    exit: Exit
    kind: str = "ended"


@dataclass(kw_only=True)
class EngineTask:
    """``container`` is the container's id, "" while there is none. ``ended`` is set when the end is known."""

    record: Record
    container: str = ""
    started: Started | None = None
    end: Ended | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_running(self) -> bool:
        return self.started is not None and self.end is None
