"""How far an update is, read off the tasks that it has made: nothing of it is remembered.

Tasks of the update are those of the wanted revision that were created since it began. A slot with such a
task is *changed*. It is *waiting* until one of them has come up (or ended by itself), *busy* while it waits
and for the update's delay after that. A task that runs and is not ready is not up, and waits since it runs.
A slot whose task was stopped before it came up still waits: its node was drained, and another task follows.
One that nothing follows, since the restart policy says so, is done.

A task of the update that ends by itself before it ran, or within the monitor period after, is a *failure*.
A slot that waits is *overdue* if there was a time as long as the progress deadline, since it began to wait,
in which no slot came up. That has then happened, whatever comes up later; so it counts as a failure, and
the slot holds the update up no more.

What was before ``resumed_at`` is no failure: the user has seen it, and let the update go on.

How long a task ran is known from ``running_since``, by the leaders' clocks. Where a task has none, since it
failed before anybody heard that it ran, or a leader of an older version was told, it is reckoned from the
task's creation, with ``UPDATE_START_ALLOWANCE_S`` for fetching and starting. One that was never healthy is a
failure however long that took.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from manager.reconcile.restart import NEVER, is_displaced
from manager.reconcile.slots import is_wished
from swarmpy.limits import UPDATE_REASONS_MAX, UPDATE_START_ALLOWANCE_S
from swarmpy.model.defaults import EffectiveUpdate
from swarmpy.model.ids import SECOND_NS, RevisionId, Timestamp
from swarmpy.model.objects import Task, UpdateStatus
from swarmpy.model.states import HealthState, TaskState, is_terminal

_ALLOWANCE_NS: Final = int(UPDATE_START_ALLOWANCE_S * SECOND_NS)
_ENDED_BY_ITSELF: Final = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)


@dataclass(frozen=True, slots=True)
class Progress:
    """What an update has done so far. ``failures`` and ``overdue``: the first to fail first."""

    busy: int = 0
    changed: int = 0
    failures: tuple[Task, ...] = ()
    overdue: tuple[Task, ...] = ()
    last_done_at: Timestamp = NEVER
    wake_at: Timestamp | None = None


@dataclass(frozen=True, slots=True)
class _Slot:
    """One slot that the update has changed. ``waiting``: the task that has not come up; else it is done."""

    since: int = 0
    done_at: int = 0
    waiting: Task | None = None


def progress_of(
    slots: Iterable[Sequence[Task]],
    *,
    template_id: RevisionId,
    status: UpdateStatus,
    config: EffectiveUpdate,
    now: Timestamp,
) -> Progress:
    """Of an update that is going. ``slots``: all tasks, oldest first in each."""
    changed: list[_Slot] = []
    failures: list[Task] = []
    for tasks in slots:
        created = [task for task in tasks if task.revision_id == template_id and _is_since(task, status)]
        if created:
            changed.append(_slot(tasks, created, status, now))
            failures += [task for task in created if _is_failure(task, config, status)]
    waiting = sorted((slot for slot in changed if slot.waiting is not None), key=lambda slot: slot.since)
    done = [slot.done_at for slot in changed if slot.waiting is None]
    limit = _overdue_since(done, config.progress_deadline, now)
    overdue = [slot for slot in waiting if slot.since <= limit]
    in_delay = [at for at in done if at + config.delay > now]
    wakes = [at + config.delay for at in in_delay]
    if len(overdue) < len(waiting):
        wakes.append(max([waiting[len(overdue)].since, *done]) + config.progress_deadline)
    return Progress(
        busy=len(waiting) - len(overdue) + len(in_delay),
        changed=len(changed),
        failures=tuple(sorted(failures, key=lambda task: (task.status.timestamp, task.id))),
        overdue=tuple(slot.waiting for slot in overdue if slot.waiting is not None),
        last_done_at=Timestamp(max(done, default=0)),
        wake_at=Timestamp(min(wakes)) if wakes else None,
    )


def _is_since(task: Task, status: UpdateStatus) -> bool:
    if status.since_version:
        return task.version > status.since_version
    return task.created_at >= status.started_at


def _slot(tasks: Sequence[Task], created: Sequence[Task], status: UpdateStatus, now: Timestamp) -> _Slot:
    since = max(created[0].created_at, status.resumed_at)
    unready = [task for task in created if _is_unready(task)]
    came_up = [at for task in created if task not in unready and (at := _came_up_at(task))]
    if came_up:
        # clocks of nodes may be ahead of the leader's; what it was told has happened
        return _Slot(since=since, done_at=min(*came_up, now))
    if unready:
        return _Slot(since=max(since, unready[-1].status.running_since), waiting=unready[-1])
    if not any(is_wished(task) for task in tasks):
        return _Slot(since=since, done_at=min(created[-1].status.timestamp, now))
    return _Slot(since=since, waiting=created[-1])


def _is_unready(task: Task) -> bool:
    """Whether it is all that keeps its slot from being up that the task wants no requests."""
    return task.status.state == TaskState.RUNNING and task.status.is_unready and is_wished(task)


def _came_up_at(task: Task) -> int:
    """When the task came up, or ended by itself without; 0: neither."""
    status = task.status
    if status.running_since:
        return status.running_since
    is_done = status.state == TaskState.RUNNING or (
        status.state in _ENDED_BY_ITSELF and not is_displaced(task)
    )
    return max(status.timestamp, 1) if is_done else 0


def _is_failure(task: Task, config: EffectiveUpdate, update: UpdateStatus) -> bool:
    """Counted once a slot: what the restart policy makes of a failure is no failure of its own."""
    status = task.status
    if task.restarts or status.state not in _ENDED_BY_ITSELF or is_displaced(task):
        return False
    if status.timestamp < update.resumed_at:
        return False
    if status.running_since:
        return status.timestamp - status.running_since <= config.monitor
    if status.health in (HealthState.STARTING, HealthState.UNHEALTHY):
        return True  # it may have had long to become healthy, and never came up
    return status.timestamp - task.created_at <= config.monitor + _ALLOWANCE_NS


def _overdue_since(done: Iterable[int], deadline: int, now: Timestamp) -> int:
    """Slots that have waited since then, or before, saw a time of the deadline's length without progress."""
    marks = [0, *sorted(done), now]
    return max(
        (later - deadline for earlier, later in pairwise(marks) if later - earlier >= deadline), default=-1
    )


# --- in words


def stuck_tasks(overdue: Sequence[Task]) -> str:
    """Which tasks did not come up, and why: ``task x in slot 3 is pending: no suitable node (…)``."""
    told = "; ".join(map(_why_waiting, overdue[:UPDATE_REASONS_MAX]))
    more = len(overdue) - UPDATE_REASONS_MAX
    return f"{told}; and {more} more" if more > 0 else told


def _why_waiting(task: Task) -> str:
    status = task.status
    where = f"slot {task.slot}" if task.slot else f"node {task.node_id}"
    state = "waiting to be replaced" if is_terminal(status.state) else status.state.name.lower()
    if _is_unready(task):
        state = "running, but not ready"
    reason = status.err or (status.health_output if _is_unready(task) else status.message)
    # "preparing: preparing" tells nothing
    told = f": {reason}" if reason and reason.lower() != state else ""
    return f"task {task.id} in {where} is {state}{told}"
