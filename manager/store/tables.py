"""The store's content: one table per kind, and the declared indexes over them.

Invariants: every index holds exactly what its function says of the stored objects; a table's order is the
order in which its objects were created. An index's order is not part of the state: two managers with equal
tables may iterate an index differently (one of them was restored from a snapshot).

Collections that are handed out are live: they change with the tables, so a caller that awaits, or changes
the tables, copies them before. No rules are checked here; ``apply`` does that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from typing import Any

from manager.store.indexes import (
    ANY_KEY,
    INDEXES,
    INDEXES_OF,
    INGRESS_NETWORKS,
    JOINED_TASKS,
    MANAGER_NODES,
    NAMES,
    NETWORKS_BY_VNI,
    NODES_BY_NETWORK,
    REVISIONS_BY_FILE,
    REVISIONS_BY_SERVICE,
    SERVICES_BY_ADDRESS,
    SERVICES_BY_DEPENDENCY,
    SERVICES_BY_PORT,
    SERVICES_BY_REFERENCE,
    SERVICES_IN_INGRESS,
    TASKS_BY_NETWORK,
    TASKS_BY_NODE,
    TASKS_BY_REVISION,
    TASKS_BY_SERVICE,
    UNPLACED_TASKS,
    Index,
    holder_key,
    name_key,
    port_key,
    reference_key,
)
from manager.store.networking import services_on
from swarmpy.model.changes import Applied
from swarmpy.model.ids import NetworkId, NodeId, RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Cluster, Kind, Network, Node, Object, Revision, Service, Task
from swarmpy.model.states import PortProtocol, PublishMode

Bucket = dict[str, Any]
"""Objects by id, all under one key of an index."""


class Tables:
    """All replicated state. ``requests`` holds the outcomes of the latest named batches, oldest first."""

    def __init__(self) -> None:
        self.version = 0
        self.epoch = 0
        self.requests: dict[str, Applied] = {}
        self.rows: dict[Kind, dict[str, Any]] = {kind: {} for kind in Kind}
        self._buckets: dict[Index, dict[str, Bucket]] = {index: {} for index in INDEXES}
        self._indexed = {
            kind: tuple((index.keys, self._buckets[index]) for index in INDEXES_OF[kind]) for kind in Kind
        }
        self._sorted = {kind: _SortedIds(self.rows[kind]) for kind in Kind}
        self._tasks: dict[str, Task] = self.rows[Kind.TASK]
        self._nodes: dict[str, Node] = self.rows[Kind.NODE]
        self._task_edits = 0
        self._node_edits: dict[str, int] = {}
        """Per node with tasks the count of task edits at its latest one."""

    # --- changing

    def put(self, kind: Kind, new: Object) -> None:
        """Store ``new`` under its id, in place of what was there."""
        rows = self.rows[kind]
        id_ = new.id
        old = rows.get(id_)
        rows[id_] = new
        for keys_of, buckets in self._indexed[kind]:
            keys = keys_of(new)
            if old is not None:
                for key in keys_of(old):
                    if key not in keys:
                        _discard(buckets, key, id_)
            for key in keys:
                bucket = buckets.get(key)
                if bucket is None:
                    buckets[key] = {id_: new}
                else:
                    bucket[id_] = new
        if old is None:
            self._sorted[kind].add(id_)
        if kind is Kind.TASK:
            self._note_task_edit(old, new)

    def remove(self, kind: Kind, id_: str) -> None:
        """Take out what is stored under ``id_``; it must be there."""
        old = self.rows[kind].pop(id_)
        for keys_of, buckets in self._indexed[kind]:
            for key in keys_of(old):
                _discard(buckets, key, id_)
        if kind is Kind.TASK:
            self._note_task_edit(old, None)

    def _note_task_edit(self, old: Any, new: Any) -> None:
        self._task_edits += 1
        for task in (old, new):
            if task is not None and task.node_id:
                if task.node_id in self._buckets[TASKS_BY_NODE]:
                    self._node_edits[task.node_id] = self._task_edits
                else:
                    self._node_edits.pop(task.node_id, None)

    # --- reading (View)

    def get(self, kind: Kind, id_: str) -> Object | None:
        return self.rows[kind].get(id_)

    def all(self, kind: Kind) -> Collection[Object]:
        return self.rows[kind].values()

    def by_name(self, kind: Kind, name: str) -> Object | None:
        for found in self._find(NAMES[kind], name_key(name)):
            if found.spec.name == name:
                return found  # type: ignore[no-any-return]
        return None

    def by_prefix(self, kind: Kind, prefix: str, *, limit: int = 2) -> tuple[Object, ...]:
        rows = self.rows[kind]
        return tuple(rows[id_] for id_ in self._sorted[kind].starting_with(prefix, limit))

    def names_like(self, kind: Kind, name: str) -> Collection[Object]:
        """The objects whose name is ``name`` but for case."""
        return self._find(NAMES[kind], name_key(name))

    def cluster(self) -> Cluster | None:
        return next(iter(self.rows[Kind.CLUSTER].values()), None)

    def node(self, id_: NodeId) -> Node | None:
        return self._nodes.get(id_)

    def nodes(self) -> Collection[Node]:
        return self._nodes.values()

    def manager_nodes(self) -> Collection[Node]:
        return self._find(MANAGER_NODES, ANY_KEY)

    def service(self, id_: ServiceId) -> Service | None:
        return self.rows[Kind.SERVICE].get(id_)

    def services(self) -> Collection[Service]:
        return self.rows[Kind.SERVICE].values()

    def services_using(self, kind: Kind, id_: str) -> Collection[Service]:
        return self._find(SERVICES_BY_REFERENCE, reference_key(kind, id_))

    def services_awaiting(self, name: str) -> Collection[Service]:
        return self._find(SERVICES_BY_DEPENDENCY, name_key(name))

    def services_publishing(
        self, protocol: PortProtocol, number: int, mode: PublishMode
    ) -> Collection[Service]:
        return self._find(SERVICES_BY_PORT, port_key(protocol, number, mode))

    def services_in_ingress(self) -> Collection[Service]:
        return self._find(SERVICES_IN_INGRESS, ANY_KEY)

    def services_on_network(self, network_id: NetworkId) -> Collection[Service]:
        return services_on(self, network_id)

    def network(self, id_: NetworkId) -> Network | None:
        return self.rows[Kind.NETWORK].get(id_)

    def networks(self) -> Collection[Network]:
        return self.rows[Kind.NETWORK].values()

    def ingress_network(self) -> Network | None:
        """The store's rules let there be but one."""
        return next(iter(self._find(INGRESS_NETWORKS, ANY_KEY)), None)

    def networks_with_vni(self, vni: int) -> Collection[Network]:
        return self._find(NETWORKS_BY_VNI, str(vni))

    def tasks_of_network(self, network_id: NetworkId) -> Collection[Task]:
        return self._find(TASKS_BY_NETWORK, network_id)

    def holders_of(self, network_id: NetworkId, address: str) -> tuple[Task | Service | Node, ...]:
        key = holder_key(network_id, address)
        tasks = self._find(TASKS_BY_NETWORK, key)
        services = self._find(SERVICES_BY_ADDRESS, key)
        return (*tasks, *services, *self._find(NODES_BY_NETWORK, key))

    def holder_count(self, network_id: NetworkId) -> int:
        services = self._find(SERVICES_BY_ADDRESS, network_id)
        nodes = self._find(NODES_BY_NETWORK, network_id)
        return len(self.tasks_of_network(network_id)) + len(services) + len(nodes)

    def revision(self, id_: RevisionId) -> Revision | None:
        return self.rows[Kind.REVISION].get(id_)

    def revisions_of(self, service_id: ServiceId) -> Collection[Revision]:
        return self._find(REVISIONS_BY_SERVICE, service_id)

    def revisions_using(self, kind: Kind, id_: str) -> Collection[Revision]:
        return self._find(REVISIONS_BY_FILE, reference_key(kind, id_))

    def task(self, id_: TaskId) -> Task | None:
        return self._tasks.get(id_)

    def tasks(self) -> Collection[Task]:
        return self._tasks.values()

    def tasks_of_service(self, service_id: ServiceId) -> Collection[Task]:
        return self._find(TASKS_BY_SERVICE, service_id)

    def tasks_of_node(self, node_id: NodeId) -> Collection[Task]:
        return self._find(TASKS_BY_NODE, node_id)

    def node_tasks_version(self, node_id: NodeId) -> int:
        return self._node_edits.get(node_id, 0)

    def tasks_of_revision(self, revision_id: RevisionId) -> Collection[Task]:
        return self._find(TASKS_BY_REVISION, revision_id)

    def unplaced_tasks(self) -> Collection[Task]:
        return self._find(UNPLACED_TASKS, ANY_KEY)

    def joined_tasks(self) -> Collection[Task]:
        return self._find(JOINED_TASKS, ANY_KEY)

    def service_ids_with_tasks(self) -> Collection[ServiceId]:
        keys: Collection[Any] = self._buckets[TASKS_BY_SERVICE].keys()
        return keys

    def _find(self, index: Index, key: str) -> Collection[Any]:
        bucket = self._buckets[index].get(key)
        return bucket.values() if bucket is not None else ()


