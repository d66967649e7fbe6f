"""What a Windows node is to have, what it cannot have, by the version of HNS; and what HNS's errors mean."""

from __future__ import annotations

import pytest
from fake_hns import FakeHns
from msgspec.structs import replace

from agent.dataplane.base import (
    Balancer,
    Endpoint,
    HostPort,
    Leg,
    NetworkConfig,
    NetworkState,
    NodeState,
    Peer,
    Policy,
    PublishedPort,
    RemoteEndpoint,
    Rule,
    Subnet,
)
from agent.dataplane.windows import errors, refusals
from agent.dataplane.windows.features import HnsVersion, features_of, lacking
from agent.dataplane.windows.objects import PortPair
from agent.dataplane.windows.plan import access_list, make_plan, without
from agent.dataplane.windows.service import read_version
from swarmpy.errors import Unavailable
from swarmpy.model.ids import NetworkId, NodeId, ServiceId, TaskId

ME, OTHER = NodeId("me"), NodeId("other")
NEW = features_of(HnsVersion(major=13))
OLD = features_of(HnsVersion())
BLUE = NetworkConfig(
    id=NetworkId("blue"), name="blue", vni=4100, subnets=(Subnet(cidr="10.0.1.0/24", gateway="10.0.1.1"),)
)
INGRESS = replace(
    BLUE,
    id=NetworkId("ingress"),
    name="ingress",
    vni=4099,
    subnets=(Subnet(cidr="10.0.0.0/24", gateway="10.0.0.1"),),
    is_ingress=True,
)
TASK = Endpoint(task_id=TaskId("t1"), legs=(Leg(network=BLUE, link="eth0", addresses=("10.0.1.5/24",)),))
STATE = NodeState(
    node_id=ME,
    peers={
        ME: Peer(node_id=ME, addr="192.0.2.11", ingress_addresses=("10.0.0.2",)),
        OTHER: Peer(node_id=OTHER, addr="192.0.2.12", ingress_addresses=("10.0.0.3",)),
    },
    networks={
        BLUE.id: NetworkState(
            config=BLUE,
            remotes={
                TaskId("r1"): RemoteEndpoint(node_id=OTHER, addresses=("10.0.1.6",), mac="02:42:0A:00:01:06"),
                TaskId("r2"): RemoteEndpoint(node_id=NodeId("unknown"), addresses=("10.0.1.7",), mac=""),
            },
            balancers={ServiceId("s1"): Balancer(vips=("10.0.1.2",), backends=("10.0.1.5", "10.0.1.6"))},
        ),
        INGRESS.id: NetworkState(
            config=INGRESS,
            remotes={
                TaskId("r3"): RemoteEndpoint(node_id=OTHER, addresses=("10.0.0.9",), mac="02:42:0a:00:00:09")
            },
        ),
    },
    published=(
        PublishedPort(protocol="tcp", published_port=8080, target_port=80, backends=("10.0.0.9",)),
        PublishedPort(protocol="udp", published_port=8080, target_port=80, backends=("10.0.0.9",)),
        PublishedPort(protocol="sctp", published_port=9000, target_port=9000, backends=("10.0.0.9",)),
    ),
    endpoints={TASK.task_id: TASK},
)


def test_all_objects_of_a_node() -> None:
    plan = make_plan(STATE, STATE.endpoints, NEW)
    assert [each.name for each in plan.desired.networks] == ["sw-net.blue", "sw-net.ingress"]
    assert [each.name for each in plan.desired.endpoints] == [
        *("sw-task.t1.blue", "sw-peer.r1.blue", "sw-source.ingress", "sw-peer.r3.ingress"),
    ]
    own, remote = plan.desired.endpoints[:2]
    assert (own.address, own.prefix_length, own.gateway) == ("10.0.1.5", 24, "10.0.1.1")
    assert (own.mac, own.has_outbound_nat, own.is_remote) == ("02:42:0a:00:01:05", True, False)
    assert (remote.provider_address, remote.mac) == ("192.0.2.12", "02:42:0a:00:01:06")
    vip, port = plan.desired.balancers
    assert (vip.vips, vip.backends, vip.source) == (
        ("10.0.1.2",),
        ("sw-peer.r1.blue", "sw-task.t1.blue"),
        "10.0.1.5",
    )
    assert vip.is_internal
    assert vip.is_all_ports
    assert port.source == "10.0.0.2"
    assert port.mappings == tuple(
        PortPair(protocol=number, internal_port=80, external_port=8080) for number in (6, 17)
    )
    assert plan.notes == ("published port 9000/sctp is not served on this node",)
    assert plan.desired.namespaces == {TASK.task_id: ("sw-task.t1.blue",)}


