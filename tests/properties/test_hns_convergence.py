"""Whatever HNS has, however damaged: carrying out the steps makes it what it should be, and a second look by
a daemon that knows nothing of the first finds nothing to do.
"""

from __future__ import annotations

import string
from typing import Any

from fake_hns import FakeHns
from hypothesis import given, settings
from hypothesis import strategies as st
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
from agent.dataplane.windows import diff, objects
from agent.dataplane.windows.inventory import Inventory
from agent.dataplane.windows.plan import Plan, choose_nat, make_plan
from agent.dataplane.windows.service import Service
from swarmpy.model.ids import NetworkId, NodeId, ServiceId, TaskId

SELF, OTHERS = NodeId("self"), tuple(NodeId(f"node{number}") for number in range(3))
PEERS = {
    SELF: Peer(node_id=SELF, addr="192.0.2.11", ingress_addresses=("10.0.0.2",)),
    **{
        node_id: Peer(
            node_id=node_id, addr=f"192.0.2.{20 + number}", ingress_addresses=(f"10.0.0.{3 + number}",)
        )
        for number, node_id in enumerate(OTHERS)
    },
}
VERSIONS = ((7, 2), (9, 3), (10, 4), (15, 5))


def config(number: int, *, vni: int) -> NetworkConfig:
    """Network 0 is the ingress network."""
    return NetworkConfig(
        id=NetworkId(f"n{number}"),
        name=f"net{number}",
        vni=vni,
        subnets=(Subnet(cidr=f"10.0.{number}.0/24", gateway=f"10.0.{number}.1"),),
        is_ingress=number == 0,
    )


@st.composite
def states(draw: st.DrawFn) -> NodeState:
    networks: dict[NetworkId, NetworkState] = {}
    endpoints: dict[TaskId, Endpoint] = {}
    configs = [config(number, vni=draw(st.sampled_from((4096, 5000))) + number) for number in range(3)]
    policies = st.sampled_from(
        (
            None,
            Policy(rate_out_bps=8_000_000),
            Policy(rules=(Rule(action="deny", direction="in", protocol="tcp", ports=("22",)),)),
            Policy(rules=(Rule(action="allow", direction="out", address="10.0.0.0/8"),), rate_out_bps=80),
        )
    )
    for number in range(draw(st.integers(0, 3))):
        on = draw(st.lists(st.integers(0, 2), unique=True, max_size=3))
        legs = tuple(
            Leg(
                network=configs[place],
                link=f"eth{place}",
                addresses=(f"10.0.{place}.{10 + number}/24",),
                policy=draw(policies),
            )
            for place in on
        )
        ports = (HostPort(protocol="tcp", published_port=8000 + number, target_port=80),)
        task_id = TaskId(f"t{number}")
        endpoints[task_id] = Endpoint(
            task_id=task_id, legs=legs, host_ports=ports if draw(st.booleans()) else ()
        )
    used = {leg.network.id for each in endpoints.values() for leg in each.legs} | {NetworkId("n0")}
    for place, each in enumerate(configs):
        if each.id not in used:
            continue
        remotes = {
            TaskId(f"r{place}{number}"): RemoteEndpoint(
                node_id=draw(st.sampled_from(OTHERS)),
                addresses=(f"10.0.{place}.{100 + draw(st.integers(0, 5))}",),
                mac=f"02:42:0A:00:0{place}:{number:02x}",
            )
            for number in range(draw(st.integers(0, 3)))
        }
        known = [one for remote in remotes.values() for one in remote.addresses]
        known += [f"10.0.{place}.{10 + number}" for number in range(3)]
        backends = st.lists(st.sampled_from(known), unique=True, max_size=3)
        balancers = {
            ServiceId(f"s{number}"): Balancer(
                vips=(f"10.0.{place}.{200 + number}",), backends=tuple(sorted(draw(backends)))
            )
            for number in range(draw(st.integers(0, 2)))
        }
        networks[each.id] = NetworkState(config=each, remotes=remotes, balancers=balancers)
    published = tuple(
        PublishedPort(
            protocol=protocol,
            published_port=30000 + number,
            target_port=80,
            backends=tuple(f"10.0.0.{100 + draw(st.integers(0, 5))}" for _ in range(2)),
            is_sticky=draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 2)))
        for protocol in draw(st.sampled_from((("tcp",), ("tcp", "udp"))))
    )
    return NodeState(node_id=SELF, peers=PEERS, networks=networks, published=published, endpoints=endpoints)


def look(hns: FakeHns, state: NodeState) -> tuple[Inventory, Plan, tuple[diff.Step, ...]]:
    """As a daemon that has just come up and was told the state."""
    service = Service(hns)
    inventory = Inventory(service)
    inventory.refresh()
    observed = inventory.observed()
    plan = make_plan(state, state.endpoints, service.features, nat_name=choose_nat(observed))
    steps = diff.diff(plan.desired, observed, can_update=service.features.has_balancer_update)
    return inventory, plan, steps


def converge(hns: FakeHns, state: NodeState) -> Plan:
    inventory, plan, steps = look(hns, state)
    for step in steps:
        inventory.carry_out(step)
    assert look(hns, state)[2] == ()
    return plan


DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(
            (
                *(
                    "lose endpoint",
                    "lose balancer",
                    "lose namespace",
                    "lose all",
                    "mac",
                    "provider",
                    "policies",
                ),
                *("twin", "stranger", "address thief", "backends", "vsid", "empty balancer", "members"),
            )
        ),
        st.integers(0, 1000),
    ),
    max_size=6,
)


