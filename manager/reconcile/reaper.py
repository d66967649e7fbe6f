"""The reaper: deletes tasks and revisions that nobody needs any more.

* A task that is to be removed goes once it has ended, or if it never reached an agent. (Tasks of nodes that
  are gone are orphaned first, by the nodes reconciler.)
* Of each slot (each node, for global services) the newest tasks are kept, as many as the cluster's history
  limit says, the present one included; older dead ones go. A limit of 0 keeps no dead task, a negative one
  all; a policy with a number of attempts keeps as many tasks as its count needs. The newest task of a slot
  always stays: it may be what says that the slot's work is done. Of a job that goes on every completed task
  stays; of cron jobs each run has a history of its own, which goes with the run (``cron``).
* Of a live service's revisions those stay that it names, that a task runs, or that are among the newest
  ``REVISIONS_KEPT``; of a service that is gone, those that a task still names.

A deletion names the version that was judged, so a task that got a node in the meantime stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from manager.reconcile.jobs import going_on
from manager.reconcile.plan import Plan
from manager.reconcile.slots import age, is_wished
from manager.store.view import View
from swarmpy.limits import PLAN_GROUPS_MAX, REVISIONS_KEPT
from swarmpy.model.changes import Delete, Group
from swarmpy.model.defaults import is_job, is_per_node, restart_policy, task_history_limit
from swarmpy.model.ids import ServiceId, Timestamp
from swarmpy.model.objects import Cluster, Kind, Revision, Service, Task
from swarmpy.model.states import Owner, TaskState, is_terminal

_RUNNING: Final = TaskState.RUNNING
_COMPLETE: Final = TaskState.COMPLETE


class Reaper:
    """Its keys are service ids, also of services that are gone."""

    name = "reaper"

    def keys(self, view: View) -> Iterable[str]:
        ids = {service.id for service in view.services()} | set(view.service_ids_with_tasks())
        ids |= {each.service_id for each in view.all(Kind.REVISION) if isinstance(each, Revision)}
        return sorted(ids)

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new if new is not None else old:
            case Task(service_id=service_id):
                return (service_id,) if _is_task_news(old, new) else ()
            case Service(id=service_id):
                return (service_id,) if _is_service_news(old, new) else ()
            case Cluster():
                has_same_limit = (
                    isinstance(old, Cluster)
                    and isinstance(new, Cluster)
                    and task_history_limit(old) == task_history_limit(new)
                )
                return () if has_same_limit else sorted(view.service_ids_with_tasks())
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        service_id = ServiceId(key)
        service = view.service(service_id)
        tasks = view.tasks_of_service(service_id)
        # of a large service few are to stop, and no other can be deleted: this is the one walk over all of it
        stopped = [task for task in tasks if task.desired_state > _RUNNING]
        deletes = [_delete_task(task) for task in _removed(stopped)]
        if service is not None:
            deletes += [_delete_task(task) for task in _history(view, service, tasks, stopped)]
        deletes += _revisions(view, service_id, service)
        return Plan(
            groups=tuple(
                Group(owner=Owner.REAPER, changes=(delete,)) for delete in deletes[:PLAN_GROUPS_MAX]
            ),
            is_partial=len(deletes) > PLAN_GROUPS_MAX,
        )


def _is_task_news(old: object | None, new: object | None) -> bool:
    if not isinstance(old, Task) or not isinstance(new, Task):
        return True
    return (
        is_wished(old) != is_wished(new)
        or (old.desired_state == TaskState.REMOVE) != (new.desired_state == TaskState.REMOVE)
        or is_terminal(old.status.state) != is_terminal(new.status.state)
    )


def _is_service_news(old: object | None, new: object | None) -> bool:
    if not isinstance(old, Service) or not isinstance(new, Service):
        return True
    return (
        old.revision_id != new.revision_id
        or old.template_id != new.template_id
        or old.previous_id != new.previous_id
        or old.job_status != new.job_status
        or old.cron_status != new.cron_status
    )


def _delete_task(task: Task) -> Delete:
    return Delete(kind=Kind.TASK, id=task.id, version=task.version)


def _is_over(task: Task) -> bool:
    """Whether no agent has, or will ever have, anything to do with the task."""
    return is_terminal(task.status.state) or task.status.state < TaskState.ASSIGNED


def _removed(tasks: Iterable[Task]) -> list[Task]:
    removed = [task for task in tasks if task.desired_state == TaskState.REMOVE and _is_over(task)]
    return sorted(removed, key=age)


def _history(view: View, service: Service, tasks: Iterable[Task], stopped: Iterable[Task]) -> list[Task]:
    """Dead tasks beyond the limit, of all slots. ``stopped``: those of ``tasks`` that should not run."""
    limit = task_history_limit(view.cluster())
    if limit < 0:
        return []
    attempts = restart_policy(service.spec.task_template).max_attempts
    if attempts:
        limit = attempts + 1
    kept_by_node = is_per_node(service.spec)
    is_cron = service.spec.mode.cron_job is not None
    live = frozenset(going_on(service)) if is_job(service.spec) else None

    def slot(task: Task) -> tuple[int, int | str]:
        return task.job_iteration if is_cron else 0, task.node_id if kept_by_node else task.slot

    slots: dict[tuple[int, int | str], list[Task]] = {slot(task): [] for task in stopped if _is_over(task)}
    if not slots:
        return []
    for task in tasks:
        if task.desired_state != TaskState.REMOVE and (in_slot := slots.get(slot(task))) is not None:
            in_slot.append(task)
    excess = [
        task
        for in_slot in slots.values()
        if len(in_slot) > max(limit, 1)
        for task in _excess(sorted(in_slot, key=age), limit, live)
    ]
    return sorted(excess, key=age)


def _excess(tasks: Sequence[Task], limit: int, live: Collection[int] | None) -> list[Task]:
    """What to delete of one slot's tasks, oldest first. The newest is never among it."""
    dead = [task for task in tasks[:-1] if _is_over(task) and _is_history(task, live)]
    return dead[: len(tasks) - limit]


def _is_history(task: Task, live: Collection[int] | None) -> bool:
    """Whether nothing is decided by the ended task any more. ``live``: a job's runs that go on."""
    if live is None:
        return not is_wished(task)
    return task.job_iteration not in live or (not is_wished(task) and task.status.state is not _COMPLETE)


def _revisions(view: View, service_id: ServiceId, service: Service | None) -> list[Delete]:
    revisions = sorted(view.revisions_of(service_id), key=lambda each: (each.number, each.version))
    kept = set()
    if service is not None:
        kept = {service.revision_id, service.template_id, service.previous_id}
        kept |= {revision.id for revision in revisions[-REVISIONS_KEPT:]}
    return [
        Delete(kind=Kind.REVISION, id=revision.id, version=revision.version)
        for revision in revisions
        if revision.id not in kept and not view.tasks_of_revision(revision.id)
    ]
