"""Jobs: tasks that are to end. Which slots of which run are begun now, and what of former runs goes.

* A replicated job has slots 0 to N-1 in each *iteration*. At most ``max_concurrent`` of them are at work; a
  slot that is done or has failed is not used again. Every change of the service begins a new iteration (the
  API writes it), and what of an older one has not ended is removed.
* A global job has one slot in each iteration on every node that is ready, active and fits, also on one that
  joins later.
* A cron job is a replicated job of which several iterations may go on: those that ``cron`` has begun and not
  called ended yet. What is begun or replaced in them is of the service's present spec.

The tasks of a new iteration wait, as far as they would be too many, for those of an older one to stop, but
not for longer than any replacement waits. Completed tasks are left alone, whatever becomes of their nodes,
until history goes (the reaper; of cron jobs with their runs).

Nothing is remembered between calls: a new leader goes on where the last one was. It does not say when a cron
job runs (``cron``), nor what becomes of the tasks of a service that is gone (``replicated``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final

from manager.allocate.addresses import Addresses
from manager.reconcile.builder import PlanBuilder
from manager.reconcile.dependencies import dependents, waits_for
from manager.reconcile.global_services import is_node_news as is_place_news
from manager.reconcile.global_services import may_host
from manager.reconcile.job_slots import STOP_WAIT_NS, SlotsOfRun, Standing, standing_of
from manager.reconcile.plan import NOTHING, Plan
from manager.reconcile.replicated import is_node_news, is_task_news
from manager.reconcile.restart import is_displaced
from manager.reconcile.slots import NodeFitness, age, is_wished
from manager.schedule.needs import Needs
from manager.schedule.nodes import LoadCache
from manager.store.view import View
from swarmpy.model.changes import Order
from swarmpy.model.defaults import availability, is_job
from swarmpy.model.ids import NodeId, ServiceId, Timestamp
from swarmpy.model.job_rules import job_size
from swarmpy.model.objects import Node, Service, Task
from swarmpy.model.states import NodeAvailability, NodeState, RunState, TaskState, is_terminal

_FAILED_BY_ITSELF: Final = (TaskState.FAILED, TaskState.REJECTED)


class Jobs:
    """The reconciler of replicated, global and cron jobs; its keys are service ids."""

    name = "jobs"

    def __init__(self, cache: LoadCache, addresses: Addresses) -> None:
        self._cache = cache
        self._addresses = addresses

    def keys(self, view: View) -> Iterable[str]:
        return sorted(service.id for service in view.services() if is_job(service.spec))

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        found = [*self._dirty_itself(view, old, new), *dependents(view, old, new)]
        return [id_ for id_ in found if _is_ours(view, ServiceId(id_))] if found else ()

    def _dirty_itself(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new if new is not None else old:
            case Task(service_id=service_id):
                return (service_id,) if is_task_news(old, new) else ()
            case Service(id=service_id):
                return (service_id,)
            case Node(id=node_id):
                found = set()
                if is_node_news(old, new):
                    found |= {task.service_id for task in view.tasks_of_node(node_id)}
                if is_place_news(old, new):
                    found |= {each.id for each in view.services() if each.spec.mode.global_job is not None}
                return sorted(found)
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        service = view.service(ServiceId(key))
        if service is None or not is_job(service.spec) or waits_for(view, service):
            return NOTHING
        builder = PlanBuilder(view, now, self._cache, self._addresses)
        if service.spec.mode.global_job is not None:
            _PerNode(service, builder, self._cache.needs(view, service.template_id)).run()
        else:
            _Numbered(service, builder).run()
        return builder.build()


def _is_ours(view: View, service_id: ServiceId) -> bool:
    service = view.service(service_id)
    return service is not None and is_job(service.spec)


def going_on(service: Service) -> list[int]:
    """The iterations that are at work, the oldest first."""
    if service.spec.mode.cron_job is None:
        return [_iteration(service)]
    runs = service.cron_status.runs if service.cron_status is not None else ()
    return sorted(run.iteration for run in runs if run.state is RunState.RUNNING)


def _iteration(service: Service) -> int:
    return service.job_status.iteration if service.job_status is not None else 0


def began_at(service: Service) -> Timestamp:
    return service.job_status.last_execution if service.job_status is not None else service.created_at


class _Job:
    """What both kinds of slots have in common. One reconcile of one service."""

    def __init__(self, service: Service, builder: PlanBuilder) -> None:
        self._service = service
        self._builder = builder
        self._fitness = NodeFitness(builder.view)

    def _of(self, iteration: int) -> SlotsOfRun:
        return SlotsOfRun(self._service, self._builder, fitness=self._fitness, iteration=iteration)

    def _stopping(self, work: SlotsOfRun, former: Iterable[Task]) -> int:
        """How many tasks of runs before are still on their way out, and are waited for."""
        waits_until = began_at(self._service) + STOP_WAIT_NS
        if self._builder.now >= waits_until:
            return 0
        count = sum(work.is_alive(task) for task in former)
        if count:
            self._builder.wake(waits_until)
        return count

    def _remove(self, tasks: Iterable[Task]) -> None:
        """What is of no use any more, ended or not."""
        for task in sorted(tasks, key=age):
            if task.desired_state < TaskState.REMOVE and self._builder.has_room():
                self._builder.add(Order(task_id=task.id, desired_state=TaskState.REMOVE))


class _Numbered(_Job):
    """Replicated and cron jobs."""

    def run(self) -> None:
        live = going_on(self._service)
        done: dict[int, set[int]] = {iteration: set() for iteration in live}
        open_: dict[int, dict[int, list[Task]]] = {iteration: {} for iteration in live}
        former: list[Task] = []
        for task in self._builder.view.tasks_of_service(self._service.id):
            iteration = task.job_iteration
            if iteration not in done:
                former.append(task)
            elif task.desired_state is not TaskState.REMOVE:
                if task.status.state is TaskState.COMPLETE:
                    done[iteration].add(task.slot)
                open_[iteration].setdefault(task.slot, []).append(task)
        self._clear(former)
        for iteration in live:
            self._work_at(iteration, open_[iteration], done[iteration], former)

    def _clear(self, former: Sequence[Task]) -> None:
        """Of runs that have ended or were replaced."""
        if self._service.spec.mode.cron_job is None:
            total = job_size(self._service.spec).total
            self._remove(task for task in former if not is_terminal(task.status.state) or task.slot >= total)
            return
        status = self._service.cron_status
        kept = {run.iteration for run in status.runs} if status is not None else set()
        self._remove(task for task in former if task.job_iteration not in kept)
        for task in sorted(former, key=age):
            if task.job_iteration in kept:
                self._of(task.job_iteration).stop((task,))

    def _work_at(
        self, iteration: int, slots: dict[int, list[Task]], done: set[int], former: Sequence[Task]
    ) -> None:
        size = job_size(self._service.spec)
        work = self._of(iteration)
        active = 0
        for slot in sorted(slots):
            tasks = slots[slot]
            if slot in done and len(tasks) == 1:
                continue
            if not self._builder.has_room():
                return
            tasks.sort(key=age)
            if slot >= size.total:
                work.stop(tasks)  # the service asks for fewer since
            elif work.tend(slot, tasks) is Standing.ACTIVE:
                active += 1
        room = size.max_concurrent - active
        free = [*itertools.islice((slot for slot in range(size.total) if slot not in slots), max(room, 0))]
        if not free:
            return
        room = self._builder.room_for(min(room - self._stopping(work, former), len(free)))
        for slot in free[:room]:
            work.begin(slot)
        if room:
            self._builder.note("job_slots_begun", service_id=self._service.id, slots=str(room))


class _PerNode(_Job):
    """Global jobs."""

    def __init__(self, service: Service, builder: PlanBuilder, needs: Needs) -> None:
        super().__init__(service, builder)
        self._needs = needs
        self._iteration = _iteration(service)
        self._work = self._of(self._iteration)
        self._former: dict[NodeId, list[Task]] = {}

    def run(self) -> None:
        view = self._builder.view
        nodes = {node.id: node for node in view.nodes()}
        places: dict[NodeId, list[Task]] = {}
        former: list[Task] = []
        for task in view.tasks_of_service(self._service.id):
            if task.job_iteration == self._iteration and task.desired_state is not TaskState.REMOVE:
                places.setdefault(task.node_id, []).append(task)
            elif task.job_iteration != self._iteration:
                former.append(task)
                self._former.setdefault(task.node_id, []).append(task)
        self._remove(
            task for task in former if not is_terminal(task.status.state) or task.node_id not in nodes
        )
        for node_id in sorted(nodes.keys() | places.keys()):
            if not self._builder.has_room():
                return
            self._work_on(nodes.get(node_id), node_id, sorted(places.get(node_id, ()), key=age))

    def _work_on(self, node: Node | None, node_id: NodeId, tasks: Sequence[Task]) -> None:
        if node is None:
            self._remove(tasks)
        elif tasks and standing_of(tasks) is Standing.DONE:
            self._work.tend(node_id, tasks)
        elif not may_host(node, self._needs):
            self._work.stop(tasks)
        elif availability(node.spec) is NodeAvailability.PAUSE:
            return  # what runs there stays; what failed is not tried again
        elif not tasks:
            former = self._former.get(node_id, ())
            if node.status.state is NodeState.READY and not self._stopping(self._work, former):
                self._work.begin(node_id)
        elif any(is_wished(task) for task in tasks):
            self._work.tend(node_id, tasks)
        else:
            self._return_to(node_id, tasks)

    def _return_to(self, node_id: NodeId, tasks: Sequence[Task]) -> None:
        """Its task was told to stop when the node went or did not fit, or it has failed for good."""
        newest = tasks[-1]
        restart = self._work.restart_of(newest, tasks)
        has_failed = newest.status.state in _FAILED_BY_ITSELF and not is_displaced(newest)
        if restart is not None and not has_failed:
            self._work.begin_again(node_id, restart, after=tasks)
