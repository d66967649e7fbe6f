"""What each node carries: reservations, active tasks in all and by service, host ports, recent failures.

``measure`` reads it off the tasks of a node. A ``ClusterLoad`` is the picture of one decision: placements
and lowered wishes of the same plan are added to it before they are stored.

Counted as swarm mode counts: a task holds its resources and ports until it has ended, whatever is wished of
it, and is *active* while it is still wished to run. Failures are kept tasks that failed or were rejected;
those of global services are not counted, since the scheduler did not choose their node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from manager.schedule.needs import NO_NEEDS, HostPort, Needs, needs_of
from manager.store.view import View
from swarmpy.limits import NEEDS_CACHE_REVISIONS_MAX, NODE_FAILURES_WINDOW_S
from swarmpy.model.ids import SECOND_NS, NodeId, RevisionId, ServiceId, Timestamp
from swarmpy.model.objects import Node, Task
from swarmpy.model.states import TaskState

_ASSIGNED: Final = TaskState.ASSIGNED
_RUNNING: Final = TaskState.RUNNING
_COMPLETE: Final = TaskState.COMPLETE
_FAILURES: Final = (TaskState.FAILED, TaskState.REJECTED)
_FAILURES_WINDOW_NS: Final = int(NODE_FAILURES_WINDOW_S * SECOND_NS)


@dataclass(slots=True)
class NodeLoad:
    """What one node carries. Shared between pictures, so changed only by ``ClusterLoad`` on its own copy."""

    active: int = 0
    active_by_service: dict[ServiceId, int] = field(default_factory=dict)
    nano_cpus: int = 0
    memory_bytes: int = 0
    generic: dict[str, int] = field(default_factory=dict)
    host_ports: frozenset[HostPort] = frozenset()
    failed_at: dict[RevisionId, tuple[Timestamp, ...]] = field(default_factory=dict)

    def recent_failures(self, revision_id: RevisionId, now: Timestamp) -> int:
        times = self.failed_at.get(revision_id)
        return sum(1 for time in times if time > now - _FAILURES_WINDOW_NS) if times else 0


EMPTY_LOAD = NodeLoad()


def measure(tasks: Iterable[Task], needs_by_id: Callable[[RevisionId], Needs]) -> NodeLoad:
    """The load that these tasks, all of one node, put on it."""
    load = NodeLoad()
    active = 0
    by_service = load.active_by_service
    ports: set[HostPort] = set()
    revision_id = None
    needs = NO_NEEDS
    is_light = True
    for task in tasks:
        if task.revision_id != revision_id:
            revision_id = task.revision_id
            needs = needs_by_id(revision_id)
            is_light = needs.is_counted_only
        state = task.status.state
        if state > _RUNNING:
            if state in _FAILURES:
                _note_failure(load, task, needs)
            continue
        if state < _ASSIGNED:
            continue  # a global task that waits there
        if task.desired_state <= _COMPLETE:
            active += 1
            service_id = task.service_id
            by_service[service_id] = by_service.get(service_id, 0) + 1
        if not is_light:
            _hold(load, needs, 1)
            ports.update(needs.host_ports)
    load.active = active
    load.host_ports = frozenset(ports)
    return load


def _note_failure(load: NodeLoad, task: Task, needs: Needs) -> None:
    if not needs.is_global:
        load.failed_at[task.revision_id] = (
            *load.failed_at.get(task.revision_id, ()),
            task.status.timestamp,
        )


def _hold(load: NodeLoad, needs: Needs, count: int) -> None:
    load.nano_cpus += count * needs.nano_cpus
    load.memory_bytes += count * needs.memory_bytes
    for kind, amount in needs.generic:
        load.generic[kind] = load.generic.get(kind, 0) + count * amount


class ClusterLoad:
    """The load of all nodes as one decision sees it."""

    def __init__(self, view: View, measured: dict[NodeId, NodeLoad], cache: NeedsCache) -> None:
        self.nodes: tuple[Node, ...] = tuple(sorted(view.nodes(), key=lambda node: node.id))
        self._view = view
        self._loads = measured
        self._cache = cache
        self._own: set[NodeId] = set()

    def node(self, node_id: NodeId) -> Node | None:
        return self._view.node(node_id)

    def of(self, node_id: NodeId) -> NodeLoad:
        return self._loads.get(node_id, EMPTY_LOAD)

    def needs(self, revision_id: RevisionId) -> Needs:
        return self._cache.needs(self._view, revision_id)

    def add(self, node_id: NodeId, service_id: ServiceId, needs: Needs, count: int) -> None:
        """``count`` more tasks were placed there by this plan."""
        load = self._own_load(node_id)
        load.active += count
        load.active_by_service[service_id] = load.active_by_service.get(service_id, 0) + count
        _hold(load, needs, count)
        if needs.host_ports:
            load.host_ports |= frozenset(needs.host_ports)

    def lower(self, task: Task) -> None:
        """This plan tells the task to stop: it is no longer active, but holds its resources until it ends."""
        is_held = TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
        is_active = is_held and task.desired_state <= TaskState.COMPLETE
        if not is_active or task.node_id not in self._loads:
            return
        load = self._own_load(task.node_id)
        load.active -= 1
        load.active_by_service[task.service_id] = load.active_by_service.get(task.service_id, 1) - 1

    def _own_load(self, node_id: NodeId) -> NodeLoad:
        shared = self._loads.get(node_id, EMPTY_LOAD)
        if node_id in self._own:
            return shared
        self._own.add(node_id)
        own = NodeLoad(
            active=shared.active,
            active_by_service=dict(shared.active_by_service),
            nano_cpus=shared.nano_cpus,
            memory_bytes=shared.memory_bytes,
            generic=dict(shared.generic),
            host_ports=shared.host_ports,
            failed_at=shared.failed_at,
        )
        self._loads[node_id] = own
        return own


class NeedsCache:
    """What revisions ask for, kept by whoever decides repeatedly: revisions never change."""

    def __init__(self) -> None:
        self._needs: dict[RevisionId, Needs] = {}

    def picture(self, view: View) -> ClusterLoad:
        """The load of all nodes now, measured anew: it costs a fraction of a microsecond per placed task."""

        def needs_by_id(revision_id: RevisionId) -> Needs:
            return self.needs(view, revision_id)

        loads = {node.id: measure(view.tasks_of_node(node.id), needs_by_id) for node in view.nodes()}
        return ClusterLoad(view, loads, self)

    def needs(self, view: View, revision_id: RevisionId) -> Needs:
        """What tasks of the revision ask for."""
        known = self._needs.get(revision_id)
        if known is not None:
            return known
        revision = view.revision(revision_id)
        if revision is None:
            return NO_NEEDS
        if len(self._needs) >= NEEDS_CACHE_REVISIONS_MAX:
            self._needs.clear()
        needs = self._needs[revision_id] = needs_of(revision)
        return needs
