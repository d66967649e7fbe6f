"""Replicated services: as many tasks as wished for, each slot run by one task that fits its node.

A reconcile of a service, in this order: give up surplus slots; replace what ended or lost its node, as the
restart policy says; tell waiting replacements to run; take the update a step further; fill free slots, lowest
number first. A task that an order ends and the task that follows it are one atomic group, so no slot is ever
lost or doubled by a crash between the two.

The cost of a call grows with the tasks of the service, the size of its plan does not: a plan holds at most
one batch and asks to be called again (``is_partial``).

It also removes the tasks of services that are gone. It does not delete tasks (the reaper), judge nodes
(``nodes``), or retry what could not be placed (``pending``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from manager.reconcile.builder import PlanBuilder
from manager.reconcile.plan import NOTHING, Plan
from manager.reconcile.restart import Restart, after_displacement, after_end, is_displaced
from manager.reconcile.slots import NodeFitness, Slots, age, is_wished, surplus_slots
from manager.reconcile.update import Outdated, Step, advance, config_of, is_going, progress_of
from manager.schedule.nodes import NeedsCache
from manager.store.view import View
from swarmpy.limits import RESTART_STOP_WAIT_S
from swarmpy.model.changes import Order, Update
from swarmpy.model.defaults import is_replicated, replicas, restart_policy
from swarmpy.model.ids import SECOND_NS, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Node, Service, Task
from swarmpy.model.states import TaskState, UpdateOrder, is_terminal

_STOP_WAIT_NS: Final = int(RESTART_STOP_WAIT_S * SECOND_NS)


class ReplicatedServices:
    """The reconciler of replicated services; its keys are service ids."""

    name = "replicated"

    def __init__(self, cache: NeedsCache) -> None:
        self._cache = cache

    def keys(self, view: View) -> Iterable[str]:
        return sorted({service.id for service in view.services()} | set(view.service_ids_with_tasks()))

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new if new is not None else old:
            case Task(service_id=service_id):
                return (service_id,) if is_task_news(old, new) else ()
            case Service(id=service_id):
                return (service_id,)
            case Node(id=node_id):
                if is_node_news(old, new):
                    return sorted({task.service_id for task in view.tasks_of_node(node_id)})
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        service = view.service(ServiceId(key))
        if service is not None and not is_replicated(service.spec):
            return NOTHING
        builder = PlanBuilder(view, now, self._cache)
        if service is None:
            remove_tasks(builder, view.tasks_of_service(ServiceId(key)))
        else:
            _Replicas(service, builder).run()
        return builder.build()


def is_task_news(old: object | None, new: object | None) -> bool:
    """Whether a task's change can matter to its orchestrator; most of a task's steps do not."""
    if not isinstance(old, Task) or not isinstance(new, Task):
        return True
    return (
        old.desired_state != new.desired_state
        or old.node_id != new.node_id
        or (old.status.state >= TaskState.RUNNING) != (new.status.state >= TaskState.RUNNING)
        or is_terminal(old.status.state) != is_terminal(new.status.state)
    )


def is_node_news(old: object | None, new: object | None) -> bool:
    """Whether a node's change can move tasks away from it."""
    if not isinstance(old, Node) or not isinstance(new, Node):
        return True
    return old.status.state != new.status.state or old.spec != new.spec


def remove_tasks(builder: PlanBuilder, tasks: Iterable[Task]) -> None:
    """The service is gone: so are its tasks."""
    for task in sorted(tasks, key=age):
        if task.desired_state < TaskState.REMOVE:
            if not builder.has_room():
                return
            builder.add(Order(task_id=task.id, desired_state=TaskState.REMOVE))


