"""What each node carries: reservations, active tasks in all and by service, host ports, recent failures.

``measure`` reads it off the tasks of a node. A ``ClusterLoad`` is the picture of one decision: placements
and lowered wishes of the same plan are added to it before they are stored.

Counted as swarm mode counts: a task holds its resources and ports until it has ended, whatever is wished of
it, and is *active* while it is still wished to run. Named resources are held by name, as the task's record
has them. A sticky volume is where a task that mounts it was placed, before its node can say that it is there.

Failures are kept tasks that failed or were rejected; those of global services are not counted, since the
scheduler did not choose their node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from manager.schedule.needs import (
    NO_NEEDS,
    Needs,
    needs_of_revision,
    volumes_of,
)
from manager.store.view import View
from swarmpy.limits import NEEDS_CACHE_REVISIONS_MAX, NODE_FAILURES_WINDOW_S
from swarmpy.model.host_ports import BoundPort
from swarmpy.model.ids import SECOND_NS, NodeId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Node, Task
from swarmpy.model.specs import DiscreteGenericResource, GenericResource
from swarmpy.model.states import TaskState

_ASSIGNED: Final = TaskState.ASSIGNED
_RUNNING: Final = TaskState.RUNNING
_COMPLETE: Final = TaskState.COMPLETE
_FAILURES: Final = (TaskState.FAILED, TaskState.REJECTED)
_FAILURES_WINDOW_NS: Final = int(NODE_FAILURES_WINDOW_S * SECOND_NS)


@dataclass(slots=True)
class NodeLoad:
    """What one node carries. Shared between pictures, so changed only on one's own copy."""

    active: int = 0
    active_by_service: dict[ServiceId, int] = field(default_factory=dict)
    nano_cpus: int = 0
    memory_bytes: int = 0
    generic: dict[str, int] = field(default_factory=dict)
    names: dict[tuple[str, str], int] = field(default_factory=dict)
    """Named resources that tasks hold, by kind and name."""
    host_ports: dict[BoundPort, int] = field(default_factory=dict)
    volumes: dict[str, int] = field(default_factory=dict)
    """Sticky volumes of the tasks there, by name."""
    failed_at: dict[RevisionId, tuple[Timestamp, ...]] = field(default_factory=dict)

    def copy(self) -> NodeLoad:
        return NodeLoad(
            active=self.active,
            active_by_service=dict(self.active_by_service),
            nano_cpus=self.nano_cpus,
            memory_bytes=self.memory_bytes,
            generic=dict(self.generic),
            names=dict(self.names),
            host_ports=dict(self.host_ports),
            volumes=dict(self.volumes),
            failed_at=dict(self.failed_at),
        )

    def recent_failures(self, revision_id: RevisionId, now: Timestamp) -> int:
        times = self.failed_at.get(revision_id)
        return sum(1 for time in times if time > now - _FAILURES_WINDOW_NS) if times else 0

    def count(self, task: Task, needs: Needs, sign: int) -> None:
        """Add (1) or take away (-1) what the task puts on its node."""
        state = task.status.state
        if state > _RUNNING:
            if state in _FAILURES and not needs.is_global:
                self._count_failure(task, sign)
            return
        if state < _ASSIGNED:
            return  # a global task that waits there
        if task.desired_state <= _COMPLETE:
            self.activate(task.service_id, sign)
        if not needs.is_light:
            self.hold(needs, sign)
            self.hold_own(task, needs, sign)

    def activate(self, service_id: ServiceId, count: int) -> None:
        self.active += count
        _add(self.active_by_service, service_id, count)

    def hold(self, needs: Needs, count: int) -> None:
        self.nano_cpus += count * needs.nano_cpus
        self.memory_bytes += count * needs.memory_bytes
        for kind, amount in needs.generic:
            _add(self.generic, kind, count * amount)
        for port in needs.host_ports:
            _add(self.host_ports, port, count)

    def hold_own(self, task: Task, needs: Needs, count: int) -> None:
        """What tasks of one revision do not have in common."""
        for resource in task.generic_resources:
            if resource.named_resource_spec is not None:
                named = resource.named_resource_spec
                _add(self.names, (named.kind, named.value), count)
        if needs.volumes:
            for volume in volumes_of(needs, task.node_id if needs.is_global else task.slot):
                if volume.is_sticky:
                    _add(self.volumes, volume.name, count)

    def _count_failure(self, task: Task, sign: int) -> None:
        times = list(self.failed_at.pop(task.revision_id, ()))
        if sign > 0:
            times.append(task.status.timestamp)
        else:
            times.remove(task.status.timestamp)
        if times:
            self.failed_at[task.revision_id] = tuple(sorted(times))


EMPTY_LOAD = NodeLoad()
_K = TypeVar("_K")


def _add(counts: dict[_K, int], key: _K, count: int) -> None:
    """Add to a count; one of 0 is left out, so that equal loads are equal values."""
    total = counts.get(key, 0) + count
    if total:
        counts[key] = total
    else:
        counts.pop(key, None)


@dataclass(frozen=True, slots=True)
class Measured:
    """The load that ``tasks``, all of one node, put on it; ``version`` says of when that is."""

    version: int
    tasks: dict[TaskId, Task]
    load: NodeLoad


NOTHING_MEASURED = Measured(0, {}, EMPTY_LOAD)


