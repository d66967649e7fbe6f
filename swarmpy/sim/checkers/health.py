"""Whether checks mean what they should once all tasks are well: nobody is given up, or out of service.

Who is in which name and behind which address is the checker of discovery's; it goes by the same statuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from manager.store.view import View
from swarmpy.model.objects import Service
from swarmpy.model.specs import ContainerSpec
from swarmpy.model.states import HealthState, TaskState

NAME: Final = "health"


def differences(view: View, service: Service) -> Iterator[str]:
    """Tasks that run and are not as well as their service has them checked, one sentence each."""
    for task in sorted(view.tasks_of_service(service.id), key=lambda task: task.id):
        status = task.status
        if status.state is not TaskState.RUNNING or task.desired_state > TaskState.COMPLETE:
            continue
        revision = view.revision(task.revision_id)
        template = revision.spec.task_template.container_spec if revision is not None else None
        spec = template or ContainerSpec()
        wanted = HealthState.HEALTHY if spec.healthcheck is not None else HealthState.UNSPECIFIED
        if status.health is not wanted:
            yield f"task {task.id} runs and is {status.health or 'not checked'}, and should be {wanted}"
        if status.is_unready:
            yield f"task {task.id} is well and gets no requests"
