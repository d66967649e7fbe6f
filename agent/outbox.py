"""Statuses on their way to the manager: merged per task, sent in few batches, in good time.

A task that runs or has ended is what others wait for, so that goes at once (or shortly after the batch
before). Steps on the way there wait a little, and are mostly overtaken: a task that starts quickly costs the
cluster one status and not four.

What was sent and not acknowledged is not kept: a new session begins with the manager's view of every task,
and the core reports anew whatever is ahead of it.
"""

from __future__ import annotations

from swarmpy.limits import (
    STATUS_BATCH_MAX,
    STATUS_BATCH_S,
    STATUS_GAP_S,
    STATUS_UNACKED_BATCHES_MAX,
)
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import TaskStatus
from swarmpy.model.states import TaskState

Batch = tuple[tuple[TaskId, TaskStatus], ...]


class Outbox:
    """No I/O, no clock: ``now`` is the monotonic clock's."""

    def __init__(self) -> None:
        self._statuses: dict[TaskId, TaskStatus] = {}
        self._due_at: float | None = None
        self._sent_at = float("-inf")
        self._sequence = 0
        self._unacked: set[int] = set()

    def put(self, task_id: TaskId, status: TaskStatus, now: float) -> None:
        self._statuses[task_id] = status
        is_urgent = status.state >= TaskState.RUNNING
        due_at = max(now, self._sent_at + STATUS_GAP_S) if is_urgent else now + STATUS_BATCH_S
        self._due_at = due_at if self._due_at is None else min(self._due_at, due_at)

    def drop(self, task_id: TaskId) -> None:
        self._statuses.pop(task_id, None)
        if not self._statuses:
            self._due_at = None

    def clear(self) -> None:
        """A session has ended."""
        self._statuses.clear()
        self._unacked.clear()
        self._due_at = None

    @property
    def backlog(self) -> dict[str, int]:
        return {"statuses": len(self._statuses), "unacked_batches": len(self._unacked)}

    @property
    def due_at(self) -> float | None:
        """When a batch should be taken; None while there is nothing, or too much is unacknowledged."""
        return self._due_at if len(self._unacked) < STATUS_UNACKED_BATCHES_MAX else None

    def take(self, now: float) -> tuple[int, Batch]:
        """The next batch and its sequence number."""
        batch = tuple(self._statuses.items())[:STATUS_BATCH_MAX]
        for task_id, _ in batch:
            del self._statuses[task_id]
        self._due_at = now if self._statuses else None
        self._sent_at = now
        self._sequence += 1
        self._unacked.add(self._sequence)
        return self._sequence, batch

    def acknowledge(self, sequence: int) -> None:
        self._unacked.discard(sequence)
