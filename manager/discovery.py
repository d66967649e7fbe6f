"""What agents are told of networks: each record as it follows from the store.

A record follows from committed state alone, so nothing is stored for it and nothing can be forgotten. A task
is ACTIVE while it runs, is wished to and is neither unhealthy nor unready; PRESENT on the way there, while it
is one of both, and from the order to stop on; LOST while its node is down; and no endpoint at all once it has
ended.

``RecordBook`` remembers what was derived last. A record that did not change is the same object again, so that
what hangs on it (its encoding) is made once for all sessions, and who compares two of them mostly compares
pointers. Who is told of which record is decided elsewhere (``manager.node_records``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, assert_never

from msgspec.structs import replace

from manager.store.networking import places_of
from manager.store.view import View
from swarmpy.errors import InvalidArgument
from swarmpy.limits import DISCOVERY_CACHE_RECORDS_MAX
from swarmpy.model import endpoint_policy, standalone
from swarmpy.model.defaults import DATA_PATH_PORT, is_standalone, place_text, port_protocol, publish_mode
from swarmpy.model.discovery import (
    DiscoveryRecord,
    EndpointState,
    NetworkEndpoint,
    NetworkService,
    NetworkSettings,
    NodePeer,
    RecordKind,
)
from swarmpy.model.endpoint_policy import Policy
from swarmpy.model.ids import NetworkId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import Cluster, NetworkAttachment, NetworkJoin, Node, Service, Task
from swarmpy.model.specs import PortConfig
from swarmpy.model.states import NodeState, PublishMode, TaskState

STICKY_LABEL = "org.swarmpy.balancing"
"""A service's label; with the value "source" a client stays with one backend by its address."""
STICKY_VALUE = "source"


class RecordKey(NamedTuple):
    """Which record. ``scope`` is the network, or for settings, whether keys belong to them."""

    kind: RecordKind
    scope: str
    id: str


SETTINGS = RecordKey(RecordKind.SETTINGS, "", "")
SETTINGS_WITH_KEYS = RecordKey(RecordKind.SETTINGS, "keys", "")


def peer_key(node_id: str) -> RecordKey:
    return RecordKey(RecordKind.PEER, "", node_id)


def service_key(network_id: str, service_id: str) -> RecordKey:
    return RecordKey(RecordKind.SERVICE, network_id, service_id)


def endpoint_key(network_id: str, task_id: str) -> RecordKey:
    return RecordKey(RecordKind.ENDPOINT, network_id, task_id)


def network_keys(view: View, network_id: NetworkId) -> Iterator[RecordKey]:
    """All records of one network that there may be, services first."""
    for service_id in sorted(service.id for service in view.services_on_network(network_id)):
        yield service_key(network_id, service_id)
    for task_id in sorted(task.id for task in view.tasks_of_network(network_id)):
        yield endpoint_key(network_id, task_id)


# --- one record each


def record_of(view: View, key: RecordKey) -> DiscoveryRecord | None:
    """The record as it should be now; None: there is none."""
    match key.kind:
        case RecordKind.SETTINGS:
            return settings_of(view.cluster(), has_keys=bool(key.scope))
        case RecordKind.PEER:
            node = view.node(NodeId(key.id))
            return peer_of(view, node) if node is not None else None
        case RecordKind.SERVICE:
            service = view.service(ServiceId(key.id))
            return service_record(view, service, NetworkId(key.scope)) if service is not None else None
        case RecordKind.ENDPOINT:
            task = view.task(TaskId(key.id))
            return endpoint_record(view, task, NetworkId(key.scope)) if task is not None else None
        case _:
            assert_never(key.kind)


def settings_of(cluster: Cluster | None, *, has_keys: bool) -> NetworkSettings:
    if cluster is None:
        return NetworkSettings(data_path_port=DATA_PATH_PORT)
    return NetworkSettings(
        data_path_port=cluster.data_path_port or DATA_PATH_PORT,
        keys=cluster.network_keys if has_keys else (),
    )


def peer_of(view: View, node: Node) -> NodePeer:
    ingress = view.ingress_network()
    places = node.attachments if ingress is not None else ()
    description = node.description
    return NodePeer(
        node_id=node.id,
        addr=description.data_path_addr or host_of(node.status.addr),
        ingress_addresses=tuple(
            address
            for place in places
            if ingress is not None and place.network_id == ingress.id
            for address in place.addresses
        ),
        boot_id=description.boot_id,
        hostname=description.hostname,
        number=node.number,
        encryption=description.encryption,
        wireguard_key=description.wireguard_key,
    )


def host_of(addr: str) -> str:
    """The host of ``host``, ``host:port``, ``[host]`` or ``[host]:port``; one with colons may stand bare."""
    if addr.startswith("["):
        return addr[1:].partition("]")[0]
    return addr.partition(":")[0] if addr.count(":") == 1 else addr


