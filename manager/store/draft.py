"""``Draft``: a View of what the store would be after changes that are only planned.

A draft holds the changed objects alone, and per index what they change there; everything else is read from
the view below, which may be a draft too and must not change meanwhile. So a change costs the same whether the
service has ten tasks or ten thousand.

``apply`` is the store's own, rules included: versions come out as they will in the store if nothing else is
applied in between. What a plan's groups need to be refused for shows here already.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Any

from manager.store.apply import apply_group
from manager.store.events import Event
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
from manager.store.view import View
from swarmpy.model.changes import Group, Refusal
from swarmpy.model.ids import NetworkId, NodeId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Cluster, Kind, Network, Node, Object, Revision, Service, Task
from swarmpy.model.states import PortProtocol, PublishMode

NEVER = Timestamp(0)
_HOLDERS = (TASKS_BY_NETWORK, SERVICES_BY_ADDRESS, NODES_BY_NETWORK)
_serials = itertools.count(1)
"""Tells the drafts of a process apart, for ``node_tasks_version`` alone: only equality of it matters."""


class Draft:
    """``view`` plus changes. ``at`` stamps what they create and update, as a batch's does."""

    def __init__(self, view: View, *, at: Timestamp = NEVER) -> None:
        self._base = view
        self.version = view.version
        self.at = at
        self._rows: dict[Kind, _Changes] = {kind: _Changes() for kind in Kind}
        self._marks: dict[Index, dict[str, _Changes]] = {index: {} for index in INDEXES}
        self._serial = next(_serials)

    # --- changing

    def apply(self, group: Group) -> Refusal | None:
        """Apply ``group`` as the store would; None, or why it refuses (and then nothing changed)."""
        outcome = apply_group(self, group, at=self.at)
        return outcome if isinstance(outcome, Refusal) else None

    def put(self, kind: Kind, new: Object) -> None:
        """Lay ``new`` over what stands under its id; no rule is checked."""
        old = self.get(kind, new.id)
        self._rows[kind].put(new, is_new=old is None)
        for index in INDEXES_OF[kind]:
            keys = index.keys(new)
            old_keys = index.keys(old) if old is not None else ()
            for key in old_keys:
                if key not in keys:
                    self._mark(index, key).remove(new.id)
            for key in keys:
                self._mark(index, key).put(new, is_new=key not in old_keys)

    def remove(self, kind: Kind, id_: str) -> None:
        """Hide what stands under ``id_``; it must be there."""
        old = self.get(kind, id_)
        if old is None:
            raise KeyError(id_)
        self._rows[kind].remove(id_)
        for index in INDEXES_OF[kind]:
            for key in index.keys(old):
                self._mark(index, key).remove(id_)

    def changed(self) -> Iterator[Event]:
        """What differs from the view below: one event per object, in the order of the first change."""
        for kind, changes in self._rows.items():
            for id_, new in changes.objects.items():
                old = self._base.get(kind, id_)
                if old is not new:
                    yield Event(kind, old, new)

    # --- reading (View)

    def get(self, kind: Kind, id_: str) -> Object | None:
        objects = self._rows[kind].objects
        return objects[id_] if id_ in objects else self._base.get(kind, id_)

    def all(self, kind: Kind) -> Collection[Object]:
        return _merge(self._base.all(kind), self._rows[kind])

    def by_name(self, kind: Kind, name: str) -> Object | None:
        for found in self.names_like(kind, name):
            if found.spec.name == name:  # type: ignore[union-attr]
                return found
        return None

    def by_prefix(self, kind: Kind, prefix: str, *, limit: int = 2) -> tuple[Object, ...]:
        objects = self._rows[kind].objects
        below = self._base.by_prefix(kind, prefix, limit=limit + len(objects))
        found: dict[str, Object] = {object_.id: object_ for object_ in below if object_.id not in objects}
        found |= {id_: new for id_, new in objects.items() if new is not None and id_.startswith(prefix)}
        return tuple(found[id_] for id_ in sorted(found)[:limit])

    def names_like(self, kind: Kind, name: str) -> Collection[Object]:
        """The objects whose name is ``name`` but for case."""
        return self._find(NAMES[kind], name_key(name), self._base.names_like(kind, name))

    def cluster(self) -> Cluster | None:
        return next(iter(self._all(Kind.CLUSTER)), None)

    def node(self, id_: NodeId) -> Node | None:
        found: Node | None = self._get(Kind.NODE, id_)
        return found

    def nodes(self) -> Collection[Node]:
        return self._all(Kind.NODE)

    def manager_nodes(self) -> Collection[Node]:
        return self._find(MANAGER_NODES, ANY_KEY, self._base.manager_nodes())

    def service(self, id_: ServiceId) -> Service | None:
        found: Service | None = self._get(Kind.SERVICE, id_)
        return found

    def services(self) -> Collection[Service]:
        return self._all(Kind.SERVICE)

    def services_using(self, kind: Kind, id_: str) -> Collection[Service]:
        base = self._base.services_using(kind, id_)
        return self._find(SERVICES_BY_REFERENCE, reference_key(kind, id_), base)

    def services_awaiting(self, name: str) -> Collection[Service]:
        return self._find(SERVICES_BY_DEPENDENCY, name_key(name), self._base.services_awaiting(name))

    def services_publishing(
        self, protocol: PortProtocol, number: int, mode: PublishMode
    ) -> Collection[Service]:
        base = self._base.services_publishing(protocol, number, mode)
        return self._find(SERVICES_BY_PORT, port_key(protocol, number, mode), base)

    def services_in_ingress(self) -> Collection[Service]:
        return self._find(SERVICES_IN_INGRESS, ANY_KEY, self._base.services_in_ingress())

    def services_on_network(self, network_id: NetworkId) -> Collection[Service]:
        return services_on(self, network_id)

    def network(self, id_: NetworkId) -> Network | None:
        found: Network | None = self._get(Kind.NETWORK, id_)
        return found

    def networks(self) -> Collection[Network]:
        return self._all(Kind.NETWORK)

    def ingress_network(self) -> Network | None:
        below = self._base.ingress_network()
        found = self._find(INGRESS_NETWORKS, ANY_KEY, () if below is None else (below,))
        return next(iter(found), None)

    def networks_with_vni(self, vni: int) -> Collection[Network]:
        return self._find(NETWORKS_BY_VNI, str(vni), self._base.networks_with_vni(vni))

    def tasks_of_network(self, network_id: NetworkId) -> Collection[Task]:
        return self._find(TASKS_BY_NETWORK, network_id, self._base.tasks_of_network(network_id))

    def holders_of(self, network_id: NetworkId, address: str) -> tuple[Task | Service | Node, ...]:
        key = holder_key(network_id, address)
        held: Collection[Any] = self._base.holders_of(network_id, address)
        for index in _HOLDERS:
            held = self._find(index, key, held)
        return tuple(held)

    def holder_count(self, network_id: NetworkId) -> int:
        count = self._base.holder_count(network_id)
        for index in _HOLDERS:
            changes = self._marks[index].get(network_id)
            count += changes.growth if changes is not None else 0
        return count

    def revision(self, id_: RevisionId) -> Revision | None:
        found: Revision | None = self._get(Kind.REVISION, id_)
        return found

    def revisions_of(self, service_id: ServiceId) -> Collection[Revision]:
        return self._find(REVISIONS_BY_SERVICE, service_id, self._base.revisions_of(service_id))

    def revisions_using(self, kind: Kind, id_: str) -> Collection[Revision]:
        base = self._base.revisions_using(kind, id_)
        return self._find(REVISIONS_BY_FILE, reference_key(kind, id_), base)

    def task(self, id_: TaskId) -> Task | None:
        found: Task | None = self._get(Kind.TASK, id_)
        return found

    def tasks(self) -> Collection[Task]:
        return self._all(Kind.TASK)

    def tasks_of_service(self, service_id: ServiceId) -> Collection[Task]:
        return self._find(TASKS_BY_SERVICE, service_id, self._base.tasks_of_service(service_id))

    def tasks_of_node(self, node_id: NodeId) -> Collection[Task]:
        return self._find(TASKS_BY_NODE, node_id, self._base.tasks_of_node(node_id))

    def node_tasks_version(self, node_id: NodeId) -> int:
        changes = self._marks[TASKS_BY_NODE].get(node_id)
        if changes is None:
            return self._base.node_tasks_version(node_id)
        return -(self._serial << 32 | changes.edits)

    def tasks_of_revision(self, revision_id: RevisionId) -> Collection[Task]:
        return self._find(TASKS_BY_REVISION, revision_id, self._base.tasks_of_revision(revision_id))

    def unplaced_tasks(self) -> Collection[Task]:
        return self._find(UNPLACED_TASKS, ANY_KEY, self._base.unplaced_tasks())

    def joined_tasks(self) -> Collection[Task]:
        return self._find(JOINED_TASKS, ANY_KEY, self._base.joined_tasks())

    def service_ids_with_tasks(self) -> Collection[ServiceId]:
        found = dict.fromkeys(self._base.service_ids_with_tasks())
        for key in self._marks[TASKS_BY_SERVICE]:
            service_id = ServiceId(key)
            if len(self.tasks_of_service(service_id)):
                found[service_id] = None
            else:
                found.pop(service_id, None)
        return found.keys()

    # --- the overlay

    def _get(self, kind: Kind, id_: str) -> Any:
        objects = self._rows[kind].objects
        return objects[id_] if id_ in objects else self._base.get(kind, id_)

    def _all(self, kind: Kind) -> Collection[Any]:
        return _merge(self._base.all(kind), self._rows[kind])

    def _mark(self, index: Index, key: str) -> _Changes:
        marks = self._marks[index]
        changes = marks.get(key)
        if changes is None:
            changes = marks[key] = _Changes()
        return changes

    def _find(self, index: Index, key: str, base: Collection[Any]) -> Collection[Any]:
        changes = self._marks[index].get(key)
        return base if changes is None else _merge(base, changes)


