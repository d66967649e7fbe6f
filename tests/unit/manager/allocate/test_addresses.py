"""Addresses in a network: which one comes next, static ones, and what a full network says."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from msgspec.structs import replace
from world import make_network, make_node

from manager.allocate import spaces
from manager.allocate.addresses import Addresses, NoAddress
from manager.allocate.pools import Pools
from manager.store.networking import Place
from manager.store.tables import Tables
from swarmpy.model.cluster_specs import IPAMConfig, IPAMOptions
from swarmpy.model.ids import NodeId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import (
    Endpoint,
    Kind,
    Network,
    NetworkAttachment,
    Service,
    Task,
    TaskStatus,
    VirtualIP,
)
from swarmpy.model.specs import Driver, NetworkAttachmentConfig
from swarmpy.model.states import TaskState

SMALL = IPAMConfig(subnet="10.1.2.0/29")
"""Five addresses, .2 to .6, behind the gateway."""


class Room:
    """One network, and tasks that come and go in it."""

    def __init__(self, *configs: IPAMConfig, **fields: Any) -> None:
        self.tables = Tables()
        self.addresses = Addresses()
        self.network = Pools(self.tables, None).allocate(make_network("net", *configs, **fields))
        self.tables.put(Kind.NETWORK, self.network)
        self.tasks: dict[str, Task] = {}
        self.numbers = itertools.count(1)

    def add(self, **options: str) -> list[str]:
        """A task's addresses, without prefix."""
        place = Place(self.network, NetworkAttachmentConfig(target="net", driver_opts=options))
        return self.take(*self.addresses.claims(self.tables).attachments((place,)))

    def take(self, *attachments: NetworkAttachment) -> list[str]:
        number = next(self.numbers)
        task = Task(
            id=TaskId(f"t{number}"),
            created_at=Timestamp(number),
            networks=attachments,
            status=TaskStatus(state=TaskState.ASSIGNED),
        )
        self.tables.put(Kind.TASK, task)
        found = [address.partition("/")[0] for each in attachments for address in each.addresses]
        for address in found:
            self.tasks[address] = task
        return found

    def end(self, address: str) -> None:
        old = self.tasks.pop(address)
        new = replace(old, status=TaskStatus(state=TaskState.SHUTDOWN))
        self.tables.put(Kind.TASK, new)
        self.addresses.note_released(old, new)

    def refusal(self, **options: str) -> str:
        with pytest.raises(NoAddress) as caught:
            self.add(**options)
        return str(caught.value)


def last_bytes(addresses: list[list[str]]) -> list[int]:
    return [int(each[0].rpartition(".")[2]) for each in addresses]


def test_they_come_in_turn_behind_the_gateway() -> None:
    room = Room(SMALL)
    assert last_bytes([room.add() for _ in range(5)]) == [2, 3, 4, 5, 6]
    assert room.refusal() == (
        "could not find an available IP on network net-net: all 5 addresses of 10.1.2.0/29 are in use"
    )


def test_prefix_and_derived_mac() -> None:
    room = Room(SMALL)
    (given,) = room.addresses.claims(room.tables).attachments((Place(room.network),))
    assert given.addresses == ("10.1.2.2/29",)
    assert given.mac == ""


def test_what_was_released_comes_last_and_in_that_order() -> None:
    room = Room(SMALL)
    for _ in range(3):
        room.add()
    room.end("10.1.2.3")
    room.end("10.1.2.2")
    assert last_bytes([room.add() for _ in range(4)]) == [5, 6, 3, 2]
    room.end("10.1.2.6")
    room.end("10.1.2.4")
    assert last_bytes([room.add() for _ in range(2)]) == [6, 4]


def test_a_new_leader_goes_on_after_the_youngest() -> None:
    room = Room(SMALL)
    for _ in range(4):
        room.add()
    room.end("10.1.2.2")
    room.end("10.1.2.4")
    room.addresses = Addresses()
    assert last_bytes([room.add() for _ in range(3)]) == [6, 2, 4]


def test_a_new_leader_hears_of_releases_before_it_looks() -> None:
    room = Room(SMALL)
    room.add()
    room.add()
    room.addresses = Addresses()
    room.end("10.1.2.3")
    room.end("10.1.2.2")
    assert last_bytes([room.add() for _ in range(5)]) == [4, 5, 6, 3, 2]


