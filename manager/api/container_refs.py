"""What a reference to a container means: a task of a service, or a container that was started by hand. Pure.

A task's container has an id made of the task's (``model/container_ids``) and is called ``SERVICE.SLOT.TASK``;
also ``SERVICE.SLOT``, of cron jobs ``SERVICE.RUN.SLOT``, lead to it: to the one that is to run, or ran last.
A container started by hand has an id made of that of the service that stands for it, which stays from run to
run, and the name that it was given. Such a name is its node's alone: on the node that is asked it goes before
all others; one of another node is found while it is the only one of that name.

The order is docker's: a whole id, then a name, then the beginning of an id. A beginning that several
containers share is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from manager.api.lookup import find_or_none, is_by_hand
from manager.store.view import View
from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.model import standalone as names
from swarmpy.model.container_ids import ID_DIGITS, container_id, object_prefix
from swarmpy.model.defaults import is_standalone, place_text
from swarmpy.model.ids import NodeId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Kind, Service, Task
from swarmpy.model.specs import ServiceSpec, Standalone
from swarmpy.model.standalone import mode_of
from swarmpy.model.states import TaskState

_MATCHES_MAX: Final = 100


class ContainerState(StrEnum):
    """Docker's words for where a container is in its life."""

    CREATED = "created"
    RUNNING = "running"
    RESTARTING = "restarting"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class ContainerRef:
    """One container. ``service``: the one that stands for it, if it was started by hand. ``task``: its last
    run; None before its first."""

    task: Task | None
    service: Service | None = None

    @property
    def id(self) -> str:
        """As docker's clients see it."""
        if self.service is not None:
            return container_id(self.service.id)
        assert self.task is not None
        return container_id(self.task.id)

    @property
    def node_id(self) -> NodeId:
        """Empty while a service's task has no node."""
        return self.standalone.node_id if self.task is None else self.task.node_id

    @property
    def is_by_hand(self) -> bool:
        return self.service is not None

    @property
    def standalone(self) -> Standalone:
        """Of a container that was started by hand only."""
        assert self.service is not None
        return mode_of(self.service.spec)


def find_container(view: View, reference: str, *, here: NodeId, has_task_ids: bool = True) -> ContainerRef:
    """NotFound, or InvalidArgument if several containers' ids begin so. ``here``: the node that is asked.

    ``has_task_ids``: a task's id will do as well. Not where clients go on to look for a task.
    """
    name = reference.removeprefix("/")
    whole = object_prefix(name) if len(name) == ID_DIGITS else None
    found = (_by_id(view, whole) if whole else None) or _by_name(view, name, here) or _by_prefix(view, name)
    if found is None and has_task_ids:
        found = _by_task(view, name)
    if found is None:
        raise NotFound(f"No such container: {reference}")
    return found


def containers(view: View) -> Iterator[ContainerRef]:
    """All that there are: of each service's task, and of each container started by hand."""
    for service in view.services():
        if is_standalone(service.spec):
            yield by_hand(view, service)
    for task in view.tasks():
        if not is_by_hand(view, task):
            yield ContainerRef(task=task)


def by_hand(view: View, service: Service) -> ContainerRef:
    """The container that a standalone service stands for."""
    tasks = view.tasks_of_service(service.id)
    return ContainerRef(task=max(tasks, key=run_order, default=None), service=service)


def run_order(task: Task) -> tuple[int, int, str]:
    """Sorts the tasks of a container by when they were its task."""
    return (task.job_iteration, task.version, task.id)


def name_of(view: View, container: ContainerRef) -> str:
    """Without the slash that docker puts before it."""
    if container.service is not None:
        return names.container_name(container.service.spec)
    task = container.task
    assert task is not None
    service = view.service(task.service_id)
    spec = service.spec if service is not None else None
    return f"{task.service_id if spec is None else spec.name}.{place_text(spec, task)}.{task.id}"


def container_name(view: View, task: Task) -> str:
    """Of the container that the task is a run of."""
    return name_of(view, _of_task(view, task) or ContainerRef(task=task))


