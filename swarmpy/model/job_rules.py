"""Rules of jobs, cron jobs and dependencies between services, and what holds where their specs say nothing.

Pure; each check returns nothing or raises ``InvalidArgument``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from swarmpy.errors import InvalidArgument
from swarmpy.limits import CRON_HISTORY_MAX
from swarmpy.model import cron_schedule
from swarmpy.model.specs import CronJob, ReplicatedJob, ServiceMode, ServiceSpec
from swarmpy.model.states import ConcurrencyPolicy

MAX_CONCURRENT: Final = 1
CRON_SUCCESSFUL_HISTORY: Final = 3
CRON_FAILED_HISTORY: Final = 1


@dataclass(frozen=True, slots=True)
class JobSize:
    """Slots 0 to ``total`` - 1 are to be completed, at most ``max_concurrent`` of them at a time."""

    total: int
    max_concurrent: int


def job_size(spec: ServiceSpec) -> JobSize:
    """Of a replicated job or a cron job."""
    job = spec.mode.replicated_job or spec.mode.cron_job or ReplicatedJob()
    most = MAX_CONCURRENT if job.max_concurrent is None else job.max_concurrent
    total = most if job.total_completions is None else job.total_completions
    return JobSize(total=total, max_concurrent=most)


def concurrency_policy(job: CronJob) -> ConcurrencyPolicy:
    return job.concurrency_policy or ConcurrencyPolicy.ALLOW


def successful_history(job: CronJob) -> int:
    return CRON_SUCCESSFUL_HISTORY if job.successful_history is None else job.successful_history


def failed_history(job: CronJob) -> int:
    return CRON_FAILED_HISTORY if job.failed_history is None else job.failed_history


def with_size(mode: ServiceMode) -> ServiceMode:
    """A replicated job's mode as it is stored: clients take its two numbers for granted."""
    if mode.replicated_job is None:
        return mode
    size = job_size(ServiceSpec(mode=mode))
    job = replace(mode.replicated_job, max_concurrent=size.max_concurrent, total_completions=size.total)
    return replace(mode, replicated_job=job)


def check_cron(job: CronJob) -> None:
    if not job.schedule.strip():
        raise InvalidArgument('cron: a schedule is needed, such as "*/5 * * * *" or "@daily"')
    cron_schedule.parse(job.schedule, job.timezone)
    size = job_size(ServiceSpec(mode=ServiceMode(cron_job=job)))
    if size.total and not size.max_concurrent:
        raise InvalidArgument(
            "cron: no run of it could ever end, since no task may be at work: let the number of those at a "
            "time (max concurrent) be 1 or more, or suspend the job"
        )
    for name, value in (("successful", job.successful_history), ("failed", job.failed_history)):
        if value is not None and not 0 <= value <= CRON_HISTORY_MAX:
            raise InvalidArgument(f"cron: the {name} history must be between 0 and {CRON_HISTORY_MAX} runs")
    if job.starting_deadline is not None and job.starting_deadline < 0:
        raise InvalidArgument("cron: the starting deadline cannot be negative")


def check_dependencies(spec: ServiceSpec) -> None:
    names = [dependency.service for dependency in spec.depends_on]
    for name in names:
        if not name:
            raise InvalidArgument("depends on: the name of a service is missing")
        if name == spec.name:
            raise InvalidArgument(f"depends on: {name} cannot wait for itself")
        if names.count(name) > 1:
            raise InvalidArgument(f"depends on: {name} is named more than once")