def _discard(buckets: dict[str, Bucket], key: str, id_: str) -> None:
    bucket = buckets[key]
    del bucket[id_]
    if not bucket:
        del buckets[key]


class _SortedIds:
    """Ids in order, for prefix search. Sorted when first asked; later additions wait until asked again."""

    def __init__(self, rows: dict[str, Any]) -> None:
        self._rows = rows
        self._ids: list[str] | None = None
        self._added: list[str] = []

    def add(self, id_: str) -> None:
        if self._ids is not None:
            self._added.append(id_)
            if len(self._added) > max(1_000, len(self._ids)):
                self._ids = None  # cheaper to sort anew than to go on noting
                self._added.clear()

    def starting_with(self, prefix: str, limit: int) -> list[str]:
        found: list[str] = []
        ids = self._sorted()
        at = bisect_left(ids, prefix)
        while at < len(ids) and len(found) < limit and ids[at].startswith(prefix):
            if ids[at] in self._rows and (not found or found[-1] != ids[at]):
                found.append(ids[at])
            at += 1
        return found

    def _sorted(self) -> list[str]:
        ids = self._ids
        if ids is None or len(ids) + len(self._added) > 2 * len(self._rows) + 1_000:
            ids = self._ids = sorted(self._rows)
        elif self._added:
            ids += self._added
            ids.sort()  # a sorted run and a short tail: close to linear
        self._added.clear()
        return ids
