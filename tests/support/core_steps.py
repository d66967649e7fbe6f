"""The agent's core by itself, step by step: events in, instructions out; its invariants hold after each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from agent_rig import NODE, FakeManager

from agent import events
from agent.core import Core
from agent.events import Event, Instruction, Now
from agent.executor.base import Found, ImageConfig, Sandbox
from swarmpy.model.ids import SessionId, Timestamp
from swarmpy.model.objects import Revision, Task
from swarmpy.model.states import TaskState

SANDBOX = Sandbox(netns="/n", addresses=("10.0.0.2",))

T = TypeVar("T")


def tell(core: Core, *told: Event, at: float = 0.0) -> list[Instruction]:
    out: list[Instruction] = []
    for event in told:
        out += core.handle(event, Now(Timestamp(int(at * 1e9)), at))
        core.check()
    return out


def only(instructions: Sequence[Instruction], kind: type[T]) -> T:
    (found,) = [item for item in instructions if isinstance(item, kind)]
    return found


def states(instructions: Sequence[Instruction]) -> list[str]:
    return [item.status.state.name for item in instructions if isinstance(item, events.ReportStatus)]


def started(manager: FakeManager) -> Core:
    """A core that has taken in what the manager has for it."""
    core = Core(NODE)
    tell(core, events.Restored(), events.SessionUp(SessionId("s")), manager.complete())
    return core


def bring_up(
    core: Core, manager: FakeManager, task: Task, of: Revision, *, image: ImageConfig | None = None
) -> list[Instruction]:
    """Up to the start of its process, at 0; returns what that made the core ask for."""
    out = tell(core, manager.assign(task, revision=of))
    wanted = only(out, events.EnsureImage)
    config = image if image is not None else ImageConfig(reference=wanted.reference)
    out = tell(core, events.ImageReady(wanted.reference, wanted.attempt, config))
    out = tell(core, events.Attached(task.id, only(out, events.Attach).attempt, SANDBOX))
    out = tell(core, events.Created(task.id, only(out, events.Create).attempt))
    assert only(out, events.ReportStatus).status.state is TaskState.STARTING
    return tell(core, events.Started(task.id, only(out, events.Start).attempt, Found(task_id=task.id, pid=7)))
