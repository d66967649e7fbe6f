"""Subnets and numbers of networks: what an overlay network is given when it is made.

* A subnet that the user left open comes from the cluster's address pools and overlaps no other network's. One
  that the user chose may overlap those of other networks: they are apart by their VNI.
* An IPv6 subnet is a /64 of the cluster's IPv6 pools; of a unique local prefix that follows from the
  cluster's id where there are none.
* The gateway is the subnet's first address unless the user names one.
* The VNI is between 4096 and 2^24-1 and no other network's; the user may ask for one.

Subnets and VNIs are handed out in turn, each search goes on after the last choice, so that what was just
given up, which some machine may still have state of, is not handed out next. What a network has it keeps.

Networks of other drivers get subnets alike, so that no two tasks of the swarm have one address, and no VNI;
but those whose tasks ask the LAN for addresses get nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from manager.allocate.blocks import (
    BITS,
    IPV4,
    IPV6,
    Block,
    IPNetwork,
    Spans,
    block_of,
    first_host,
    parse_subnet,
    text_of,
)
from manager.store.indexes import vni_of
from manager.store.tables import Tables
from manager.store.view import View
from swarmpy.errors import InvalidArgument
from swarmpy.model.cluster_specs import IPAMConfig, IPAMOptions, NetworkSpec
from swarmpy.model.defaults import ADDRESS_POOL, OVERLAY_DRIVER, SUBNET_SIZE, network_driver
from swarmpy.model.ids import ID_BYTES, NetworkId, make_id
from swarmpy.model.network_rules import DHCP_IPAM, VXLAN_ID_MAX, VXLAN_ID_MIN, VXLAN_IDS_OPTION
from swarmpy.model.objects import Cluster, Network
from swarmpy.model.specs import Driver

IPV6_SUBNET_BITS: Final = 64
IPAM_DRIVER: Final = "default"
INGRESS_NAME: Final = "ingress"
_ULA_BITS: Final = 48


class CannotAllocate(Exception):
    """Why a network gets no subnet or number; a sentence for users."""


@dataclass(frozen=True, slots=True)
class Latest:
    """What was handed out last: by family a subnet's first address, and a VNI; 0 if nothing was."""

    ipv4: int = 0
    ipv6: int = 0
    vni: int = 0

    def subnet(self, version: int) -> int:
        return self.ipv4 if version == IPV4 else self.ipv6


def is_overlay(spec: NetworkSpec) -> bool:
    return network_driver(spec) == OVERLAY_DRIVER


def has_addresses(spec: NetworkSpec) -> bool:
    """Whether tasks get addresses of the cluster's choice in the network, or of the LAN's."""
    ipam = spec.ipam_options
    return not spec.config_only and not (ipam is not None and ipam.driver.name == DHCP_IPAM)


def needs_allocation(network: Network) -> bool:
    return network.ipam_options is None and has_addresses(network.spec)


def ingress_spec() -> NetworkSpec:
    """The network of the routing mesh, as it is made with the cluster."""
    driver = Driver(name=OVERLAY_DRIVER)
    ipam = IPAMOptions(driver=Driver(name=IPAM_DRIVER))
    return NetworkSpec(
        name=INGRESS_NAME, driver_configuration=driver, ipam_options=ipam, ingress=True, scope="swarm"
    )


def ingress_network(cluster: Cluster) -> Network:
    """The network of the routing mesh of a new cluster: the first one, with the first subnet."""
    digest = hashlib.sha256(f"ingress network of {cluster.id}".encode()).digest()
    network = Network(id=NetworkId(make_id(digest[:ID_BYTES])), spec=ingress_spec())
    return Pools(Tables(), cluster).allocate(network)


def check_network(spec: NetworkSpec) -> None:
    """What a network's spec says of addresses and numbers makes sense; ``InvalidArgument``."""
    blocks = [block_of(config) for config in _wished(spec) if _check_has_subnet(config)]
    for number, block in enumerate(blocks):
        for other in blocks[:number]:
            if block.version == other.version and _overlap(block, other):
                raise InvalidArgument(f"subnets {other} and {block} of one network overlap")
    for config in _wished(spec):
        if not config.gateway:
            first_host(config)
    if is_overlay(spec):
        _wished_vni(spec)


def check_pools(pools: Iterable[str], subnet_size: int) -> None:
    """What a new cluster is asked to take its subnets from; ``InvalidArgument``."""
    for text in pools:
        pool = parse_subnet(text)
        if pool.version == IPV4 and subnet_size and not pool.prefixlen <= subnet_size < BITS[IPV4] - 1:
            raise InvalidArgument(
                f"invalid subnet size {subnet_size} for the address pool {text}: "
                f"it must be between {pool.prefixlen} and {BITS[IPV4] - 2}"
            )


