"""From what a node should have to what HNS should have. Pure.

A task has an endpoint in HNS per network. Its way to the outside is translation on its first overlay
endpoint, as Docker does it, where HNS is new enough; else, and for a task without networks, one more endpoint
on the node's NAT network. Ports in host mode are on the endpoint that leads outside. Tasks of other nodes are
remote endpoints with their node's tunnel address.

Virtual addresses and published ports are balancers over endpoints. HNS wants an address of this node in the
network as their source: in the ingress network that is the node's own place there; in another one the address
of a task here stands in, since no address is spent per node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from msgspec.structs import replace

from agent.dataplane.base import (
    Balancer,
    Endpoint,
    Leg,
    NetworkConfig,
    NetworkState,
    NodeState,
    Policy,
    PublishedPort,
)
from agent.dataplane.windows import objects
from agent.dataplane.windows.diff import Desired
from agent.dataplane.windows.features import VXLAN_PORT, Features
from agent.dataplane.windows.objects import (
    ANY_PROTOCOL,
    Acl,
    HnsBalancer,
    HnsEndpoint,
    HnsNetwork,
    HnsSubnet,
    NetworkKind,
    Observed,
    PortMap,
    PortPair,
)
from agent.dataplane.windows.refusals import ACL_PROTOCOLS, KINDS, NONE_MODE, PROTOCOLS
from swarmpy.model.addresses import mac_of
from swarmpy.model.ids import NetworkId, TaskId
from swarmpy.model.value import Value

ADAPTER_OPTION = "com.docker.network.windowsshim.interface"
VLAN_OPTION = "com.docker.network.windowsshim.vlanid"
MAC_POOL_OPTION = "swarmpy.windows.mac_pool"
"""First and last address with two dots between: ``00-15-5D-10-00-00..00-15-5D-10-FF-FF``."""
HYPERV = "hyperv"
ACL_PRIORITY_FIRST = 200
ACL_PRIORITY_LAST = 65_500
_BITS = 8


class Plan(Value, frozen=True, kw_only=True):
    """``notes``: sentences on what was asked for and is not served on this node."""

    desired: Desired
    notes: tuple[str, ...] = ()


def make_plan(
    state: NodeState,
    endpoints: Mapping[TaskId, Endpoint],
    features: Features,
    *,
    nat_name: str = objects.NAT_NAME,
    is_complete: bool = True,
    gone: frozenset[TaskId] = frozenset(),
) -> Plan:
    """``endpoints``: attached tasks, none of which is refused; their networks are made in any case."""
    configs = {leg.network.id: leg.network for each in endpoints.values() for leg in each.legs}
    configs |= {
        network_id: network.config
        for network_id, network in state.networks.items()
        if network_id in configs or (network.config.is_ingress and features.has_balancers)
    }
    networks = [_network(config, state, features) for _, config in sorted(configs.items())]
    notes: list[str] = []
    made: list[HnsEndpoint] = []
    for _, endpoint in sorted(endpoints.items()):
        made += task_endpoints(endpoint, features, nat_name=nat_name)
    if nat_name == objects.NAT_NAME and any(each.network == nat_name for each in made):
        networks.append(HnsNetwork(name=nat_name, kind=NetworkKind.NAT))
    balancers: list[HnsBalancer] = []
    for network_id, config in sorted(configs.items()):
        network = state.networks.get(network_id)
        if network is None:
            continue
        made += _others(network, state, made)
        board = _Board(config, made)
        balancers += _balancers(network, board, state, notes, features)
        if config.is_ingress:
            balancers += _published(state.published, board, _own_ingress(state, config), notes, features)
    namespaces = {
        task_id: tuple(each.name for each in task_endpoints(endpoint, features, nat_name=nat_name))
        for task_id, endpoint in sorted(endpoints.items())
        if features.has_v2
    }
    desired = Desired(
        networks=tuple(networks),
        endpoints=tuple(made),
        balancers=tuple({each.front: each for each in balancers}.values()),
        namespaces=namespaces,
        guests=frozenset(key for key, each in endpoints.items() if each.isolation == HYPERV),
        is_complete=is_complete,
        gone=gone,
    )
    return Plan(desired=desired, notes=tuple(notes))


def choose_nat(observed: Observed) -> str:
    """The node's NAT network: Windows is content with one, so another's is used if there is any."""
    names = sorted(each.value.name for each in observed.networks if each.value.kind is NetworkKind.NAT)
    if objects.NAT_NAME in names or not names:
        return objects.NAT_NAME
    return names[0]


def _network(config: NetworkConfig, state: NodeState, features: Features) -> HnsNetwork:
    kind = KINDS[config.driver]
    is_overlay = kind is NetworkKind.OVERLAY
    port = state.data_path_port if is_overlay and features.has_vxlan_port else 0
    vlan, pool = config.options.get(VLAN_OPTION, ""), config.options.get(MAC_POOL_OPTION, "")
    return HnsNetwork(
        name=objects.network_name(config.id),
        kind=kind,
        subnets=tuple(
            HnsSubnet(cidr=each.cidr, gateway=each.gateway, vsid=config.vni if is_overlay else 0)
            for each in config.subnets
        ),
        adapter=config.options.get(ADAPTER_OPTION, ""),
        vlan=int(vlan) if vlan.isdecimal() else 0,
        vxlan_port=0 if port == VXLAN_PORT else port,
        mac_pool=tuple(objects.plain_mac(each.strip()) for each in pool.split("..")) if pool else (),
    )


# --- tasks


def task_endpoints(
    endpoint: Endpoint, features: Features, *, nat_name: str = objects.NAT_NAME
) -> tuple[HnsEndpoint, ...]:
    """In the order of the task's links."""
    if endpoint.mode == NONE_MODE:
        return ()
    ports = tuple(
        PortMap(
            protocol=PROTOCOLS[port.protocol],
            internal_port=port.target_port,
            external_port=port.published_port,
            address="" if port.host_ip == "0.0.0.0" else port.host_ip,
        )
        for port in endpoint.host_ports
    )
    way_out = _way_out(endpoint, features)
    made = [
        _task_leg(endpoint, leg, ports=ports if place == way_out else (), is_way_out=place == way_out)
        for place, leg in enumerate(endpoint.legs)
    ]
    if way_out is None:
        made.append(
            HnsEndpoint(
                name=objects.task_endpoint_name(endpoint.task_id, objects.NAT_ID),
                network=nat_name,
                ports=ports,
                dns_servers=endpoint.dns,
                dns_search=endpoint.dns_search,
            )
        )
    return tuple(made)


