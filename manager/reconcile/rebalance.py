"""Rebalancing: moves tasks of a replicated service, one at a time, where that makes its spread more even.

For services that ask for it (``spec.rebalance``), and once for those that a user asks it for
(``rebalance_asked_at``, which is 0 again when nothing is left to gain). A move is a second task in the slot,
on the node that was chosen; once it runs, the other one is ended by whoever tends slots. So there are never
fewer tasks than wished, and a move that fails costs nothing.

Nothing is moved while the service is not at rest: during an update, while tasks start, stop or are lost. A
move begins at most every ``REBALANCE_PERIOD_S``, counted by ``rebalanced_at``; and of all services no more
than ``REBALANCE_MOVES_MAX`` at a time. A node that has just come (back) has to stay for a while first, unless
a user asked. Where a task of this revision has failed lately none is moved to, nor where data of it would be
left behind. Services that are packed, or whose slots have volumes of their own, stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from manager.allocate.addresses import Addresses
from manager.reconcile.outdated import Outdated
from manager.reconcile.placing import Placing
from manager.reconcile.plan import NOTHING, PROVISIONAL_PREFIX, Note, Plan
from manager.reconcile.slots import age
from manager.reconcile.update import is_going
from manager.schedule.filters import Question, filters_for, question_about, refusing_filter
from manager.schedule.imbalance import Move, Spot, best_move
from manager.schedule.needs import has_volume_per_slot
from manager.schedule.nodes import LoadCache, NodeLoad
from manager.store.view import View
from swarmpy.limits import (
    NODE_FAILURES_WINDOW_S,
    REBALANCE_ASKED_PERIOD_S,
    REBALANCE_MOVES_MAX,
    REBALANCE_PERIOD_S,
    REBALANCE_SETTLED_S,
)
from swarmpy.model.changes import Create, Group, Update
from swarmpy.model.defaults import is_replicated, replicas_of
from swarmpy.model.ids import SECOND_NS, NodeId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Node, Service, Task
from swarmpy.model.states import NodeAvailability, NodeState, Owner, TaskState

_PERIOD_NS: Final = int(REBALANCE_PERIOD_S * SECOND_NS)
_ASKED_PERIOD_NS: Final = int(REBALANCE_ASKED_PERIOD_S * SECOND_NS)
_SETTLED_NS: Final = int(REBALANCE_SETTLED_S * SECOND_NS)
_FAILURES_NS: Final = int(NODE_FAILURES_WINDOW_S * SECOND_NS)


class Rebalance:
    """Its keys are the ids of services that are to be rebalanced."""

    name = "rebalance"

    def __init__(self, cache: LoadCache, addresses: Addresses) -> None:
        self._cache = cache
        self._addresses = addresses

    def keys(self, view: View) -> Iterable[str]:
        return sorted(service.id for service in view.services() if is_wanted(service))

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new if new is not None else old:
            case Service(id=service_id):
                return (service_id,) if isinstance(new, Service) and is_wanted(new) else ()
            case Task(service_id=service_id) if _is_task_news(old, new):
                service = view.service(service_id)
                return (service_id,) if service is not None and is_wanted(service) else ()
            case Node() if _is_node_news(old, new):
                return self.keys(view)
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        service = view.service(ServiceId(key))
        if service is None or not is_wanted(service):
            return NOTHING
        tasks = resting_tasks(view, service)
        if tasks is None:
            return NOTHING  # it is heard of again when they have come to rest
        return _Evening(view, service, tasks, now).plan(self._cache, self._addresses)


def is_wanted(service: Service) -> bool:
    return is_replicated(service.spec) and (service.spec.rebalance or service.rebalance_asked_at > 0)


def resting_tasks(view: View, service: Service) -> Sequence[Task] | None:
    """The tasks of the service, one running in each slot; None while something else goes on."""
    if is_going(service):
        return None
    outdated = Outdated(view, service)
    slots: dict[int, Task] = {}
    for task in view.tasks_of_service(service.id):
        if task.desired_state > TaskState.RUNNING:
            if TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING and _is_heard(view, task.node_id):
                return None  # it still has to stop
            continue
        is_at_rest = task.status.state == task.desired_state == TaskState.RUNNING
        if not is_at_rest or task.slot in slots or outdated.is_outdated(task):
            return None
        if not _is_heard(view, task.node_id):
            return None
        slots[task.slot] = task
    return sorted(slots.values(), key=age) if len(slots) == replicas_of(service) else None


def _is_heard(view: View, node_id: NodeId) -> bool:
    node = view.node(node_id)
    return node is not None and node.status.state == NodeState.READY


class _Evening:
    """One look at one service that is at rest."""

    def __init__(self, view: View, service: Service, tasks: Sequence[Task], now: Timestamp) -> None:
        self._view = view
        self._service = service
        self._tasks = tasks
        self._now = now
        self._is_asked = service.rebalance_asked_at > 0
        self._wake_at: Timestamp | None = None

    def plan(self, cache: LoadCache, addresses: Addresses) -> Plan:
        placing = Placing(self._view, self._now, cache, addresses)
        question = question_about(self._view, placing.load, self._service.id, self._service.template_id)
        needs = question.needs
        move = None
        if not needs.is_packed and not has_volume_per_slot(needs):
            move = best_move(self._spots(placing, question), needs.spread)
        if move is None:
            return self._finish()
        wait_until = self._next_move_at()
        if wait_until > self._now:
            return Plan(wake_at=wait_until)
        return self._carry_out(move, placing)

    def _finish(self) -> Plan:
        if not self._is_asked:
            return Plan(wake_at=self._wake_at)
        served = replace(self._service, rebalance_asked_at=Timestamp(0))
        note = Note(event="service_rebalanced", facts={"service_id": self._service.id})
        group = Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=served),))
        return Plan(groups=(group,), notes=(note,), wake_at=self._wake_at)

    def _next_move_at(self) -> Timestamp:
        period = _ASKED_PERIOD_NS if self._is_asked else _PERIOD_NS
        last = self._service.rebalanced_at
        own = last + period if last <= self._now else self._now  # of a clock that was ahead
        moving = sorted(
            service.rebalanced_at
            for service in self._view.services()
            if self._now - _PERIOD_NS < service.rebalanced_at <= self._now and service.id != self._service.id
        )
        if len(moving) < REBALANCE_MOVES_MAX:
            return Timestamp(own)
        return Timestamp(max(own, moving[-REBALANCE_MOVES_MAX] + _PERIOD_NS))

    def _carry_out(self, move: Move, placing: Placing) -> Plan:
        task = [task for task in self._tasks if task.node_id == move.source][-1]
        wanted = Task(
            id=TaskId(f"{PROVISIONAL_PREFIX}1"),
            service_id=task.service_id,
            slot=task.slot,
            node_id=move.target,
            revision_id=self._service.template_id,
            desired_state=TaskState.RUNNING,
            restarts=task.restarts if task.revision_id == self._service.template_id else 0,
        )
        (placed,) = placing.place([wanted])
        if placed.status.state != TaskState.ASSIGNED:
            # the node would do, so it is addresses that are used up
            return Plan(wake_at=Timestamp(self._now + _PERIOD_NS))
        moved = replace(self._service, rebalanced_at=self._now)
        facts = {
            "service_id": task.service_id,
            "task_id": task.id,
            "source": move.source,
            "target": move.target,
        }
        return Plan(
            groups=(Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=moved), Create(object=placed))),),
            notes=(Note(event="task_moved", facts=facts),),
        )

    # --- the nodes

    def _spots(self, placing: Placing, question: Question) -> list[Spot]:
        count: dict[NodeId, int] = {}
        for task in self._tasks:
            count[task.node_id] = count.get(task.node_id, 0) + 1
        data = self._data(count, question)
        filters = filters_for(question)
        spots = []
        for node in placing.load.nodes:
            load = placing.load.of(node.id)
            is_usable = _is_active(node) and refusing_filter(filters, question, node, load) is None
            spots.append(
                Spot(
                    node=node,
                    tasks=count.get(node.id, 0),
                    can_give=node.id in count and _is_active(node),
                    can_take=is_usable and data <= _volumes(node) and self._may_take(node, load),
                    rank=(load.active, load.nano_cpus - node.description.resources.nano_cpus),
                )
            )
        return spots

    def _data(self, nodes: Iterable[NodeId], question: Question) -> frozenset[str]:
        """The volumes that are where the tasks are."""
        if not question.volumes:
            return frozenset()
        found = [node for node_id in nodes if (node := self._view.node(node_id)) is not None]
        return question.volumes.intersection(frozenset().union(*(_volumes(node) for node in found)))

    def _may_take(self, node: Node, load: NodeLoad) -> bool:
        if load.recent_failures(self._service.template_id, self._now):
            self._wake(self._now + _FAILURES_NS)
            return False
        settled_at = node.status.since + _SETTLED_NS
        # one that is further off was written by a clock that was ahead
        if not self._is_asked and self._now < settled_at <= self._now + 2 * _SETTLED_NS:
            self._wake(settled_at)
            return False
        return True

    def _wake(self, at: int) -> None:
        if self._wake_at is None or at < self._wake_at:
            self._wake_at = Timestamp(at)


def _is_active(node: Node) -> bool:
    is_active = node.spec.availability in (NodeAvailability.ACTIVE, NodeAvailability.UNSPECIFIED)
    return is_active and node.status.state == NodeState.READY


def _volumes(node: Node) -> frozenset[str]:
    return frozenset(volume.name for volume in node.description.volumes)


def _is_task_news(old: object | None, new: object | None) -> bool:
    """Whether the service may have come to rest."""
    if not isinstance(old, Task) or not isinstance(new, Task):
        return True
    return old.desired_state != new.desired_state or (
        old.status.state != new.status.state and new.status.state >= TaskState.RUNNING
    )


def _is_node_news(old: object | None, new: object | None) -> bool:
    if not isinstance(old, Node) or not isinstance(new, Node):
        return True
    return (
        old.spec != new.spec
        or old.role != new.role
        or old.status.state != new.status.state
        or old.status.addr != new.status.addr
        or old.description != new.description
    )
