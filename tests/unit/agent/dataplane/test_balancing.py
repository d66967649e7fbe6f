"""Virtual addresses lead to backends, by real packets: spread, refused, stuck to, and left alone.

Each test has a network of its own; see ``vip_rig``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from net_hosts import ask, command_in, fresh_namespace, socket_in
from vip_rig import (
    CLIENT,
    NET,
    PORT,
    VIP,
    VIP6,
    VipRig,
    backend_addresses,
    endpoint,
    network_state,
    serving,
    vip_rig,
    web,
)

from agent.dataplane.base import Balancer, Endpoint, NodeState
from agent.dataplane.linux.balancing import rules, table
from agent.dataplane.linux.balancing.part import Balancing
from agent.dataplane.linux.balancing.wire import NETFILTER, Wire
from agent.dataplane.linux.elements import Element
from agent.dataplane.linux.nftables import NftError
from agent.dataplane.linux.spaces import NamespaceSpace
from swarmpy.errors import Unavailable
from swarmpy.limits import VIP_TCP_IDLE_S, VIP_UDP_IDLE_S
from swarmpy.model.ids import NetworkId, ServiceId, TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.fixture
def rig() -> Iterator[VipRig]:
    with vip_rig() as rig:
        yield rig


def who(rig: VipRig, vip: str = VIP, kind: int = TCP) -> str:
    """The backend that answers one new connection."""
    return ask(rig.client.path, vip, PORT, kind=kind).answer.decode().split()[0]


def elements(rig: VipRig) -> dict[Element, bytes]:
    with rig.space.inside(), Wire(NETFILTER) as wire:
        found = table.read(wire, rules.maps_of((4, 6)))
    assert found is not None
    return found


@pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("vip", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_connections_are_spread_over_all_backends(rig: VipRig, vip: str, kind: int) -> None:
    backends = backend_addresses(3)
    with serving(rig.far.path, backends, kind):
        rig.tell(web(backends))
        rig.attach()
        seen = Counter(who(rig, vip, kind) for _ in range(60))
    assert set(seen) == {each for each in backends if (":" in each) == (":" in vip)}


def test_a_virtual_address_answers_echo_requests(rig: VipRig) -> None:
    backends = backend_addresses(2)
    with serving(rig.far.path, backends):
        rig.tell(web(backends))
        rig.attach()
        for vip in (VIP, VIP6):
            assert f"bytes from {vip}" in command_in(rig.client.path, "ping", "-c1", "-W5", vip)


def test_backends_see_the_clients_own_address(rig: VipRig) -> None:
    rig.tell(web(["192.0.2.2"]))
    rig.attach()
    with socket_in(rig.far.path) as server:
        server.bind(("192.0.2.2", PORT))
        server.listen()
        with socket_in(rig.client.path) as client:
            client.connect((VIP, PORT))
            _, peer = server.accept()
            assert peer == (rig.client.address, client.getsockname()[1])
            assert client.getpeername() == (VIP, PORT)


def test_a_backend_that_goes_keeps_what_is_open_and_gets_nothing_new(rig: VipRig) -> None:
    one, two, *_ = backend_addresses(2)
    with serving(rig.far.path, (one, two), TCP):
        rig.attach()
        rig.tell(web([one]))
        with socket_in(rig.client.path) as client:
            client.connect((VIP, PORT))
            for backends in ([one, two], [two], [], [two]):
                rig.tell(web(backends))
                client.sendall(b"still there")
                assert client.recv(100) == f"{one} still there".encode()
            assert {who(rig) for _ in range(20)} == {two}


@pytest.mark.parametrize("vip", [VIP, VIP6], ids=["ipv4", "ipv6"])
def test_a_service_without_backends_refuses_at_once(rig: VipRig, vip: str) -> None:
    rig.tell(web([]))
    rig.attach()
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        ask(rig.client.path, vip, PORT, timeout_s=30)
    with pytest.raises((ConnectionRefusedError, PermissionError)):
        ask(rig.client.path, vip, PORT, kind=UDP, timeout_s=30)
    assert time.monotonic() - began < 10, "no waiting for a timeout, of the client or of the network"
    with pytest.raises(AssertionError):
        command_in(rig.client.path, "ping", "-c1", "-W30", vip)


def test_one_version_without_backends_refuses_and_the_other_leads_on(rig: VipRig) -> None:
    with serving(rig.far.path, ["192.0.2.11"], TCP):
        rig.tell(web(["192.0.2.11"]))
        rig.attach()
        assert who(rig) == "192.0.2.11"
        with pytest.raises(ConnectionRefusedError):
            ask(rig.client.path, VIP6, PORT)


def test_a_client_that_is_a_backend_reaches_itself(rig: VipRig) -> None:
    with serving(rig.client.path, ["192.0.2.11", "2001:db8::11"], TCP, UDP):
        rig.tell(web(["192.0.2.11", "2001:db8::11"]))
        rig.attach("192.0.2.11/24", "2001:db8::11/64")
        for kind in (TCP, UDP):
            assert who(rig, VIP, kind) == "192.0.2.11"
            assert who(rig, VIP6, kind) == "2001:db8::11"


# --- clients that stick


def test_a_sticky_service_has_one_backend_for_a_client_while_it_stands(rig: VipRig) -> None:
    backends = backend_addresses(6)
    with serving(rig.far.path, backends, TCP, UDP):
        rig.tell(web(backends[:3], is_sticky=True))
        rig.attach()
        own = {who(rig, kind=kind) for kind in (TCP, UDP) for _ in range(10)}
        assert len(own) == 1
        rig.tell(web(backends, is_sticky=True))
        assert {who(rig) for _ in range(10)} == own, "others came"
        rig.restart()
        assert {who(rig) for _ in range(10)} == own, "the daemon was restarted"
        left = [each for each in backends if each not in own]
        rig.tell(web(left, is_sticky=True))
        other = {who(rig) for _ in range(10)}
        assert len(other) == 1
        assert other <= set(left)
        rig.tell(web([], is_sticky=True))
        with pytest.raises(ConnectionRefusedError):
            who(rig)
        rig.tell(web(left[:2]))
        assert len({who(rig) for _ in range(40)}) == 2, "it is not sticky any more"
        rig.tell()
        assert elements(rig) == {}


def test_clients_of_a_sticky_service_have_different_backends() -> None:
    part = Balancing()
    backends = [f"10.1.0.{number}" for number in range(1, 9)]
    chosen = set()
    with fresh_namespace() as path:
        space = NamespaceSpace(path)
        part.start_up(NamespaceSpace())
        part.apply(NodeState(networks={NET: network_state(web(backends, is_sticky=True))}))
        for number in range(20):
            part.attach(endpoint(CLIENT, f"192.0.2.{number}/24"), space)
            listed = space.nft.run(f"list map inet {rules.TABLE} ip_slots")
            chosen.add(next(each for each in backends if f": {each} " in listed))
            part.detach(CLIENT)
            space.nft.run(rules.DELETION)
        part.shut_down()
        space.close()
    assert len(chosen) > 3


# --- what is in the kernel


def test_idle_connections_live_long(rig: VipRig) -> None:
    rig.space.set("netfilter/nf_conntrack_udp_timeout_stream", "120")
    rig.attach()

    def setting(name: str) -> int:
        return int(command_in(rig.client.path, "cat", f"/proc/sys/net/netfilter/nf_conntrack_{name}"))

    assert setting("tcp_timeout_established") >= VIP_TCP_IDLE_S >= 5 * 24 * 3600
    assert setting("udp_timeout_stream") >= VIP_UDP_IDLE_S
    assert setting("tcp_be_liberal") == 1


@pytest.mark.parametrize(
    "addresses",
    [("192.0.2.1/24",), ("2001:db8::1/64",), ("192.0.2.1/24", "2001:db8::1/64")],
    ids=["ipv4", "ipv6", "both"],
)
def test_the_table_is_what_nft_makes_of_the_rules(rig: VipRig, addresses: tuple[str, ...]) -> None:
    rig.attach(*addresses)
    with fresh_namespace() as path, contextlib.closing(NamespaceSpace(path)) as space:
        space.nft.run(rules.ruleset(rules.versions_of(addresses)))
        assert rig.nft("list ruleset") == space.nft.run("list ruleset")


def test_a_restart_takes_over_what_stands(rig: VipRig) -> None:
    backends = backend_addresses(12)
    with serving(rig.far.path, backends[:1], TCP):
        rig.attach()
        rig.tell(web(backends))
        rig.tell(web(backends[3:]))
        rig.tell(web([backends[0], *backends[5:]]))
        former, handles = elements(rig), command_in(rig.client.path, "nft", "-a", "list", "ruleset")
        rig.restart()
        assert elements(rig) == former, "slots stay where they are"
        assert command_in(rig.client.path, "nft", "-a", "list", "ruleset") == handles, "nothing was reloaded"


DAMAGES = {
    "all gone": "flush ruleset",
    "an element": f"delete element inet {rules.TABLE} ip_vips {{ {VIP} }}",
    "a stray element": f"add element inet {rules.TABLE} ip_vips {{ 192.0.2.200 : goto refuse }}",
    "a wrong verdict": f"delete element inet {rules.TABLE} ip_vips {{ {VIP} }}\n"
    f"add element inet {rules.TABLE} ip_vips {{ {VIP} : jump ip_1 }}",
    "a wrong backend": f"flush map inet {rules.TABLE} ip_slots\n"
    f"add element inet {rules.TABLE} ip_slots {{ {VIP} . 0 : 192.0.2.250 }}",
    "an empty chain": f"flush chain inet {rules.TABLE} output",
    "a rule too many": f"insert rule inet {rules.TABLE} output drop",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("way", ["mend", "attach", "restart"])
def test_damage_is_mended_without_harm_to_open_connections(rig: VipRig, damage: str, way: str) -> None:
    one, *_ = backends = backend_addresses(1)
    with serving(rig.far.path, backends, TCP):
        rig.tell(web(backends))
        rig.attach()
        wished, outline = elements(rig), rig.nft("list ruleset")
        with socket_in(rig.client.path) as client:
            client.connect((VIP, PORT))
            rig.nft(damage)
            assert rig.nft("list ruleset") != outline
            {"mend": rig.part.mend, "attach": rig.attach, "restart": rig.restart}[way]()
            assert elements(rig) == wished
            assert rig.nft("list ruleset") == outline
            assert who(rig) == one
            client.sendall(b"still there")
            assert client.recv(100).endswith(b"still there")


@pytest.mark.parametrize("damage", ["all gone", "an element", "a wrong verdict", "a wrong backend"])
def test_a_change_that_does_not_fit_mends_all(rig: VipRig, damage: str) -> None:
    backends = backend_addresses(3)
    rig.attach()
    rig.tell(web(backends))
    rig.nft(DAMAGES[damage])
    rig.tell(web(backends[:1]))
    former = elements(rig)
    assert len(former) == 3
    rig.part.mend()
    assert elements(rig) == former, "there was nothing left to mend"


def test_an_unchanged_network_is_not_looked_at(rig: VipRig) -> None:
    rig.attach()
    rig.tell(web(backend_addresses(3)))
    rig.nft(f"flush map inet {rules.TABLE} ip_slots")
    other = network_state(web(["10.0.0.9"]), NetworkId("other"))
    rig.part.apply(NodeState(networks={**rig.state.networks, NetworkId("other"): other}))
    assert not any(each.map == "ip_slots" for each in elements(rig)), "it would have been mended"


def test_a_change_that_the_kernel_refuses_is_made_up_for(rig: VipRig) -> None:
    rig.attach()
    rig.tell(web(["192.0.2.11"]))
    client = rig.part._clients[CLIENT]
    client.wire.close()
    with pytest.raises(Unavailable, match="task client"):
        rig.tell(web(["192.0.2.12"]))
    rig.space.close()  # it opens another door when asked
    rig.part.apply(rig.state)
    assert socket.inet_aton("192.0.2.12") in elements(rig).values()


def test_every_task_on_a_network_is_told_and_others_are_not() -> None:
    part = Balancing()
    part.start_up(NamespaceSpace())
    other = NetworkId("net2")
    with fresh_namespace() as one, fresh_namespace() as two, fresh_namespace() as three:
        spaces = [NamespaceSpace(path) for path in (one, two, three)]
        networks = [NET, NET, other]
        for number, (space, network) in enumerate(zip(spaces, networks, strict=True)):
            part.attach(endpoint(TaskId(f"task{number}"), "192.0.2.5/24", network=network), space)
        for backends in (["192.0.2.11"], ["192.0.2.11", "192.0.2.12"], ["192.0.2.12"]):
            part.apply(NodeState(networks={NET: network_state(web(backends))}))
            for space, network in zip(spaces, networks, strict=True):
                listed = space.nft.run(f"list map inet {rules.TABLE} ip_slots")
                told = {each for each in ("192.0.2.11", "192.0.2.12") if f": {each}" in listed}
                assert told == (set(backends) if network == NET else set())
        part.detach(TaskId("task0"))
        part.apply(NodeState(networks={}))
        assert VIP not in spaces[1].nft.run("list ruleset")
        part.destroy()
        with pytest.raises(NftError):
            spaces[1].nft.run(f"list table inet {rules.TABLE}")
        for space in spaces:
            space.close()


def test_a_task_without_addresses_in_networks_gets_no_table(rig: VipRig) -> None:
    rig.part.attach(endpoint(TaskId("bare")), rig.space)
    assert rig.nft("list ruleset") == ""
    rig.part.detach(TaskId("bare"))


def test_where_two_networks_claim_an_address_the_first_has_it(rig: VipRig) -> None:
    second = NetworkId("net2")
    legs = [endpoint(CLIENT, "192.0.2.1/24", network=each).legs[0] for each in (NET, second)]
    both = Endpoint(task_id=CLIENT, legs=tuple(legs))
    for last in ("192.0.2.12", "192.0.2.13"):
        networks = {NET: network_state(web(["192.0.2.11"])), second: network_state(web([last]), second)}
        rig.part.apply(NodeState(networks=networks))
        rig.part.attach(both, rig.space)
        listed = rig.nft(f"list map inet {rules.TABLE} ip_slots")
        assert "192.0.2.11" in listed
        assert last not in listed


@pytest.mark.parametrize("later", [["192.0.2.14"], []], ids=["changes", "goes"])
def test_what_a_later_network_does_leaves_the_first_its_address(rig: VipRig, later: list[str]) -> None:
    second = NetworkId("net2")
    legs = [endpoint(CLIENT, "192.0.2.1/24", network=each).legs[0] for each in (NET, second)]
    first = network_state(web(["192.0.2.11"]))
    contested = network_state(web(["192.0.2.12", "192.0.2.13"]), second)
    rig.part.apply(NodeState(networks={NET: first, second: contested}))
    rig.part.attach(Endpoint(task_id=CLIENT, legs=tuple(legs)), rig.space)
    before = rig.nft(f"list table inet {rules.TABLE}")
    after = network_state(web(later) if later else {}, second)
    rig.part.apply(NodeState(networks={NET: first, second: after}))
    assert rig.nft(f"list table inet {rules.TABLE}") == before


def test_a_thousand_services_come_and_go(rig: VipRig) -> None:
    services = {
        ServiceId(f"s{number}"): Balancer(
            vips=(f"198.18.{number // 250}.{number % 250 + 1}",), backends=backend_addresses(3)
        )
        for number in range(1_000)
    }
    rig.tell(services)
    rig.attach()
    assert len(elements(rig)) == 4_000
    rig.tell(web(backend_addresses(2)), services)
    rig.tell(web(backend_addresses(2)))
    assert len(elements(rig)) == 6, "only what is wished for is left"
