"""``Store``: the replicated state of the cluster on one manager.

It is a ``View`` for whoever reads, the ``StateMachine`` of the raft log, and the source of watches. ``apply``
is the only way to change it. All methods run in the event loop, ``encode`` and ``load`` excepted.

Collections that it hands out are live: copy them before an await.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from manager.store import snapshot
from manager.store.apply import apply_batch
from manager.store.tables import Tables
from manager.store.watch import Watch
from swarmpy import codec
from swarmpy.errors import InvalidArgument
from swarmpy.limits import WATCH_QUEUE_EVENTS_MAX
from swarmpy.model.changes import Applied, Batch, Refusal
from swarmpy.model.ids import NetworkId, NodeId, RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Cluster, Kind, Network, Node, Object, Revision, Service, Task
from swarmpy.model.states import PortProtocol, PublishMode


class Store:
    """One manager's copy of the cluster's state."""

    def __init__(self) -> None:
        self._tables = Tables()
        self._watches: list[Watch] = []
        self._restores = 0
        codec.prepare(Batch, Applied)

    # --- the state machine

    def apply(self, entry: bytes, index: int) -> Applied:
        """Apply one raft entry, an encoded ``Batch``. What does not parse is refused and changes nothing."""
        try:
            batch = codec.decode(Batch, entry)
        except InvalidArgument as error:
            refusal = Refusal(index=0, reason=f"entry {index} is no batch: {error}", code="INVALID_ARGUMENT")
            return Applied(version=self.version, refused=(refusal,))
        return self.apply_batch(batch)

    def apply_batch(self, batch: Batch) -> Applied:
        """Apply a decoded entry. On a manager only the log calls this, through ``apply``."""
        before = self.version
        applied, events = apply_batch(self._tables, batch)
        if self.version != before:
            for watch in self._watches:
                watch.publish(events, self.version)
        return applied

    def freeze(self) -> snapshot.Frozen:
        """A picture that later changes leave alone; O(n), but only lists are copied."""
        return snapshot.freeze(self._tables)

    def encode(self, frozen: object) -> Iterator[bytes]:
        """The picture in slices. May run in a thread."""
        if not isinstance(frozen, snapshot.Frozen):
            raise TypeError(f"a {type(frozen).__name__} was not made by freeze()")
        return snapshot.encode(frozen)

    def load(self, chunks: Iterable[bytes]) -> Tables:
        """The state that was encoded, apart from the present one; ``Corrupt``. May run in a thread."""
        return snapshot.load(chunks)

    def adopt(self, loaded: object) -> None:
        """Replace the whole state by a loaded one. Watchers are told to resync."""
        if not isinstance(loaded, Tables):
            raise TypeError(f"a {type(loaded).__name__} was not made by load()")
        self._tables = loaded
        self._restores += 1
        for watch in self._watches:
            watch.publish_resync(self.version)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Load and adopt in one step, or raise ``Corrupt`` and change nothing."""
        self.adopt(self.load(chunks))

    # --- watching

    def watch(self, *, limit: int = WATCH_QUEUE_EVENTS_MAX) -> Watch:
        """Everything that changes from now on. Close it (or use ``with``) when done."""
        watch = Watch(limit, self._watches.remove)
        self._watches.append(watch)
        return watch

    @property
    def backlog(self) -> dict[str, int]:
        """What waits for the slowest watcher."""
        return {"watch_events": max((watch.backlog for watch in self._watches), default=0)}

    # --- reading (View)

    @property
    def version(self) -> int:
        return self._tables.version

    @property
    def epoch(self) -> int:
        """The highest raft term that a batch was planned under."""
        return self._tables.epoch

    def get(self, kind: Kind, id_: str) -> Object | None:
        return self._tables.get(kind, id_)

    def all(self, kind: Kind) -> Collection[Object]:
        return self._tables.all(kind)

    def by_name(self, kind: Kind, name: str) -> Object | None:
        return self._tables.by_name(kind, name)

    def by_prefix(self, kind: Kind, prefix: str, *, limit: int = 2) -> tuple[Object, ...]:
        return self._tables.by_prefix(kind, prefix, limit=limit)

    def names_like(self, kind: Kind, name: str) -> Collection[Object]:
        return self._tables.names_like(kind, name)

    def cluster(self) -> Cluster | None:
        return self._tables.cluster()

    def node(self, id_: NodeId) -> Node | None:
        return self._tables.node(id_)

    def nodes(self) -> Collection[Node]:
        return self._tables.nodes()

    def manager_nodes(self) -> Collection[Node]:
        return self._tables.manager_nodes()

    def service(self, id_: ServiceId) -> Service | None:
        return self._tables.service(id_)

    def services(self) -> Collection[Service]:
        return self._tables.services()

    def services_using(self, kind: Kind, id_: str) -> Collection[Service]:
        return self._tables.services_using(kind, id_)

    def services_awaiting(self, name: str) -> Collection[Service]:
        return self._tables.services_awaiting(name)

    def services_publishing(
        self, protocol: PortProtocol, number: int, mode: PublishMode
    ) -> Collection[Service]:
        return self._tables.services_publishing(protocol, number, mode)

    def services_in_ingress(self) -> Collection[Service]:
        return self._tables.services_in_ingress()

    def services_on_network(self, network_id: NetworkId) -> Collection[Service]:
        return self._tables.services_on_network(network_id)

    def network(self, id_: NetworkId) -> Network | None:
        return self._tables.network(id_)

    def networks(self) -> Collection[Network]:
        return self._tables.networks()

    def ingress_network(self) -> Network | None:
        return self._tables.ingress_network()

    def networks_with_vni(self, vni: int) -> Collection[Network]:
        return self._tables.networks_with_vni(vni)

    def tasks_of_network(self, network_id: NetworkId) -> Collection[Task]:
        return self._tables.tasks_of_network(network_id)

    def holders_of(self, network_id: NetworkId, address: str) -> tuple[Task | Service | Node, ...]:
        return self._tables.holders_of(network_id, address)

    def holder_count(self, network_id: NetworkId) -> int:
        return self._tables.holder_count(network_id)

    def revision(self, id_: RevisionId) -> Revision | None:
        return self._tables.revision(id_)

    def revisions_of(self, service_id: ServiceId) -> Collection[Revision]:
        return self._tables.revisions_of(service_id)

    def revisions_using(self, kind: Kind, id_: str) -> Collection[Revision]:
        return self._tables.revisions_using(kind, id_)

    def task(self, id_: TaskId) -> Task | None:
        return self._tables.task(id_)

    def tasks(self) -> Collection[Task]:
        return self._tables.tasks()

    def tasks_of_service(self, service_id: ServiceId) -> Collection[Task]:
        return self._tables.tasks_of_service(service_id)

    def tasks_of_node(self, node_id: NodeId) -> Collection[Task]:
        return self._tables.tasks_of_node(node_id)

    def node_tasks_version(self, node_id: NodeId) -> int:
        # tables count their edits from zero again after a restore
        return self._restores << 64 | self._tables.node_tasks_version(node_id)

    def tasks_of_revision(self, revision_id: RevisionId) -> Collection[Task]:
        return self._tables.tasks_of_revision(revision_id)

    def unplaced_tasks(self) -> Collection[Task]:
        return self._tables.unplaced_tasks()

    def joined_tasks(self) -> Collection[Task]:
        return self._tables.joined_tasks()

    def service_ids_with_tasks(self) -> Collection[ServiceId]:
        return self._tables.service_ids_with_tasks()
