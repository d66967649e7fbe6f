"""How far services are, and what cron jobs did, as the API tells it. Pure."""

from __future__ import annotations

from manager.api.docker_json import Json, rfc3339, shape
from manager.reconcile.dependencies import waits_for
from manager.reconcile.slots import is_wished
from manager.store.view import View
from swarmpy.errors import InvalidArgument
from swarmpy.model import cron_schedule, defaults
from swarmpy.model.job_rules import job_size
from swarmpy.model.objects import Service, Task
from swarmpy.model.states import TaskState


def service_status(view: View, service: Service) -> Json:
    """How many tasks run, should run and are done: the columns of ``service ls``.

    Of jobs only the present iteration counts, and of a slot that had to be run twice one completion.
    ``Waiting`` is ours: what keeps the first tasks from being made.
    """
    is_job = defaults.is_job(service.spec)
    iteration = service.job_status.iteration if service.job_status is not None else 0
    tasks = [
        task for task in view.tasks_of_service(service.id) if not is_job or task.job_iteration == iteration
    ]
    running = sum(task.status.state is TaskState.RUNNING and is_wished(task) for task in tasks)
    is_by_node = defaults.is_per_node(service.spec)
    completed = {
        task.id if not is_job else task.node_id if is_by_node else task.slot
        for task in tasks
        if task.status.state is TaskState.COMPLETE
    }
    if defaults.is_replicated(service.spec):
        desired = defaults.replicas_of(service)
    elif not is_by_node:
        desired = job_size(service.spec).max_concurrent
    else:
        desired = sum(is_wished(task) and _is_to_run(task, is_job=is_job) for task in tasks)
    result: Json = {"RunningTasks": running, "DesiredTasks": desired, "CompletedTasks": len(completed)}
    reason = waits_for(view, service)
    if reason:
        result["Waiting"] = reason
    return result


def _is_to_run(task: Task, *, is_job: bool) -> bool:
    state = task.status.state
    return state < TaskState.COMPLETE if is_job else state <= TaskState.COMPLETE


def cron_status(service: Service) -> Json:
    """``NextTick`` is the one to be dealt with next; there is none while the job is suspended."""
    job, status = service.spec.mode.cron_job, service.cron_status
    assert status is not None
    result = shape(status)
    if job is None or job.suspended:
        return result
    try:
        tick = cron_schedule.parse(job.schedule, job.timezone).after(status.last_tick)
    except InvalidArgument as error:  # this manager knows fewer time zones than the one that accepted it
        return result | {"Message": str(error)}
    return result if tick is None else result | {"NextTick": rfc3339(tick)}
