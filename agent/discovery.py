"""``Directory``: what an agent knows of networks, and what should stand on its node because of it.

Records come from managers and from the journal, places of own tasks from the core. ``node_state`` turns them
into what a backend is asked for. Parts that did not change are the same objects as before, so that a change
of one endpoint costs little here and in the backend, however much there is.

``take_cut`` names the addresses whose connections are to be ended: those of other nodes' tasks that were
reachable, and then either were called LOST (their node is down), or were missing from a COMPLETE set of a
network that this node still holds (they went while nobody told us how). Not those that were removed in order,
and not an address that somebody else has by now.

Pure. Each change of what is known comes out as a record for the journal as well; of more than
JOURNAL_DISCOVERY_MAX the rest is not kept there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.dataplane.base import (
    Endpoint,
    NetworkConfig,
    NetworkState,
    NodeState,
    Peer,
    PublishedPort,
    RemoteEndpoint,
    Subnet,
)
from agent.events import DropDiscovery, NetworkChange, Record, RecordRemoval, Removal, SaveDiscovery
from agent.network_picture import NetworkPicture, Sheet
from agent.policy import dress, policy_of
from swarmpy.limits import JOURNAL_DISCOVERY_MAX
from swarmpy.model.addresses import bare, bares, mac_of
from swarmpy.model.defaults import is_encrypted, network_driver
from swarmpy.model.discovery import (
    RECORD_KINDS,
    DiscoveryRecord,
    EndpointState,
    NetworkEndpoint,
    NetworkService,
    NetworkSettings,
    NodePeer,
    RecordKind,
)
from swarmpy.model.ids import NetworkId, NodeId, ServiceId, TaskId
from swarmpy.model.network_rules import DHCP_IPAM, MTU_OPTION, VXLAN_IDS_OPTION
from swarmpy.model.objects import Kind, Network

NO_SERVICE = ServiceId("")

_Key = tuple[RecordKind | None, str]
"""Kind and id of what is known; None stands for a network itself."""


class Directory:
    """Owned by the core."""

    def __init__(self, node_id: NodeId) -> None:
        self._node_id = node_id
        self._settings = NetworkSettings()
        self._peers: dict[NodeId, NodePeer] = {}
        self._objects: dict[NetworkId, Network] = {}
        self._pictures: dict[NetworkId, NetworkPicture] = {}
        self._endpoints: Sheet[TaskId, Endpoint] = Sheet()
        self._owners: dict[TaskId, ServiceId] = {}
        self._reachable: dict[TaskId, Endpoint] = {}
        """Those of tasks that have not ended."""
        self._peer_sheet: Sheet[NodeId, Peer] = Sheet()
        self._network_sheet: Sheet[NetworkId, NetworkState] = Sheet()
        self._touched: dict[NetworkId, None] = {}
        self._state = NodeState(node_id=node_id)
        self._is_dirty = True
        self._journaled: set[_Key] = set()
        self._records: dict[_Key, Record] = {}
        self._cut: dict[NetworkId, dict[str, None]] = {}

    # --- what others may ask

    def config(self, network_id: NetworkId) -> NetworkConfig | None:
        """The network as a task's leg has it; None while it is not known."""
        picture = self._pictures.get(network_id)
        return picture.config if picture is not None else None

    def node_state(self) -> NodeState:
        """All that should stand on this node; the same object while nothing changed."""
        if not self._is_dirty:
            return self._state
        self._is_dirty = False
        for network_id in self._touched:
            picture = self._pictures.get(network_id)
            made = picture.state() if picture is not None else None
            if made is None:
                self._network_sheet.drop(network_id)
            elif self._network_sheet.data.get(network_id) is not made:
                self._network_sheet.put(network_id, made)
        self._touched.clear()
        before = self._state
        after = NodeState(
            node_id=self._node_id,
            data_path_port=self._settings.data_path_port,
            keys=self._settings.keys,
            peers=self._peer_sheet.give(),
            networks=self._network_sheet.give(),
            published=self._published(),
            endpoints=self._endpoints.give(),
        )
        is_same = (
            (before.data_path_port, before.keys) == (after.data_path_port, after.keys)
            and before.peers is after.peers
            and before.networks is after.networks
            and before.published is after.published
            and before.endpoints is after.endpoints
        )
        if not is_same:
            self._state = after
        return self._state

    def _published(self) -> tuple[PublishedPort, ...]:
        """There is one ingress network at a time; while it is replaced there may be two."""
        parts = [
            ports
            for network_id in sorted(self._pictures)
            if (config := self._pictures[network_id].config) is not None
            and config.is_ingress
            and (ports := self._pictures[network_id].published())
        ]
        if not parts:
            return ()
        return parts[0] if len(parts) == 1 else tuple(port for part in parts for port in part)

    def take_records(self) -> list[Record]:
        """For the journal: what changed since this was asked last."""
        records = list(self._records.values())
        self._records = {}
        return records

    def take_cut(self) -> Mapping[NetworkId, tuple[str, ...]]:
        """Addresses whose connections are to be ended; see the module's docstring."""
        gone, self._cut = self._cut, {}
        found = {}
        for network_id, addresses in gone.items():
            picture = self._pictures.get(network_id)
            if picture is not None:  # else no task of this node is there any more
                left = tuple(sorted(each for each in addresses if not picture.holds(each)))
                if left:
                    found[network_id] = left
        return found

    # --- own tasks

    def dress(self, endpoint: Endpoint, service_id: ServiceId) -> Endpoint:
        """The endpoint of a task of that service with the policies that hold for it now."""
        worn = self._endpoints.data.get(endpoint.task_id)
        return dress(endpoint, lambda network_id: self._service(network_id, service_id), worn)

    def put_local(
        self, endpoint: Endpoint, *, service_id: ServiceId = NO_SERVICE, is_reachable: bool = True
    ) -> None:
        """A task has its place on this node, or is about to. Not ``is_reachable``: it has ended there."""
        task_id = endpoint.task_id
        self._owners[task_id] = service_id
        endpoint = self.dress(endpoint, service_id)
        if self._endpoints.put(task_id, endpoint):
            self._is_dirty = True
        self._reach(endpoint, is_reachable=is_reachable)

    def _reach(self, endpoint: Endpoint, *, is_reachable: bool) -> None:
        """Tell the networks that the task has come to, and those that it has left."""
        task_id, former = endpoint.task_id, self._reachable.get(endpoint.task_id)
        was_on = _networks_of(former) if former is not None else ()
        is_on = _networks_of(endpoint) if is_reachable else ()
        if was_on == is_on and (former is not None) is is_reachable:
            return
        self._is_dirty = True
        if is_reachable:
            self._reachable[task_id] = endpoint
        else:
            del self._reachable[task_id]
        for network_id in dict.fromkeys((*was_on, *is_on)):
            if (picture := self._pictures.get(network_id)) is not None:
                self._touched[network_id] = None
                if network_id in is_on:
                    picture.take_local(endpoint)
                else:
                    picture.drop_local(task_id)

    def drop_local(self, task_id: TaskId) -> None:
        """Its place is to be taken down."""
        endpoint = self._endpoints.data.get(task_id)
        if endpoint is not None:
            self.put_local(endpoint, service_id=self._owners[task_id], is_reachable=False)
            self._endpoints.drop(task_id)
            del self._owners[task_id]
            self._is_dirty = True

    # --- what managers say

    def restore(self, networks: Iterable[Network], records: Iterable[DiscoveryRecord]) -> None:
        """What the journal has kept."""
        for each in (*networks, *records):
            self._put(each)
            self._journaled.add(_key_of(each))
        self._records = {}
        self._cut = {}

    def take(self, change: NetworkChange | Removal) -> None:
        """One thing changed, in order. Of objects' removals those of networks matter here."""
        match change:
            case RecordRemoval():
                self._drop((change.kind, change.id))
            case Removal():
                if change.kind is Kind.NETWORK:
                    self._drop((None, change.id))
            case _:
                self._put(change)

    def take_complete(self, changes: Iterable[NetworkChange]) -> None:
        """All that is to be known: what is not among it is forgotten."""
        given = [change for change in changes if not isinstance(change, RecordRemoval)]
        for change in given:
            self._put(change)
        kept = {_key_of(change) for change in given}
        for key in [key for key in self._known() if key not in kept]:
            if key[0] is RecordKind.ENDPOINT:
                self._mourn(self._endpoint(key[1]))
            self._drop(key)

    def _known(self) -> Iterable[_Key]:
        if self._settings != NetworkSettings():
            yield RecordKind.SETTINGS, ""
        for node_id in self._peers:
            yield RecordKind.PEER, node_id
        for picture in self._pictures.values():
            for service in picture.services.values():
                yield RecordKind.SERVICE, service.record_id
            for endpoint in picture.endpoints.values():
                yield RecordKind.ENDPOINT, endpoint.record_id
        for network_id in self._objects:
            yield None, network_id

    # --- inside

    def _put(self, value: Network | DiscoveryRecord) -> None:
        self._is_dirty = True
        match value:
            case Network():
                if self._objects.get(value.id) == value:
                    return
                self._objects[value.id] = value
                self._configure(value)
            case NetworkSettings():
                if self._settings == value:
                    return
                self._settings = value
            case NodePeer():
                if self._peers.get(value.node_id) == value:
                    return
                self._peers[value.node_id] = value
                self._show_peer(value.node_id)
            case NetworkService():
                picture = self._picture(value.network_id)
                if picture.services.get(value.service_id) == value:
                    return
                before_policy = picture.services.get(value.service_id)
                picture.take_service(value)
                if before_policy is None or policy_of(before_policy) != policy_of(value):
                    self._dress_all(value.service_id)
            case NetworkEndpoint():
                picture = self._picture(value.network_id)
                before = picture.endpoints.get(value.task_id)
                if before == value:
                    return
                if value.state is EndpointState.LOST:
                    self._mourn(before)
                picture.take_endpoint(value)
        key = _key_of(value)
        if key in self._journaled or len(self._journaled) < JOURNAL_DISCOVERY_MAX:
            self._journaled.add(key)
            self._records[key] = SaveDiscovery(value)

    def _drop(self, key: _Key) -> None:
        kind, id_ = key
        self._is_dirty = True
        if key in self._journaled:
            self._journaled.discard(key)
            self._records[key] = DropDiscovery(kind, id_)
        match kind:
            case RecordKind.SETTINGS:
                self._settings = NetworkSettings()
            case RecordKind.PEER:
                self._peers.pop(NodeId(id_), None)
                self._show_peer(NodeId(id_))
            case RecordKind.SERVICE:
                network_id, _, service_id = id_.partition(".")
                if NetworkId(network_id) in self._pictures:
                    self._picture(NetworkId(network_id)).drop_service(ServiceId(service_id))
                    self._tidy(NetworkId(network_id))
            case RecordKind.ENDPOINT:
                network_id, _, task_id = id_.partition(".")
                if NetworkId(network_id) in self._pictures:
                    self._picture(NetworkId(network_id)).drop_endpoint(TaskId(task_id))
                    self._tidy(NetworkId(network_id))
            case None:
                if self._objects.pop(NetworkId(id_), None) is not None:
                    self._picture(NetworkId(id_)).config = None
                    self._tidy(NetworkId(id_))

    def _picture(self, network_id: NetworkId) -> NetworkPicture:
        """The network's picture, which is looked at again for the next state."""
        self._touched[network_id] = None
        if network_id not in self._pictures:
            picture = self._pictures[network_id] = NetworkPicture(self._node_id)
            for endpoint in self._reachable.values():
                if any(leg.network.id == network_id for leg in endpoint.legs):
                    picture.take_local(endpoint)
        return self._pictures[network_id]

    def _service(self, network_id: NetworkId, service_id: ServiceId) -> NetworkService | None:
        picture = self._pictures.get(network_id)
        return picture.services.get(service_id) if picture is not None else None

    def _dress_all(self, service_id: ServiceId) -> None:
        """A policy has changed: what stands on this node follows."""
        for task_id in [task_id for task_id, owner in self._owners.items() if owner == service_id]:
            self._endpoints.put(task_id, self.dress(self._endpoints.data[task_id], service_id))

    def _tidy(self, network_id: NetworkId) -> None:
        if self._pictures[network_id].is_empty:
            del self._pictures[network_id]

    def _endpoint(self, record_id: str) -> NetworkEndpoint | None:
        network_id, _, task_id = record_id.partition(".")
        picture = self._pictures.get(NetworkId(network_id))
        return picture.endpoints.get(TaskId(task_id)) if picture is not None else None

    def _mourn(self, endpoint: NetworkEndpoint | None) -> None:
        """The endpoint was there and is gone for good, and nobody has closed its connections."""
        if endpoint is None or endpoint.state is EndpointState.LOST or endpoint.node_id == self._node_id:
            return
        gone = self._cut.setdefault(endpoint.network_id, {})
        gone.update(dict.fromkeys(bares(endpoint.addresses)))

    def _configure(self, network: Network) -> None:
        picture = self._picture(network.id)
        config = network_config(network)
        if picture.config != config:
            picture.configure(config)
            if config.is_ingress:
                for node_id in self._peers:
                    self._show_node(picture, node_id)

    def _show_peer(self, node_id: NodeId) -> None:
        record = self._peers.get(node_id)
        if record is None or not record.addr:
            self._peer_sheet.drop(node_id)
        else:
            peer = Peer(
                node_id=node_id,
                addr=record.addr,
                ingress_addresses=bares(record.ingress_addresses),
                boot_id=record.boot_id,
                number=record.number,
                encryption=record.encryption,
                wireguard_key=record.wireguard_key,
            )
            self._peer_sheet.put(node_id, peer)
        for network_id, picture in self._pictures.items():
            if picture.config is not None and picture.config.is_ingress:
                self._touched[network_id] = None
                self._show_node(picture, node_id)

    def _show_node(self, picture: NetworkPicture, node_id: NodeId) -> None:
        """Another node's own place in the ingress network, where answers to its clients go."""
        peer = self._peer_sheet.data.get(node_id)
        remote = None
        if peer is not None and peer.ingress_addresses and node_id != self._node_id:
            addresses = peer.ingress_addresses
            remote = RemoteEndpoint(node_id=node_id, addresses=addresses, mac=mac_of(addresses[0]))
        picture.put_remote(TaskId(f"node:{node_id}"), remote)