def test_an_old_hns_has_a_second_way_out_and_no_mesh() -> None:
    plan = make_plan(STATE, STATE.endpoints, OLD)
    assert [each.name for each in plan.desired.networks] == ["sw-net.blue", "sw-nat"]
    assert [each.name for each in plan.desired.endpoints[:2]] == ["sw-task.t1.blue", "sw-task.t1.nat"]
    assert not plan.desired.endpoints[0].has_outbound_nat
    assert plan.desired.balancers == ()
    assert plan.notes == ("service s1 on network blue: its virtual address is not served here",)


def test_ports_in_host_mode_are_on_the_way_out() -> None:
    port = HostPort(protocol="udp", published_port=53, target_port=5353)
    task = replace(TASK, host_ports=(port,))
    new = make_plan(STATE, {task.task_id: task}, NEW).desired.endpoints[0]
    old = make_plan(STATE, {task.task_id: task}, OLD).desired.endpoints[:2]
    assert [(each.protocol, each.internal_port, each.external_port) for each in new.ports] == [(17, 5353, 53)]
    assert (old[0].ports, old[1].ports) == ((), new.ports)


def test_another_nat_network_of_the_node_is_used_as_it_is() -> None:
    bare = Endpoint(task_id=TaskId("t2"))
    plan = make_plan(NodeState(), {bare.task_id: bare}, NEW, nat_name="nat")
    assert plan.desired.networks == ()
    assert plan.desired.endpoints[0].network == "nat"


def test_who_is_gone_is_behind_nothing() -> None:
    left = without(
        STATE, {BLUE.id: ("10.0.1.6",), INGRESS.id: ("10.0.0.9",), NetworkId("other"): ("10.0.1.5",)}
    )
    plan = make_plan(left, STATE.endpoints, NEW)
    assert [each.name for each in plan.desired.endpoints] == ["sw-task.t1.blue", "sw-source.ingress"]
    (vip,) = plan.desired.balancers
    assert vip.backends == ("sw-task.t1.blue",)


def test_access_lists_end_with_what_passes() -> None:
    rules = (
        Rule(action="deny", direction="in", address="10.0.9.0/24", protocol="tcp", ports=("22", "80-90")),
        Rule(action="allow", direction="out", protocol="icmp"),
    )
    first, second, *ends = access_list(Policy(rules=rules))
    assert (first.action, first.direction, first.protocol) == ("Block", "In", 6)
    assert (first.remote_addresses, first.local_ports, first.remote_ports) == ("10.0.9.0/24", "22,80-90", "")
    assert (second.action, second.direction, second.protocol) == ("Allow", "Out", 1)
    assert [(each.action, each.direction) for each in ends] == [("Allow", "In"), ("Allow", "Out")]
    priorities = [each.priority for each in (first, second, ends[0])]
    assert priorities == sorted(priorities)
    assert access_list(Policy(rate_out_bps=1)) == ()


# --- what cannot be


def on(**changes: object) -> Endpoint:
    return replace(TASK, legs=(replace(TASK.legs[0], network=replace(BLUE, **changes)),))


def under(policy: Policy) -> Endpoint:
    return replace(TASK, legs=(replace(TASK.legs[0], policy=policy),))


def publishing(protocol: str, host_ip: str = "") -> Endpoint:
    port = HostPort(protocol=protocol, published_port=80, target_port=80, host_ip=host_ip)
    return replace(TASK, host_ports=(port,))


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        (on(is_encrypted=True), "blue is encrypted"),
        (on(is_internal=True), "blue is internal"),
        (on(subnets=(Subnet(cidr="fd00::/64"),)), "IPv4 only"),
        (on(driver="ipvlan"), "no network driver 'ipvlan'"),
        (on(vni=100), "VNI 100"),
        (replace(TASK, mode="host"), "node's own network"),
        (replace(TASK, mode="other"), "no network mode"),
        (publishing("sctp"), "TCP and UDP"),
        (publishing("tcp", "eth0"), "not to 'eth0'"),
        (under(Policy(rate_in_bps=1)), "what a task receives"),
        (under(Policy(rules=(Rule(action="deny", direction="in", protocol="gre"),))), "'gre'"),
        (under(Policy(rules=(Rule(action="deny", direction="in", address="fd00::/8"),))), "fd00::/8"),
        (replace(TASK, task_id=TaskId("../x")), "no task id"),
    ],
)
def test_refused_with_a_sentence(endpoint: Endpoint, said: str) -> None:
    assert said in refusals.refusal(endpoint, NEW)


