"""Subnets, gateways and VNIs of networks."""

from __future__ import annotations

from typing import Any

import pytest
from world import make_network

from manager.allocate.blocks import Spans, block_of
from manager.allocate.pools import (
    CannotAllocate,
    Pools,
    check_network,
    check_pools,
    ingress_network,
    unique_local_pool,
)
from manager.store.indexes import vni_of
from manager.store.tables import Tables
from swarmpy.errors import InvalidArgument
from swarmpy.model.cluster_specs import IPAMConfig
from swarmpy.model.ids import ClusterId
from swarmpy.model.network_rules import VXLAN_ID_MAX, VXLAN_ID_MIN, VXLAN_IDS_OPTION
from swarmpy.model.objects import Cluster, Kind, Network


def cluster(*pools: str, size: int = 24) -> Cluster:
    return Cluster(id=ClusterId("c"), default_address_pool=pools or ("10.0.0.0/8",), subnet_size=size)


class Cloud:
    """A store of networks, each allocated by a leader of its own, or by one that remembers."""

    def __init__(self, *pools: str, size: int = 24) -> None:
        self.tables = Tables()
        self.cluster = cluster(*pools, size=size)
        self.count = 0

    def make(self, *configs: IPAMConfig, **fields: Any) -> Network:
        self.count += 1
        wish = make_network(f"net{self.count}", *configs, **fields)
        allocated = Pools(self.tables, self.cluster).allocate(wish)
        self.tables.put(Kind.NETWORK, allocated)
        return allocated

    def remove(self, network: Network) -> None:
        self.tables.remove(Kind.NETWORK, network.id)


def subnets(network: Network) -> list[str]:
    assert network.ipam_options is not None
    return [config.subnet for config in network.ipam_options.configs]


def gateways(network: Network) -> list[str]:
    assert network.ipam_options is not None
    return [config.gateway for config in network.ipam_options.configs]


def test_the_ingress_network_has_the_first_subnet_and_number() -> None:
    ingress = ingress_network(cluster())
    assert subnets(ingress) == ["10.0.0.0/24"]
    assert gateways(ingress) == ["10.0.0.1"]
    assert vni_of(ingress) == VXLAN_ID_MIN == 4096
    assert ingress.spec.ingress
    assert ingress.spec.name == "ingress"
    assert ingress_network(cluster()) == ingress


def test_subnets_come_in_turn_from_the_pools() -> None:
    cloud = Cloud("10.20.0.0/23", "10.40.0.0/24")
    assert [subnets(cloud.make())[0] for _ in range(3)] == ["10.20.0.0/24", "10.20.1.0/24", "10.40.0.0/24"]
    with pytest.raises(CannotAllocate, match="could not find an available, non-overlapping IPv4"):
        cloud.make()


def test_a_subnet_that_was_given_up_is_the_last_to_be_reused() -> None:
    cloud = Cloud("10.20.0.0/22")
    first = cloud.make()
    cloud.make()
    cloud.remove(first)
    assert subnets(cloud.make()) == ["10.20.2.0/24"]
    assert subnets(cloud.make()) == ["10.20.3.0/24"]
    assert subnets(cloud.make()) == subnets(first)


def test_numbers_are_not_reused_at_once_and_go_round() -> None:
    cloud = Cloud()
    first = cloud.make()
    second = cloud.make()
    cloud.remove(first)
    assert vni_of(cloud.make()) == vni_of(second) + 1
    highest = Network(
        id=first.id,
        created_at=second.created_at,
        spec=first.spec,
        driver_state=first.driver_state,
        ipam_options=first.ipam_options,
    )
    assert highest.driver_state is not None
    highest.driver_state.options[VXLAN_IDS_OPTION] = str(VXLAN_ID_MAX)
    cloud.tables.put(Kind.NETWORK, highest)
    assert vni_of(cloud.make()) == VXLAN_ID_MIN


def test_ours_overlap_no_other_but_a_user_may() -> None:
    cloud = Cloud("10.20.0.0/22")
    wide = cloud.make(IPAMConfig(subnet="10.20.0.0/23"))
    assert subnets(wide) == ["10.20.0.0/23"]
    assert subnets(cloud.make()) == ["10.20.2.0/24"]
    twin = cloud.make(IPAMConfig(subnet="10.20.2.0/24"))
    assert subnets(twin) == ["10.20.2.0/24"]
    assert subnets(cloud.make()) == ["10.20.3.0/24"]


def test_two_networks_in_one_plan_are_apart() -> None:
    pools = Pools(Tables(), cluster())
    one, other = (pools.allocate(make_network(id_)) for id_ in "ab")
    assert subnets(one) != subnets(other)
    assert vni_of(one) != vni_of(other)


def test_a_network_that_the_user_asks_a_number_for() -> None:
    cloud = Cloud()
    wished = cloud.make(options={VXLAN_IDS_OPTION: "4097", "encrypted": ""})
    assert vni_of(wished) == 4097
    assert wished.driver_state is not None
    assert wished.driver_state.options["encrypted"] == ""
    assert vni_of(cloud.make()) == 4096
    assert vni_of(cloud.make()) == 4098
    with pytest.raises(CannotAllocate, match="VXLAN number 4097 is in use by network net1-net"):
        cloud.make(options={VXLAN_IDS_OPTION: "4097"})


def test_both_families() -> None:
    cloud = Cloud()
    both = cloud.make(ipv6_enabled=True)
    first, second = subnets(both)
    pool = unique_local_pool("c")
    assert first == "10.0.0.0/24"
    assert second == f"{pool.network_address}/64"
    assert gateways(both) == ["10.0.0.1", f"{pool.network_address}1"]
    assert subnets(cloud.make(ipv6_enabled=True))[1] == f"{pool.network_address + (1 << 64)}/64"
    chosen = cloud.make(IPAMConfig(subnet="fd00:1::/64"), ipv6_enabled=True)
    assert subnets(chosen) == ["10.0.2.0/24", "fd00:1::/64"]
    assert unique_local_pool("c") != unique_local_pool("d")


