"""Rolling updates and rollbacks: which slots are replaced now, and what the service's update status
becomes.

Nothing is remembered between calls. Progress is read off the tasks (``update_progress``); at most
``parallelism`` slots are busy. The update is completed when nothing is outdated and the monitor period has
passed since the last slot came up. A new leader goes on where the last one was.

When failures, and slots that do not come up within the progress deadline, exceed the ratio, the update
pauses, goes on or rolls back as the service says; so no update stays on its way for ever. A rollback that
cannot be, since another service publishes its ports by now or a secret of it is gone, pauses the update
instead.

With ``pause_after`` an update is a *canary*: after that many slots, once they have been watched for the
monitor period, it pauses until the user lets it go on (``resumed_at``) or rolls it back. Until then, and
while an update is paused, whatever it has not reached stays as it is (``is_held``): a task of the old
revision that ends or loses its node is followed by one of the old revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic

from msgspec.structs import replace

from manager.reconcile.slots import K
from manager.reconcile.update_progress import Progress, stuck_tasks
from swarmpy.model.defaults import EffectiveUpdate, rollback_config, update_config
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.objects import Service, UpdateStatus
from swarmpy.model.quantities import duration_text
from swarmpy.model.states import FailureAction, UpdateState

_GOING: Final = (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED)
PAUSED: Final = (UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED)


@dataclass(frozen=True, slots=True)
class Step(Generic[K]):
    """What to do now. ``status`` None: as it is. ``is_rollback``: return to the previous revision."""

    status: UpdateStatus | None = None
    is_rollback: bool = False
    slots: tuple[K, ...] = ()
    wake_at: Timestamp | None = None


def is_going(service: Service) -> bool:
    return service.update_status is not None and service.update_status.state in _GOING


def is_paused(service: Service) -> bool:
    return service.update_status is not None and service.update_status.state in PAUSED


def is_under_way(service: Service) -> bool:
    """Whether an update, or a rollback, is going or paused."""
    status = service.update_status
    return status is not None and status.state in (*_GOING, *PAUSED)


def config_of(service: Service) -> EffectiveUpdate:
    status = service.update_status
    if status is not None and status.state == UpdateState.ROLLBACK_STARTED:
        return rollback_config(service.spec)
    return update_config(service.spec)


def is_held(service: Service) -> bool:
    """Whether tasks that the update has not reached are followed by tasks of their own revision."""
    status = service.update_status
    if status is None:
        return update_config(service.spec).pause_after > 0
    return status.state == UpdateState.PAUSED or _is_canary(service, status)


def _is_canary(service: Service, status: UpdateStatus) -> bool:
    """Whether the update has a pause before it."""
    is_due = update_config(service.spec).pause_after > 0 and not status.resumed_at
    return is_due and status.state == UpdateState.UPDATING


def advance(service: Service, *, outdated: Sequence[K], progress: Progress, now: Timestamp) -> Step[K]:
    """The next step of the service's update. ``outdated``: slots to replace, in their order."""
    status = service.update_status
    if status is not None and status.state in PAUSED:
        return Step()
    if status is None or status.state not in _GOING:
        return _start(service, outdated, now) if outdated else Step()
    config = config_of(service)
    failures = len(progress.failures) + len(progress.overdue)
    if failures and failures > config.max_failure_ratio * (progress.changed + len(outdated)):
        halted: Step[K] | None = _after_failures(service, config, progress, now)
        if halted is not None:
            return halted
    if outdated:
        return _go_on(service, status, outdated, progress, now)
    if progress.busy:
        return Step(wake_at=progress.wake_at)
    return _finish(status, config, progress, now)


def _start(service: Service, outdated: Sequence[K], now: Timestamp) -> Step[K]:
    status = UpdateStatus(
        state=UpdateState.UPDATING,
        started_at=now,
        message="update in progress",
        since_version=service.version,
    )
    return Step(status=status, slots=tuple(outdated[: _room(service, status, outdated, Progress())]))


