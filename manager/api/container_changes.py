"""What starting, stopping, renaming and removing a container change in the store. Pure.

For containers that were started by hand; tasks of services are their service's to start. Nothing here is done
by a plan without changes: the container is as it was asked to be.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec.structs import replace

from manager.api.container_plan import limits_of, name_clash, restart_policy_of
from manager.api.container_refs import ContainerRef, ContainerState, run_order, state_of
from manager.api.container_request import HostConfig
from manager.api.revisions import following
from manager.reconcile.standalone import is_over
from manager.store.view import View
from swarmpy.errors import Conflict, InvalidArgument, SwarmError
from swarmpy.model import standalone, validate
from swarmpy.model.changes import Change, Create, Delete, Update
from swarmpy.model.container_ids import container_id
from swarmpy.model.ids import Duration, Timestamp
from swarmpy.model.objects import Kind, Service, StopWish, Task
from swarmpy.model.specs import ResourceRequirements, ServiceSpec
from swarmpy.model.states import is_terminal

Changes = tuple[Change, ...]

AT_ONCE: Final = StopWish(signal="KILL", timeout=Duration(0))


def live_tasks(view: View, service: Service) -> list[Task]:
    """Those that have not ended. One at most, but for a moment."""
    tasks = [task for task in view.tasks_of_service(service.id) if not is_terminal(task.status.state)]
    return sorted(tasks, key=run_order)


def is_started(view: View, service: Service, now: Timestamp) -> bool:
    """Whether its last start goes on, or is about to."""
    return not is_over(service, view.tasks_of_service(service.id), now)


def start(view: View, service: Service, now: Timestamp) -> Changes:
    if is_started(view, service, now):
        return ()
    return _with_mode(service, run=standalone.mode_of(service.spec).run + 1, is_wanted=True)


def restart(service: Service, wish: StopWish) -> Changes:
    return _with_mode(service, run=standalone.mode_of(service.spec).run + 1, is_wanted=True, wish=wish)


def stop(view: View, service: Service, wish: StopWish, now: Timestamp) -> Changes:
    if not is_started(view, service, now):
        return ()
    return _with_mode(service, run=standalone.mode_of(service.spec).run, is_wanted=False, wish=wish)


def withdraw(service: Service, run: int) -> Changes:
    """That start ``run`` could not be made is the user's to know, and not to be tried for ever."""
    mode = standalone.mode_of(service.spec)
    return _with_mode(service, run=run, is_wanted=False) if mode.run == run and mode.is_wanted else ()


def remove(view: View, service: Service, *, is_forced: bool, now: Timestamp) -> Changes:
    live = live_tasks(view, service)
    if not is_forced and (live or is_started(view, service, now)):
        newest = max(view.tasks_of_service(service.id), key=run_order, default=None)
        state = state_of(ContainerRef(task=newest, service=service))
        word = "restarting" if state is ContainerState.RESTARTING else "running"
        raise Conflict(
            f"You cannot remove a {word} container {container_id(service.id)}. Stop the container before "
            "attempting removal or force remove"
        )
    ends = [Update(object=replace(task, stop=AT_ONCE)) for task in live]
    return (*ends, Delete(kind=Kind.SERVICE, id=service.id, version=service.version))


def remove_history(view: View, task: Task) -> Changes:
    """An ended task of a service, if nothing is told by it any more."""
    others = [
        each
        for each in view.tasks_of_service(task.service_id)
        if (each.slot, each.job_iteration) == (task.slot, task.job_iteration)
        and (task.slot or each.node_id == task.node_id)
    ]
    if view.service(task.service_id) is not None and max(others, key=run_order) is task:
        raise Conflict(
            f"container {container_id(task.id)} cannot be removed: it is the last of its service's in its "
            "place, which says how that has ended; remove or scale the service"
        )
    return (Delete(kind=Kind.TASK, id=task.id, version=task.version),)


def rename(view: View, service: Service, name: str, *, revision_id: str) -> Changes:
    if name == standalone.container_name(service.spec):
        raise InvalidArgument("Renaming a container with the same name as its current name")
    try:
        standalone.check_name(name)
    except InvalidArgument as error:
        raise InvalidArgument(f"Error when allocating new name: {error}".replace("(", "(/", 1)) from None
    stored = standalone.store_name(standalone.mode_of(service.spec).node_id, name)
    clash = name_clash(view, stored, but=service.id)
    if clash is not None:
        raise type(clash)(f"Error when allocating new name: {clash}")
    return _revised(view, service, replace(service.spec, name=stored), revision_id)


def update(view: View, service: Service, wish: HostConfig, *, revision_id: str, now: Timestamp) -> Changes:
    """The restart policy at any time; what it may use only while it does not run."""
    spec, template = service.spec, service.spec.task_template
    limits = limits_of(wish)
    given = {
        name: value for name in ("nano_cpus", "memory_bytes", "pids") if (value := getattr(limits, name))
    }
    if given and is_started(view, service, now):
        raise Conflict(
            f"Cannot update container {container_id(service.id)}: what it may use cannot be changed while it "
            "runs: stop it, update it, and start it again"
        )
    if wish.restart_policy.name:
        policy = restart_policy_of(wish.restart_policy)
        if standalone.mode_of(service.spec).auto_remove and wish.restart_policy.name != "no":
            raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
        template = replace(template, restart_policy=policy)
    if given:
        resources = template.resources or ResourceRequirements()
        before = resources.limits
        changed = replace(before, **given) if before is not None else limits
        template = replace(template, resources=replace(resources, limits=changed))
    mode = replace(
        standalone.mode_of(service.spec), request=_with_update(standalone.mode_of(service.spec).request, wish)
    )
    spec = replace(spec, task_template=template, mode=replace(spec.mode, standalone=mode))
    if spec == service.spec:
        return ()
    validate.check_service(spec)
    return _revised(view, service, spec, revision_id)


def _with_update(request: bytes, wish: HostConfig) -> bytes:
    """What is shown of the container's request, as if it had been made so."""
    asked = msgspec.json.decode(request) if request else {}
    given = {name: value for name, value in msgspec.json.decode(msgspec.json.encode(wish)).items() if value}
    if not wish.restart_policy.name:
        given.pop("RestartPolicy", None)
    return msgspec.json.encode({**asked, "HostConfig": {**(asked.get("HostConfig") or {}), **given}})


def prunable(view: View, services: Iterable[Service], now: Timestamp) -> list[Service]:
    """Those that do not run and were not told to."""
    return [
        service
        for service in services
        if not is_started(view, service, now) and not live_tasks(view, service)
    ]


def by_hand(container: ContainerRef, *, what: str) -> Service:
    """The service of a container that was started by hand; of a task's, that it cannot be done."""
    if container.service is None:
        raise SwarmError(
            f"container {container.id} is a task of a service, which cannot be {what}: change its service"
        )
    return container.service


def _with_mode(service: Service, *, run: int, is_wanted: bool, wish: StopWish | None = None) -> Changes:
    wish = wish or StopWish()
    mode = replace(
        standalone.mode_of(service.spec),
        run=run,
        is_wanted=is_wanted,
        stop_signal=wish.signal,
        stop_timeout=wish.timeout,
    )
    spec = replace(service.spec, mode=replace(service.spec.mode, standalone=mode))
    return (Update(object=replace(service, spec=spec)),)


def _revised(view: View, service: Service, spec: ServiceSpec, revision_id: str) -> Changes:
    revision = following(view, service, spec, revision_id=revision_id)
    changed = replace(service, spec=spec, revision_id=revision.id, template_id=revision.id)
    return (Create(object=revision), Update(object=changed))