def test_ipv6_subnets_come_from_the_clusters_own_pool_if_it_has_one() -> None:
    cloud = Cloud("10.0.0.0/8", "2001:db8::/63")
    assert subnets(cloud.make(ipv6_enabled=True))[1] == "2001:db8::/64"
    assert subnets(cloud.make(ipv6_enabled=True))[1] == "2001:db8:0:1::/64"
    with pytest.raises(CannotAllocate, match="IPv6"):
        cloud.make(ipv6_enabled=True)


def test_gateways() -> None:
    cloud = Cloud()
    named = cloud.make(IPAMConfig(subnet="192.168.7.0/24", gateway="192.168.7.254"))
    assert gateways(named) == ["192.168.7.254"]
    reserved = IPAMConfig(subnet="192.168.7.0/24", auxiliary_addresses={"router": "192.168.7.1"})
    assert gateways(cloud.make(reserved)) == ["192.168.7.2"]


def test_other_drivers_get_no_number_and_no_subnet_of_ours() -> None:
    cloud = Cloud()
    lan = cloud.make(IPAMConfig(subnet="192.168.7.0/24"), driver="macvlan")
    assert vni_of(lan) == 0
    assert gateways(lan) == ["192.168.7.1"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (IPAMConfig(subnet="10.1.2.0"), "invalid subnet 10.1.2.0"),
        (IPAMConfig(subnet="x/24"), "invalid subnet x/24"),
        (IPAMConfig(gateway="10.1.2.1"), "no matching subnet for gateway 10.1.2.1"),
        (IPAMConfig(subnet="10.1.2.0/24", gateway="10.1.3.1"), "no matching subnet for gateway 10.1.3.1"),
        (
            IPAMConfig(subnet="10.1.2.0/24", ip_range="10.2.0.0/25"),
            "no matching subnet for range 10.2.0.0/25",
        ),
        (
            IPAMConfig(subnet="10.1.2.0/24", auxiliary_addresses={"a": "10.1.3.1"}),
            "no matching subnet for aux-address 10.1.3.1",
        ),
        (
            IPAMConfig(subnet="10.1.2.0/32", auxiliary_addresses={"a": "10.1.2.0"}),
            "subnet 10.1.2.0/32 has no address left for a gateway",
        ),
    ],
)
def test_what_makes_no_sense(config: IPAMConfig, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        check_network(make_network("a", config).spec)
    with pytest.raises(CannotAllocate, match=reason):
        Cloud().make(config)


@pytest.mark.parametrize("number", ["0", "4095", "16777216", "x", "-5"])
def test_numbers_that_are_none(number: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid vxlan id"):
        check_network(make_network("a", options={VXLAN_IDS_OPTION: number}).spec)


def test_subnets_of_one_network_are_apart() -> None:
    spec = make_network("a", IPAMConfig(subnet="10.1.0.0/16"), IPAMConfig(subnet="10.1.2.0/24")).spec
    with pytest.raises(InvalidArgument, match="overlap"):
        check_network(spec)
    check_network(make_network("a", IPAMConfig(subnet="10.1.0.0/16"), IPAMConfig(subnet="fd00::/64")).spec)


def test_pools_of_a_cluster() -> None:
    check_pools(("10.0.0.0/8", "fd00::/48"), 24)
    with pytest.raises(InvalidArgument, match="invalid subnet size 16"):
        check_pools(("10.0.0.0/24",), 16)
    with pytest.raises(InvalidArgument, match="invalid subnet size 31"):
        check_pools(("10.0.0.0/24",), 31)
    with pytest.raises(InvalidArgument, match="invalid subnet"):
        check_pools(("ten",), 24)


def test_a_pool_smaller_than_a_subnet_is_one() -> None:
    cloud = Cloud("10.9.9.0/28")
    assert subnets(cloud.make()) == ["10.9.9.0/28"]
    with pytest.raises(CannotAllocate):
        cloud.make()


@pytest.mark.parametrize(
    ("config", "capacity"),
    [
        (IPAMConfig(subnet="10.1.2.0/24", gateway="10.1.2.1"), 253),
        (IPAMConfig(subnet="10.1.2.0/29", gateway="10.1.2.6"), 5),
        (IPAMConfig(subnet="10.1.2.0/30", gateway="10.1.2.1"), 1),
        (IPAMConfig(subnet="10.1.2.0/31", gateway="10.1.2.0"), 1),
        (IPAMConfig(subnet="10.1.2.0/24", ip_range="10.1.2.128/30", gateway="10.1.2.1"), 4),
        (IPAMConfig(subnet="10.1.2.0/24", ip_range="10.1.2.0/30", gateway="10.1.2.1"), 2),
        (
            IPAMConfig(subnet="10.1.2.0/29", gateway="10.1.2.1", auxiliary_addresses={"a": "10.1.2.3"}),
            4,
        ),
        (IPAMConfig(subnet="fd00::/126", gateway="fd00::1"), 2),
    ],
)
def test_capacity(config: IPAMConfig, capacity: int) -> None:
    assert block_of(config).capacity == capacity


def test_spans() -> None:
    spans = Spans([(20, 29), (10, 19), (40, 49)])
    assert spans.clash(0, 9) is None
    assert spans.clash(0, 10) == 19
    assert spans.clash(30, 39) is None
    spans.add(25, 42)
    assert spans.clash(30, 30) == 49
    assert spans.clash(50, 60) is None
