"""No task is started twice under one id: not on two machines, and not twice on one.

What counts is what the machines did (``FakeMachine``), not what anybody reports. It is an error also if the
first run had ended: a second run is another task.
"""

from __future__ import annotations

from typing import Final

from swarmpy.model.ids import NodeId, TaskId
from swarmpy.sim.checkers.violations import Violations
from swarmpy.sim.limits import SIM_STARTS_KEPT

NAME: Final = "starts"


class Starts:
    """The latest starts are remembered; a task is long gone when its own is forgotten."""

    def __init__(self, violations: Violations, *, limit: int = SIM_STARTS_KEPT) -> None:
        self._violations = violations
        self._limit = limit
        self._started: dict[TaskId, tuple[NodeId, float]] = {}

    def started(self, node_id: NodeId, task_id: TaskId) -> None:
        """The machine of this node has really started the task's process."""
        known = self._started.get(task_id)
        if known is None:
            if len(self._started) >= self._limit:
                del self._started[next(iter(self._started))]
            self._started[task_id] = (node_id, self._violations.now())
            return
        first_node, at = known
        where = "a second time" if first_node == node_id else "on a second node"
        self._violations.add(
            NAME, f"task {task_id} was started {where}", first=first_node, first_at=at, now=node_id
        )