def service_record(view: View, service: Service, network_id: NetworkId) -> NetworkService | None:
    """None unless the service takes part in the network."""
    places = places_of(view, service.spec).found
    place = next((each for each in places if each.network.id == network_id), None)
    if place is None:
        return None
    policy = _policy_of(service, place.network.spec.name)
    name, *others = _names_of(service)
    return NetworkService(
        network_id=network_id,
        service_id=service.id,
        name=name,
        aliases=(*others, *place.wish.aliases),
        addresses=tuple(vip.addr for vip in service.endpoint.virtual_ips if vip.network_id == network_id),
        ports=_mesh_ports(service) if place.network.spec.ingress else (),
        is_sticky=service.spec.labels.get(STICKY_LABEL) == STICKY_VALUE,
        acl=endpoint_policy.write(policy.rules),
        rate_in_bps=policy.rate_in_bps,
        rate_out_bps=policy.rate_out_bps,
    )


def _names_of(service: Service) -> tuple[str, ...]:
    if is_standalone(service.spec):
        return standalone.names_of(service.id, service.spec)
    return (service.spec.name,)


def _policy_of(service: Service, network: str) -> Policy:
    """The API lets no labels in that make no sense; should there be some, their endpoints are closed."""
    try:
        return endpoint_policy.policy_of(service.spec.labels, network)
    except InvalidArgument:
        return endpoint_policy.CLOSED


def service_networks(view: View, service: Service) -> list[NetworkId]:
    """The networks in which the service has a record."""
    return [place.network.id for place in places_of(view, service.spec).found]


def _mesh_ports(service: Service) -> tuple[PortConfig, ...]:
    return tuple(
        replace(port, protocol=port_protocol(port), publish_mode=PublishMode.INGRESS)
        for port in service.endpoint.ports
        if publish_mode(port) is PublishMode.INGRESS and port.published_port
    )


def endpoint_record(view: View, task: Task, network_id: NetworkId) -> NetworkEndpoint | None:
    place = next((each for each in task.places if each.network_id == network_id), None)
    state = endpoint_state(task, view.node(task.node_id))
    if place is None or not place.addresses or state is None:
        return None
    return NetworkEndpoint(
        network_id=network_id,
        task_id=task.id,
        service_id=task.service_id,
        node_id=task.node_id,
        addresses=place.addresses,
        mac=place.mac,
        name=_task_name(view, task),
        state=state,
        aliases=place.aliases if task.join_of(network_id) is not None else (),  # else they are its service's
    )


def endpoint_state(task: Task, node: Node | None) -> EndpointState | None:
    """None before the task is anywhere, and once it has ended."""
    if not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
        return None
    if is_lost(node):
        return EndpointState.LOST
    # a job's task is wished to complete, and runs meanwhile
    is_wanted = TaskState.RUNNING <= task.desired_state <= TaskState.COMPLETE
    is_up = task.status.state is TaskState.RUNNING and not task.status.is_unready
    if is_up and is_wanted:
        return EndpointState.ACTIVE
    return EndpointState.PRESENT


def is_lost(node: Node | None) -> bool:
    """Whether what runs there is given up: the node is down, or is none any more."""
    return node is None or node.status.state is NodeState.DOWN


def _task_name(view: View, task: Task) -> str:
    """``<service>.<slot>.<task id>``; of a container started by hand, its name and the task's id."""
    revision = view.revision(task.revision_id)
    name = revision.spec.name if revision is not None else task.service_id
    spec = revision.spec if revision is not None else None
    if spec is not None and is_standalone(spec):
        name = standalone.container_name(spec)
        return f"{name}.{task.id}"  # who is told so knows by its end whose it is
    return f"{name}.{place_text(spec, task)}.{task.id}"


def task_facts(
    task: Task | None,
) -> tuple[tuple[NetworkAttachment, ...], tuple[NetworkJoin, ...], EndpointState | None, NodeId] | None:
    """What a task's endpoint records are made of, apart from its node's state. Equal facts, equal records."""
    if task is None or not task.networks:
        return None
    return task.networks, task.joins, endpoint_state(task, _LIVELY), task.node_id


_LIVELY = Node(id=NodeId(""))


# --- all of them


class RecordBook:
    """Records by key, derived anew when the store has changed, and the same objects while they are equal."""

    def __init__(self) -> None:
        self._version = -1
        self._fresh: dict[RecordKey, DiscoveryRecord | None] = {}
        self._known: dict[RecordKey, DiscoveryRecord] = {}

    def record(self, view: View, key: RecordKey) -> DiscoveryRecord | None:
        if view.version != self._version:
            self._version = view.version
            self._fresh.clear()
        if key in self._fresh:
            return self._fresh[key]
        record, known = record_of(view, key), self._known.get(key)
        if record is not None and record == known:
            record = known
        elif record is None:
            self._known.pop(key, None)
        else:
            if len(self._known) >= DISCOVERY_CACHE_RECORDS_MAX:
                self._known.clear()
            self._known[key] = record
        self._fresh[key] = record
        return record
