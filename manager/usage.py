"""What tasks use now, as their agents told this leader. Never stored: a new leader asks anew.

Bounded by the tasks that agents may report on; figures of tasks that were not heard of for a while are gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from swarmpy.limits import USAGE_FRESH_S, USAGE_TASKS_MAX
from swarmpy.model.ids import SECOND_NS, TaskId, Timestamp
from swarmpy.pb import dispatcher_pb2 as pb

_FRESH_NS = int(USAGE_FRESH_S * SECOND_NS)


class Use(NamedTuple):
    """CPUs in billionths, over the agent's last period; memory in bytes, now. ``at``: when it was heard."""

    nano_cpus: int
    memory_bytes: int
    at: Timestamp


class UsageBook:
    """One for each term of leadership."""

    def __init__(self) -> None:
        self._uses: dict[TaskId, Use] = {}

    def __len__(self) -> int:
        return len(self._uses)

    def take(self, tasks: Iterable[pb.TaskUsage], now: Timestamp) -> None:
        if len(self._uses) >= USAGE_TASKS_MAX:
            self._uses = {id_: use for id_, use in self._uses.items() if _is_fresh(use, now)}
        for task in tasks:
            task_id = TaskId(task.task_id)
            if task_id in self._uses or len(self._uses) < USAGE_TASKS_MAX:
                self._uses[task_id] = Use(max(task.nano_cpus, 0), max(task.memory_bytes, 0), now)

    def of(self, task_id: TaskId, now: Timestamp) -> Use | None:
        """The last figures; None if there are none that say anything about now."""
        use = self._uses.get(task_id)
        return use if use is not None and _is_fresh(use, now) else None


def _is_fresh(use: Use, now: Timestamp) -> bool:
    return now - use.at <= _FRESH_NS
