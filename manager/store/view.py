"""``View``: the read side of the store, which every decision takes as its first argument.

The live store is a View, and so is a Draft (the store plus changes that are only planned). Everything
runs on one event loop and decisions never await, so a View is a consistent snapshot while a decision runs.
Iteration follows the order in which objects were stored; where order can reach a decision's output, the
decision sorts.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from swarmpy.model.ids import NetworkId, NodeId, RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Cluster, Kind, Network, Node, Object, Revision, Service, Task
from swarmpy.model.states import PortProtocol, PublishMode


class View(Protocol):
    """What a decision may read."""

    @property
    def version(self) -> int:
        """The store-wide counter: grows with every applied group."""
        ...

    def get(self, kind: Kind, id_: str) -> Object | None: ...

    def all(self, kind: Kind) -> Collection[Object]: ...

    def by_name(self, kind: Kind, name: str) -> Object | None:
        """The object of that exact name: services, networks, secrets, configs and volumes have names."""
        ...

    def names_like(self, kind: Kind, name: str) -> Collection[Object]:
        """The objects whose name is ``name`` but for case: no second one may be created."""
        ...

    def by_prefix(self, kind: Kind, prefix: str, *, limit: int = 2) -> tuple[Object, ...]:
        """Objects whose id starts with ``prefix``, at most ``limit``."""
        ...

    def cluster(self) -> Cluster | None: ...

    def node(self, id_: NodeId) -> Node | None: ...

    def nodes(self) -> Collection[Node]: ...

    def manager_nodes(self) -> Collection[Node]:
        """The nodes that are recorded as managers: few, of thousands."""
        ...

    def service(self, id_: ServiceId) -> Service | None: ...

    def services(self) -> Collection[Service]: ...

    def services_using(self, kind: Kind, id_: str) -> Collection[Service]:
        """The services that refer to this secret, config or revision, or, as their spec has it, to a
        network by this id or name."""
        ...

    def services_awaiting(self, name: str) -> Collection[Service]:
        """The services whose spec depends on a service of this name."""
        ...

    def services_publishing(
        self, protocol: PortProtocol, number: int, mode: PublishMode
    ) -> Collection[Service]:
        """The services whose endpoint has this port, chosen by the user or for them."""
        ...

    def services_in_ingress(self) -> Collection[Service]:
        """The services whose spec publishes a port in ingress mode."""
        ...

    def services_on_network(self, network_id: NetworkId) -> Collection[Service]:
        """The services whose spec takes part in the network, by its id or its name; of the ingress network
        those that publish a port in ingress mode."""
        ...

    def network(self, id_: NetworkId) -> Network | None: ...

    def networks(self) -> Collection[Network]: ...

    def ingress_network(self) -> Network | None: ...

    def networks_with_vni(self, vni: int) -> Collection[Network]: ...

    def tasks_of_network(self, network_id: NetworkId) -> Collection[Task]:
        """The tasks that have a place in the network and have not ended."""
        ...

    def holders_of(self, network_id: NetworkId, address: str) -> tuple[Task | Service | Node, ...]:
        """Who holds the address (without prefix) or the MAC in this network: at most one."""
        ...

    def holder_count(self, network_id: NetworkId) -> int:
        """How many tasks, services and nodes have addresses in this network."""
        ...

    def revision(self, id_: RevisionId) -> Revision | None: ...

    def revisions_of(self, service_id: ServiceId) -> Collection[Revision]: ...

    def revisions_using(self, kind: Kind, id_: str) -> Collection[Revision]:
        """The revisions whose tasks get this secret or config."""
        ...

    def task(self, id_: TaskId) -> Task | None: ...

    def tasks(self) -> Collection[Task]: ...

    def tasks_of_service(self, service_id: ServiceId) -> Collection[Task]: ...

    def tasks_of_node(self, node_id: NodeId) -> Collection[Task]: ...

    def node_tasks_version(self, node_id: NodeId) -> int:
        """Another number whenever a task of this node was stored, changed in any field, or deleted.

        For caches: equal numbers mean equal tasks, within one process and among all its views and drafts.
        """
        ...

    def tasks_of_revision(self, revision_id: RevisionId) -> Collection[Task]: ...

    def unplaced_tasks(self) -> Collection[Task]:
        """Tasks that are stored as NEW or PENDING and are still wished to run."""
        ...

    def joined_tasks(self) -> Collection[Task]:
        """Tasks that were joined to networks beside those of their service, and have not ended."""
        ...

    def service_ids_with_tasks(self) -> Collection[ServiceId]:
        """Every service id that a stored task names, also of services that are gone."""
        ...