def _go_on(
    service: Service, status: UpdateStatus, outdated: Sequence[K], progress: Progress, now: Timestamp
) -> Step[K]:
    config = config_of(service)
    if not (_is_canary(service, status) and progress.changed >= config.pause_after):
        room = _room(service, status, outdated, progress)
        return Step(slots=tuple(outdated[:room]), wake_at=progress.wake_at)
    if progress.busy:
        return Step(wake_at=progress.wake_at)
    ends_at = _watched_until(config, progress)
    if now < ends_at:
        return Step(wake_at=ends_at)
    total = progress.changed + len(outdated)
    name = service.spec.name
    message = (
        f'update paused after {progress.changed} of {total} tasks: "swarmpy service promote {name}" goes on '
        f'with the others, "swarmpy service abort {name}" rolls back'
    )
    return Step(status=_paused(status, UpdateState.PAUSED, message))


def _room(service: Service, status: UpdateStatus, outdated: Sequence[K], progress: Progress) -> int:
    """How many more slots may be replaced now."""
    config = config_of(service)
    room = len(outdated) if config.parallelism <= 0 else max(config.parallelism - progress.busy, 0)
    if _is_canary(service, status):
        room = min(room, config.pause_after - progress.changed)
    return room


def _watched_until(config: EffectiveUpdate, progress: Progress) -> Timestamp:
    watch = config.monitor if config.delay < config.monitor else config.delay + SECOND_NS
    return Timestamp(progress.last_done_at + watch)


def _finish(status: UpdateStatus, config: EffectiveUpdate, progress: Progress, now: Timestamp) -> Step[K]:
    ends_at = _watched_until(config, progress)
    if progress.changed and now < ends_at:
        return Step(wake_at=ends_at)
    is_rollback = status.state == UpdateState.ROLLBACK_STARTED
    return Step(
        status=replace(
            status,
            state=UpdateState.ROLLBACK_COMPLETED if is_rollback else UpdateState.COMPLETED,
            completed_at=now,
            message="rollback completed" if is_rollback else "update completed",
        )
    )


def _after_failures(
    service: Service, config: EffectiveUpdate, progress: Progress, now: Timestamp
) -> Step[K] | None:
    status = service.update_status
    assert status is not None
    if config.failure_action == FailureAction.CONTINUE:
        return None
    cause = _cause(config, progress)
    if status.state == UpdateState.ROLLBACK_STARTED:
        # a failing rollback is paused, never rolled back
        return Step(status=_paused(status, UpdateState.ROLLBACK_PAUSED, f"rollback paused {cause}"))
    if config.failure_action != FailureAction.ROLLBACK or not service.previous_id:
        return Step(status=_paused(status, UpdateState.PAUSED, f"update paused {cause}"))
    rolling_back = rollback_begun(f"update rolled back {cause}", now=now, since_version=service.version)
    return Step(status=rolling_back, is_rollback=True)


def _cause(config: EffectiveUpdate, progress: Progress) -> str:
    if progress.failures:
        return f"due to failure or early termination of task {progress.failures[-1].id}"
    return f"due to no progress in {duration_text(config.progress_deadline)}: {stuck_tasks(progress.overdue)}"


def _paused(status: UpdateStatus, state: UpdateState, message: str) -> UpdateStatus:
    return replace(status, state=state, message=message)


def rollback_begun(message: str, *, now: Timestamp, since_version: int) -> UpdateStatus:
    """``since_version``: of the service, or later; tasks of before are not the rollback's doing."""
    return UpdateStatus(
        state=UpdateState.ROLLBACK_STARTED, message=message, started_at=now, since_version=since_version
    )


def rollback_blocked(status: UpdateStatus, reason: str) -> UpdateStatus:
    """The old spec can't come back at present. The update waits for the user: to try again by itself would
    restart tasks whenever somebody else's port becomes free."""
    return _paused(status, UpdateState.PAUSED, f"update paused: it cannot be rolled back: {reason}")


def resumed(status: UpdateStatus, *, now: Timestamp) -> UpdateStatus:
    """A paused update, or rollback, goes on, and what went wrong so far does not count."""
    is_rollback = status.state == UpdateState.ROLLBACK_PAUSED
    return replace(
        status,
        state=UpdateState.ROLLBACK_STARTED if is_rollback else UpdateState.UPDATING,
        message="rollback in progress" if is_rollback else "update in progress",
        resumed_at=now,
    )
