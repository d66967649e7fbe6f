"""HNS's objects as values, free of either schema: what is wished for and what is found are the same types.

Names say whose an object is and what for: ``sw-net.<network>``, ``sw-task.<task>.<network>``,
``sw-peer.<task or node>.<network>``, ``sw-source.<network>``. Balancers have no names: they are known by what
they lead to. Namespaces of tasks have ids that follow from the task's and begin with ``NAMESPACE_MARK``.

Values are normalised: MACs lower case with colons, ids lower case without braces, addresses without prefix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum

from swarmpy.model.ids import NetworkId, TaskId
from swarmpy.model.value import Value

_PREFIX = "sw-"
_NETWORK, _TASK, _PEER, _SOURCE = f"{_PREFIX}net.", f"{_PREFIX}task.", f"{_PREFIX}peer.", f"{_PREFIX}source."
NAT_NAME = f"{_PREFIX}nat"
"""Our own NAT network, for nodes that have none."""
NAT_ID = NetworkId("nat")
NAMESPACE_MARK = "5357504d"

TCP, UDP, ANY_PROTOCOL = 6, 17, 256
"""As in IP headers; 256 is HNS's word for any in access lists."""


class NetworkKind(StrEnum):
    """Spelled as HCN V2 does; V1 takes them in lower case."""

    OVERLAY = "Overlay"
    NAT = "NAT"
    TRANSPARENT = "Transparent"
    L2BRIDGE = "L2Bridge"
    L2TUNNEL = "L2Tunnel"


class HnsSubnet(Value, frozen=True, kw_only=True):
    cidr: str
    gateway: str = ""
    vsid: int = 0


class HnsNetwork(Value, frozen=True, kw_only=True):
    """``subnets`` empty: HNS chooses. ``adapter`` empty: HNS chooses. ``vxlan_port`` 0: 4789.

    ``mac_pool``: first and last address that HNS gives by itself.
    """

    name: str
    kind: NetworkKind
    subnets: tuple[HnsSubnet, ...] = ()
    adapter: str = ""
    vlan: int = 0
    vxlan_port: int = 0
    mac_pool: tuple[str, ...] = ()
    has_internal_dns: bool = False


class PortMap(Value, frozen=True, kw_only=True):
    """A port of the node that leads to the endpoint; ``address``: on this one of the node's alone."""

    protocol: int
    internal_port: int
    external_port: int
    address: str = ""


class Acl(Value, frozen=True, kw_only=True):
    """One line of an access list. The lowest ``priority`` that fits decides. Empty fields fit anything."""

    action: str
    direction: str
    priority: int
    protocol: int = ANY_PROTOCOL
    remote_addresses: str = ""
    local_ports: str = ""
    remote_ports: str = ""


class HnsEndpoint(Value, frozen=True, kw_only=True):
    """``network`` is a name. Empty ``address`` and ``mac``: HNS chooses.

    ``provider_address``: the node behind a remote endpoint; of a local one HNS's own, filled in when made.
    """

    name: str
    network: str
    address: str = ""
    prefix_length: int = 0
    mac: str = ""
    gateway: str = ""
    is_remote: bool = False
    provider_address: str = ""
    has_outbound_nat: bool = False
    ports: tuple[PortMap, ...] = ()
    acls: tuple[Acl, ...] = ()
    rate_out_bytes: int = 0
    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    has_internal_dns: bool = False


class PortPair(Value, frozen=True, kw_only=True):
    """``protocol`` 0 and ports 0: everything that is sent to the virtual address."""

    protocol: int = 0
    internal_port: int = 0
    external_port: int = 0


class HnsBalancer(Value, frozen=True, kw_only=True):
    """``network`` and ``backends`` are names, sorted; a backend that is gone is its bare id.

    Without ``vips`` it answers on the node's own addresses.
    """

    network: str
    backends: tuple[str, ...]
    source: str = ""
    vips: tuple[str, ...] = ()
    mappings: tuple[PortPair, ...] = (PortPair(),)
    is_internal: bool = False
    is_sticky: bool = False
    is_dsr: bool = False

    @property
    def front(self) -> tuple[object, ...]:
        """What clients see of it: no two can have the same."""
        ports = tuple(sorted((pair.protocol, pair.external_port) for pair in self.mappings))
        return (self.network if self.vips else "", self.vips, ports)

    @property
    def is_all_ports(self) -> bool:
        return self.mappings == (PortPair(),)


# --- what is there


class FoundNetwork(Value, frozen=True, kw_only=True):
    """``provider_address``: of this node, where the network's tunnels end; HNS may know it late."""

    id: str
    value: HnsNetwork
    provider_address: str = ""


class FoundEndpoint(Value, frozen=True, kw_only=True):
    id: str
    network_id: str
    value: HnsEndpoint


class FoundBalancer(Value, frozen=True, kw_only=True):
    """``value.network`` is that of its backends, empty if none is left."""

    id: str
    value: HnsBalancer
    backend_ids: tuple[str, ...] = ()


class FoundNamespace(Value, frozen=True, kw_only=True):
    """One of ours."""

    id: str
    endpoint_ids: tuple[str, ...] = ()


class Observed(Value, frozen=True, kw_only=True):
    networks: tuple[FoundNetwork, ...] = ()
    endpoints: tuple[FoundEndpoint, ...] = ()
    balancers: tuple[FoundBalancer, ...] = ()
    namespaces: tuple[FoundNamespace, ...] = ()


# --- names


def network_name(network_id: NetworkId) -> str:
    return f"{_NETWORK}{network_id}"


def task_endpoint_name(task_id: TaskId, network_id: NetworkId) -> str:
    return f"{_TASK}{task_id}.{network_id}"


def peer_endpoint_name(key: TaskId, network_id: NetworkId) -> str:
    return f"{_PEER}{key.replace(':', '-')}.{network_id}"


def source_endpoint_name(network_id: NetworkId) -> str:
    return f"{_SOURCE}{network_id}"


def is_ours(name: str) -> bool:
    return name.startswith(_PREFIX)


def task_of(name: str) -> TaskId | None:
    """Whose local endpoint goes by this name; None for all others."""
    if not name.startswith(_TASK):
        return None
    return TaskId(name.removeprefix(_TASK).partition(".")[0])


def namespace_id(task_id: TaskId) -> str:
    """A GUID (RFC 9562, version 8) that every life of the daemon comes to."""
    digest = hashlib.sha256(task_id.encode()).hexdigest()
    return f"{NAMESPACE_MARK}-{digest[:4]}-8{digest[4:7]}-a{digest[7:10]}-{digest[10:22]}"


# --- spellings


def plain_mac(text: str) -> str:
    """HNS has answered with 00-15-5D and 00:15:5d for the same."""
    return text.replace("-", ":").lower()


def plain_id(text: str) -> str:
    return text.strip("{}").lower()


def endpoint_names(endpoints: Iterable[FoundEndpoint]) -> Mapping[str, str]:
    """By id."""
    return {found.id: found.value.name for found in endpoints}