def _way_out(endpoint: Endpoint, features: Features) -> int | None:
    """Which leg leads outside; None: one that is to be added. Networks that a running task joins or leaves
    do not change it."""
    for place, leg in enumerate(endpoint.legs):
        kind = KINDS[leg.network.driver]
        if leg.is_joined:
            continue
        if kind is not NetworkKind.OVERLAY or features.has_overlay_way_out:
            return place
    return None


def _task_leg(endpoint: Endpoint, leg: Leg, *, ports: tuple[PortMap, ...], is_way_out: bool) -> HnsEndpoint:
    config, policy = leg.network, leg.policy or Policy()
    address, _, prefix = (leg.addresses[0] if leg.addresses else "").partition("/")
    return HnsEndpoint(
        name=objects.task_endpoint_name(endpoint.task_id, config.id),
        network=objects.network_name(config.id),
        address=address,
        prefix_length=int(prefix or 0),
        mac=objects.plain_mac(leg.mac) or (mac_of(address) if address else ""),
        gateway=_gateway(config, address),
        has_outbound_nat=is_way_out and KINDS[config.driver] is NetworkKind.OVERLAY,
        ports=ports,
        acls=access_list(policy),
        rate_out_bytes=policy.rate_out_bps // _BITS,
        dns_servers=endpoint.dns,
        dns_search=endpoint.dns_search,
    )


