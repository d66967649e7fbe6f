"""What of a job begins anew when its service is made or changed. Pure.

A replicated or global job runs once more after every change of its spec: its iteration counts up. A cron
job does not, it goes by its schedule; one whose schedule was changed, or that was suspended, is dealt with up
to now, so that nothing of the past becomes due.
"""

from __future__ import annotations

from msgspec.structs import replace

from swarmpy.model.defaults import is_job
from swarmpy.model.ids import Timestamp
from swarmpy.model.job_rules import with_size
from swarmpy.model.objects import CronStatus, JobStatus, Service
from swarmpy.model.specs import CronJob, ServiceSpec


def filled(spec: ServiceSpec) -> ServiceSpec:
    """The spec as it is stored: the numbers of a replicated job are written out."""
    mode = with_size(spec.mode)
    return spec if mode is spec.mode else replace(spec, mode=mode)


def begun(service: Service, *, now: Timestamp) -> Service:
    """A service that is about to be made."""
    if service.spec.mode.cron_job is not None:
        return replace(service, job_status=JobStatus(), cron_status=CronStatus(last_tick=now))
    if is_job(service.spec):
        return replace(service, job_status=JobStatus(last_execution=now))
    return service


def begun_again(changed: Service, *, of: Service, now: Timestamp) -> Service:
    """A service whose spec was changed; ``of``: as it was before. Jobs know no rolling update."""
    if not is_job(changed.spec):
        return changed
    changed = replace(changed, update_status=None)
    before, after = of.spec.mode.cron_job, changed.spec.mode.cron_job
    if after is not None:
        status = of.cron_status or CronStatus()
        if before is None or _times(before) != _times(after):
            status = replace(status, last_tick=Timestamp(max(status.last_tick, now)), message="")
        return replace(changed, cron_status=status)
    iteration = of.job_status.iteration if of.job_status is not None else 0
    return replace(changed, job_status=JobStatus(iteration=iteration + 1, last_execution=now))


def _times(job: CronJob) -> tuple[str, str, bool]:
    return job.schedule, job.timezone, job.suspended