def why_unallocated(view: View, network: Network) -> str:
    """Why the network has no subnet; empty: nothing is in the way of its getting one."""
    try:
        Pools(view, view.cluster()).allocate(network)
    except CannotAllocate as error:
        return str(error)
    return ""


class Pools:
    """What is free of pools and numbers, in the view of one decision; learns of what it hands out."""

    def __init__(self, view: View, cluster: Cluster | None, latest: Latest | None = None) -> None:
        self._view = view
        self._cluster = cluster
        self.latest = latest or latest_of(view.networks())
        spans: dict[int, list[tuple[int, int]]] = {IPV4: [], IPV6: []}
        for network in view.networks():
            for config in network.ipam_options.configs if network.ipam_options is not None else ():
                subnet = parse_subnet(config.subnet)
                span = (int(subnet.network_address), int(subnet.broadcast_address))
                spans[subnet.version].append(span)
        self._taken = {version: Spans(each) for version, each in spans.items()}
        self._numbers: set[int] = set()
        self._wished = {_wished_vni_or_none(network.spec) for network in view.networks()}

    def allocate(self, network: Network) -> Network:
        """The network with its subnets, gateways and number; ``CannotAllocate``."""
        spec = network.spec
        try:
            check_network(spec)
            configs = self._subnets(spec)
            vni = self._vni(network) if is_overlay(spec) else 0
        except InvalidArgument as error:
            raise CannotAllocate(str(error)) from None
        ipam = spec.ipam_options or IPAMOptions()
        ipam_driver = ipam.driver if ipam.driver.name else replace(ipam.driver, name=IPAM_DRIVER)
        driver = spec.driver_configuration or Driver()
        options = {**driver.options, VXLAN_IDS_OPTION: str(vni)} if vni else driver.options
        wished = {config.subnet for config in _wished(spec)}
        for config in configs:
            self._take(parse_subnet(config.subnet), is_ours=config.subnet not in wished)
        if vni:
            self._numbers.add(vni)
            if not _wished_vni(spec):
                self.latest = Latest(self.latest.ipv4, self.latest.ipv6, vni)
        return replace(
            network,
            ipam_options=replace(ipam, driver=ipam_driver, configs=configs),
            driver_state=replace(driver, name=network_driver(spec), options=options),
        )

    def _subnets(self, spec: NetworkSpec) -> tuple[IPAMConfig, ...]:
        configs = list(_wished(spec))
        if has_addresses(spec):
            families = {parse_subnet(config.subnet).version for config in configs}
            if IPV4 not in families:
                configs.insert(0, self._free_subnet(IPV4))
            if spec.ipv6_enabled and IPV6 not in families:
                configs.append(self._free_subnet(IPV6))
        configs.sort(key=lambda config: parse_subnet(config.subnet).version)
        return tuple(
            config if config.gateway else replace(config, gateway=first_host(config)) for config in configs
        )

    def _take(self, subnet: IPNetwork, *, is_ours: bool) -> None:
        first, latest = int(subnet.network_address), self.latest
        self._taken[subnet.version].add(first, int(subnet.broadcast_address))
        if is_ours and subnet.version == IPV4:
            self.latest = Latest(first, latest.ipv6, latest.vni)
        elif is_ours:
            self.latest = Latest(latest.ipv4, first, latest.vni)

    # --- subnets

    def _pools(self, version: int) -> tuple[IPNetwork, ...]:
        given = self._cluster.default_address_pool if self._cluster is not None else ()
        pools = tuple(pool for pool in map(parse_subnet, given or ADDRESS_POOL) if pool.version == version)
        if pools:
            return pools
        if version == IPV4:
            return tuple(map(parse_subnet, ADDRESS_POOL))
        return (unique_local_pool(self._cluster.id if self._cluster is not None else ""),)

    def _free_subnet(self, version: int) -> IPAMConfig:
        bits = IPV6_SUBNET_BITS
        if version == IPV4:
            bits = (self._cluster.subnet_size if self._cluster is not None else 0) or SUBNET_SIZE
        for first, last, prefix in _turns(self._pools(version), bits, after=self.latest.subnet(version)):
            size = 1 << BITS[version] - prefix
            while first + size - 1 <= last:
                clash = self._taken[version].clash(first, first + size - 1)
                if clash is None:
                    return IPAMConfig(subnet=f"{text_of(first, version)}/{prefix}")
                first = _aligned(clash + 1, size)
        raise CannotAllocate(
            f"could not find an available, non-overlapping IPv{version} address pool "
            "among the defaults to assign to the network"
        )

    # --- numbers

    def _vni(self, network: Network) -> int:
        wished = _wished_vni(network.spec)
        if wished:
            others = sorted(each.spec.name for each in self._view.networks_with_vni(wished))
            if others or wished in self._numbers:
                whose = f"network {others[0]}" if others else "another network"
                raise CannotAllocate(f"VXLAN number {wished} is in use by {whose}")
            return wished
        count = VXLAN_ID_MAX - VXLAN_ID_MIN + 1
        start = max(self.latest.vni + 1, VXLAN_ID_MIN) - VXLAN_ID_MIN
        for offset in range(count):
            vni = VXLAN_ID_MIN + (start + offset) % count
            is_spoken_for = vni in self._numbers or vni in self._wished
            if not is_spoken_for and not self._view.networks_with_vni(vni):
                return vni
        raise CannotAllocate("every VXLAN number is in use")