def _key_of(value: Network | DiscoveryRecord) -> _Key:
    if isinstance(value, Network):
        return None, value.id
    return RECORD_KINDS[type(value)], value.record_id


def _networks_of(endpoint: Endpoint) -> tuple[NetworkId, ...]:
    return tuple(leg.network.id for leg in endpoint.legs)


def network_config(network: Network) -> NetworkConfig:
    """What backends have to know of a network."""
    spec, state = network.spec, network.driver_state
    options = dict(spec.driver_configuration.options) if spec.driver_configuration is not None else {}
    assigned = state.options if state is not None else {}
    vni, mtu = assigned.get(VXLAN_IDS_OPTION, "").partition(",")[0], options.get(MTU_OPTION, "")
    ipam = network.ipam_options
    return NetworkConfig(
        id=network.id,
        name=spec.name,
        driver=network_driver(spec),
        vni=int(vni) if vni.isdecimal() else 0,
        subnets=tuple(
            Subnet(cidr=each.subnet, gateway=bare(each.gateway)) for each in (ipam.configs if ipam else ())
        ),
        mtu=int(mtu) if mtu.isdecimal() else 0,
        is_internal=spec.internal,
        is_encrypted=is_encrypted(spec),
        is_ingress=spec.ingress,
        is_dhcp=spec.ipam_options is not None and spec.ipam_options.driver.name == DHCP_IPAM,
        options=options,
    )
