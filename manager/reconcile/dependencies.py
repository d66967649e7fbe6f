"""Dependencies: whether a service's first tasks may be made yet, and if not, what they wait for.

They are waited for only while the service has no task at all, and a cron job has begun no run: what runs is
never stopped or held back because a dependency changes, fails or is updated. A service that nobody depends on
costs nothing here.

* ``service_started``: a task of the other service runs, or has run to its end.
* ``service_healthy``: a task of it runs, is not called unhealthy or still starting by its health check, and
  does not say that it wants no requests.
* ``service_completed_successfully``: a job has completed all its slots; of another service each slot has a
  task that ended with exit code 0.

A service that wants no tasks (scaled to 0) has nothing that could be waited for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from manager.reconcile.job_slots import standing_of_run, tasks_of_run
from manager.reconcile.slots import is_wished
from manager.store.view import View
from swarmpy.model.defaults import is_per_node, is_replicated, replicas_of
from swarmpy.model.ids import ServiceId
from swarmpy.model.job_rules import job_size
from swarmpy.model.objects import Kind, Service, Task
from swarmpy.model.specs import Dependency
from swarmpy.model.states import DependencyCondition, HealthState, RunState, TaskState

_STARTED: Final = (TaskState.RUNNING, TaskState.COMPLETE)
_HEALTHY: Final = (HealthState.UNSPECIFIED, HealthState.HEALTHY)


def waits_for(view: View, service: Service) -> str:
    """What its first tasks wait for, such as "waiting for service db: service_healthy"; "": nothing."""
    if not service.spec.depends_on or _has_begun(view, service):
        return ""
    for dependency in service.spec.depends_on:
        condition = dependency.condition or DependencyCondition.STARTED
        other = view.by_name(Kind.SERVICE, dependency.service)
        if not isinstance(other, Service):
            if not dependency.optional_:
                return f"waiting for service {dependency.service}, which does not exist: {condition}"
        elif not _is_met(view, other, dependency):
            return f"waiting for service {dependency.service}: {condition}"
    return ""


def _has_begun(view: View, service: Service) -> bool:
    """A cron job may have no tasks between two runs, and has begun all the same."""
    has_run = service.spec.mode.cron_job is not None and (
        service.job_status is not None and service.job_status.iteration > 0
    )
    return has_run or bool(view.tasks_of_service(service.id))


def dependents(view: View, old: object | None, new: object | None) -> Iterable[ServiceId]:
    """The services that may have waited for this change."""
    match new if new is not None else old:
        case Task(service_id=service_id):
            service = view.service(service_id) if _is_task_news(old, new) else None
            name = service.spec.name if service is not None else ""
        case Service(spec=spec):
            name = spec.name
        case _:
            return ()
    found = view.services_awaiting(name) if name else ()
    return sorted(each.id for each in found) if found else ()


def _is_task_news(old: object | None, new: object | None) -> bool:
    if not isinstance(old, Task) or not isinstance(new, Task):
        return True
    before, after = old.status, new.status
    return (
        before.state is not after.state
        and (before.state >= TaskState.RUNNING or after.state >= TaskState.RUNNING)
    ) or (before.health, before.is_unready) != (after.health, after.is_unready)


def _is_met(view: View, other: Service, dependency: Dependency) -> bool:
    tasks = view.tasks_of_service(other.id)
    if dependency.condition is DependencyCondition.COMPLETED:
        return _is_completed(view, other)
    if _wants_none(other):
        return True
    if dependency.condition is DependencyCondition.HEALTHY:
        return any(_is_healthy(task) for task in tasks)
    return any(task.status.state in _STARTED for task in tasks)


def _wants_none(service: Service) -> bool:
    if is_replicated(service.spec):
        return replicas_of(service) == 0
    return not is_per_node(service.spec) and job_size(service.spec).total == 0


def _is_healthy(task: Task) -> bool:
    status = task.status
    is_up = status.state is TaskState.RUNNING and is_wished(task)
    return is_up and not status.is_unready and status.health in _HEALTHY


def _is_completed(view: View, service: Service) -> bool:
    tasks = view.tasks_of_service(service.id)
    if service.spec.mode.cron_job is not None:
        runs = service.cron_status.runs if service.cron_status is not None else ()
        return any(run.state is RunState.COMPLETE for run in runs)
    if service.job_status is not None:
        of_run = tasks_of_run(tasks, service.job_status.iteration)
        return standing_of_run(of_run, service.spec) is RunState.COMPLETE
    is_by_node = is_per_node(service.spec)
    ended = {task.node_id if is_by_node else task.slot for task in tasks if _has_completed(task)}
    return len(ended) >= (1 if is_by_node else replicas_of(service))


def _has_completed(task: Task) -> bool:
    return task.status.state is TaskState.COMPLETE
