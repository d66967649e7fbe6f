"""Waiting for what becomes of one container: for its start, its end, its removal.

All is read off the store, as it changes; what was seen of a task is kept after the task is gone, so that the
result of a container that is removed with its end is still there to be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from enum import StrEnum
from typing import Final

from manager.api.container_refs import ContainerRef, run_order
from manager.api.control import ClusterAccess
from manager.reconcile.standalone import has_not_started, is_over
from manager.store.events import Commit, Event, Resync
from manager.store.view import View
from swarmpy.errors import Unavailable
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.model.objects import Task
from swarmpy.model.states import HealthState, TaskState, is_terminal

Seen = dict[TaskId, Task]
"""The container's tasks, as they were last; also those that are gone."""

NOT_FOUND_CODE: Final = 127
NOT_EXECUTABLE_CODE: Final = 126
NOT_STARTED_CODE: Final = 128


class Condition(StrEnum):
    """Docker's words for what a wait waits for."""

    NOT_RUNNING = "not-running"
    NEXT_EXIT = "next-exit"
    REMOVED = "removed"


async def follow(access: ClusterAccess, container: ContainerRef) -> AsyncGenerator[Seen, None]:
    """The container's tasks now, and whenever the store has changed. Ends when this node is no manager."""
    with access.watch() as watch:
        seen = {task.id: task for task in _tasks(access.view, container)}
        yield seen
        async for notice in watch:
            match notice:
                case Event(old=old, new=new):
                    item = new if new is not None else old
                    if isinstance(item, Task) and is_of(container, item):
                        seen[item.id] = item
                case Resync():
                    seen |= {task.id: task for task in _tasks(access.view, container)}
                case Commit():
                    yield seen


async def until(
    access: ClusterAccess, container: ContainerRef, done: Callable[[Seen], bool], *, within_s: float | None
) -> Seen | None:
    """What was seen when it was ``done``; None if it did not come to that in time."""
    try:
        async with asyncio.timeout(within_s), aclosing(follow(access, container)) as states:
            async for seen in states:
                if done(seen):
                    return seen
    except TimeoutError:
        return None
    raise Unavailable("this node is no manager of the swarm any more: ask another one")


def is_of(container: ContainerRef, task: Task) -> bool:
    if container.service is not None:
        return task.service_id == container.service.id
    return container.task is not None and task.id == container.task.id


def _tasks(view: View, container: ContainerRef) -> list[Task]:
    if container.service is not None:
        return list(view.tasks_of_service(container.service.id))
    task = view.task(container.task.id) if container.task is not None else None
    return [] if task is None else [task]


def exists(view: View, container: ContainerRef) -> bool:
    if container.service is not None:
        return view.service(container.service.id) is not None
    return container.task is not None and view.task(container.task.id) is not None


def newest(seen: Seen) -> Task | None:
    return max(seen.values(), key=run_order, default=None)


def newest_of_run(seen: Seen, run: int) -> Task | None:
    return max((task for task in seen.values() if task.job_iteration == run), key=run_order, default=None)


def is_at_rest(view: View, container: ContainerRef, seen: Seen, now: Timestamp) -> bool:
    """Whether nothing of it runs or is about to."""
    if any(not is_terminal(task.status.state) for task in seen.values()):
        return False
    service = view.service(container.service.id) if container.service is not None else None
    return service is None or is_over(service, view.tasks_of_service(service.id), now)


def has_come_up(task: Task) -> bool:
    """Whether its process was started; one with a health check is not called running before it is healthy."""
    state = task.status.state
    is_being_checked = task.status.health is not HealthState.UNSPECIFIED
    return state is TaskState.RUNNING or (state is TaskState.STARTING and is_being_checked)


def exit_code(task: Task | None) -> int:
    """As docker gives it; 0 of a container that never ran."""
    if task is None or not is_terminal(task.status.state):
        return 0
    status = task.status.container_status
    if status is not None and (status.exit_code or not has_not_started(task)):
        return status.exit_code
    if task.status.state is TaskState.COMPLETE or not has_not_started(task):
        return 0 if task.status.state in (TaskState.COMPLETE, TaskState.SHUTDOWN) else NOT_STARTED_CODE
    err = task.status.err
    if "not found" in err or "no such file" in err:
        return NOT_FOUND_CODE
    return NOT_EXECUTABLE_CODE if "permission denied" in err else NOT_STARTED_CODE
