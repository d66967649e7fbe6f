"""The life of each task, as committed.

* A task is created in one of ``CREATED_STATES``; each step of its state is in ``TRANSITIONS``, so its state
  only grows, and one that has ended never moves again.
* Its desired state only grows. Its node never changes once set; service, slot and revision never.
* It is deleted only when no agent may run it: it has ended, or was never assigned.
* A state that only agents may set was reported by the agent of the task's node before.

Where the steps in between were not seen (a snapshot was installed), only growth and origin are checked.
"""

from __future__ import annotations

from typing import Final

from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.states import CREATED_STATES, TRANSITIONS, Owner, TaskState, is_terminal
from swarmpy.sim.checkers.violations import Violations
from swarmpy.sim.limits import SIM_STARTS_KEPT

NAME: Final = "task life"

_SHIFT: Final = 1024
"""Makes a plain number of two states: enumerations hash slowly, and each step of each task is looked up."""
_AGENT: Final = frozenset({Owner.AGENT})
_STEPS: Final = frozenset(source * _SHIFT + target for source, target in TRANSITIONS)
_AGENT_STEPS: Final = frozenset(
    source * _SHIFT + target for (source, target), owners in TRANSITIONS.items() if owners == _AGENT
)
_BITS: Final = {int(state): 1 << position for position, state in enumerate(TaskState)}


def _agent_states() -> frozenset[int]:
    owners_of: dict[int, set[Owner]] = {}
    for (_, target), owners in TRANSITIONS.items():
        owners_of.setdefault(int(target), set()).update(owners)
    return frozenset(state for state, owners in owners_of.items() if owners == _AGENT)


_AGENT_STATES: Final = _agent_states()
"""States that nobody but an agent ever sets."""


class TaskLife:
    """``has_reports``: whether ``reported`` is called at all; without it origins are not checked."""

    def __init__(self, violations: Violations, *, has_reports: bool = True) -> None:
        self._violations = violations
        self._has_reports = has_reports
        self._reports: dict[TaskId, tuple[NodeId, int]] = {}

    def reported(self, node_id: NodeId, task_id: TaskId, state: TaskState) -> None:
        """The agent of this node has persisted that the task is in this state, and may report it."""
        bit = _BITS[int(state)]
        known = self._reports.get(task_id)
        if known is not None and known[0] == node_id:
            bit |= known[1]
        elif len(self._reports) >= SIM_STARTS_KEPT:
            del self._reports[next(iter(self._reports))]
        self._reports[task_id] = (node_id, bit)

    def event(self, old: Task | None, new: Task | None, *, is_gap: bool = False) -> None:
        if new is None:
            if old is not None:
                self._deleted(old, is_gap=is_gap)
            return
        if old is None:
            if new.status.state not in CREATED_STATES and not is_gap:
                self._add(new, f"was created as {_name(new.status.state)}")
            elif is_gap and new.status.state in _AGENT_STATES:
                self._check_origin(new)
            return
        before, after = old.status.state, new.status.state
        if before is not after:
            self._check_step(before, new, is_gap=is_gap)
        if new.desired_state < old.desired_state:
            sentence = f"is wished {_name(new.desired_state)} after {_name(old.desired_state)}"
            self._add(new, sentence)
        if old.node_id != new.node_id and old.node_id:
            self._add(new, "was moved to another node", old=old.node_id, new=new.node_id)
        if old.slot != new.slot or old.service_id != new.service_id:
            self._add(new, "was given another slot", old=f"{old.service_id}.{old.slot}")
        if old.revision_id != new.revision_id:
            self._add(new, "was given another revision", old=old.revision_id, new=new.revision_id)

    def _deleted(self, old: Task, *, is_gap: bool) -> None:
        self._reports.pop(old.id, None)
        if TaskState.ASSIGNED <= old.status.state <= TaskState.RUNNING and not is_gap:
            self._add(old, f"was deleted while {_name(old.status.state)}")

    def _check_step(self, before: TaskState, new: Task, *, is_gap: bool) -> None:
        after = new.status.state
        if is_terminal(before):
            self._add(new, f"went on to {_name(after)} although it had ended as {_name(before)}")
        elif after < before:
            self._add(new, f"went back from {_name(before)} to {_name(after)}")
        elif is_gap:
            if after in _AGENT_STATES:
                self._check_origin(new)
        else:
            step = before * _SHIFT + after
            if step not in _STEPS:
                self._add(new, f"went from {_name(before)} to {_name(after)}, which nobody may do")
            elif step in _AGENT_STEPS:
                self._check_origin(new)

    def _check_origin(self, task: Task) -> None:
        if not self._has_reports:
            return
        state = task.status.state
        node_id, seen = self._reports.get(task.id, (NodeId(""), 0))
        if not seen & _BITS[int(state)]:
            self._add(task, f"is stored as {_name(state)}, which no agent has reported")
        elif node_id != task.node_id:
            self._add(task, f"is stored as {_name(state)}, which only another node reported", by=node_id)

    def _add(self, task: Task, sentence: str, **facts: object) -> None:
        self._violations.add(NAME, f"task {task.id} {sentence}", node=task.node_id, **facts)


def _name(state: TaskState) -> str:
    return state.name.lower()