def measure(
    tasks: Iterable[Task],
    needs_of: Callable[[RevisionId], Needs],
    *,
    since: Measured = NOTHING_MEASURED,
    version: int = 0,
) -> Measured:
    """What the tasks of a node put on it, reckoned from the last measurement by what changed since.

    Stored tasks are values, so a task that is the same object has not changed.
    """
    before = since.tasks
    after = {task.id: task for task in tasks}
    if not after:
        return Measured(version, after, EMPTY_LOAD)
    load = since.load.copy()
    added = 0
    for task_id, task in after.items():
        known = before.get(task_id)
        if known is task:
            continue
        load.count(task, needs_of(task.revision_id), 1)
        if known is None:
            added += 1
        else:
            load.count(known, needs_of(known.revision_id), -1)
    if len(before) + added > len(after):
        for task_id, known in before.items():
            if task_id not in after:
                load.count(known, needs_of(known.revision_id), -1)
    return Measured(version, after, load)


class ClusterLoad:
    """The load of all nodes as one decision sees it."""

    def __init__(self, view: View, measured: dict[NodeId, NodeLoad], cache: LoadCache) -> None:
        self.nodes: tuple[Node, ...] = tuple(sorted(view.nodes(), key=lambda node: node.id))
        self._view = view
        self._loads = measured
        self._cache = cache
        self._own: set[NodeId] = set()
        self._volume_nodes: dict[str, set[NodeId]] | None = None

    def node(self, node_id: NodeId) -> Node | None:
        return self._view.node(node_id)

    def of(self, node_id: NodeId) -> NodeLoad:
        return self._loads.get(node_id, EMPTY_LOAD)

    def needs(self, revision_id: RevisionId) -> Needs:
        return self._cache.needs(self._view, revision_id)

    def add(self, node_id: NodeId, service_id: ServiceId, needs: Needs, count: int) -> None:
        """``count`` more tasks were placed there by this plan."""
        load = self._own_load(node_id)
        load.activate(service_id, count)
        load.hold(needs, count)

    def claim(self, node_id: NodeId, needs: Needs) -> tuple[GenericResource, ...]:
        """What a task gets of the node's generic resources: names that nobody holds, or a number.

        The filters have seen to it that there are enough.
        """
        node = self.node(node_id)
        if node is None or not needs.generic:
            return ()
        return claims(node, self.of(node_id).names, needs)

    def settle(self, task: Task, count: int = 1) -> None:
        """A task of this plan was placed, with what it got for itself (-1: and is taken off again)."""
        needs = self.needs(task.revision_id)
        if not needs.is_light:
            self._own_load(task.node_id).hold_own(task, needs, count)

    def volume_nodes(self, name: str) -> frozenset[NodeId]:
        """Where the volume is, or is going to be."""
        if self._volume_nodes is None:
            self._volume_nodes = {}
            for node in self.nodes:
                for volume in node.description.volumes:
                    self._volume_nodes.setdefault(volume.name, set()).add(node.id)
        placed = {node.id for node in self.nodes if name in self.of(node.id).volumes}
        return frozenset(placed.union(self._volume_nodes.get(name, ())))

    def lower(self, task: Task) -> None:
        """This plan tells the task to stop: it is no longer active, but holds its resources until it ends."""
        is_held = TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
        is_active = is_held and task.desired_state <= TaskState.COMPLETE
        if is_active and task.node_id in self._loads:
            self._own_load(task.node_id).activate(task.service_id, -1)

    def _own_load(self, node_id: NodeId) -> NodeLoad:
        load = self._loads.get(node_id, EMPTY_LOAD)
        if node_id not in self._own:
            self._own.add(node_id)
            load = self._loads[node_id] = load.copy()
        return load


def claims(node: Node, held: Collection[tuple[str, str]], needs: Needs) -> tuple[GenericResource, ...]:
    """Of each kind as much as is needed: the node's first names that are not held, else a number."""
    names: dict[str, list[GenericResource]] = {}
    for resource in node.description.resources.generic_resources:
        named = resource.named_resource_spec
        if named is not None:
            free = names.setdefault(named.kind, [])
            if (named.kind, named.value) not in held:
                free.append(resource)
    found: list[GenericResource] = []
    for kind, amount in needs.generic:
        if kind in names:
            found += names[kind][:amount]
        else:
            spec = DiscreteGenericResource(kind=kind, value=amount)
            found.append(GenericResource(discrete_resource_spec=spec))
    return tuple(found)


class LoadCache:
    """Measurements and needs, kept between decisions by whoever decides repeatedly.

    It is only a cache: a measurement is used again while the view says that no task of the node has changed
    since, else brought up to date; and revisions never change. So equal views give equal pictures.
    """

    def __init__(self) -> None:
        self._needs: dict[RevisionId, Needs] = {}
        self._measured: dict[NodeId, Measured] = {}

    def picture(self, view: View) -> ClusterLoad:
        """The load of all nodes now."""

        def needs_of(revision_id: RevisionId) -> Needs:
            return self.needs(view, revision_id)

        loads: dict[NodeId, NodeLoad] = {}
        for node in view.nodes():
            version = view.node_tasks_version(node.id)
            known = self._measured.get(node.id, NOTHING_MEASURED)
            if known.version != version:
                tasks = view.tasks_of_node(node.id)
                known = measure(tasks, needs_of, since=known, version=version)
                self._measured[node.id] = known
            loads[node.id] = known.load
        if len(self._measured) > len(loads):
            self._measured = {id_: known for id_, known in self._measured.items() if id_ in loads}
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
        needs = self._needs[revision_id] = needs_of_revision(revision)
        return needs
