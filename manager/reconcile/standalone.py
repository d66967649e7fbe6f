"""Containers started by hand: one task for each start, on the one node, restarted as the container says.

The service's mode says what its user wants: ``run`` counts the starts, ``is_wanted`` says whether the last of
them is to go on. A task's ``job_iteration`` is the start that it is of. What a reconcile does, in this order:

* the node is gone: so is the container;
* what is of an earlier start, or not wanted any more, is told to stop, as the user said when stopping it;
* of a wanted start there is one task. It is made once nothing of an earlier one is left, so that no address,
  port or volume is ever held by two. When it has ended it is followed by another, or it is the last: it is
  *settled*, which its desired state SHUTDOWN says, so that this is decided once;
* a container that is to be removed goes a moment after its last task has ended: who was told to attach to it
  finds it still, though it may have run for less time than it takes to ask a node.

The restart policy is docker's, and so is its pace: the first delay is short, each doubles up to a minute, and
a task that lived for a while begins anew. All of it is read off the tasks, so a new leader decides as the old
one would have. A task that was given up with its node did not fail: it is followed if its policy restarts at
all. One that could not even be started is followed only if it is a restart itself, as docker's is.

It does not choose a node, and neither drains nor updates anything. Ended tasks are the reaper's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from manager.allocate.addresses import Addresses
from manager.reconcile.builder import PlanBuilder
from manager.reconcile.plan import NOTHING, Plan
from manager.reconcile.replicated import is_task_news
from manager.reconcile.restart import Restart, is_delayed, is_displaced
from manager.reconcile.slots import is_wished
from manager.schedule.nodes import LoadCache
from manager.store.view import View
from swarmpy.limits import (
    CONTAINER_LINGER_S,
    CONTAINER_RESTART_DELAY_MAX_S,
    CONTAINER_RESTART_DELAY_MIN_S,
    CONTAINER_STABLE_S,
)
from swarmpy.model.changes import Delete, Order, Update
from swarmpy.model.defaults import is_standalone, restart_policy
from swarmpy.model.ids import SECOND_NS, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Kind, Node, Service, StopWish, Task
from swarmpy.model.specs import ServiceSpec, Standalone
from swarmpy.model.standalone import START_FAILED, mode_of
from swarmpy.model.states import HealthState, RestartCondition, TaskState, is_terminal

SLOT: Final = 1
"""Of every task of a container: its history is one."""

_MIN_NS: Final = int(CONTAINER_RESTART_DELAY_MIN_S * SECOND_NS)
_MAX_NS: Final = int(CONTAINER_RESTART_DELAY_MAX_S * SECOND_NS)
_STABLE_NS: Final = int(CONTAINER_STABLE_S * SECOND_NS)
_STARTING: Final = "starting"
"""What is still said of a task that failed then, by its node: of one that ran there is another word."""
_LINGER_NS: Final = int(CONTAINER_LINGER_S * SECOND_NS)


class Standalones:
    """The reconciler of containers started by hand; its keys are the ids of their services."""

    name = "standalone"

    def __init__(self, cache: LoadCache, addresses: Addresses) -> None:
        self._cache = cache
        self._addresses = addresses

    def keys(self, view: View) -> Iterable[str]:
        return sorted(service.id for service in view.services() if is_standalone(service.spec))

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new if new is not None else old:
            case Task(service_id=service_id):
                service = view.service(service_id)
                is_ours = service is not None and is_standalone(service.spec)
                return (service_id,) if is_ours and is_task_news(old, new) else ()
            case Service(id=service_id, spec=spec):
                return (service_id,) if new is not None and is_standalone(spec) else ()
            case Node():
                return self.keys(view) if new is None else ()
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        service = view.service(ServiceId(key))
        mode = service.spec.mode.standalone if service is not None else None
        if service is None or mode is None:
            return NOTHING
        builder = PlanBuilder(view, now, self._cache, self._addresses)
        if view.node(mode.node_id) is None:
            builder.add(Delete(kind=Kind.SERVICE, id=service.id, version=service.version))
            builder.note("container_removed_with_node", service_id=service.id, node_id=mode.node_id)
        else:
            _Container(service, mode, builder).run()
        return builder.build()


def follows(spec: ServiceSpec, task: Task, now: Timestamp) -> Restart | None:
    """What follows a task that has ended and that nobody told to; None: it was the last of its start."""
    policy = restart_policy(spec.task_template)
    if policy.condition is RestartCondition.NONE:
        return None
    if is_displaced(task):
        return Restart(restarts=task.restarts)
    state = task.status.state
    if has_not_started(task) and not task.restarts:
        return None
    if policy.condition is RestartCondition.ON_FAILURE and (
        state is TaskState.COMPLETE or (policy.max_attempts and task.restarts >= policy.max_attempts)
    ):
        return None
    return Restart(not_before=Timestamp(now + _delay_after(task, now)), restarts=task.restarts + 1)


def has_not_started(task: Task) -> bool:
    """Whether the task has ended without ever having run."""
    status = task.status
    if status.state is TaskState.REJECTED:
        return not is_displaced(task)
    if status.state is not TaskState.FAILED or status.health is HealthState.UNHEALTHY:
        return False
    return status.message == _STARTING or status.err.startswith(START_FAILED)


def is_over(service: Service, tasks: Iterable[Task], now: Timestamp) -> bool:
    """Whether the last start has come to its end, or was told to: the next one is another."""
    mode = mode_of(service.spec)
    if not mode.is_wanted:
        return True
    newest = max((task for task in tasks if task.job_iteration == mode.run), key=_age, default=None)
    if newest is None or not is_terminal(newest.status.state):
        return False
    return not is_wished(newest) or follows(service.spec, newest, now) is None


def _delay_after(task: Task, now: Timestamp) -> int:
    lived = now - max(task.not_before, task.created_at)
    if not task.restarts or lived >= _STABLE_NS:
        return _MIN_NS
    # what was waited is a little less than what was planned: the plan took a moment to be stored
    waited = max(task.not_before - task.created_at, 0) * 5 // 4
    delay = _MIN_NS
    while delay <= waited and delay < _MAX_NS:
        delay *= 2
    return min(delay, _MAX_NS)


def _age(task: Task) -> tuple[int, str]:
    return (task.version, task.id)


class _Container:
    """One reconcile of one container."""

    def __init__(self, service: Service, mode: Standalone, builder: PlanBuilder) -> None:
        self._service = service
        self._mode = mode
        self._builder = builder
        tasks = [
            task
            for task in builder.view.tasks_of_service(service.id)
            if task.desired_state != TaskState.REMOVE
        ]
        self._former = sorted((task for task in tasks if task.job_iteration != mode.run), key=_age)
        self._present = sorted((task for task in tasks if task.job_iteration == mode.run), key=_age)

    def run(self) -> None:
        self._stop(self._former)
        if not self._mode.is_wanted:
            self._stop(self._present)
            self._remove_if_over(None)
        elif any(not is_terminal(task.status.state) for task in self._former):
            return  # its end is news
        elif self._present:
            self._tend(self._present[-1])
        elif self._mode.run:
            self._builder.create(self._new_task())

    def _stop(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            if is_wished(task):
                self._builder.add(*self._wish(task), *self._builder.stop(task))

    def _wish(self, task: Task) -> tuple[Update, ...]:
        mode = self._mode
        if is_terminal(task.status.state) or not (mode.stop_signal or mode.stop_timeout is not None):
            return ()
        wish = StopWish(signal=mode.stop_signal, timeout=mode.stop_timeout)
        return (Update(object=replace(task, stop=wish)),)

    def _tend(self, task: Task) -> None:
        if not is_terminal(task.status.state):
            self._let_run(task)
            return
        restart = follows(self._service.spec, task, self._builder.now) if is_wished(task) else None
        if restart is not None:
            self._builder.wake(restart.not_before)
            self._builder.create(self._new_task(restart), *self._builder.stop(task))
            return
        if is_wished(task):
            self._builder.add(*self._builder.stop(task))
        self._remove_if_over(task)

    def _let_run(self, task: Task) -> None:
        if task.desired_state != TaskState.READY:
            return
        if is_delayed(task, self._builder.now):
            self._builder.wake(task.not_before)
        else:
            self._builder.add(Order(task_id=task.id, desired_state=TaskState.RUNNING))

    def _remove_if_over(self, settled: Task | None) -> None:
        """``settled``: a task that has just been. A container that never ran stays, as docker's does."""
        if not self._mode.auto_remove or not self._mode.run:
            return
        tasks = (*self._former, *self._present)
        if any(not is_terminal(task.status.state) for task in tasks):
            return
        now, ended_at = self._builder.now, max((task.status.timestamp for task in tasks), default=0)
        # the node's clock says when; one that is ahead must not keep it for longer
        if ended_at <= now < ended_at + _LINGER_NS:
            self._builder.wake(ended_at + _LINGER_NS)
            return
        self._builder.add(Delete(kind=Kind.SERVICE, id=self._service.id, version=self._service.version))
        facts = {"task_id": settled.id} if settled is not None else {}
        self._builder.note("container_removed_as_asked", service_id=self._service.id, **facts)

    def _new_task(self, restart: Restart | None = None) -> Task:
        restart = restart or Restart()
        is_waiting = restart.not_before > self._builder.now
        return Task(
            id=TaskId(""),
            service_id=self._service.id,
            slot=SLOT,
            node_id=self._mode.node_id,
            revision_id=self._service.template_id,
            desired_state=TaskState.READY if is_waiting else TaskState.RUNNING,
            not_before=restart.not_before,
            restarts=restart.restarts,
            job_iteration=self._mode.run,
        )
