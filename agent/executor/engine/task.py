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

LABEL_NODE = "io.swarmpy.node"
"""The key of the data folder whose container it is: several nodes may share an engine."""
LABEL_TASK = "io.swarmpy.task"
LABEL_KIND = "io.swarmpy.kind"
"""What the container is to its task, as follows."""
KIND_TASK = "task"
KIND_PAUSE = "pause"
"""It holds the task's network, for Docker."""
KIND_COPY = "copy"
"""It never runs: what an image has for an empty volume is read out of it."""


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
    has_memory_limit: bool = False
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
    """``container``, ``pause``: ids, "" while there is none. ``ended`` is set when the end is known."""

    record: Record
    container: str = ""
    pause: str = ""
    started: Started | None = None
    end: Ended | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    entering: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Of who finds out how commands get inside."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    is_out_of_memory: bool = False
    """Whether the kernel has said so, which the engine may have missed."""
    is_created: bool = False
    """Whether it was acknowledged: until then it is made or unmade as a whole."""

    @property
    def is_running(self) -> bool:
        return self.started is not None and self.end is None