def damage(hns: FakeHns, kind: str, pick: int) -> None:
    """What an outsider, or a crash, may have left. Straight into the tables: no rule is kept."""
    endpoints, balancers = sorted(hns.endpoints), sorted(hns.balancers)
    endpoint = hns.endpoints[endpoints[pick % len(endpoints)]] if endpoints else None
    balancer = hns.balancers[balancers[pick % len(balancers)]] if balancers else None
    match kind:
        case "lose balancer" if balancer is not None:
            del hns.balancers[balancer["id"]]
        case "lose namespace" if hns.namespaces:
            del hns.namespaces[sorted(hns.namespaces)[pick % len(hns.namespaces)]]
        case "lose all":
            for table in (hns.networks, hns.endpoints, hns.balancers, hns.namespaces):
                table.clear()
        case "backends" if balancer is not None:
            balancer["backends"] = balancer["backends"][pick % 2 : 1]
        case "empty balancer" if balancer is not None:
            balancer["backends"] = []
        case "vsid" if hns.networks:
            network = hns.networks[sorted(hns.networks)[pick % len(hns.networks)]]
            for subnet in network["subnets"]:
                subnet["vsid"] = 9000 + pick
        case "members" if hns.namespaces:
            hns.namespaces[sorted(hns.namespaces)[pick % len(hns.namespaces)]]["endpoints"] = []
        case _ if endpoint is not None:
            damage_endpoint(hns, kind, endpoint, pick)


def damage_endpoint(hns: FakeHns, kind: str, endpoint: dict[str, Any], pick: int) -> None:
    twin = {**endpoint, "id": f"ffffffff-0000-4000-8000-{len(hns.endpoints):08x}{pick % 65536:04x}"}
    match kind:
        case "lose endpoint":
            del hns.endpoints[str(endpoint["id"])]
            for namespace in hns.namespaces.values():
                namespace["endpoints"] = [each for each in namespace["endpoints"] if each != endpoint["id"]]
        case "mac":
            endpoint["mac"] = "00:15:5d:00:00:01"
        case "provider":
            endpoint["policies"] = [
                {"Type": "ProviderAddress", "Settings": {"ProviderAddress": "198.51.100.1"}}
            ]
        case "policies":
            endpoint["policies"] = []
        case "twin":
            hns.endpoints[twin["id"]] = {**twin, "ip": f"10.0.9.{pick % 250}", "policies": []}
        case "stranger":
            hns.endpoints[twin["id"]] = {**twin, "name": "web", "ip": f"10.0.9.{pick % 250}", "policies": []}
        case "address thief":
            del hns.endpoints[str(endpoint["id"])]
            for namespace in hns.namespaces.values():
                namespace["endpoints"] = [each for each in namespace["endpoints"] if each != endpoint["id"]]
            hns.endpoints[twin["id"]] = {**twin, "name": "thief", "policies": []}


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(VERSIONS), states(), DAMAGE, states())
def test_converges_from_any_damage(
    version: tuple[int, int], before: NodeState, damages: list[tuple[str, int]], after: NodeState
) -> None:
    hns = FakeHns(version=version)
    converge(hns, before)
    for kind, pick in damages:
        damage(hns, kind, pick)
    plan = converge(hns, after)
    there = {each["name"] for each in hns.endpoints.values() if objects.is_ours(each["name"])}
    assert there == {each.name for each in plan.desired.endpoints}
    assert len(hns.balancers) == len(plan.desired.balancers)
    assert {each["name"] for each in hns.networks.values()} == {each.name for each in plan.desired.networks}
    assert len(hns.namespaces) == len(plan.desired.namespaces)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(VERSIONS), states(), states())
def test_what_stays_is_not_touched(version: tuple[int, int], before: NodeState, after: NodeState) -> None:
    """An endpoint that should be as it is keeps its id: the task behind it keeps its connections."""
    hns = FakeHns(version=version)
    old = converge(hns, before).desired
    ids = {each["name"]: each["id"] for each in hns.endpoints.values()}
    new = converge(hns, after).desired
    kept_networks = {each.name for each in old.networks if each in new.networks}
    now = {each["name"]: each["id"] for each in hns.endpoints.values()}
    firm = {each.name: replace(each, acls=(), rate_out_bytes=0) for each in old.endpoints}
    for each in new.endpoints:
        same = firm.get(each.name) == replace(each, acls=(), rate_out_bytes=0)
        if same and each.network in kept_networks:
            assert now[each.name] == ids[each.name]


@settings(deadline=None, max_examples=60)
@given(states(), states())
def test_what_others_made_stays(before: NodeState, after: NodeState) -> None:
    hns = FakeHns()
    foreign = hns.call("POST", "/networks/", '{"Name": "corp", "Type": "transparent"}')
    converge(hns, before)
    converge(hns, after)
    converge(hns, NodeState())
    assert foreign
    assert [each["name"] for each in hns.networks.values()] == ["corp"]
    assert (hns.endpoints, hns.balancers, hns.namespaces) == ({}, {}, {})


@given(st.text(alphabet=string.hexdigits, min_size=12, max_size=12), st.sampled_from(("-", ":")))
def test_a_mac_is_the_same_however_it_is_spelled(digits: str, mark: str) -> None:
    pairs = [digits[place : place + 2] for place in range(0, 12, 2)]
    assert objects.plain_mac(mark.join(pairs)) == ":".join(pairs).lower()
