"""Global services: one task on every node that is up, active and meets the constraints.

A node that is drained, down or no longer fits has its task shut down, and gets a new one when it is back. A
paused node keeps what runs: it gets nothing new, no update, and no restart. Whether the node has room for the
task is the scheduler's question: if not, the task waits there and says why.

A node is what a slot is for replicated services: restarts, overlaps and updates are the same (``slot_work``).
A task that came back up with its node is of the wanted revision at once, outside of the update's pace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from manager.allocate.addresses import Addresses
from manager.reconcile.builder import PlanBuilder
from manager.reconcile.dependencies import dependents, waits_for
from manager.reconcile.plan import NOTHING, Plan
from manager.reconcile.replicated import is_task_news
from manager.reconcile.restart import is_displaced
from manager.reconcile.slot_work import SlotWork
from manager.reconcile.slots import NodeFitness, Slots, is_wished
from manager.schedule.constraint import is_match
from manager.schedule.filters import is_platform
from manager.schedule.needs import Needs
from manager.schedule.nodes import LoadCache
from manager.store.view import View
from swarmpy.model.defaults import is_global
from swarmpy.model.ids import NodeId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Node, Service, Task
from swarmpy.model.states import NodeAvailability, NodeState, TaskState

_ENDED_BY_ITSELF: Final = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)


class GlobalServices:
    """The reconciler of global services; its keys are service ids."""

    name = "global"

    def __init__(self, cache: LoadCache, addresses: Addresses) -> None:
        self._cache = cache
        self._addresses = addresses

    def keys(self, view: View) -> Iterable[str]:
        return sorted(service.id for service in view.services() if is_global(service.spec))

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        return (*self._dirty_itself(view, old, new), *dependents(view, old, new))

    def _dirty_itself(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new if new is not None else old:
            case Task(service_id=service_id):
                service = view.service(service_id)
                is_ours = service is not None and is_global(service.spec)
                return (service_id,) if is_ours and is_task_news(old, new) else ()
            case Service(id=service_id, spec=spec):
                return (service_id,) if is_global(spec) else ()
            case Node():
                return self.keys(view) if is_node_news(old, new) else ()
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        service = view.service(ServiceId(key))
        if service is None or not is_global(service.spec) or waits_for(view, service):
            return NOTHING
        builder = PlanBuilder(view, now, self._cache, self._addresses)
        _PerNode(service, builder, self._cache.needs(view, service.template_id)).run()
        return builder.build()


def is_node_news(old: object | None, new: object | None) -> bool:
    if not isinstance(old, Node) or not isinstance(new, Node):
        return True
    return (
        old.status.state != new.status.state
        or old.status.addr != new.status.addr
        or old.spec != new.spec
        or old.role != new.role
        or old.description != new.description
    )


def may_host(node: Node, needs: Needs) -> bool:
    """Whether such a task may be there at all: the node is up, not drained, and of the right kind."""
    if node.status.state == NodeState.DOWN or node.spec.availability == NodeAvailability.DRAIN:
        return False
    if not is_match(needs.constraints, node):
        return False
    return not needs.platforms or is_platform(needs.platforms, node.description.platform)


class _PerNode:
    """One reconcile of one service."""

    def __init__(self, service: Service, builder: PlanBuilder, needs: Needs) -> None:
        self._service = service
        self._builder = builder
        self._needs = needs
        fitness = NodeFitness(builder.view)
        self._slots: Slots[str] = Slots(
            ((task.node_id, task) for task in builder.view.tasks_of_service(service.id)),
            template_id=service.template_id,
            fitness=fitness,
        )
        self._work: SlotWork[str] = SlotWork(
            service, builder, slots=self._slots, fitness=fitness, first_task=self._first_task
        )

    def run(self) -> None:
        nodes = {node.id: node for node in self._builder.view.nodes()}
        attention = set(self._slots.attention)
        for node_id in sorted(nodes.keys() | set(self._slots)):
            if not self._builder.has_room():
                return
            node = nodes.get(NodeId(node_id))
            if node is None or not may_host(node, self._needs):
                self._clear(node_id, is_removed=node is None)
            elif node.spec.availability == NodeAvailability.PAUSE:
                self._leave(node_id)
            elif node_id not in self._slots:
                self._builder.create(self._work.new_task(node_id))
            elif node_id in attention:
                self._tend(node_id, self._slots.tasks(node_id))
        self._work.update()

    def _clear(self, node_id: str, *, is_removed: bool) -> None:
        if node_id not in self._slots:
            return
        tasks = self._slots.tasks(node_id)
        self._slots.drop(node_id)
        if is_removed:
            ending = list(tasks)
        else:
            ending = [task for task in tasks if is_wished(task)]
        desired = TaskState.REMOVE if is_removed else TaskState.SHUTDOWN
        if ending:
            self._builder.add(*(change for task in ending for change in self._builder.stop(task, desired)))

    def _leave(self, node_id: str) -> None:
        """What runs on a paused node stays, and is not updated."""
        if node_id in self._slots:
            self._slots.drop(node_id)

    def _tend(self, node_id: str, tasks: Sequence[Task]) -> None:
        newest = tasks[-1]
        if any(is_wished(task) for task in tasks):
            self._work.tend(node_id, tasks)
            return
        # It was told to stop when its node went or did not fit, and now the node is back, or fits again. But
        # one that has ended by itself may be at rest: it died with its node, or the policy let it be.
        is_at_rest = newest.status.state in _ENDED_BY_ITSELF and not is_displaced(newest)
        if is_at_rest and self._work.restart_of(newest, tasks) is None:
            return
        is_waiting = self._work.is_alive(newest)
        revision_id = self._work.follows(newest)
        task = self._work.new_task(node_id, revision_id=revision_id, is_waiting=is_waiting)
        self._builder.create(task)
        self._slots.drop(node_id)

    def _first_task(self, node_id: str) -> Task:
        return Task(
            id=TaskId(""),
            service_id=self._service.id,
            node_id=NodeId(node_id),
            revision_id=self._service.template_id,
            desired_state=TaskState.RUNNING,
        )