def _gateway(config: NetworkConfig, address: str) -> str:
    """Of the subnet that the address is in."""
    if not address:
        return ""
    inside = ip_network(address)
    for subnet in config.subnets:
        network = ip_network(subnet.cidr)
        if network.version == inside.version and inside.network_address in network:
            return subnet.gateway
    return ""


def access_list(policy: Policy) -> tuple[Acl, ...]:
    """The first rule that fits decides, and what fits none passes: said in so many words at the end, since
    HNS's own default has changed with its versions."""
    if not policy.rules:
        return ()
    made = []
    for place, rule in enumerate(policy.rules):
        ports = ",".join(rule.ports)
        is_in = rule.direction == "in"
        made.append(
            Acl(
                action="Allow" if rule.action == "allow" else "Block",
                direction="In" if is_in else "Out",
                priority=ACL_PRIORITY_FIRST + place,
                protocol=ACL_PROTOCOLS.get(rule.protocol, ANY_PROTOCOL),
                remote_addresses=rule.address,
                local_ports=ports if is_in else "",
                remote_ports="" if is_in else ports,
            )
        )
    ends = [Acl(action="Allow", direction=way, priority=ACL_PRIORITY_LAST) for way in ("In", "Out")]
    return (*made, *ends)


# --- tasks of other nodes


def _others(network: NetworkState, state: NodeState, made: Iterable[HnsEndpoint]) -> list[HnsEndpoint]:
    """Remote endpoints, and this node's own place in the ingress network. An address has one owner: a task
    here comes first."""
    config = network.config
    name = objects.network_name(config.id)
    taken = {each.address for each in made if each.network == name}
    found: list[HnsEndpoint] = []
    source = _own_ingress(state, config)
    if source and source not in taken:
        taken.add(source)
        found.append(
            HnsEndpoint(
                name=objects.source_endpoint_name(config.id),
                network=name,
                address=source,
                prefix_length=_prefix_length(config, source),
                mac=mac_of(source),
                gateway=_gateway(config, source),
            )
        )
    for key, remote in sorted(network.remotes.items()):
        peer = state.peers.get(remote.node_id)
        address = next((each for each in remote.addresses if ":" not in each), "")
        if peer is None or not peer.addr or not address or address in taken:
            continue
        taken.add(address)
        found.append(
            HnsEndpoint(
                name=objects.peer_endpoint_name(key, config.id),
                network=name,
                address=address,
                mac=objects.plain_mac(remote.mac),
                is_remote=True,
                provider_address=peer.addr,
            )
        )
    return found


def _prefix_length(config: NetworkConfig, address: str) -> int:
    fits = [ip_network(each.cidr) for each in config.subnets]
    return next((each.prefixlen for each in fits if ip_network(address).network_address in each), 0)


def _own_ingress(state: NodeState, config: NetworkConfig) -> str:
    own = state.peers.get(state.node_id)
    if not config.is_ingress or own is None:
        return ""
    return next((each for each in own.ingress_addresses if ":" not in each), "")


# --- balancers


class _Board:
    """Who has which address in one network."""

    def __init__(self, config: NetworkConfig, made: Iterable[HnsEndpoint]) -> None:
        self.name = objects.network_name(config.id)
        self.label = config.name or config.id
        own = [each for each in made if each.network == self.name]
        self._names = {each.address: each.name for each in own if each.address}
        tasks = sorted((each for each in own if objects.task_of(each.name)), key=lambda each: each.name)
        self.stand_in = next((each.address for each in tasks if each.address), "")

    def backends(self, addresses: Iterable[str]) -> tuple[str, ...]:
        """Names, sorted; addresses that nobody has are left out: their owner is not known yet."""
        return tuple(sorted(self._names[address] for address in addresses if address in self._names))


