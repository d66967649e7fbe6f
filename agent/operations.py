"""From a decision about one task to what is said of it: the instruction, and the status.

Pure. Making an instruction also notes on the ``Run`` what the instruction may leave behind on this machine,
since from then on it has to be taken down.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from msgspec.structs import replace

from agent import environment, events, health
from agent.environment import NodeContext
from agent.events import Now, StoredTask
from agent.executor.base import LaunchFile
from agent.task import Do, Move, Run, Trace
from swarmpy.model.container_ids import container_id
from swarmpy.model.objects import ContainerStatus, PortStatus, Revision, TaskStatus
from swarmpy.model.states import HealthState, TaskState, is_terminal


def make_operation(
    run: Run, do: Do, attempt: int, *, revision: Revision | None, node: NodeContext
) -> events.Operation:
    """The instruction for ``do``. Raises TaskRejected if the task's spec cannot be made sense of."""
    task_id = run.task.id
    spec = environment.container_spec(revision)
    match do:
        case Do.ATTACH | Do.PLACE:
            assert run.endpoint is not None
            run.is_attached = True
            return events.Attach(task_id, attempt, run.endpoint)
        case Do.CREATE:
            assert revision is not None
            assert run.image is not None
            assert run.sandbox is not None
            run.stop_signal = environment.stop_signal(spec, run.image)
            launch = environment.make_launch(run.task, revision, node, image=run.image, sandbox=run.sandbox)
            run.image_check = run.image.healthcheck
            run.trace = Trace.ALL
            return events.Create(task_id, attempt, launch)
        case Do.START:
            assert run.status.state is TaskState.STARTING, f"{task_id} may not be started"
            run.is_started = True
            return events.Start(task_id, attempt)
        case Do.RELOAD:
            return events.Reload(task_id, attempt, ())
        case Do.STOP:
            wish = run.task.stop
            by = environment.wished_signal(wish, run.stop_signal)
            return events.Stop(task_id, attempt, by, environment.stop_grace_s(spec, wish))
        case Do.REMOVE:
            return events.Remove(task_id, attempt, keep_log=not run.is_released)
        case Do.DETACH:
            run.endpoint = None
            return events.Detach(task_id, attempt)
        case _:
            raise AssertionError(f"{do} is no operation on a task")


def with_files(operation: events.Operation, files: tuple[LaunchFile, ...]) -> events.Operation:
    """The operation with what the task is to find of secrets and configs."""
    match operation:
        case events.Create(launch=launch):
            return dataclasses.replace(operation, launch=replace(launch, files=files))
        case events.Reload():
            return dataclasses.replace(operation, files=files)
        case _:
            return operation


def make_reload_status(run: Run, *, err: str) -> TaskStatus:
    """The status that tells why newer files could not be put in place, or that they are."""
    return replace(run.status, report=run.status.report + 1, err=err)


def adopt(stored: StoredTask, *, is_found: bool, is_attached: bool) -> Run:
    """A task as the journal has it, and what may be left of it on this machine."""
    state = stored.status.state
    was_touched = state >= TaskState.PREPARING
    may_stand = was_touched and not is_terminal(state)
    run = Run(task=stored.task, status=stored.status, is_released=stored.is_released)
    run.stop_signal = stored.stop_signal or run.stop_signal
    run.image_check = stored.image_check
    run.health, run.is_unready = stored.status.health, stored.status.is_unready
    run.health_output = stored.status.health_output
    run.is_attached = is_attached or may_stand
    run.trace = Trace.LOG if was_touched else Trace.NOTHING
    if is_found or may_stand:
        run.trace = Trace.ALL
    return run


def make_status(
    run: Run, move: Move, *, revision: Revision | None, now: Now, exit_code: int | None = None
) -> TaskStatus:
    """The status that reports ``move``, one report further than the last."""
    before = run.status
    assert move.state > before.state, f"{run.task.id}: from {before.state.name} to {move.state.name}"
    code = run.exit.code if run.exit is not None else exit_code
    container = before.container_status
    if run.is_created or run.is_started or code is not None:
        id_ = container_id(run.task.id)
        container = ContainerStatus(container_id=id_, pid=run.pid, exit_code=code or 0)
    told = make_health(run, move.state, revision=revision)
    return TaskStatus(
        timestamp=now.wall,
        state=move.state,
        message=move.message,
        err=move.err,
        report=before.report + 1,
        container_status=container,
        port_status=_port_status(run, revision, move.state),
        addresses=run.sandbox.addresses if run.sandbox is not None else before.addresses,
        health=told.state,
        health_output=told.output,
        is_unready=told.is_unready,
    )


class Told(NamedTuple):
    """What a status says of a task's checks."""

    state: HealthState
    is_unready: bool
    output: str


_NOTHING = Told(HealthState.UNSPECIFIED, is_unready=False, output="")


def make_health(run: Run, state: TaskState, *, revision: Revision | None) -> Told:
    """What is said of the checks of a task in this state: of one that has ended, only why."""
    if state < TaskState.STARTING:
        return _NOTHING
    if is_terminal(state):
        return _make_last_health(run, state)
    if not run.has_process:
        check = health.check_of(environment.container_spec(revision).healthcheck, run.image_check)
        return Told(HealthState.STARTING, is_unready=False, output="") if check else _NOTHING
    is_well = run.health is not HealthState.UNHEALTHY and not run.is_unready
    return Told(run.health, run.is_unready, "" if is_well else run.health_output)


def _make_last_health(run: Run, state: TaskState) -> Told:
    """Of a task that ends: whether it was given up, or failed before it was healthy. Updates count both."""
    if run.is_condemned:
        return Told(HealthState.UNHEALTHY, is_unready=False, output=run.health_output)
    never_came_up = run.status.state is TaskState.STARTING and state is TaskState.FAILED
    return Told(run.status.health, is_unready=False, output="") if never_came_up else _NOTHING


def make_health_status(run: Run) -> TaskStatus | None:
    """The status that tells what the checks of the running task say by now; None if that was told."""
    before = run.status
    if not run.has_process or before.state not in (TaskState.STARTING, TaskState.RUNNING):
        return None
    if before.state is TaskState.STARTING and run.health is not HealthState.UNHEALTHY:
        return None  # its next state tells
    told = make_health(run, before.state, revision=None)
    if (told.state, told.is_unready) == (before.health, before.is_unready):
        return None
    return replace(
        before,
        report=before.report + 1,
        health=told.state,
        is_unready=told.is_unready,
        health_output=told.output,
    )


def make_places_status(run: Run, *, err: str = "") -> TaskStatus:
    """The status that tells which networks the running task is on by now: nothing else is news."""
    before = run.status
    return replace(
        before,
        report=before.report + 1,
        addresses=run.sandbox.addresses if run.sandbox is not None else before.addresses,
        places_version=run.version,
        places_err=err,
    )


def _port_status(run: Run, revision: Revision | None, state: TaskState) -> PortStatus | None:
    if revision is None or state is not TaskState.RUNNING:
        return None
    ports = environment.published_ports(revision, run.task.id)
    return PortStatus(ports=ports) if ports else None
