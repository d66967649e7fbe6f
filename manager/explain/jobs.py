"""Why a job is as it is: how far its runs have come, when the schedule has the next one, what was missed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from manager.explain.words import Reason, ago, many, span
from manager.reconcile.job_slots import standing_of_run, tasks_of_run
from manager.reconcile.jobs import going_on
from manager.store.view import View
from swarmpy.errors import InvalidArgument
from swarmpy.model import cron_schedule
from swarmpy.model.defaults import is_job, is_per_node
from swarmpy.model.ids import Timestamp
from swarmpy.model.job_rules import concurrency_policy, job_size
from swarmpy.model.objects import CronRun, Service, Task
from swarmpy.model.specs import CronJob
from swarmpy.model.states import TaskState


def explain_job(view: View, service: Service, now: Timestamp) -> Iterator[Reason]:
    """Nothing, for a service that is no job."""
    if not is_job(service.spec):
        return
    tasks = tuple(view.tasks_of_service(service.id))
    for iteration in going_on(service):
        of_run = tasks_of_run(tasks, iteration)
        yield Reason(about="Run", text=_progress(service, iteration, of_run))
    cron = service.spec.mode.cron_job
    if cron is not None:
        yield from _schedule(service, cron, now)


def _progress(service: Service, iteration: int, tasks: Sequence[Task]) -> str:
    done = sum(task.status.state is TaskState.COMPLETE for task in tasks)
    state = standing_of_run(tasks, service.spec)
    if is_per_node(service.spec):
        return f"{iteration}: {state}, {many(done, 'node')} completed"
    size = job_size(service.spec)
    return f"{iteration}: {state}, {done} of {size.total} completed, {size.max_concurrent} at a time"


def _schedule(service: Service, cron: CronJob, now: Timestamp) -> Iterator[Reason]:
    status = service.cron_status
    if cron.suspended:
        yield Reason(about="Schedule", text="suspended: no run begins until that is taken back")
    else:
        after = max(now, status.last_tick if status is not None else now)
        yield Reason(about="Schedule", text=_next_run(cron, Timestamp(after), now))
    if status is None:
        return
    if status.missed:
        why = f": {status.message}" if status.message else ""
        times = many(status.missed, "time")
        yield Reason(about="Missed", text=f"{times}, last the run of {ago(status.last_missed, now)}{why}")
    if status.runs:
        yield Reason(about="Last run", text=_last(status.runs[-1], now))


def _next_run(cron: CronJob, after: Timestamp, now: Timestamp) -> str:
    try:
        tick = cron_schedule.parse(cron.schedule, cron.timezone).after(after)
    except InvalidArgument as error:  # accepted by a manager that knows more time zones
        return str(error)
    when = f"the next run is due in {span(tick - now)}" if tick is not None else "no run is due any more"
    return f"{cron.schedule} ({cron.timezone or 'UTC'}, {concurrency_policy(cron)}): {when}"


def _last(run: CronRun, now: Timestamp) -> str:
    began = f"{run.iteration}: {run.state}, began {ago(run.started_at, now)}"
    return f"{began}, ended {ago(run.ended_at, now)}" if run.ended_at else began