def state_of(container: ContainerRef) -> ContainerState:
    task = container.task
    is_current = task is not None and (
        container.service is None or task.job_iteration == container.standalone.run
    )
    if task is None or not is_current:
        # made only; or just told to start, and no manager has seen to it yet
        return ContainerState.CREATED if task is None else ContainerState.EXITED
    if task.status.state > TaskState.RUNNING:
        return ContainerState.EXITED
    if task.status.state >= TaskState.STARTING:
        return ContainerState.RUNNING
    if task.restarts and task.desired_state <= TaskState.RUNNING:
        return ContainerState.RESTARTING
    return ContainerState.CREATED


def id_of(view: View, task: Task) -> str:
    """Of the container that the task is a run of."""
    return container_id(task.service_id if is_by_hand(view, task) else task.id)


def _of_task(view: View, task: Task) -> ContainerRef | None:
    """None for a run of a container that is gone."""
    if not is_by_hand(view, task):
        return ContainerRef(task=task)
    service = view.service(task.service_id)
    return by_hand(view, service) if service is not None else None


def _by_id(view: View, id_: str) -> ContainerRef | None:
    task = view.task(TaskId(id_))
    if task is not None:
        return _of_task(view, task)
    service = view.service(ServiceId(id_))
    return by_hand(view, service) if service is not None and is_standalone(service.spec) else None


def _by_name(view: View, name: str, here: NodeId) -> ContainerRef | None:
    if not name:
        return None
    return _named_by_hand(view, name, here) or _named_task(view, name)


def _named_by_hand(view: View, name: str, here: NodeId) -> ContainerRef | None:
    own = view.by_name(Kind.SERVICE, names.store_name(here, name))
    if isinstance(own, Service):
        return by_hand(view, own)
    others = [view.by_name(Kind.SERVICE, names.store_name(node.id, name)) for node in view.nodes()]
    found = [each for each in others if isinstance(each, Service)]
    if len(found) > 1:
        raise InvalidArgument(
            f"{len(found)} containers on other nodes are called {name}: give the container's id"
        )
    return by_hand(view, found[0]) if found else None


def _named_task(view: View, name: str) -> ContainerRef | None:
    rest, _, last = name.rpartition(".")
    base, _, middle = rest.rpartition(".")
    for service_name, place, id_ in ((rest, last, ""), (base, f"{middle}.{last}", ""), (base, middle, last)):
        service = find_or_none(view, Service, service_name) if service_name else None
        if service is None or is_standalone(service.spec):
            continue
        tasks = [
            task
            for task in view.tasks_of_service(service.id)
            if place in _places(service.spec, task) and task.id.startswith(id_)
        ]
        if tasks:
            return ContainerRef(task=max(tasks, key=_newness))
    return None


def _places(spec: ServiceSpec, task: Task) -> tuple[str, ...]:
    place = place_text(spec, task)
    return (place, f"{task.job_iteration}.{place}") if spec.mode.cron_job is not None else (place,)


def _newness(task: Task) -> tuple[bool, Timestamp, str]:
    """Of the tasks of a slot, the one that is not to end, and else the last that was made."""
    return task.desired_state <= TaskState.COMPLETE, task.created_at, task.id


def _by_prefix(view: View, prefix: str) -> ContainerRef | None:
    beginning = object_prefix(prefix)
    if not prefix or beginning is None:
        return None
    found: dict[str, ContainerRef] = {}
    for each in view.by_prefix(Kind.SERVICE, beginning, limit=_MATCHES_MAX):
        if isinstance(each, Service) and is_standalone(each.spec):
            container = by_hand(view, each)
            found[container.id] = container
    for each in view.by_prefix(Kind.TASK, beginning, limit=_MATCHES_MAX):
        if isinstance(each, Task) and not is_by_hand(view, each):
            found[container_id(each.id)] = ContainerRef(task=each)
    return _only([found[id_] for id_ in found if id_.startswith(prefix)], prefix)


def _by_task(view: View, reference: str) -> ContainerRef | None:
    """By a task's id, or the beginning of it."""
    task = view.task(TaskId(reference))
    if task is not None:
        return _of_task(view, task)
    tasks = view.by_prefix(Kind.TASK, reference, limit=_MATCHES_MAX) if reference else ()
    found = [_of_task(view, each) for each in tasks if isinstance(each, Task)]
    return _only([each for each in found if each is not None], reference)


def _only(found: list[ContainerRef], prefix: str) -> ContainerRef | None:
    if len({each.id for each in found}) > 1:
        raise InvalidArgument(f"Multiple IDs found with provided prefix: {prefix}")
    return found[0] if found else None
