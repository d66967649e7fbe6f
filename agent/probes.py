"""Which checks of a node's tasks are run now, and what they say of each task.

``Probes`` has a ``Monitor`` per check of each task that runs and is to run on. It notes what they say on the
``Run`` (``health``, ``is_unready``, ``health_output``), and asks for the probes that are due: one of a check
at a time, and ``size`` of the node; those that wait keep the order in which they were due.

A task that a former life of the agent had called RUNNING counts as well as it did then until probes say
otherwise, so a restart of the agent takes no task out of service.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.environment import container_spec
from agent.events import Probe, Probed
from agent.health import Monitor, check_of, readiness_of
from agent.task import Run
from swarmpy.limits import HEALTH_REPORT_CHARS_MAX
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import Revision
from swarmpy.model.states import HealthState, TaskState

NOBODY = TaskId("")


class _Checks(NamedTuple):
    """Of one task. A task with neither has an entry too: it was looked at."""

    health: Monitor | None
    readiness: Monitor | None


class _UnderWay(NamedTuple):
    task_id: TaskId
    monitor: Monitor
    began_at: float


class Probes:
    """Owned by the core. ``size``: how many probes may run at a time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._checks: dict[TaskId, _Checks] = {}
        self._idle: dict[Monitor, TaskId] = {}
        """Those that no probe is under way of."""
        self._under_way: dict[int, _UnderWay] = {}
        self._attempts = 0
        self._wake_at: float | None = None
        self._is_stale = False
        """Whether ``_wake_at`` has to be found anew."""

    @property
    def wake_at(self) -> float | None:
        """When the next probe is due, unless there is no room for it: then the end of another wakes."""
        if len(self._under_way) >= self._size:
            return None
        if self._is_stale:
            self._wake_at = min((monitor.due_at for monitor in self._idle), default=None)
            self._is_stale = False
        return self._wake_at

    def check(self) -> Iterable[TaskId]:
        """Assert the bounds; returns whose checks there are."""
        assert len(self._under_way) <= self._size
        assert not {each.monitor for each in self._under_way.values()} & set(self._idle)
        return self._checks

    def follow(self, run: Run, revision: Revision | None, now: float) -> None:
        """The task may have been started, or may be on its way out."""
        task_id = run.task.id
        is_watched = run.has_process and not (run.is_unwanted or run.is_condemned or run.has_ended)
        if not is_watched:
            self.drop(task_id)
            return
        if task_id not in self._checks and revision is not None:
            self._begin(run, revision, now)
        self._note(run)

    def _begin(self, run: Run, revision: Revision, now: float) -> None:
        spec = container_spec(revision)
        was_up = run.status.state is TaskState.RUNNING
        health, readiness = check_of(spec.healthcheck, run.image_check), readiness_of(spec.readiness)
        checks = _Checks(
            health=Monitor(health, started_at=run.started_at, now=now, is_well=was_up) if health else None,
            readiness=Monitor(
                readiness,
                started_at=run.started_at,
                now=now,
                is_well=was_up and not run.is_unready,
                is_readiness=True,
            )
            if readiness
            else None,
        )
        self._checks[run.task.id] = checks
        self._idle.update({monitor: run.task.id for monitor in checks if monitor is not None})
        self._is_stale = True

    def _note(self, run: Run) -> None:
        """On the run, what its checks say."""
        checks = self._checks.get(run.task.id)
        if checks is None:
            return
        health, readiness = checks
        run.health = health.state if health is not None else HealthState.UNSPECIFIED
        is_ill = run.health is HealthState.UNHEALTHY
        run.is_unready = is_ill or (readiness is not None and not readiness.is_well)
        telling = health if is_ill or readiness is None else readiness
        run.health_output = telling.output[-HEALTH_REPORT_CHARS_MAX:] if telling is not None else ""

    def drop(self, task_id: TaskId) -> None:
        """It is checked no more. A probe that is under way keeps its place until it has ended."""
        checks = self._checks.pop(task_id, None)
        for monitor in checks or ():
            if monitor is not None:
                self._idle.pop(monitor, None)
                self._is_stale = True

    def take_due(self, now: float) -> list[Probe]:
        """What is to be run now."""
        room = self._size - len(self._under_way)
        wake_at = self.wake_at
        if room <= 0 or wake_at is None or wake_at > now:
            return []
        due = sorted((m for m in self._idle if m.due_at <= now), key=lambda m: m.due_at)
        return [self._run(monitor, now) for monitor in due[:room]]

    def _run(self, monitor: Monitor, now: float) -> Probe:
        self._attempts += 1
        self._is_stale = True
        task_id = self._idle.pop(monitor)
        self._under_way[self._attempts] = _UnderWay(task_id, monitor, now)
        return Probe(task_id, self._attempts, monitor.check.argv, monitor.check.timeout_s)

    def settle(self, event: Probed, now: float) -> TaskId:
        """A probe has come to its end; returns whose state it has changed, or NOBODY."""
        ended = self._under_way.pop(event.attempt, None)
        self._is_stale = True
        if ended is None or ended.monitor not in (self._checks.get(ended.task_id) or ()):
            return NOBODY
        before = ended.monitor.state
        ended.monitor.settle(event.exit_code, event.output, began_at=ended.began_at, now=now)
        self._idle[ended.monitor] = ended.task_id
        return ended.task_id if ended.monitor.state is not before else NOBODY
