"""``Backend``: the seam between the agent and a node's network.

Level-triggered: ``apply`` takes the whole desired state of the node's networks, is idempotent, and mends
whatever it finds. ``attach`` and ``detach`` are the two hot-path verbs for one task; they equal ``apply``
of one endpoint.

Parts of a ``NodeState`` that did not change are the same objects as in the state before, so that a backend
finds out what did change by identity and a small change costs little however much there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from agent.executor.base import Sandbox
from swarmpy.model.endpoint_policy import Policy as Policy
from swarmpy.model.endpoint_policy import Rule as Rule
from swarmpy.model.ids import NetworkId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import NetworkKey
from swarmpy.model.value import Value


class BackendCapabilities(Value, frozen=True, kw_only=True):
    """What ``probe`` found. ``missing`` are sentences for the user, empty if all is well.

    ``encryption``: the ways in which this node can encrypt, the best first: esp, wireguard, userspace.
    ``drivers``: the network drivers that work here. ``lacking``: sentences for what only some networks need.
    """

    name: str
    is_usable: bool
    missing: tuple[str, ...] = ()
    encryption: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    wireguard_key: bytes = b""


class HostPort(Value, frozen=True, kw_only=True):
    """A port of the node. ``host_ip``: an address or an interface on which alone it answers."""

    protocol: str
    published_port: int
    target_port: int
    host_ip: str = ""


# --- networks


class Subnet(Value, frozen=True, kw_only=True):
    """``cidr`` and the gateway's address, without prefix."""

    cidr: str
    gateway: str = ""


class NetworkConfig(Value, frozen=True, kw_only=True):
    """What a network is. ``mtu`` 0: as large as the underlay allows. ``options`` are the driver's."""

    id: NetworkId
    name: str = ""
    driver: str = "overlay"
    vni: int = 0
    subnets: tuple[Subnet, ...] = ()
    mtu: int = 0
    is_internal: bool = False
    is_encrypted: bool = False
    is_ingress: bool = False
    is_dhcp: bool = False
    """Addresses come from the LAN's own DHCP server."""
    options: dict[str, str] = {}


class Leg(Value, frozen=True, kw_only=True):
    """A task's place in one network. ``addresses`` with prefix; ``link``: its name inside the task.

    ``is_joined``: the task got it while it ran, and may lose it.
    """

    network: NetworkConfig
    link: str
    addresses: tuple[str, ...] = ()
    mac: str = ""
    policy: Policy | None = None
    is_joined: bool = False


class Endpoint(Value, frozen=True, kw_only=True):
    """One task's places in the network.

    Besides its legs a task has one on the node's own bridge, through which it reaches the outside: unless all
    its networks are internal, or ``mode`` is host (the node's own namespace) or none (loopback only).
    """

    task_id: TaskId
    hostname: str = ""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    """Ports published in host mode: reachable at the node's own addresses."""
    legs: tuple[Leg, ...] = ()
    mode: str = ""
    isolation: str = ""
    """On Windows: hyperv for a task in a virtual machine of its own."""


# --- what the node knows of others


class Peer(Value, frozen=True, kw_only=True):
    """A node that takes part. ``addr``: where its overlay traffic goes; addresses without prefix."""

    node_id: NodeId
    addr: str
    ingress_addresses: tuple[str, ...] = ()
    boot_id: str = ""
    number: int = 0
    encryption: tuple[str, ...] = ()
    """The ways in which it can encrypt, the best first."""
    wireguard_key: bytes = b""


class RemoteEndpoint(Value, frozen=True, kw_only=True):
    """A task of another node. Addresses without prefix."""

    node_id: NodeId
    addresses: tuple[str, ...]
    mac: str


class Balancer(Value, frozen=True, kw_only=True):
    """A service's virtual addresses on a network, and who is behind them; sorted, without prefix."""

    vips: tuple[str, ...]
    backends: tuple[str, ...] = ()
    is_sticky: bool = False


class PublishedPort(Value, frozen=True, kw_only=True):
    """A port that this node answers on for a service, wherever its tasks run. ``backends``: in the ingress
    network.

    ``is_source_nat``: tasks see the node's ingress address instead of the client's.
    """

    protocol: str
    published_port: int
    target_port: int
    backends: tuple[str, ...] = ()
    is_source_nat: bool = False
    is_sticky: bool = False
    host_ip: str = ""


class Names(Value, frozen=True, kw_only=True):
    """What a network's names lead to: lower case, addresses without prefix. ``pointers``: address to name."""

    addresses: Mapping[str, tuple[str, ...]] = {}
    pointers: Mapping[str, str] = {}


class NetworkState(Value, frozen=True, kw_only=True):
    """One network as this node should have it.

    In the ingress network ``remotes`` has the other nodes' own places too, as ``node:<node id>``.
    """

    config: NetworkConfig
    remotes: Mapping[TaskId, RemoteEndpoint] = {}
    balancers: Mapping[ServiceId, Balancer] = {}
    names: Names = Names()


class NodeState(Value, frozen=True, kw_only=True):
    """All that should exist on this node.

    ``peers`` has this node too. ``published`` is served through the ingress network, which is among
    ``networks`` then. ``keys``: by tag, the newest first; the second is sent with, all are received with.
    """

    node_id: NodeId = NodeId("")
    data_path_port: int = 0
    keys: tuple[NetworkKey, ...] = ()
    peers: Mapping[NodeId, Peer] = {}
    networks: Mapping[NetworkId, NetworkState] = {}
    published: tuple[PublishedPort, ...] = ()
    endpoints: Mapping[TaskId, Endpoint] = {}


class Backend(Protocol):
    """Programs one node's network. One instance per node."""

    name: str

    @property
    def epoch(self) -> str:
        """What peers derive keys with that this node sends with; it may change with every ``apply``. Empty
        where nothing was sent that is encrypted."""
        ...

    async def start_up(self) -> None:
        """Make the node-wide parts (bridge, NAT, guard rules), mending leftovers of a crash."""
        ...

    async def shut_down(self) -> None:
        """Let go of sockets and contexts; networks stay as they are, tasks keep their connections."""
        ...

    async def probe(self) -> BackendCapabilities: ...

    async def apply(self, state: NodeState) -> None:
        """Make it so: attach what is missing, detach what is not wished for."""
        ...

    async def attach(self, endpoint: Endpoint) -> Sandbox:
        """The task's namespace with loopback and its legs up; of an attached one, the same again.

        Legs that it has now and had not are added to a running one, those that it had and has not are taken
        away; the others, their names and their connections stay.

        Networks that it is the first on are made; what is known of them is as applied last.
        """
        ...

    async def detach(self, task_id: TaskId) -> None:
        """Remove the namespace, addresses and ports; an unknown task is fine."""
        ...

    async def cut(self, addresses: Mapping[NetworkId, tuple[str, ...]]) -> None:
        """End connections of local tasks to these addresses: who had them is gone for good."""
        ...

    async def list(self) -> tuple[TaskId, ...]: ...

    async def destroy(self) -> None:
        """Remove everything with our names from this node."""
        ...
