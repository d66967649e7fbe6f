"""Whether a service that asks for rebalancing is spread evenly, reckoned anew from nodes and tasks alone.

Judged are services whose tasks could go anywhere that their constraints allow: no preferences, reservations,
ports, volumes or limits, which have reasons of their own to leave a node out. Of two nodes, one of which has
two tasks more, the fuller one must be unable to give (it is not active), or the other to take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from manager.schedule.constraint import is_match
from manager.schedule.filters import is_platform
from manager.schedule.needs import parsed_or_never
from manager.store.view import View
from swarmpy.limits import NODE_FAILURES_WINDOW_S, REBALANCE_SETTLED_S
from swarmpy.model.defaults import availability, is_replicated, replicas_of
from swarmpy.model.ids import SECOND_NS, NodeId, Timestamp
from swarmpy.model.objects import Node, Service
from swarmpy.model.specs import Placement, Resources, ServiceSpec
from swarmpy.model.states import (
    NodeAvailability,
    NodeState,
    PlacementStrategy,
    PublishMode,
    TaskState,
    UpdateState,
)

GAIN = 2


def unevenness(view: View, service: Service, now: Timestamp) -> Iterator[str]:
    """A sentence for the worst pair of nodes, if a move between them is due."""
    if not service.spec.rebalance or not _is_free(service.spec) or not _is_at_rest(view, service):
        return
    counts: Counter[NodeId] = Counter()
    failed: set[NodeId] = set()
    since = now - int(NODE_FAILURES_WINDOW_S * SECOND_NS)
    for task in view.tasks_of_service(service.id):
        if task.status.state in (TaskState.FAILED, TaskState.REJECTED) and task.status.timestamp > since:
            failed.add(task.node_id)
        if task.desired_state == task.status.state == TaskState.RUNNING:
            counts[task.node_id] += 1
    nodes = [node for node in view.nodes() if _is_active(node)]
    givers = sorted((node for node in nodes if counts[node.id]), key=lambda node: (-counts[node.id], node.id))
    takers = sorted(
        (
            node
            for node in nodes
            if node.id not in failed and _may_run(service.spec, node) and _stays(node, now)
        ),
        key=lambda node: (counts[node.id], node.id),
    )
    if givers and takers and counts[givers[0].id] - counts[takers[0].id] >= GAIN:
        full, empty = givers[0].id, takers[0].id
        yield (
            f"service {service.id} is to be spread evenly, and has {counts[full]} tasks on node {full} "
            f"and {counts[empty]} on node {empty}"
        )


def _is_at_rest(view: View, service: Service) -> bool:
    """Whether it has all its tasks, of one revision, and no update that goes on or waits."""
    status = service.update_status
    if status is not None and status.state not in (UpdateState.COMPLETED, UpdateState.ROLLBACK_COMPLETED):
        return False
    wished = [task for task in view.tasks_of_service(service.id) if task.desired_state <= TaskState.RUNNING]
    return len(wished) == replicas_of(service) and all(
        task.status.state == TaskState.RUNNING and task.revision_id == service.template_id for task in wished
    )


def _is_free(spec: ServiceSpec) -> bool:
    template = spec.task_template
    placement = template.placement or Placement()
    container = template.container_spec
    ports = spec.endpoint_spec.ports if spec.endpoint_spec is not None else ()
    return (
        is_replicated(spec)
        and not placement.preferences
        and not placement.max_replicas
        and placement.strategy is not PlacementStrategy.BINPACK
        and not (template.resources is not None and _is_reserving(template.resources.reservations))
        and not any(port.publish_mode is PublishMode.HOST for port in ports)
        and not (container is not None and container.mounts)
        and template.log_driver is None
        and not template.networks
        and not spec.networks
    )


def _is_reserving(wanted: Resources | None) -> bool:
    return wanted is not None and bool(wanted.nano_cpus or wanted.memory_bytes or wanted.generic_resources)


def _is_active(node: Node) -> bool:
    return node.status.state == NodeState.READY and availability(node.spec) == NodeAvailability.ACTIVE


def _may_run(spec: ServiceSpec, node: Node) -> bool:
    placement = spec.task_template.placement or Placement()
    if placement.platforms and not is_platform(placement.platforms, node.description.platform):
        return False
    return is_match(parsed_or_never(placement.constraints), node)


def _stays(node: Node, now: Timestamp) -> bool:
    return node.status.since + int(REBALANCE_SETTLED_S * SECOND_NS) <= now
