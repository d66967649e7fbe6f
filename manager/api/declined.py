"""Why nothing follows a task that has ended: what its service's restart policy says of it. Pure.

Nothing of it is stored; it is read off the newest task of each slot.
"""

from __future__ import annotations

from manager.reconcile.restart import declined_reason
from manager.reconcile.slots import age
from manager.store.view import View
from swarmpy.model.defaults import is_job, is_per_node, restart_policy
from swarmpy.model.ids import ServiceId, TaskId
from swarmpy.model.objects import Service, Task
from swarmpy.model.states import TaskState

_ENDED: frozenset[TaskState] = frozenset({TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED})


class Declined:
    """For one request, on one view: a service's tasks are looked through once."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._newest: dict[ServiceId, frozenset[TaskId]] = {}

    def reason(self, task: Task) -> str:
        """ "" for a task that runs, or that another one follows."""
        if task.desired_state != TaskState.SHUTDOWN or task.status.state not in _ENDED:
            return ""
        service = self._view.service(task.service_id)
        if service is None or is_job(service.spec) or task.revision_id != service.template_id:
            return ""
        if task.id not in self._newest_of(service):
            return ""
        return declined_reason(task, restart_policy(service.spec.task_template))

    def _newest_of(self, service: Service) -> frozenset[TaskId]:
        known = self._newest.get(service.id)
        if known is None:
            newest: dict[int | str, Task] = {}
            for task in self._view.tasks_of_service(service.id):
                slot = task.node_id if is_per_node(service.spec) else task.slot
                if task.desired_state != TaskState.REMOVE and (
                    slot not in newest or age(task) > age(newest[slot])
                ):
                    newest[slot] = task
            known = self._newest[service.id] = frozenset(task.id for task in newest.values())
        return known