class _Replicas:
    """One reconcile of one service."""

    def __init__(self, service: Service, builder: PlanBuilder) -> None:
        self._service = service
        self._builder = builder
        self._view = builder.view
        self._now = builder.now
        self._policy = restart_policy(service.spec.task_template)
        self._fitness = NodeFitness(builder.view)
        self._outdated = Outdated(builder.view, service)
        self._slots = Slots(
            builder.view.tasks_of_service(service.id), template_id=service.template_id, fitness=self._fitness
        )
        self._replaced: set[int] = set()
        """Slots that this plan gives a task of the wanted revision."""

    def run(self) -> None:
        wanted = replicas(self._service.spec)
        if len(self._slots) > wanted and not self._scale_down(wanted):
            return
        for number in self._slots.attention:
            if not self._builder.has_room():
                return
            if number in self._slots:
                self._tend(number, self._slots.tasks(number))
        if self._update():
            self._scale_up(wanted)

    # --- the number of slots

    def _scale_down(self, wanted: int) -> bool:
        """Whether all that is too much is in the plan."""
        surplus = surplus_slots(self._slots, wanted)
        for number in surplus:
            if not self._builder.has_room():
                return False
            tasks = self._slots.tasks(number)
            self._slots.drop(number)
            changes = [change for task in tasks for change in self._builder.stop(task, TaskState.REMOVE)]
            self._builder.add(*changes)
        self._builder.note("service_scaled_down", service_id=self._service.id, slots=str(len(surplus)))
        return True

    def _scale_up(self, wanted: int) -> None:
        room = self._builder.room_for(wanted - len(self._slots))
        free = (number for number in itertools.count(1) if number not in self._slots)
        for number in itertools.islice(free, room):
            self._builder.create(self._new_task(number))
        if room:
            self._builder.note("service_scaled_up", service_id=self._service.id, tasks=str(room))

    def _new_task(self, slot: int, *, restart: Restart | None = None, is_waiting: bool = False) -> Task:
        restart = restart or Restart()
        is_waiting = is_waiting or restart.not_before > self._now
        return Task(
            id=TaskId(""),
            service_id=self._service.id,
            slot=slot,
            revision_id=self._service.template_id,
            desired_state=TaskState.READY if is_waiting else TaskState.RUNNING,
            not_before=restart.not_before,
            restarts=restart.restarts,
        )

    # --- what runs in a slot

    def _is_fine(self, task: Task) -> bool:
        return task.status.state <= TaskState.RUNNING and self._fitness.may_keep(task.node_id)

    def _tend(self, number: int, tasks: Sequence[Task]) -> None:
        wished = [task for task in tasks if is_wished(task)]
        if not wished:
            return
        fine = [task for task in wished if self._is_fine(task)]
        lost = [task for task in wished if not self._is_fine(task)]
        if lost and wished[-1] is lost[-1]:
            self._replace_lost(number, tasks, lost)
        elif lost:
            # a newer task stands in for them already
            self._builder.add(*(change for task in lost for change in self._builder.stop(task)))
        if len(fine) > 1 and self._builder.has_room():
            fine = self._end_overlap(fine)
        for task in fine:
            if task.desired_state == TaskState.READY and self._builder.has_room():
                self._let_run(task, tasks)

    def _replace_lost(self, number: int, tasks: Sequence[Task], lost: Sequence[Task]) -> None:
        newest = lost[-1]
        restart = self._restart_of(newest, tasks)
        stops = [change for task in lost for change in self._builder.stop(task)]
        if restart is None:
            self._builder.add(*stops)
            self._builder.note("restart_declined", service_id=self._service.id, task_id=newest.id)
            return
        waits_for = [task for task in lost if self._is_alive(task)]
        task = self._new_task(number, restart=restart, is_waiting=bool(waits_for))
        if restart.not_before:
            self._builder.wake(restart.not_before)
        self._builder.create(task, *stops)
        self._replaced.add(number)

    def _restart_of(self, task: Task, history: Sequence[Task]) -> Restart | None:
        template_id = self._service.template_id
        if not is_terminal(task.status.state) or is_displaced(task):
            return after_displacement(task, self._policy, template_id=template_id, now=self._now)
        return after_end(task, self._policy, history=history, template_id=template_id, now=self._now)

    def _end_overlap(self, fine: list[Task]) -> list[Task]:
        """Of several tasks in a slot, one that runs the wanted revision ends the others."""
        keeper = next(
            (
                task
                for task in reversed(fine)
                if task.status.state == TaskState.RUNNING and not self._outdated.is_outdated(task)
            ),
            None,
        )
        if keeper is None:
            return fine
        others = [task for task in fine if task is not keeper]
        self._builder.add(*(change for task in others for change in self._builder.stop(task)))
        return [keeper]

    def _is_alive(self, task: Task) -> bool:
        """Whether the task may be running, on a node that will say when it has stopped."""
        is_on_agent = TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
        return is_on_agent and not self._fitness.is_gone(task.node_id)

    def _let_run(self, task: Task, tasks: Sequence[Task]) -> None:
        """A replacement runs when its delay is over and its predecessor has stopped, or took too long."""
        if task.not_before > self._now:
            self._builder.wake(task.not_before)
            return
        waits_until = task.created_at + _STOP_WAIT_NS
        is_blocked = any(
            self._is_alive(older) and not is_wished(older) for older in tasks if age(older) < age(task)
        )
        if is_blocked and self._now < waits_until:
            self._builder.wake(waits_until)
            return
        self._builder.add(Order(task_id=task.id, desired_state=TaskState.RUNNING))

    # --- the update

    def _update(self) -> bool:
        """Whether there is room left in the plan after the update's step."""
        service = self._service
        outdated = [
            number
            for number in self._slots.attention
            if number in self._slots
            and number not in self._replaced
            and self._is_slot_outdated(self._slots.tasks(number))
        ]
        if not outdated and not is_going(service):
            return True
        config = config_of(service)
        step = advance(
            service,
            outdated=outdated,
            progress=progress_of(self._slots.all_tasks(), service, config, self._now),
            template=self._view.revision(service.template_id),
            now=self._now,
        )
        if step.wake_at is not None:
            self._builder.wake(step.wake_at)
        if step.status is not None:
            if not self._builder.has_room():
                return False
            self._store_status(step)
        is_start_first = config.order == UpdateOrder.START_FIRST
        for number in step.slots:
            if not self._builder.has_room():
                return False
            self._replace_outdated(number, self._slots.tasks(number), is_start_first=is_start_first)
        return True

    def _is_slot_outdated(self, tasks: Sequence[Task]) -> bool:
        if not self._outdated.is_outdated(tasks[-1]):
            return False
        return all(self._outdated.is_outdated(task) for task in tasks if is_wished(task))

    def _store_status(self, step: Step) -> None:
        assert step.status is not None
        changed = replace(self._service, update_status=step.status)
        if step.is_rollback:
            previous = self._view.revision(self._service.previous_id)
            assert previous is not None, "the revision to return to is kept"
            changed = replace(
                changed,
                spec=previous.spec,
                revision_id=previous.id,
                template_id=previous.id,
                previous_id="",
            )
        self._builder.add(Update(object=changed))
        self._builder.note(
            "update_status_changed",
            service_id=self._service.id,
            state=step.status.state,
            message=step.status.message,
        )

    def _replace_outdated(self, number: int, tasks: Sequence[Task], *, is_start_first: bool) -> None:
        running = [task for task in tasks if is_wished(task)]
        keeps = [task for task in running if self._is_alive(task)][:1] if is_start_first else []
        stops = [change for task in running if task not in keeps for change in self._builder.stop(task)]
        is_waiting = not keeps and any(self._is_alive(task) for task in running)
        self._builder.create(self._new_task(number, is_waiting=is_waiting), *stops)
