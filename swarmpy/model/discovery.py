"""What a node is told of the networks that it takes part in: derived from the store, never stored.

A node learns of a network's endpoints and services only while one of its own tasks is on it; of the ingress
network always, since every node answers on published ports. Records follow committed state: a task that was
told to stop is no longer ACTIVE in the same push that stops it.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from swarmpy.model.ids import NetworkId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import NetworkKey
from swarmpy.model.specs import PortConfig
from swarmpy.model.value import Value


class EndpointState(IntEnum):
    """PRESENT: frames find it; names and virtual addresses do not lead to it. LOST: its node is down, and
    connections to it are to be cut."""

    UNSPECIFIED = 0
    PRESENT = 1
    ACTIVE = 2
    LOST = 3


class RecordKind(StrEnum):
    SETTINGS = "settings"
    PEER = "peer"
    SERVICE = "service"
    ENDPOINT = "endpoint"


class NetworkSettings(Value, frozen=True, kw_only=True):
    """What holds for all networks. ``keys``: only for nodes that take part in an encrypted network."""

    data_path_port: int = 0
    keys: tuple[NetworkKey, ...] = ()

    @property
    def record_id(self) -> str:
        return ""


class NodePeer(Value, frozen=True, kw_only=True):
    """Another node, or this one. ``addr`` takes its overlay traffic; ``ingress_addresses`` have a prefix."""

    node_id: NodeId = NodeId("")
    addr: str = ""
    ingress_addresses: tuple[str, ...] = ()
    boot_id: str = ""
    hostname: str = ""
    number: int = 0
    encryption: tuple[str, ...] = ()
    wireguard_key: bytes = b""

    @property
    def record_id(self) -> str:
        return self.node_id


class NetworkService(Value, frozen=True, kw_only=True):
    """A service on a network. ``addresses`` are virtual, with prefix; none means DNS round robin.

    ``ports``: what it publishes, in the ingress network only. ``acl`` and the rates: what its tasks may do
    there, see ``endpoint_policy``.
    """

    network_id: NetworkId = NetworkId("")
    service_id: ServiceId = ServiceId("")
    name: str = ""
    aliases: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    ports: tuple[PortConfig, ...] = ()
    is_sticky: bool = False
    acl: str = ""
    rate_in_bps: int = 0
    rate_out_bps: int = 0

    @property
    def record_id(self) -> str:
        return f"{self.network_id}.{self.service_id}"


class NetworkEndpoint(Value, frozen=True, kw_only=True):
    """A task on a network. ``name`` is the task's: ``<service>.<slot>.<task id>``; ``mac`` empty: derived.

    ``aliases``: further names of this task alone.
    """

    network_id: NetworkId = NetworkId("")
    task_id: TaskId = TaskId("")
    service_id: ServiceId = ServiceId("")
    node_id: NodeId = NodeId("")
    addresses: tuple[str, ...] = ()
    mac: str = ""
    name: str = ""
    state: EndpointState = EndpointState.UNSPECIFIED
    aliases: tuple[str, ...] = ()

    @property
    def record_id(self) -> str:
        return f"{self.network_id}.{self.task_id}"


DiscoveryRecord = NetworkSettings | NodePeer | NetworkService | NetworkEndpoint

RECORD_KINDS: dict[type[DiscoveryRecord], RecordKind] = {
    NetworkSettings: RecordKind.SETTINGS,
    NodePeer: RecordKind.PEER,
    NetworkService: RecordKind.SERVICE,
    NetworkEndpoint: RecordKind.ENDPOINT,
}
