"""Jobs, as committed: no slot beyond those that are to be completed, no more at work than may be, and no tick
of a cron job with two runs.

* The iteration of a service only grows, a step at a time; of a cron job only together with the tick up to
  which its schedule is dealt with, which never goes back.
* A run of a cron job is for one tick, and a tick has one run.
* A task of a job is in one of the slots of its job. So a job never completes more than its total, counting
  slots: where a node was given up for dead, the work of a slot may have been done twice.
* In each iteration at most ``max_concurrent`` tasks are wanted at a time. A service may be changed while a
  decision about it is under way, so what counts is the largest number that it was ever given.

Where the steps in between were not seen (a snapshot was installed), only growth is checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from swarmpy.model.ids import ServiceId, TaskId
from swarmpy.model.job_rules import job_size
from swarmpy.model.objects import CronStatus, Service, Task
from swarmpy.model.states import TaskState
from swarmpy.sim.checkers.violations import Violations
from swarmpy.sim.limits import SIM_JOB_RUNS_KEPT

NAME: Final = "jobs"


@dataclass
class _Known:
    """What is remembered of one replicated or cron job."""

    total: int = 0
    most: int = 0
    wanted: dict[int, dict[TaskId, None]] = field(default_factory=dict)
    run_of_tick: dict[int, int] = field(default_factory=dict)
    tick_of_run: dict[int, int] = field(default_factory=dict)


class Jobs:
    def __init__(self, violations: Violations) -> None:
        self._violations = violations
        self._known: dict[ServiceId, _Known] = {}
        self._grown: dict[tuple[ServiceId, int], None] = {}

    def service_event(self, old: Service | None, new: Service | None, *, is_gap: bool = False) -> None:
        if new is None:
            if old is not None:
                self._known.pop(old.id, None)
            return
        mode = new.spec.mode
        if mode.replicated_job is None and mode.cron_job is None and mode.global_job is None:
            return
        if mode.global_job is None:
            size, known = job_size(new.spec), self._known.setdefault(new.id, _Known())
            known.total, known.most = max(known.total, size.total), max(known.most, size.max_concurrent)
        if old is not None:
            self._check_iteration(old, new, is_gap=is_gap)
        if new.cron_status is not None:
            self._check_runs(new, new.cron_status)

    def task_event(self, old: Task | None, new: Task | None) -> None:
        task = new or old
        known = self._known.get(task.service_id) if task is not None else None
        if task is None or known is None:
            return
        wanted = known.wanted.setdefault(task.job_iteration, {})
        if new is not None and _is_wanted(new):
            if new.id not in wanted:
                wanted[new.id] = None
                self._grown[(new.service_id, new.job_iteration)] = None
            if not 0 <= new.slot < known.total:
                self._add(new.service_id, f"has {known.total} slots and a task in slot {new.slot}")
            return
        wanted.pop(task.id, None)
        if not wanted:
            del known.wanted[task.job_iteration]

    def batch_end(self) -> None:
        for service_id, iteration in self._grown:
            known = self._known.get(service_id)
            wanted = known.wanted.get(iteration, {}) if known is not None else {}
            if known is not None and len(wanted) > known.most:
                sentence = f"has {len(wanted)} tasks of run {iteration} at work and may have {known.most}"
                self._add(service_id, sentence, tasks=", ".join(wanted))
        self._grown.clear()

    def _check_iteration(self, old: Service, new: Service, *, is_gap: bool) -> None:
        before, after = _iteration(old), _iteration(new)
        if after < before or (after > before + 1 and not is_gap):
            self._add(new.id, f"went from iteration {before} to {after}")
        if old.cron_status is None or new.cron_status is None:
            return
        tick, tick_before = new.cron_status.last_tick, old.cron_status.last_tick
        if tick < tick_before:
            self._add(new.id, f"goes back behind its tick {tick_before} to {tick}")
        if after != before and tick == tick_before:
            self._add(new.id, f"began run {after} without a tick")

    def _check_runs(self, service: Service, status: CronStatus) -> None:
        known = self._known[service.id]
        for run in status.runs:
            iteration = known.run_of_tick.setdefault(run.tick, run.iteration)
            tick = known.tick_of_run.setdefault(run.iteration, run.tick)
            if iteration != run.iteration or tick != run.tick:
                sentence = f"has run {run.iteration} for tick {run.tick}, which run {iteration} was for"
                self._add(service.id, sentence, tick_of_run=tick)
        for remembered in (known.run_of_tick, known.tick_of_run):
            while len(remembered) > SIM_JOB_RUNS_KEPT:
                del remembered[next(iter(remembered))]

    def _add(self, service_id: ServiceId, sentence: str, **facts: object) -> None:
        self._violations.add(NAME, f"service {service_id} {sentence}", **facts)


def _iteration(service: Service) -> int:
    return service.job_status.iteration if service.job_status is not None else 0


def _is_wanted(task: Task) -> bool:
    return task.desired_state <= TaskState.COMPLETE and task.status.state <= TaskState.RUNNING
