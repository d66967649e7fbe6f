"""The constraint enforcer: turns down tasks that no longer fit the node they are on.

Judged are nodes that are ready and active (a paused node keeps what it has, a drained one loses it anyway),
by the service's present constraints, not by those the task was placed under; what an update that is held has
not reached is judged by its own, since what follows it is of its own revision. Reservations are granted to
the oldest tasks first; those that the node's resources no longer cover are turned down too, and so are those
that were given a named resource which the node no longer has. What is turned down is REJECTED, and its
orchestrator replaces it elsewhere; so nothing may be turned down that the scheduler would place where it is,
or the two would go on for ever. Where a task's volume is plays no part here: it runs where it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from manager.reconcile.outdated import Outdated
from manager.reconcile.plan import NOTHING, Plan
from manager.reconcile.restart import NO_LONGER_FITS
from manager.reconcile.slots import age, is_wished
from manager.reconcile.update import is_held
from manager.schedule.constraint import Constraint, is_match
from manager.schedule.needs import generic_counts, parsed_or_never
from manager.schedule.nodes import LoadCache
from manager.store.view import View
from swarmpy.limits import PLAN_GROUPS_MAX
from swarmpy.model.changes import Group, Report
from swarmpy.model.ids import NodeId, ServiceId, Timestamp
from swarmpy.model.objects import Node, Service, Task, TaskStatus
from swarmpy.model.specs import GenericResource, ServiceSpec
from swarmpy.model.states import NodeAvailability, NodeState, Owner, TaskState

REJECTED_MESSAGE: Final = "task rejected by constraint enforcer"


class ConstraintEnforcer:
    """Its keys are node ids."""

    name = "enforcer"

    def __init__(self, cache: LoadCache) -> None:
        self._cache = cache

    def keys(self, view: View) -> Iterable[str]:
        return sorted(node.id for node in view.nodes())

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new:
            case Node(id=node_id):
                return (node_id,) if _is_node_news(old, new) else ()
            case Service(id=service_id):
                if isinstance(old, Service) and _is_service_news(old, new):
                    nodes = {task.node_id for task in view.tasks_of_service(service_id)}
                    return sorted(node_id for node_id in nodes if node_id)
            case Task(node_id=node_id) if node_id and not (isinstance(old, Task) and old.node_id):
                # placed, perhaps under constraints that have been changed since
                service = view.service(new.service_id)
                is_of_old = service is not None and service.template_id != new.revision_id
                return (node_id,) if is_of_old else ()
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        node = view.node(NodeId(key))
        if node is None or not _is_judged(node):
            return NOTHING
        rejected = self._misfits(view, node)
        groups = []
        for task in rejected[:PLAN_GROUPS_MAX]:
            status = TaskStatus(
                timestamp=now, state=TaskState.REJECTED, message=REJECTED_MESSAGE, err=NO_LONGER_FITS
            )
            report = Report(task_id=task.id, status=status)
            groups.append(Group(owner=Owner.ORCHESTRATOR, changes=(report,)))
        return Plan(groups=tuple(groups), is_partial=len(rejected) > PLAN_GROUPS_MAX)

    def _misfits(self, view: View, node: Node) -> list[Task]:
        has = node.description.resources
        is_measured = bool(has.nano_cpus or has.memory_bytes)
        free_cpus, free_memory = has.nano_cpus, has.memory_bytes
        free_generic = generic_counts(has.generic_resources)
        declared = set(has.generic_resources)
        rules = _Rules(view, self._cache)
        rejected = []
        for task in sorted(view.tasks_of_node(node.id), key=age):
            if not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
                continue
            if is_wished(task) and not is_match(rules.of(task), node):
                rejected.append(task)
                continue
            needs = self._cache.needs(view, task.revision_id)
            if not is_measured or not needs.has_reservations:
                continue
            is_covered = (
                (not needs.nano_cpus or needs.nano_cpus <= free_cpus)
                and (not needs.memory_bytes or needs.memory_bytes <= free_memory)
                and all(amount <= free_generic.get(kind, 0) for kind, amount in needs.generic)
                and all(_is_declared(each, declared) for each in task.generic_resources)
            )
            if not is_covered and is_wished(task):
                rejected.append(task)
                continue
            free_cpus -= needs.nano_cpus
            free_memory -= needs.memory_bytes
            for kind, amount in needs.generic:
                free_generic[kind] = free_generic.get(kind, 0) - amount
        return rejected


class _Rules:
    """The constraints that tasks are judged by. For one look at one node."""

    def __init__(self, view: View, cache: LoadCache) -> None:
        self._view = view
        self._cache = cache
        self._present: dict[ServiceId, tuple[Constraint, ...]] = {}
        self._held: dict[ServiceId, Outdated] = {}

    def of(self, task: Task) -> tuple[Constraint, ...]:
        service = self._view.service(task.service_id)
        if service is None:
            return ()
        if service.id not in self._present:
            self._present[service.id] = parsed_or_never(constraints_of(service.spec))
            if is_held(service):
                self._held[service.id] = Outdated(self._view, service)
        outdated = self._held.get(service.id)
        if outdated is not None and outdated.follows(task, is_held=True) != service.template_id:
            return self._cache.needs(self._view, task.revision_id).constraints
        return self._present[service.id]


def _is_service_news(old: Service, new: Service) -> bool:
    return constraints_of(old.spec) != constraints_of(new.spec) or is_held(old) != is_held(new)


def _is_declared(resource: GenericResource, declared: Collection[GenericResource]) -> bool:
    """Whether the node still has this very name; of counted ones the number is what matters."""
    return resource.named_resource_spec is None or resource in declared


def constraints_of(spec: ServiceSpec) -> tuple[str, ...]:
    placement = spec.task_template.placement
    return placement.constraints if placement is not None else ()


def _is_judged(node: Node) -> bool:
    is_active = node.spec.availability in (NodeAvailability.ACTIVE, NodeAvailability.UNSPECIFIED)
    return is_active and node.status.state == NodeState.READY


def _is_node_news(old: object | None, new: object) -> bool:
    if not isinstance(old, Node) or not isinstance(new, Node):
        return True
    return (
        old.spec != new.spec
        or old.role != new.role
        or old.description != new.description
        or old.status.state != new.status.state
        or old.status.addr != new.status.addr
    )