def test_claims_of_one_plan_are_apart_and_what_fails_leaves_nothing() -> None:
    room, other = Room(SMALL), Room(IPAMConfig(subnet="10.7.0.0/30"))
    second = replace(other.network, id="other")
    room.tables.put(Kind.NETWORK, second)
    claims = room.addresses.claims(room.tables)
    both = (Place(room.network), Place(second))
    first = claims.attachments(both)
    assert [each.addresses[0] for each in first] == ["10.1.2.2/29", "10.7.0.2/30"]
    for _ in range(10):
        with pytest.raises(NoAddress):
            claims.attachments(both)
    alone = [claims.attachments((Place(room.network),))[0].addresses[0] for _ in range(4)]
    assert len({*alone, "10.1.2.2/29"}) == 5


def test_a_failed_proposal_costs_nothing() -> None:
    """What was claimed and never stored is found again, also in a network without any other address."""
    room = Room(SMALL)
    for _ in range(4):
        room.add()
    for _ in range(20):
        (given,) = room.addresses.claims(room.tables).attachments((Place(room.network),))
        assert given.addresses == ("10.1.2.6/29",)


def test_virtual_addresses_and_nodes_hold_theirs() -> None:
    room = Room(SMALL)
    virtual = (VirtualIP(network_id=room.network.id, addr="10.1.2.2/29"),)
    service = Service(id=ServiceId("s"), endpoint=Endpoint(virtual_ips=virtual))
    room.tables.put(Kind.SERVICE, service)
    place = NetworkAttachment(network_id=room.network.id, addresses=("10.1.2.3/29",))
    node = make_node("n", attachments=(place,))
    room.tables.put(Kind.NODE, node)
    assert last_bytes([room.add() for _ in range(3)]) == [4, 5, 6]
    assert "all 5 addresses" in room.refusal()
    room.tables.remove(Kind.SERVICE, "s")
    room.addresses.note_released(service, None)
    room.tables.remove(Kind.NODE, NodeId("n"))
    room.addresses.note_released(node, None)
    assert last_bytes([room.add() for _ in range(2)]) == [2, 3]


def test_the_range_is_for_automatic_choices_alone() -> None:
    room = Room(IPAMConfig(subnet="10.1.2.0/24", ip_range="10.1.2.128/31"))
    assert room.add(ipv4_address="10.1.2.7") == ["10.1.2.7"]
    assert last_bytes([room.add() for _ in range(2)]) == [128, 129]
    assert "could not find an available IP" in room.refusal()
    room.addresses = Addresses()
    assert "could not find an available IP" in room.refusal()


def test_a_static_address_outside_of_the_range_does_not_fill_it() -> None:
    room = Room(IPAMConfig(subnet="10.1.2.0/24", ip_range="10.1.2.128/31"))
    for address in ("10.1.2.7", "10.1.2.8", "10.1.2.9"):
        room.add(ipv4_address=address)
    room.addresses = Addresses()
    assert last_bytes([room.add() for _ in range(2)]) == [128, 129]


def test_of_several_subnets_the_next_follows() -> None:
    room = Room(IPAMConfig(subnet="10.1.2.0/30"), IPAMConfig(subnet="10.1.3.0/30"))
    assert [room.add() for _ in range(2)] == [["10.1.2.2"], ["10.1.3.2"]]
    assert "all 2 addresses of 10.1.2.0/30, 10.1.3.0/30" in room.refusal()


def test_static_addresses() -> None:
    room = Room(SMALL)
    assert room.add(ipv4_address="10.1.2.5") == ["10.1.2.5"]
    assert room.refusal(ipv4_address="10.1.2.5") == (
        "could not find an available IP on network net-net: 10.1.2.5 is in use"
    )
    assert room.add(ipv4_address="10.1.2.5, 10.1.2.3") == ["10.1.2.3"]
    assert room.refusal(ipv4_address="10.1.2.5,10.1.2.3").endswith("10.1.2.5, 10.1.2.3 are in use")
    assert last_bytes([room.add() for _ in range(3)]) == [2, 4, 6]


