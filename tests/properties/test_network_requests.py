"""Whatever a client asks to be a network is refused, or stored and then given what it needs."""

from __future__ import annotations

from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from manager.allocate.pools import Pools
from manager.api import network_plan
from manager.api.network_plan import NetworkRequest
from manager.api.network_shapes import inspected
from manager.store.store import Store
from swarmpy import codec
from swarmpy.errors import Rejected
from swarmpy.model.changes import Batch, Create, Group
from swarmpy.model.cluster_specs import IPAMConfig
from swarmpy.model.ids import ClusterId, NetworkId, NodeId, Timestamp
from swarmpy.model.network_rules import MTU_OPTION, VXLAN_IDS_OPTION
from swarmpy.model.objects import Cluster
from swarmpy.model.specs import Driver
from swarmpy.model.states import Owner

SUBNETS = (
    *("10.1.0.0/24", "10.1.0.0/30", "10.2.0.0/16", "10.1.0.5/24", "10.0.0.0/31"),
    *("fd00::/64", "fd00::/126", "x"),
)
ADDRESSES = (
    *("", "10.1.0.1", "10.1.0.0", "10.1.0.3", "10.1.0.255", "10.2.0.9", "fd00::1"),
    *("fd00::", "0.0.0.0", "x"),
)
RANGES = ("", "10.1.0.0/25", "10.1.0.0/32", "10.1.0.255/32", "10.2.0.0/8", "fd00::/120", "10.1.0.0/24", "x")
OPTIONS = {
    "encrypted": ("", "true", "false"),
    MTU_OPTION: ("1400", "100", "x", ""),
    VXLAN_IDS_OPTION: ("5000", "4096", "1", "5000,5001", "x", "٥٠٠٠", "+5000", " 5000"),
}

configs = st.builds(
    IPAMConfig,
    subnet=st.sampled_from(SUBNETS),
    gateway=st.just("") | st.sampled_from(ADDRESSES),
    ip_range=st.just("") | st.sampled_from(RANGES),
    auxiliary_addresses=st.dictionaries(st.sampled_from("ab"), st.sampled_from(ADDRESSES), max_size=2),
)
options = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(values) for name, values in OPTIONS.items()}
)


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """Three times out of four the usual: most bodies should be wrong in one thing at the most."""
    return st.sampled_from((usual,) * 3 * len(others) + others)


bodies = st.builds(
    NetworkRequest,
    name=mostly("front", "a b", "host", "ingress", "none", ""),
    driver=mostly("overlay", "", "bridge", "macvlan", "host", "x"),
    scope=mostly("swarm", "", "local", "x"),
    enable_ipv6=st.booleans(),
    internal=st.booleans(),
    attachable=mostly(False, True),
    ingress=mostly(False, True),
    config_only=mostly(False, True),
    options=st.just({}) | options,
    ipam=st.none()
    | st.builds(
        network_plan.IPAM,
        driver=mostly("default", "", "x"),
        config=st.lists(configs, max_size=2).map(tuple),
    ),
)


def apply(store: Store, *changes: Any) -> None:
    batch = Batch(groups=(Group(owner=Owner.API, changes=changes),), at=Timestamp(1))
    applied = store.apply(codec.encode(batch), 1)
    assert not applied.refused, applied.refused


POOLS = {
    "10.1.0.0/24": (("10.1.0.0", "10.1.0.1", "10.1.0.77", "10.1.0.255"), ("10.1.0.0/25", "10.1.0.255/32")),
    "10.2.0.0/30": (("10.2.0.0", "10.2.0.1", "10.2.0.2", "10.2.0.3"), ("10.2.0.0/31", "10.2.0.1/32")),
    "fd00::/64": (("fd00::", "fd00::1", "fd00::ffff"), ("fd00::/120", "fd00::/128")),
}


def pool(subnet: str) -> st.SearchStrategy[IPAMConfig]:
    """All that it names is in it, sensible or not."""
    addresses, ranges = POOLS[subnet]
    return st.builds(
        IPAMConfig,
        subnet=st.just(subnet),
        gateway=st.just("") | st.sampled_from(addresses),
        ip_range=st.just("") | st.sampled_from(ranges),
        auxiliary_addresses=st.dictionaries(st.sampled_from("ab"), st.sampled_from(addresses)),
    )


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from(sorted(POOLS)), unique=True, min_size=1).flatmap(
        lambda names: st.tuples(*map(pool, names))
    )
)
def test_subnets_that_hold_what_they_name(config: tuple[IPAMConfig, ...]) -> None:
    check(NetworkRequest(name="front", enable_ipv6=True, ipam=network_plan.IPAM(config=config)))


@settings(max_examples=300)
@given(bodies)
def test_what_is_accepted_can_be_given_what_it_needs(wish: NetworkRequest) -> None:
    check(wish)


def check(wish: NetworkRequest) -> None:
    store = Store()
    apply(store, Create(object=Cluster(id=ClusterId("c"), default_address_pool=("10.0.0.0/8",))))
    try:
        changes = network_plan.create(store, wish, "n" * 25)
    except Rejected as error:
        event(f"refused with {error.http_status}")
        return
    apply(store, *changes)
    network = store.network(NetworkId("n" * 25))
    assert network is not None
    event("accepted, with subnets" if wish.ipam is not None and wish.ipam.config else "accepted")
    event("overlay" if network.spec.driver_configuration == Driver(name="overlay") else "other")
    if not network.spec.config_only:
        given_ = Pools(store, store.cluster()).allocate(network)
        assert given_.ipam_options is not None
    shown = inspected(store, network, node_id=NodeId(""), is_verbose=True)
    assert shown["Name"] == wish.name
    assert shown["Driver"] == ("null" if wish.config_only else wish.driver or "overlay"), (
        "as it was asked for"
    )
    wished = () if wish.ipam is None else wish.ipam.config
    assert [entry["Subnet"] for entry in shown["IPAM"]["Config"]] == [config.subnet for config in wished]
