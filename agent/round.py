"""What one event makes of the agent's tasks: which are looked at, what is persisted, reported and asked for.

A round begins with an event and ends once no task is marked any more; ``finish`` hands out what it has
gathered, the records to persist first, and starts anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent import events
from agent.events import Instruction, Now, Record
from agent.task import Run
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.model.objects import TaskStatus


class Round:
    """Owned by the core, and shared with what takes tasks up for it."""

    def __init__(self) -> None:
        self.now = Now(Timestamp(0), 0.0)
        self.records: list[Record] = []
        self.out: list[Instruction] = []
        self._dirty: dict[TaskId, None] = {}
        self._saved_tasks: dict[TaskId, None] = {}
        self._saved_statuses: dict[TaskId, None] = {}
        self._reported: dict[TaskId, None] = {}

    @property
    def is_over(self) -> bool:
        return not self._dirty

    def mark(self, task_ids: Iterable[TaskId]) -> None:
        """These may have something to do now."""
        self._dirty.update(dict.fromkeys(task_ids))

    def take_marked(self) -> TaskId:
        task_id = next(iter(self._dirty))
        del self._dirty[task_id]
        return task_id

    def save_task(self, run: Run) -> None:
        self._saved_tasks[run.task.id] = None

    def save(self, run: Run) -> None:
        """The task and its status."""
        self._saved_tasks[run.task.id] = None
        self._saved_statuses[run.task.id] = None

    def report(self, run: Run) -> None:
        """Tell managers again what they have missed."""
        self._reported[run.task.id] = None

    def tell(self, run: Run, status: TaskStatus) -> None:
        """The task's status is this from now on: persisted, then reported."""
        run.status = status
        self._saved_statuses[run.task.id] = None
        self._reported[run.task.id] = None

    def forget(self, task_id: TaskId) -> None:
        for gathered in (self._saved_tasks, self._saved_statuses, self._reported):
            gathered.pop(task_id, None)
        self.records.append(events.DropTask(task_id))

    def finish(self, runs: Mapping[TaskId, Run], networks: list[Instruction]) -> list[Instruction]:
        """What is to be done, in this order."""
        for task_id in self._saved_tasks:
            run = runs[task_id]
            self.records.append(events.SaveTask(run.task, run.is_released, run.stop_signal, run.image_check))
        for task_id in self._saved_statuses:
            self.records.append(events.SaveStatus(task_id, runs[task_id].status))
        reports = [
            events.ReportStatus(task_id, runs[task_id].status)
            for task_id in self._reported
            if not runs[task_id].is_released
        ]
        first: list[Instruction] = [events.Persist(tuple(self.records))] if self.records else []
        result = [*first, *networks, *self.out, *reports]
        for gathered in (self._saved_tasks, self._saved_statuses, self._reported):
            gathered.clear()
        self.records, self.out = [], []
        return result