def latest_of(networks: Iterable[Network]) -> Latest:
    """What was handed out last, as far as the networks that are still there tell."""
    ipv4 = ipv6 = vni = 0
    for network in sorted(networks, key=lambda each: (each.created_at, vni_of(each), each.id)):
        wished = {config.subnet for config in _wished(network.spec)}
        for config in network.ipam_options.configs if network.ipam_options is not None else ():
            if config.subnet not in wished:
                subnet = parse_subnet(config.subnet)
                if subnet.version == IPV4:
                    ipv4 = int(subnet.network_address)
                else:
                    ipv6 = int(subnet.network_address)
        if is_overlay(network.spec) and not _wished_vni_or_none(network.spec):
            vni = vni_of(network) or vni
    return Latest(ipv4, ipv6, vni)


def unique_local_pool(cluster_id: str) -> IPNetwork:
    """A /48 of fd00::/8, the same whenever it is asked for and another one for another cluster."""
    digest = hashlib.sha256(f"unique local addresses of {cluster_id}".encode()).digest()
    prefix = 0xFD << 40 | int.from_bytes(digest[:5])
    return parse_subnet(f"{text_of(prefix << 80, IPV6)}/{_ULA_BITS}")


def _turns(pools: tuple[IPNetwork, ...], bits: int, *, after: int) -> Iterator[tuple[int, int, int]]:
    """Where to look for a subnet, and how long its prefix is: behind ``after``, and round to it again."""
    at = next((index for index, pool in enumerate(pools) if after and _contains(pool, after)), None)
    for index in range(len(pools)):
        pool = pools[((at or 0) + index) % len(pools)]
        prefix = max(bits, pool.prefixlen)
        first, last = int(pool.network_address), int(pool.broadcast_address)
        if at is not None and index == 0:
            first = _aligned(after + 1, 1 << pool.max_prefixlen - prefix)
        yield first, last, prefix
    if at is not None:
        pool = pools[at]
        yield int(pool.network_address), int(pool.broadcast_address), max(bits, pool.prefixlen)


def _aligned(number: int, size: int) -> int:
    return -(-number // size) * size


def _contains(pool: IPNetwork, number: int) -> bool:
    return int(pool.network_address) <= number <= int(pool.broadcast_address)


def _overlap(one: Block, other: Block) -> bool:
    bits = min(one.prefix, other.prefix)
    shift = BITS[one.version] - bits
    return one.start >> shift == other.start >> shift


# --- what the user asked for


def _wished(spec: NetworkSpec) -> tuple[IPAMConfig, ...]:
    """The configurations that say anything."""
    ipam = spec.ipam_options
    return tuple(config for config in ipam.configs if config != IPAMConfig()) if ipam is not None else ()


def _check_has_subnet(config: IPAMConfig) -> bool:
    if config.subnet:
        return True
    for what, value in (("range", config.ip_range), ("gateway", config.gateway)):
        if value:
            raise InvalidArgument(f"no matching subnet for {what} {value}")
    raise InvalidArgument(f"no matching subnet for aux-address {min(config.auxiliary_addresses.values())}")


def _wished_vni(spec: NetworkSpec) -> int:
    text = spec.driver_configuration.options.get(VXLAN_IDS_OPTION, "") if spec.driver_configuration else ""
    first = text.partition(",")[0].strip()
    if not first:
        return 0
    vni = int(first) if first.isascii() and first.isdecimal() else 0
    if not VXLAN_ID_MIN <= vni <= VXLAN_ID_MAX:
        raise InvalidArgument(
            f"invalid vxlan id {first}: it must be between {VXLAN_ID_MIN} and {VXLAN_ID_MAX}"
        )
    return vni


def _wished_vni_or_none(spec: NetworkSpec) -> int:
    try:
        return _wished_vni(spec)
    except InvalidArgument:
        return 0
