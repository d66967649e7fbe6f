"""Docker's events of containers, out of what is stored of their tasks: each step once, none left out.

A task's states only grow, and may jump: what a jump passes over is told in its order, so a container that
starts and ends between two reports has a ``start`` and a ``die``. Times are those of the commit. Pure.

Of ``exec`` and ``attach`` nothing is stored, so there are no events of them.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping

from manager.api.container_refs import ContainerRef, name_of
from manager.api.container_shapes import asked_for, labels_of, spec_of
from manager.api.container_status import has_container
from manager.api.docker_json import Json
from manager.history import Change
from manager.store.view import View
from swarmpy.model.containers import OUT_OF_MEMORY
from swarmpy.model.defaults import is_standalone
from swarmpy.model.ids import SECOND_NS, NodeId, ServiceId, Timestamp
from swarmpy.model.objects import Service, Task
from swarmpy.model.states import HealthState, TaskState, is_terminal

_TOLD_HEALTH = (HealthState.HEALTHY, HealthState.UNHEALTHY)
_Step = tuple[str, dict[str, str]]


def container_events(
    view: View, change: Change, *, here: NodeId, removed: Mapping[ServiceId, Service]
) -> Iterator[Json]:
    """Of the containers of the node that is asked. ``removed``: services that are no longer stored."""
    old, new, at = change.old, change.new, change.at
    item = new if new is not None else old
    match item:
        case Service() if is_standalone(item.spec):
            container = ContainerRef(task=None, service=item)
            action = "create" if old is None else "destroy" if new is None else ""
            steps: list[_Step] = [(action, {})] if action else []
        case Task():
            service = view.service(item.service_id) or removed.get(item.service_id)
            is_own = service is None or not is_standalone(service.spec)
            container = ContainerRef(task=item, service=None if is_own else service)
            before = old if isinstance(old, Task) else None
            steps = _steps(before, new if isinstance(new, Task) else None, is_own=is_own)
        case _:
            return
    if steps and container.node_id == here:
        attributes = _attributes(view, container)
        for action, more in steps:
            yield _event(container.id, action, {**attributes, **more}, at)


def _steps(old: Task | None, new: Task | None, *, is_own: bool) -> list[_Step]:
    """``is_own``: the container is the task's own, and comes and goes with it."""
    had, has = _has(old), _has(new)
    steps: list[_Step] = []
    if is_own and has and not had:
        steps.append(("create", {}))
    if new is None:
        return [("destroy", {})] if is_own and had else []
    was_running, is_over = _has_started(old), is_terminal(new.status.state)
    had_ended = old is not None and is_terminal(old.status.state)
    has_started = _has_started(new) or (is_over and _has_run(old, new))
    if has_started and not was_running and not had_ended:
        steps.append(("start", {}))
    health = new.status.health
    if health in _TOLD_HEALTH and (old is None or old.status.health is not health) and not is_over:
        steps.append((f"health_status: {health.value}", {}))
    if is_over and not had_ended and (was_running or has_started):
        steps += _ending(new)
    return steps


def _ending(task: Task) -> list[_Step]:
    found = task.status.container_status
    die: _Step = ("die", {"exitCode": str(found.exit_code if found is not None else 0)})
    if OUT_OF_MEMORY in task.status.err:
        return [("oom", {}), die]
    if task.status.state is TaskState.SHUTDOWN:
        return [("kill", {"signal": str(signal.SIGTERM.value)}), die, ("stop", {})]
    return [die]


def _has(task: Task | None) -> bool:
    return task is not None and has_container(ContainerRef(task=task))


def _has_started(task: Task | None) -> bool:
    """Whether its process is known to run."""
    if task is None or not TaskState.STARTING <= task.status.state <= TaskState.RUNNING:
        return False
    found = task.status.container_status
    return task.status.state is TaskState.RUNNING or (found is not None and found.pid != 0)


def _has_run(old: Task | None, new: Task) -> bool:
    """Of one that has ended: whether a process of it was ever started, as far as its states tell."""
    if new.status.state is TaskState.COMPLETE or new.status.running_since:
        return True
    found = new.status.container_status
    may_have = old is None or old.status.state >= TaskState.STARTING
    return may_have and found is not None and found.pid != 0


def _attributes(view: View, container: ContainerRef) -> dict[str, str]:
    image = str(asked_for(container).config.get("Image") or spec_of(view, container).image)
    return {**labels_of(view, container), "image": image, "name": name_of(view, container)}


def _event(id_: str, action: str, attributes: dict[str, str], at: Timestamp) -> Json:
    """With the fields of old that clients of docker still read."""
    return {
        "status": action,
        "id": id_,
        "from": attributes["image"],
        "Type": "container",
        "Action": action,
        "Actor": {"ID": id_, "Attributes": attributes},
        "scope": "local",
        "time": at // SECOND_NS,
        "timeNano": at,
    }
