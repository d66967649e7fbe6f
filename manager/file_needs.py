"""Which data of secrets and configs a node's tasks use: a node is told no other.

A task that pins a version needs that one, a task that has a file reloaded needs the newest; while the tasks
of a service move from one to the other a node may need both. Pure; one ``FileNeeds`` serves one session.
"""

from __future__ import annotations

from msgspec.structs import replace

from manager.store.view import View
from swarmpy.model.file_versions import (
    NEWEST,
    File,
    Pin,
    data_number,
    kind_of,
    references_of,
    target_of,
)
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import Config, Kind, Secret, Task
from swarmpy.model.states import TaskState

Key = tuple[Kind, str]


class FileNeeds:
    def __init__(self) -> None:
        self._of_tasks: dict[TaskId, frozenset[Pin]] = {}
        self._users: dict[Key, dict[int, int]] = {}
        """How many tasks use which version."""

    def note(self, task_id: TaskId, pins: frozenset[Pin]) -> list[Key]:
        """The task uses these by now. Returns the files that are in use and of which other data are."""
        before = self._of_tasks.get(task_id, frozenset())
        if pins == before:
            return []
        if pins:
            self._of_tasks[task_id] = pins
        else:
            self._of_tasks.pop(task_id, None)
        changed: dict[Key, None] = {}
        for pin, step in sorted(
            [*((pin, -1) for pin in before - pins), *((pin, 1) for pin in pins - before)]
        ):
            if self._count(pin, step):
                changed[(pin.kind, pin.id)] = None
        return [key for key in changed if key in self._users]

    def _count(self, pin: Pin, step: int) -> bool:
        """Whether the version is used now and was not before, or the other way round."""
        key = (pin.kind, pin.id)
        users = self._users.setdefault(key, {})
        count = users.get(pin.number, 0) + step
        if count:
            users[pin.number] = count
        else:
            del users[pin.number]
        if not users:
            del self._users[key]
        return count == max(step, 0)

    def trimmed(self, item: File) -> tuple[File, tuple[object, ...]]:
        """What the node is to hold of the item, and what differs whenever that does."""
        used = self._users.get((kind_of(item), item.id), {})
        newest = data_number(item)
        numbers = {number if number != NEWEST else newest for number in used}
        older = tuple(each for each in item.older if each.number in numbers)
        data = item.spec.data if newest in numbers else b""
        token = (newest, tuple(sorted(numbers)), item.spec.templating)
        if isinstance(item, Secret):
            spec = replace(item.spec, data=data, labels={})
            return Secret(id=item.id, spec=spec, number=newest, older=older), token
        config = replace(item.spec, data=data, labels={})
        return Config(id=item.id, spec=config, number=newest, older=older), token


def file_needs_of(view: View, task: Task) -> frozenset[Pin]:
    """What the task uses while it may still run; ``NEWEST`` for what is reloaded."""
    revision = view.revision(task.revision_id)
    may_run = task.status.state <= TaskState.RUNNING and task.desired_state <= TaskState.COMPLETE
    if revision is None or not may_run:
        return frozenset()
    return frozenset(Pin(*target_of(each), each.version) for each in references_of(revision.spec))
