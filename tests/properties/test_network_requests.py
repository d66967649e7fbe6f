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
from swarmpy.model.ids import ClusterId, NetworkId, NodeId, Timestamp
from swarmpy.model.network_rules import MTU_OPTION, VXLAN_IDS_OPTION
from swarmpy.model.objects import Cluster
from swarmpy.model.specs import Driver, IPAMConfig
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
    subnet=st.sampled_from(SUBNETS) | st.text(max_size=6),
    gateway=st.sampled_from(ADDRESSES) | st.text(max_size=6),
    ip_range=st.sampled_from(RANGES) | st.text(max_size=6),
    auxiliary_addresses=st.dictionaries(st.sampled_from("ab"), st.sampled_from(ADDRESSES), max_size=2),
)
options = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(values) for name, values in OPTIONS.items()}
)
bodies = st.builds(
    NetworkRequest,
    name=st.sampled_from(("front", "a b", "host", "ingress", "none", "")) | st.just("front"),
    driver=st.sampled_from(("", "overlay", "bridge", "macvlan", "host", "x")) | st.just("overlay"),
    scope=st.sampled_from(("", "swarm", "local", "x")) | st.just("swarm"),
    enable_ipv6=st.booleans(),
    internal=st.booleans(),
    attachable=st.booleans(),
    ingress=st.booleans(),
    config_only=st.booleans() | st.just(False),
    options=options,
    ipam=st.none()
    | st.builds(
        network_plan.IPAM,
        driver=st.sampled_from(("", "default", "x")) | st.just("default"),
        config=st.lists(configs, max_size=2).map(tuple),
    ),
)


def apply(store: Store, *changes: Any) -> None:
    batch = Batch(groups=(Group(owner=Owner.API, changes=changes),), at=Timestamp(1))
    applied = store.apply(codec.encode(batch), 1)
    assert not applied.refused, applied.refused


@settings(max_examples=500)
@given(bodies)
def test_what_is_accepted_can_be_given_what_it_needs(wish: NetworkRequest) -> None:
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