@pytest.mark.parametrize(
    "address", ["10.1.2.0", "10.1.2.1", "10.1.2.7", "10.1.3.2", "fd00::5", "10.1.2.4"], ids=str
)
def test_static_addresses_that_nobody_may_have(address: str) -> None:
    room = Room(replace(SMALL, auxiliary_addresses={"router": "10.1.2.4"}))
    assert f"requested address {address} is out of range" in room.refusal(ipv4_address=address)


def test_a_static_address_that_is_none() -> None:
    assert "invalid IP address: here" in Room(SMALL).refusal(ipv4_address="here")


def test_static_macs() -> None:
    room = Room(SMALL)
    claims = room.addresses.claims(room.tables)
    wish = NetworkAttachmentConfig(target="net", driver_opts={"mac_address": "02-AA-00-00-00-01"})
    (given,) = claims.attachments((Place(room.network, wish),))
    assert given.mac == "02:aa:00:00:00:01"
    room.take(given)
    assert room.refusal(mac_address="02:aa:00:00:00:01") == (
        "MAC address 02:aa:00:00:00:01 is in use on network net-net"
    )
    room.add(mac_address="02:aa:00:00:00:01,02:aa:00:00:00:02")
    for bad in ("02:aa", "03:aa:00:00:00:01", "00:00:00:00:00:00", "nothing"):
        assert "invalid MAC address" in room.refusal(mac_address=bad)


def test_a_mac_that_another_address_leads_to_holds_that_address() -> None:
    room = Room(SMALL)
    room.add(mac_address="02:42:0a:01:02:03")  # has .2, and the MAC of .3
    assert last_bytes([room.add() for _ in range(3)]) == [4, 5, 6]
    assert "in use" in room.refusal(ipv4_address="10.1.2.3")
    assert "in use" in room.refusal(mac_address="02:42:0a:01:02:05")
    own = room.addresses.claims(Tables())
    wish = NetworkAttachmentConfig(
        target="net", driver_opts={"ipv4_address": "10.1.2.3", "mac_address": "02:42:0a:01:02:03"}
    )
    assert own.attachments((Place(room.network, wish),))[0].addresses == ("10.1.2.3/29",)


def test_both_families_or_none() -> None:
    room = Room(SMALL, IPAMConfig(subnet="fd00::/126"), ipv6_enabled=True)
    assert room.add() == ["10.1.2.2", "fd00::2"]
    assert room.add(ipv6_address="fd00::3") == ["10.1.2.3", "fd00::3"]
    assert "all 2 addresses of fd00::/126 are in use" in room.refusal()
    assert len(room.tables.tasks_of_network(room.network.id)) == 2


def test_networks_that_ask_the_lan_have_no_addresses_of_ours() -> None:
    room = Room(SMALL)
    lan = make_network("br", driver="macvlan")
    asking = IPAMOptions(driver=Driver(name="dhcp"))
    bridge = replace(lan, id="br", spec=replace(lan.spec, ipam_options=asking))
    wish = NetworkAttachmentConfig(target="br", aliases=("db",))
    (given,) = room.addresses.claims(room.tables).attachments((Place(bridge, wish),))
    assert given == NetworkAttachment(network_id=bridge.id, aliases=("db",))


def test_a_network_without_a_subnet_says_why() -> None:
    room = Room(SMALL)
    waiting = make_network("late")
    assert reason_for(room, waiting) == "network late-net has no subnet yet"
    wrong = make_network("wrong", IPAMConfig(subnet="nonsense"))
    assert reason_for(room, wrong).startswith("network wrong-net has no subnet: invalid subnet nonsense")


def reason_for(room: Room, network: Network) -> str:
    with pytest.raises(NoAddress) as caught:
        room.addresses.claims(room.tables).attachments((Place(network),))
    return str(caught.value)


def test_a_full_network_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(SMALL)
    for _ in range(5):
        room.add()
    looks: list[str] = []
    monkeypatch.setattr(Tables, "holders_of", lambda self, network_id, address: looks.append(address))
    assert "could not find" in room.refusal()
    assert looks == []


def test_only_so_many_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces, "ADDRESSES_RESTING_MAX", 2)
    room = Room(SMALL)
    for _ in range(5):
        room.add()
    for last in (4, 2, 6, 3, 5):
        room.end(f"10.1.2.{last}")
    assert sorted(last_bytes([room.add() for _ in range(5)])) == [2, 3, 4, 5, 6]
