"""Cron jobs: when a run begins, when it is called ended, and what was missed.

What is known of the schedule stands on the service: it is dealt with up to ``cron_status.last_tick``. A run
begins with one atomic change of the service, which moves that mark, counts the iteration up and notes the
run; its tasks follow from that (``jobs``). So a tick never has two runs, whoever leads, whatever clocks do:

* A clock that was set back: nothing is due until it has passed the mark again.
* A clock that was set forward, or a time without a leader: the newest tick that is due is run, unless it is
  past the starting deadline; the others are counted as missed, with the reason of the last.

A tick that may not begin, since a run goes on (``forbid``) or too many do, waits for as long as the starting
deadline allows, and is missed then; without a deadline it is missed at once. ``replace`` ends what goes on.
Ticks of a suspended job are not missed, they are not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from manager.reconcile.dependencies import dependents, waits_for
from manager.reconcile.job_slots import standing_of_run, tasks_of_run
from manager.reconcile.plan import NOTHING, Note, Plan
from manager.reconcile.replicated import is_task_news
from manager.reconcile.restart import NEVER
from manager.store.view import View
from swarmpy.errors import InvalidArgument
from swarmpy.limits import CRON_ACTIVE_RUNS_MAX, CRON_WAKE_MAX_S
from swarmpy.model import cron_schedule
from swarmpy.model.changes import Group, Update
from swarmpy.model.ids import SECOND_NS, ServiceId, Timestamp
from swarmpy.model.job_rules import concurrency_policy, failed_history, successful_history
from swarmpy.model.objects import CronRun, CronStatus, JobStatus, Service, Task
from swarmpy.model.specs import CronJob
from swarmpy.model.states import ConcurrencyPolicy, Owner, RunState

AWAY: Final = (
    "a later one was due by the time that a run could begin: nobody led the cluster, its clock was set "
    "forward, or a dependency was waited for"
)
TOO_LATE: Final = "it could not begin within the starting deadline"
GOES_ON: Final = "the run before it had not ended (concurrency policy forbid)"
TOO_MANY: Final = f"{CRON_ACTIVE_RUNS_MAX} runs had not ended"

_WAKE_NS: Final = int(CRON_WAKE_MAX_S * SECOND_NS)


@dataclass(frozen=True, slots=True)
class Step:
    """``begun``: the tick that a run is to begin for; 0: none."""

    status: CronStatus
    begun: Timestamp = NEVER
    wake_at: Timestamp | None = None


class CronJobs:
    """The reconciler of cron jobs; its keys are service ids."""

    name = "cron"

    def keys(self, view: View) -> Iterable[str]:
        return sorted(service.id for service in view.services() if _is_cron(service))

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        found = [*dependents(view, old, new)]
        match new if new is not None else old:
            case Task(service_id=service_id) if is_task_news(old, new):
                found.append(service_id)
            case Service(id=service_id):
                found.append(service_id)
        return [id_ for id_ in found if _is_cron(view.service(id_))]

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        service = view.service(ServiceId(key))
        if service is None or service.spec.mode.cron_job is None:
            return NOTHING
        job = service.spec.mode.cron_job
        status = service.cron_status or CronStatus(last_tick=now)
        ended = with_ends(status, view.tasks_of_service(service.id), service, now)
        step = advance(job, ended, now=now, obstacle=waits_for(view, service))
        wake_at = None if step.wake_at is None else Timestamp(min(step.wake_at, now + _WAKE_NS))
        changed = replace(service, cron_status=with_history(step.status, job))
        if step.begun:
            changed = _with_run(changed, step.begun, now)
        if changed == service:
            return Plan(wake_at=wake_at)
        group = Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=changed),))
        return Plan(groups=(group,), wake_at=wake_at, notes=_notes(service, changed, step))


def _is_cron(service: Service | None) -> bool:
    return service is not None and service.spec.mode.cron_job is not None


def _with_run(service: Service, tick: Timestamp, now: Timestamp) -> Service:
    """The service with one more run: this is the one change that deals with a tick."""
    assert service.cron_status is not None
    iteration = 1 + (service.job_status.iteration if service.job_status is not None else 0)
    run = CronRun(iteration=iteration, tick=tick, started_at=now, state=RunState.RUNNING)
    return replace(
        service,
        job_status=JobStatus(iteration=iteration, last_execution=now),
        cron_status=replace(service.cron_status, runs=(*service.cron_status.runs, run), last_tick=tick),
    )


def _notes(old: Service, new: Service, step: Step) -> tuple[Note, ...]:
    notes = []
    if step.begun and new.job_status is not None:
        facts = {"service_id": new.id, "iteration": str(new.job_status.iteration), "tick": str(step.begun)}
        notes.append(Note(event="cron_run_begun", facts=facts))
    before = old.cron_status.missed if old.cron_status is not None else 0
    if step.status.missed > before:
        count = str(step.status.missed - before)
        facts = {"service_id": new.id, "count": count, "reason": step.status.message}
        notes.append(Note(event="cron_ticks_missed", facts=facts))
    return tuple(notes)


# --- runs that have ended


def with_ends(status: CronStatus, tasks: Iterable[Task], service: Service, now: Timestamp) -> CronStatus:
    """The status with each run called ended whose slots have all ended."""
    if all(run.state is not RunState.RUNNING for run in status.runs):
        return status
    known = list(tasks)
    runs = []
    for run in status.runs:
        if run.state is RunState.RUNNING:
            state = standing_of_run(tasks_of_run(known, run.iteration), service.spec)
            if state is not RunState.RUNNING:
                run = replace(run, state=state, ended_at=now)
        runs.append(run)
    return replace(status, runs=tuple(runs))


def with_history(status: CronStatus, job: CronJob) -> CronStatus:
    """The status without the runs that history has no room for."""
    good = [run.iteration for run in status.runs if run.state is RunState.COMPLETE]
    bad = [run.iteration for run in status.runs if run.state in (RunState.FAILED, RunState.REPLACED)]
    gone = {*_all_but_last(good, successful_history(job)), *_all_but_last(bad, failed_history(job))}
    if not gone:
        return status
    return replace(status, runs=tuple(run for run in status.runs if run.iteration not in gone))


def _all_but_last(iterations: Sequence[int], count: int) -> Sequence[int]:
    return iterations[: max(len(iterations) - count, 0)]


# --- what is due


def advance(job: CronJob, status: CronStatus, *, now: Timestamp, obstacle: str = "") -> Step:
    """What is to happen now. ``status`` has the runs that have ended; ``obstacle``: why none may begin."""
    if job.suspended:
        return Step(status)
    try:
        schedule = cron_schedule.parse(job.schedule, job.timezone)
    except InvalidArgument as error:  # accepted by a manager that knows more time zones
        return Step(replace(status, message=str(error)))
    due = schedule.until(now)
    if due is None or due <= status.last_tick:
        return Step(status, wake_at=schedule.after(Timestamp(max(now, status.last_tick))))
    reason, is_patient = _reason_against(job, status, obstacle)
    expires_at = Timestamp(due + job.starting_deadline) if job.starting_deadline else None
    if expires_at is not None and now > expires_at:
        reason, is_patient = TOO_LATE, False
    following = schedule.after(due)
    if reason and is_patient and expires_at is not None:
        wake_at = expires_at + 1 if following is None else min(following, expires_at + 1)
        return Step(status, wake_at=Timestamp(wake_at))
    older = schedule.count(status.last_tick, due) - 1
    if older > 0:
        before = schedule.until(Timestamp(due - 1)) or due
        status = _missed(status, older, before, _reason_at(job, status, before))
    if reason:
        status = replace(_missed(status, 1, due, reason), last_tick=due)
        return Step(status, wake_at=following)
    if concurrency_policy(job) is ConcurrencyPolicy.REPLACE:
        status = _replaced(status, now)
    return Step(status, begun=due, wake_at=following)


def _reason_against(job: CronJob, status: CronStatus, obstacle: str) -> tuple[str, bool]:
    """Why no run may begin now, and whether that may change before its deadline."""
    going_on = sum(run.state is RunState.RUNNING for run in status.runs)
    policy = concurrency_policy(job)
    if obstacle:
        return obstacle, True
    if going_on and policy is ConcurrencyPolicy.FORBID:
        return GOES_ON, True
    if going_on >= CRON_ACTIVE_RUNS_MAX and policy is not ConcurrencyPolicy.REPLACE:
        return TOO_MANY, True
    return "", False


def _reason_at(job: CronJob, status: CronStatus, tick: Timestamp) -> str:
    """Why a tick of the past had no run, as far as the runs that are known tell it."""
    going_on = sum(
        run.started_at < tick and (run.state is RunState.RUNNING or run.ended_at >= tick)
        for run in status.runs
    )
    if going_on and concurrency_policy(job) is ConcurrencyPolicy.FORBID:
        return GOES_ON
    return TOO_MANY if going_on >= CRON_ACTIVE_RUNS_MAX else AWAY


def _missed(status: CronStatus, count: int, last: Timestamp, reason: str) -> CronStatus:
    return replace(
        status, missed=status.missed + count, last_missed=last, message=f"a run was missed: {reason}"
    )


def _replaced(status: CronStatus, now: Timestamp) -> CronStatus:
    runs = (
        replace(run, state=RunState.REPLACED, ended_at=now) if run.state is RunState.RUNNING else run
        for run in status.runs
    )
    return replace(status, runs=tuple(runs))
