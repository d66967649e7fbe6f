"""What agents report of their tasks, as groups for the log: one per task, of which the furthest counts.

The leader notes when it heard that a task runs. Nodes' clocks may be off, and an agent's report of how a task
ended takes the place of the one that said that it ran. What a node tells has happened; so a time that is yet
to come by the leader's clock, since the node's is ahead, is made now. Or failures would fall out of every
period in which they count, or stay in it for as long as the clock is ahead.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from manager.store.view import View
from swarmpy.model.changes import Group, Report
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.model.objects import TaskStatus
from swarmpy.model.states import Owner, TaskState


def report_groups(view: View, reports: Iterable[tuple[TaskId, TaskStatus]], now: Timestamp) -> list[Group]:
    """In the order in which the tasks were first reported on."""
    latest: dict[TaskId, TaskStatus] = {}
    ran: set[TaskId] = set()
    for task_id, status in reports:
        known = latest.get(task_id)
        if known is None or (status.state, status.report) > (known.state, known.report):
            latest[task_id] = status
        if status.state == TaskState.RUNNING:
            ran.add(task_id)
    return [
        Group(
            owner=Owner.AGENT,
            changes=(Report(task_id=task_id, status=_noted(view, task_id, status, ran, now)),),
        )
        for task_id, status in latest.items()
    ]


def _noted(view: View, task_id: TaskId, status: TaskStatus, ran: set[TaskId], now: Timestamp) -> TaskStatus:
    stored = view.task(task_id)
    since = stored.status.running_since if stored is not None else Timestamp(0)
    if not since and task_id in ran:
        since = now
    if status.running_since == since and status.timestamp <= now:
        return status
    return replace(status, running_since=since, timestamp=Timestamp(min(status.timestamp, now)))