class _Changes:
    """What one collection of the view below gains, loses (None) and replaces, by id."""

    __slots__ = ("edits", "growth", "objects")

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.growth = 0
        """Objects gained less objects lost."""
        self.edits = 0

    def put(self, new: Object, *, is_new: bool) -> None:
        self.objects[new.id] = new
        self.growth += is_new
        self.edits += 1

    def remove(self, id_: str) -> None:
        self.objects[id_] = None
        self.growth -= 1
        self.edits += 1


def _merge(base: Collection[Any], changes: _Changes) -> Collection[Any]:
    return _Merged(base, changes) if changes.objects else base


class _Merged(Collection[Any]):
    """``base`` with ``changes``, without a copy. An iteration sees the changes that stood at its start."""

    __slots__ = ("_base", "_changes")

    def __init__(self, base: Collection[Any], changes: _Changes) -> None:
        self._base = base
        self._changes = changes

    def __len__(self) -> int:
        return len(self._base) + self._changes.growth

    def __iter__(self) -> Iterator[Any]:
        left = dict(self._changes.objects)
        missing = object()
        for old in self._base:
            new = left.pop(old.id, missing)
            if new is missing:
                yield old
            elif new is not None:
                yield new
        yield from (new for new in left.values() if new is not None)

    def __contains__(self, item: object) -> bool:
        return any(item is object_ or item == object_ for object_ in self)