@pytest.mark.parametrize(
    "endpoint", [TASK, publishing("tcp"), publishing("udp", "192.0.2.11"), under(Policy(rate_out_bps=1))]
)
def test_accepted(endpoint: Endpoint) -> None:
    assert refusals.refusal(endpoint, NEW) == ""


def test_refused_by_an_old_hns_only() -> None:
    assert "data path port is 4790" in refusals.refusal(TASK, OLD, data_path_port=4790)
    assert refusals.refusal(TASK, OLD, data_path_port=4789) == ""
    assert refusals.refusal(TASK, NEW, data_path_port=4790) == ""
    assert "HNS 9.2" in refusals.refusal(publishing("tcp", "192.0.2.11"), OLD)
    deny = under(Policy(rules=(Rule(action="deny", direction="in"),)))
    assert "HNS 7.2" in refusals.refusal(deny, OLD)


# --- by version


@pytest.mark.parametrize(
    ("version", "has"),
    [
        ((0, 0), ""),
        ((7, 2), "balancers acls"),
        ((9, 2), "balancers acls v2"),
        ((9, 3), "balancers acls v2 dsr"),
        ((10, 1), "balancers acls v2"),
        ((10, 2), "balancers acls v2 dsr"),
        ((10, 3), "balancers acls v2 dsr vxlan_port"),
        ((12, 0), "balancers acls v2 dsr vxlan_port affinity"),
        ((15, 0), "balancers acls v2 dsr vxlan_port affinity network_acl"),
        ((15, 4), "balancers acls v2 dsr vxlan_port affinity network_acl balancer_update"),
    ],
)
def test_features_by_version(version: tuple[int, int], has: str) -> None:
    features = features_of(HnsVersion(major=version[0], minor=version[1]))
    names = ("balancers", "acls", "v2", "dsr", "vxlan_port", "affinity", "network_acl", "balancer_update")
    assert " ".join(name for name in names if getattr(features, f"has_{name}")) == has


def test_what_lacks_is_said() -> None:
    assert len(lacking(OLD)) == len(lacking(NEW)) + 4
    assert all(sentence.startswith("Windows: ") for sentence in lacking(OLD))


def test_the_version_is_asked_for() -> None:
    assert read_version(FakeHns(version=(9, 3))).pair == (9, 3)
    assert read_version(FakeHns(version=(0, 0))).pair == (0, 0)

    def down(verb: str, subject: str) -> None:
        raise Unavailable("the service is down")

    with pytest.raises(Unavailable, match="down"):  # else it would be taken for an old one
        read_version(FakeHns(script=down))


# --- errors


@pytest.mark.parametrize(
    ("code", "is_rejected", "said"),
    [
        (0x803B0013 - (1 << 32), False, "the port is in use"),
        (2151350319, True, "keeps the address"),
        (errors.ADAPTER_NOT_FOUND, True, "network adapter"),
        (errors.NETWORK_EXISTS, False, "same name or VNI"),
        (errors.ACCESS_DENIED, False, "administrator"),
        (errors.VFP_MISSING, True, "Containers feature"),
        (0x803B0FFF, False, "event log"),
    ],
)
def test_errors_say_what_to_do(code: int, is_rejected: bool, said: str) -> None:
    error = errors.failure(code, "its own words. ", doing="POST /endpoints/")
    assert isinstance(error, errors.HnsRejected) is is_rejected
    assert said in str(error)
    assert "its own words." in str(error)
    assert "POST /endpoints/" in str(error)


def test_gone_is_as_good_as_removed() -> None:
    assert errors.is_gone(errors.failure(errors.ENDPOINT_NOT_FOUND, ""))
    assert not errors.is_gone(errors.failure(errors.STILL_REFERENCED, ""))
    assert not errors.is_gone(Unavailable("anything"))