def _balancers(
    network: NetworkState, board: _Board, state: NodeState, notes: list[str], features: Features
) -> list[HnsBalancer]:
    source = _own_ingress(state, network.config) or board.stand_in
    made = []
    for service_id, balancer in sorted(network.balancers.items()):
        name = f"service {service_id} on network {board.label}"
        backends = board.backends(balancer.backends)
        vips = tuple(each for each in balancer.vips if ":" not in each)
        if not vips or not backends or not source:
            continue
        if not features.has_balancers:
            notes.append(f"{name}: its virtual address is not served here")
            continue
        _note_sticky(balancer, name, notes, features)
        made.append(
            HnsBalancer(network=board.name, backends=backends, source=source, vips=vips, is_internal=True)
        )
    return made


def _note_sticky(wish: Balancer | PublishedPort, name: str, notes: list[str], features: Features) -> None:
    """Stickiness is V2's, and virtual addresses are V1's."""
    if wish.is_sticky and (isinstance(wish, Balancer) or not features.has_affinity):
        notes.append(f"{name}: clients do not stick to a task here")


def _published(
    published: Iterable[PublishedPort], board: _Board, source: str, notes: list[str], features: Features
) -> list[HnsBalancer]:
    """One per published port; TCP and UDP share one where all else is the same. A port that is published
    twice is the first service's."""
    made: dict[tuple[object, ...], HnsBalancer] = {}
    claimed: set[tuple[str, int]] = set()
    for port in published:
        name = f"published port {port.published_port}/{port.protocol}"
        backends = board.backends(port.backends)
        if port.protocol not in PROTOCOLS or port.host_ip or not features.has_balancers or not source:
            notes.append(f"{name} is not served on this node")
            continue
        if not backends or (port.protocol, port.published_port) in claimed:
            continue
        claimed.add((port.protocol, port.published_port))
        _note_sticky(port, name, notes, features)
        pair = PortPair(
            protocol=PROTOCOLS[port.protocol],
            internal_port=port.target_port,
            external_port=port.published_port,
        )
        is_sticky = port.is_sticky and features.has_affinity and features.has_v2
        key = (port.published_port, port.target_port, backends, is_sticky)
        twin = made.get(key)
        made[key] = HnsBalancer(
            network=board.name,
            backends=backends,
            source=source,
            mappings=tuple(sorted({*(twin.mappings if twin else ()), pair}, key=lambda each: each.protocol)),
            is_sticky=is_sticky,
        )
    return list(made.values())


# --- those who are gone for good


def without(state: NodeState, gone: Mapping[NetworkId, tuple[str, ...]]) -> NodeState:
    """The same state, but that nobody has these addresses."""
    networks = dict(state.networks)
    for network_id, addresses in gone.items():
        network = networks.get(network_id)
        if network is not None:
            networks[network_id] = _network_without(network, frozenset(addresses))
    published = tuple(
        replace(port, backends=_left(port.backends, gone, state.networks)) for port in state.published
    )
    return replace(state, networks=networks, published=published)


def _network_without(network: NetworkState, addresses: frozenset[str]) -> NetworkState:
    return replace(
        network,
        remotes={
            key: remote for key, remote in network.remotes.items() if addresses.isdisjoint(remote.addresses)
        },
        balancers={
            key: replace(each, backends=tuple(one for one in each.backends if one not in addresses))
            for key, each in network.balancers.items()
        },
    )


def _left(
    backends: tuple[str, ...],
    gone: Mapping[NetworkId, tuple[str, ...]],
    networks: Mapping[NetworkId, NetworkState],
) -> tuple[str, ...]:
    """Published ports lead into the ingress network."""
    addresses = {
        address
        for network_id, found in gone.items()
        if network_id in networks and networks[network_id].config.is_ingress
        for address in found
    }
    return tuple(each for each in backends if each not in addresses)
