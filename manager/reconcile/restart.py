"""The restart policy: whether an ended or displaced task is replaced, and when the replacement may run.

All of it is read off the tasks that are kept, so a new leader decides as the old one would have:

* ``restarts`` of the newest task counts its slot's failures under this revision; a window counts those kept
  tasks that were created inside it.
* The delay stands on the replacement as ``not_before``. A delay that the user set is constant; without one,
  delays double from failure to failure, and the present task's own delay says how far that has got. A task
  that lived for ``RESTART_STABLE_S`` was no crash loop, and the delay starts small again.
* A delay that was written by a leader whose clock was ahead of the present one's is over: nobody can tell how
  much of it is left, and to wait for that clock could take hours.
* A task that was displaced (its node died, was drained or removed, or no longer fits) did nothing wrong: its
  replacement has no delay and no attempt is counted. A condition of ``none`` replaces nothing, though.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from swarmpy.limits import (
    RESTART_DELAY_FIRST_S,
    RESTART_DELAY_MAX_S,
    RESTART_DELAY_MIN_S,
    RESTART_STABLE_S,
)
from swarmpy.model.defaults import EffectiveRestart
from swarmpy.model.ids import SECOND_NS, Duration, RevisionId, Timestamp
from swarmpy.model.objects import Task
from swarmpy.model.quantities import duration_text
from swarmpy.model.states import RestartCondition, TaskState

NO_LONGER_FITS: Final = "assigned node no longer meets constraints"
"""The error of a task that the constraint enforcer turned down."""

NEVER: Final = Timestamp(0)

_FIRST_NS: Final = int(RESTART_DELAY_FIRST_S * SECOND_NS)
_MIN_NS: Final = int(RESTART_DELAY_MIN_S * SECOND_NS)
_MAX_NS: Final = int(RESTART_DELAY_MAX_S * SECOND_NS)
_STABLE_NS: Final = int(RESTART_STABLE_S * SECOND_NS)


@dataclass(frozen=True, slots=True)
class Restart:
    """A replacement is due. ``not_before`` 0: at once."""

    not_before: Timestamp = NEVER
    restarts: int = 0


def is_displaced(task: Task) -> bool:
    """Whether a terminal task ended through no fault of its own."""
    status = task.status
    return status.state == TaskState.ORPHANED or (
        status.state == TaskState.REJECTED and status.err == NO_LONGER_FITS
    )


def is_delayed(task: Task, now: Timestamp) -> bool:
    """Whether the task's delay goes on."""
    return task.created_at <= now < task.not_before


def after_displacement(
    task: Task, policy: EffectiveRestart, *, template_id: RevisionId, now: Timestamp
) -> Restart | None:
    """What follows when the task lost its node. A delay that it was waiting for goes on."""
    if policy.condition == RestartCondition.NONE:
        return None
    if task.revision_id != template_id:
        return Restart()
    not_before = task.not_before if is_delayed(task, now) else NEVER
    return Restart(not_before=not_before, restarts=task.restarts)


def after_end(
    task: Task,
    policy: EffectiveRestart,
    *,
    history: Sequence[Task],
    template_id: RevisionId,
    now: Timestamp,
) -> Restart | None:
    """What follows when the task ended by itself. ``history``: the kept tasks of its slot."""
    if policy.condition == RestartCondition.NONE:
        return None
    if policy.condition == RestartCondition.ON_FAILURE and task.status.state == TaskState.COMPLETE:
        return None
    if task.revision_id != template_id:
        return Restart(not_before=_later(now, policy.delay or Duration(0)))
    if policy.max_attempts and _attempts(task, policy, history, now) >= policy.max_attempts:
        return None
    delay = policy.delay if policy.delay is not None else next_delay(task, now)
    return Restart(not_before=_later(now, delay), restarts=task.restarts + 1)


def next_delay(task: Task, now: Timestamp) -> Duration:
    """The delay after this task's failure, where the user set none."""
    lived = now - max(task.not_before, task.created_at)
    if task.restarts == 0 or lived >= _STABLE_NS:
        return Duration(_FIRST_NS)
    # what was waited is a little less than what was planned: the plan took a moment to be stored
    waited = max(task.not_before - task.created_at, 0) * 5 // 4
    delay = _MIN_NS
    while delay <= waited and delay < _MAX_NS:
        delay *= 2
    return Duration(min(delay, _MAX_NS))


def declined_reason(task: Task, policy: EffectiveRestart) -> str:
    """Why nothing follows a task that has ended; "" if the policy does not say that nothing should."""
    if policy.condition == RestartCondition.NONE:
        return 'restart policy: the condition is "none"'
    if policy.condition == RestartCondition.ON_FAILURE and task.status.state == TaskState.COMPLETE:
        return 'restart policy: it completed, and the condition is "on-failure"'
    if not policy.max_attempts:
        return ""
    attempts = "1 attempt" if policy.max_attempts == 1 else f"{policy.max_attempts} attempts"
    window = f" within {duration_text(policy.window)}" if policy.window else ""
    return f"restart policy: {attempts} used up{window}"


def waiting_reason(task: Task, now: Timestamp) -> str:
    """Why the task does not run yet, such as "restarting in 8s after 4 failures"; "" if it need not wait."""
    if task.desired_state != TaskState.READY or not is_delayed(task, now):
        return ""
    seconds = round((task.not_before - now) / SECOND_NS, 1)
    failures = "1 failure" if task.restarts <= 1 else f"{task.restarts} failures"
    return f"restarting in {seconds:g}s after {failures}"


def _later(now: Timestamp, delay: int) -> Timestamp:
    return Timestamp(now + delay) if delay > 0 else NEVER


def _attempts(task: Task, policy: EffectiveRestart, history: Sequence[Task], now: Timestamp) -> int:
    if not policy.window:
        return task.restarts
    since = (task.status.timestamp or now) - policy.window
    # a replacement of a displaced task repeats the number, and is no attempt of its own
    numbers = {
        kept.restarts
        for kept in history
        if kept.revision_id == task.revision_id and kept.restarts > 0 and kept.created_at > since
    }
    return len(numbers)
