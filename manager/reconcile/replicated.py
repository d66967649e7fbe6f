"""Replicated services: as many tasks as wished for, each slot run by one task that fits its node.

A reconcile of a service, in this order: give up surplus slots; tend what is in the others (``slot_work``);
take the update a step further; fill free slots, lowest number first.

The cost of a call grows with the tasks of the service, the size of its plan does not: a plan holds at most
``PLAN_GROUPS_MAX`` groups and asks to be called again (``is_partial``).

It also removes the tasks of services that are gone. It does not delete tasks (the reaper), judge nodes
(``nodes``), or retry what could not be placed (``pending``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from manager.allocate.addresses import Addresses
from manager.reconcile.builder import PlanBuilder
from manager.reconcile.dependencies import dependents, waits_for
from manager.reconcile.plan import NOTHING, Plan
from manager.reconcile.slot_work import SlotWork
from manager.reconcile.slots import NodeFitness, Slots, age, surplus_slots
from manager.schedule.nodes import LoadCache
from manager.store.view import View
from swarmpy.model.changes import Order
from swarmpy.model.defaults import is_replicated, replicas_of
from swarmpy.model.ids import ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Node, Service, Task
from swarmpy.model.states import TaskState, is_terminal


class ReplicatedServices:
    """The reconciler of replicated services; its keys are service ids."""

    name = "replicated"

    def __init__(self, cache: LoadCache, addresses: Addresses) -> None:
        self._cache = cache
        self._addresses = addresses

    def keys(self, view: View) -> Iterable[str]:
        return sorted({service.id for service in view.services()} | set(view.service_ids_with_tasks()))

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new if new is not None else old:
            case Task(service_id=service_id):
                itself = (service_id,) if is_task_news(old, new) else ()
                return (*itself, *dependents(view, old, new))
            case Service(id=service_id):
                return (service_id, *dependents(view, old, new))
            case Node(id=node_id):
                if is_node_news(old, new):
                    return sorted({task.service_id for task in view.tasks_of_node(node_id)})
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        service = view.service(ServiceId(key))
        if service is not None and (not is_replicated(service.spec) or waits_for(view, service)):
            return NOTHING
        builder = PlanBuilder(view, now, self._cache, self._addresses)
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
        or old.status.is_unready != new.status.is_unready
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
        fitness = NodeFitness(builder.view)
        self._slots = Slots(
            ((task.slot, task) for task in builder.view.tasks_of_service(service.id)),
            template_id=service.template_id,
            fitness=fitness,
        )
        self._work = SlotWork(
            service, builder, slots=self._slots, fitness=fitness, first_task=self._first_task
        )

    def run(self) -> None:
        wanted = replicas_of(self._service)
        if len(self._slots) > wanted and not self._scale_down(wanted):
            return
        for number in self._slots.attention:
            if not self._builder.has_room():
                return
            if number in self._slots:
                self._work.tend(number, self._slots.tasks(number))
        if self._work.update():
            self._scale_up(wanted)

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
            self._builder.create(self._work.new_task(number))
        if room:
            self._builder.note("service_scaled_up", service_id=self._service.id, tasks=str(room))

    def _first_task(self, slot: int) -> Task:
        return Task(
            id=TaskId(""),
            service_id=self._service.id,
            slot=slot,
            revision_id=self._service.template_id,
            desired_state=TaskState.RUNNING,
        )
