"""Rolling updates and rollbacks: which slots are replaced now, and what the service's update status becomes.

Nothing is remembered between calls. Progress is read off the tasks of the wanted revision that were created
since ``update_status.started_at``: a slot is *busy* until one of them has run (or ended), and for the
update's delay after that; at most ``parallelism`` slots are busy. The update is completed when nothing is
outdated and the monitor period has passed since the last slot came up. A new leader goes on where the last
one was.

A task of the update that ends by itself before it ran, or within the monitor period, is a failure; when
failures exceed the ratio the update pauses, goes on or rolls back as the service says. A rollback whose ports
another service publishes by now is paused at once. The moment a task began to run is not stored, so "within
the monitor period" is reckoned from its creation and allows ``UPDATE_START_ALLOWANCE_S`` for fetching and
starting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic

from manager.reconcile.restart import NEVER, is_displaced
from manager.reconcile.slots import K
from swarmpy.limits import UPDATE_START_ALLOWANCE_S
from swarmpy.model.defaults import EffectiveUpdate, rollback_config, update_config
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.objects import Revision, Service, Task, UpdateStatus
from swarmpy.model.states import FailureAction, TaskState, UpdateState

_ALLOWANCE_NS: Final = int(UPDATE_START_ALLOWANCE_S * SECOND_NS)
_GOING: Final = (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED)
_PAUSED: Final = (UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED)
_FAILED: Final = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)


@dataclass(frozen=True, slots=True)
class Progress:
    """What an update has done so far, read off the tasks that it created."""

    busy: int = 0
    changed: int = 0
    failures: tuple[Task, ...] = ()
    last_done_at: Timestamp = NEVER
    wake_at: Timestamp | None = None


@dataclass(frozen=True, slots=True)
class Step(Generic[K]):
    """What to do now. ``status`` None: as it is. ``is_rollback``: return to the previous revision."""

    status: UpdateStatus | None = None
    is_rollback: bool = False
    slots: tuple[K, ...] = ()
    wake_at: Timestamp | None = None


def is_going(service: Service) -> bool:
    return service.update_status is not None and service.update_status.state in _GOING


def config_of(service: Service) -> EffectiveUpdate:
    status = service.update_status
    if status is not None and status.state == UpdateState.ROLLBACK_STARTED:
        return rollback_config(service.spec)
    return update_config(service.spec)


def progress_of(
    slots: Iterable[Sequence[Task]], service: Service, config: EffectiveUpdate, now: Timestamp
) -> Progress:
    status = service.update_status
    if status is None or status.state not in _GOING:
        return Progress()
    busy = changed = last_done_at = 0
    failures: list[Task] = []
    wake_at: int | None = None
    for tasks in slots:
        created = [
            task
            for task in tasks
            if task.revision_id == service.template_id and task.created_at >= status.started_at
        ]
        if not created:
            continue
        changed += 1
        done = [task for task in created if task.status.state >= TaskState.RUNNING]
        if not done:
            busy += 1
            continue
        done_at = min(task.status.timestamp for task in done)
        last_done_at = max(last_done_at, done_at)
        if done_at + config.delay > now:
            busy += 1
            wake_at = _earlier(wake_at, done_at + config.delay)
        failures += [task for task in done if _is_failure(task, config)]
    return Progress(
        busy=busy,
        changed=changed,
        failures=tuple(sorted(failures, key=lambda task: (task.status.timestamp, task.id))),
        last_done_at=Timestamp(last_done_at),
        wake_at=None if wake_at is None else Timestamp(wake_at),
    )


def _is_failure(task: Task, config: EffectiveUpdate) -> bool:
    if task.restarts or task.status.state not in _FAILED or is_displaced(task):
        return False
    return task.status.timestamp - task.created_at <= config.monitor + _ALLOWANCE_NS


def advance(
    service: Service,
    *,
    outdated: Sequence[K],
    progress: Progress,
    template: Revision | None,
    now: Timestamp,
) -> Step[K]:
    """The next step of the service's update. ``outdated``: slots to replace, in their order."""
    status = service.update_status
    if status is not None and status.state in _PAUSED and not _is_newer(template, status):
        return Step()
    if status is None or status.state not in _GOING:
        return _start(service, outdated, now) if outdated else Step()
    config = config_of(service)
    total = progress.changed + len(outdated)
    if progress.failures and len(progress.failures) > config.max_failure_ratio * total:
        halted: Step[K] | None = _after_failures(service, status, config, progress.failures[-1], now)
        if halted is not None:
            return halted
    if outdated:
        room = len(outdated) if config.parallelism <= 0 else max(config.parallelism - progress.busy, 0)
        return Step(slots=tuple(outdated[:room]), wake_at=progress.wake_at)
    if progress.busy:
        return Step(wake_at=progress.wake_at)
    return _finish(status, config, progress, now)


def _start(service: Service, outdated: Sequence[K], now: Timestamp) -> Step[K]:
    config = update_config(service.spec)
    count = len(outdated) if config.parallelism <= 0 else config.parallelism
    status = UpdateStatus(state=UpdateState.UPDATING, started_at=now, message="update in progress")
    return Step(status=status, slots=tuple(outdated[:count]))


def _finish(status: UpdateStatus, config: EffectiveUpdate, progress: Progress, now: Timestamp) -> Step[K]:
    watch = config.monitor if config.delay < config.monitor else config.delay + SECOND_NS
    ends_at = Timestamp(progress.last_done_at + watch)
    if progress.changed and now < ends_at:
        return Step(wake_at=ends_at)
    is_rollback = status.state == UpdateState.ROLLBACK_STARTED
    return Step(
        status=UpdateStatus(
            state=UpdateState.ROLLBACK_COMPLETED if is_rollback else UpdateState.COMPLETED,
            started_at=status.started_at,
            completed_at=now,
            message="rollback completed" if is_rollback else "update completed",
        )
    )


def _after_failures(
    service: Service, status: UpdateStatus, config: EffectiveUpdate, failed: Task, now: Timestamp
) -> Step[K] | None:
    cause = f"due to failure or early termination of task {failed.id}"
    if config.failure_action == FailureAction.CONTINUE:
        return None
    is_rollback = status.state == UpdateState.ROLLBACK_STARTED
    if is_rollback or config.failure_action != FailureAction.ROLLBACK or not service.previous_id:
        # a failing rollback is paused, never rolled back
        return Step(
            status=UpdateStatus(
                state=UpdateState.ROLLBACK_PAUSED if is_rollback else UpdateState.PAUSED,
                started_at=status.started_at,
                message=f"{'rollback' if is_rollback else 'update'} paused {cause}",
            )
        )
    rolling_back = UpdateStatus(
        state=UpdateState.ROLLBACK_STARTED, started_at=now, message=f"update rolled back {cause}"
    )
    return Step(status=rolling_back, is_rollback=True)


def rollback_blocked(reason: str, *, now: Timestamp) -> UpdateStatus:
    """The old spec can't come back at present. It waits for the user, as any rollback that fails does: to try
    again by itself would restart tasks whenever somebody else's port becomes free."""
    return UpdateStatus(
        state=UpdateState.ROLLBACK_PAUSED, started_at=now, message=f"rollback paused: {reason}"
    )


def _is_newer(template: Revision | None, status: UpdateStatus) -> bool:
    """Whether the wanted revision was written after that update began: then it is another update's."""
    return template is not None and template.created_at > status.started_at


def _earlier(known: int | None, at: int) -> int:
    return at if known is None else min(known, at)
