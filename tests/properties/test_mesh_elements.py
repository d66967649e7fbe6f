"""The mesh's maps follow any history of published ports, and say the same as if made from the last state."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.dataplane.base import Peer, PublishedPort, Subnet
from agent.dataplane.linux.elements import Element
from agent.dataplane.linux.mesh import host_rules, names, task_rules
from agent.dataplane.linux.mesh.host_rules import PlacedPort
from agent.dataplane.linux.mesh.task_rules import TaskLeg
from swarmpy.limits import MESH_STICKY_SLOTS
from swarmpy.model.ids import NodeId

ADDRESSES = tuple(f"10.0.0.{number}" for number in range(2, 40)) + tuple(f"fd00::{n:x}" for n in range(2, 9))
PLACES = ("", "", "192.0.2.1", "2001:db8::1", "eth0")

ports = st.builds(
    PublishedPort,
    protocol=st.sampled_from(("tcp", "udp", "sctp")),
    published_port=st.integers(8080, 8082),
    target_port=st.integers(80, 81),
    backends=st.lists(st.sampled_from(ADDRESSES), unique=True, max_size=30).map(tuple),
    is_source_nat=st.booleans(),
)


def apply(elements: dict[Element, bytes], removed: dict[Element, bytes], added: dict[Element, bytes]) -> None:
    """As the kernel does: what goes must be there, what comes must not."""
    for key in removed:
        del elements[key]
    for key, value in added.items():
        assert key not in elements
        elements[key] = value


@given(st.lists(st.tuples(ports, st.sampled_from(PLACES)), min_size=1, max_size=6))
def test_changes_lead_to_what_is_wished(history: list[tuple[PublishedPort, str]]) -> None:
    """One port, changed again and again; each change finds what the one before has left."""
    elements: dict[Element, bytes] = {}
    former: PlacedPort | None = None
    for port, where in history:
        placed = host_rules.place(port, where, former)
        if former is None:
            apply(elements, {}, host_rules.elements_of(placed))
        else:
            apply(elements, *host_rules.change_of(former, placed))
        assert elements == host_rules.elements_of(placed)
        assert host_rules.change_of(placed, host_rules.place(port, where, placed)) == ({}, {})
        assert {element.map for element in elements} <= set(host_rules.map_names())
        former = placed


@given(ports, st.sampled_from(PLACES))
def test_shares_differ_by_one_slot_at_most(port: PublishedPort, where: str) -> None:
    placed = host_rules.place(port, where, None)
    for version in (4, 6):
        wished = {each for each in port.backends if names.version_of(each) == version}
        shares = Counter(placed.slots[version])
        assert set(shares) == wished
        assert not shares or max(shares.values()) - min(shares.values()) <= 1


@given(st.lists(st.sampled_from(ADDRESSES), unique=True, min_size=2, max_size=12), st.data())
def test_clients_that_stick_move_only_if_their_task_goes(backends: list[str], data: st.DataObject) -> None:
    """And every node gives them the same, whatever it knew before."""
    port = PublishedPort(
        protocol="tcp", published_port=80, target_port=80, backends=tuple(backends), is_sticky=True
    )
    gone = data.draw(st.sampled_from(backends))
    before = host_rules.place(port, "", None)
    less = replace(port, backends=tuple(each for each in backends if each != gone))
    after = host_rules.place(less, "", before)
    assert after.slots == host_rules.place(less, "", None).slots
    for version in (4, 6):
        assert len(before.slots[version]) in (0, MESH_STICKY_SLOTS)
        for was, now in zip(before.slots[version], after.slots[version], strict=False):
            assert now == was or was == gone


def test_without_tasks_a_port_refuses() -> None:
    port = PublishedPort(protocol="udp", published_port=53, target_port=53)
    values = set(host_rules.elements_of(host_rules.place(port, "", None)).values())
    assert values == {host_rules.REFUSE.encode()}


# --- tasks


def peer(*addresses: str) -> Peer:
    return Peer(node_id=NodeId("n"), addr="192.0.2.1", ingress_addresses=addresses)


def test_marks_and_macs_of_nodes() -> None:
    peers = [peer("10.1.2.3", "fd00::9"), peer(), peer("fd00::1:203")]
    assert names.gateways(peers) == {"02:42:0a:01:02:03": 0x5A010203, "02:42:00:01:02:03": 0x5A010203}


@given(*(st.sets(st.integers(2, 9)) for _ in range(2)))
def test_gateways_are_followed(before: set[int], after: set[int]) -> None:
    former, wished = (names.gateways(peer(f"10.0.0.{each}") for each in found) for found in (before, after))
    text = task_rules.change(former, wished, has_egress=True)
    assert text.count("delete element") == 2 * len(before - after)
    assert text.count("add element") == 2 * len(after - before)
    assert "netdev" not in task_rules.change(former, wished, has_egress=False)


@pytest.mark.parametrize("address", ["10.0.0.9", "10.1.0.9"])
def test_ingress_addresses_get_their_prefix(address: str) -> None:
    subnets = (Subnet(cidr="10.0.0.0/24"), Subnet(cidr="fd00::/64"))
    found = [str(each) for each in names.with_prefix((address, "fd00::2"), subnets)]
    assert found == (["10.0.0.9/24"] if address == "10.0.0.9" else []) + ["fd00::2/64"]


def test_a_task_without_a_way_out_has_its_datagrams_left_alone() -> None:
    alone = task_rules.ruleset(TaskLeg("eth0", ("10.0.0.0/24",)), {}, has_egress=True)
    assert "dnat" not in alone
    assert "no_way_out" not in alone
    outward = TaskLeg("eth0", ("10.0.0.0/24", "fd00::/64"), "eth1", "172.31.0.2")
    both = task_rules.ruleset(outward, {}, has_egress=True)
    assert 'fib saddr oifname "eth1" dnat ip to 172.31.0.2' in both
    assert "ip6 daddr != { fd00::/64" in both
