"""Networks that are no overlays, on real packets: what is on the wire, and that links come and go."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from dhcp_server import DhcpServer
from msgspec.structs import replace
from net_hosts import EchoServer, Frame, Rig, ask, command_in, is_reachable, net_hosts, wait_until
from overlay_rig import OverlayRig, network, overlay_rig
from policy_rig import set_policy

from agent.dataplane.base import HostPort, NetworkConfig, Subnet
from agent.dataplane.linux import plan
from swarmpy.errors import TaskRejected
from swarmpy.model.ids import TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

PRIVATE = network("private", 0, "10.7.0.0/24", driver="bridge")
LAN = network("lan", 0, driver="macvlan", subnets=(Subnet(cidr="192.0.2.0/24", gateway="192.0.2.2"),))
L2BRIDGE = network(
    "tenant", 0, driver="l2bridge", subnets=(Subnet(cidr="192.0.2.0/24", gateway="192.0.2.2"),)
)
L2TUNNEL = network("tunnel", 0, "192.0.2.0/24", driver="l2tunnel", options={"parent": "eth0"})
ASKING = network("asking", 0, driver="transparent", is_dhcp=True)
IPVLAN = network("ipvl", 0, "192.0.2.0/24", driver="ipvlan")


@pytest.fixture
def hosts() -> Iterator[Rig]:
    with net_hosts(2) as rig:
        yield rig


@pytest.fixture
async def rig(hosts: Rig, tmp_path: Path) -> AsyncIterator[OverlayRig]:
    async with overlay_rig(hosts, tmp_path) as made:
        yield made


def sandbox(rig: OverlayRig, config: object = PRIVATE) -> Path:
    return plan.sandbox_path(rig.folders[0] / "netns", config.id, prefix=plan.LAN_PREFIX)  # type: ignore[attr-defined]


def senders(frames: list[Frame], host: str) -> set[str]:
    return {frame.macs[0] for frame in frames if frame.host == host}


# --- bridge


async def test_a_bridge_joins_the_tasks_of_one_node(rig: OverlayRig, hosts: Rig) -> None:
    """Nothing of it is on the wire; the outside is reached, with the node's address."""
    one = rig.place("one", 0, (PRIVATE, "10.7.0.2/24"))
    two = rig.place("two", 0, (PRIVATE, "10.7.0.3/24"))
    far = rig.place("far", 1, (PRIVATE, "10.7.0.4/24"))
    await rig.apply()
    other = hosts.hosts[1]
    with (
        hosts.capture() as capture,
        EchoServer(one.path, "10.7.0.2", 80),
        EchoServer(other.path, other.address, 81) as outside,
    ):
        assert ask(two.path, "10.7.0.2", 80, data=b"among ourselves").answer == b"among ourselves"
        assert not is_reachable(far.path, "10.7.0.2", 80)
        ask(two.path, other.address, 81)
        assert outside.seen[0][0] == hosts.hosts[0].address
        assert not capture.has(b"among ourselves")


async def test_its_ports_are_mapped_and_vanish(rig: OverlayRig, hosts: Rig) -> None:
    """A port of the node leads to the task, and the rule for it goes with the task."""
    one, other = hosts.hosts
    port = HostPort(protocol="tcp", published_port=8080, target_port=445)
    web = rig.place("web", 0, (PRIVATE, "10.7.0.2/24"), ports=(port,))
    await rig.apply()
    with EchoServer(web.path, "0.0.0.0", 445):
        assert ask(other.path, one.address, 8080).answer == b"hello"
    assert "tcp . 8080" in one.command("nft", "list", "table", "ip", plan.TABLE)
    rig.remove("web")
    await rig.apply()
    assert "tcp . 8080" not in one.command("nft", "list", "table", "ip", plan.TABLE)
    assert not is_reachable(other.path, one.address, 8080)


async def test_its_link_comes_and_goes_with_the_network(rig: OverlayRig) -> None:
    rig.place("one", 0, (PRIVATE, "10.7.0.2/24"))
    assert not sandbox(rig).exists()
    await rig.apply()
    assert "br0" in command_in(sandbox(rig), "ip", "link")
    await rig.restart(0)
    await rig.apply()
    assert plan.network_port_name(TaskId("one")) in command_in(sandbox(rig), "ip", "link")
    rig.remove("one")
    await rig.apply()
    assert not sandbox(rig).exists()


async def test_host_and_none(rig: OverlayRig, hosts: Rig) -> None:
    """A task in the node's own namespace gets no links; one with none has loopback alone."""
    rig.place("plain", 0, mode="host")
    alone = rig.place("alone", 0, mode="none")
    await rig.apply()
    assert not (rig.folders[0] / "netns" / "plain").exists()
    links = command_in(alone.path, "ip", "-o", "link").splitlines()
    assert [line.split(": ")[1] for line in links] == ["lo"]


# --- on the LAN


async def test_macvlan_is_on_the_lan_as_it_is(rig: OverlayRig, hosts: Rig) -> None:
    """With a MAC and an address of its own on the wire, no translation; neighbours of one node meet too."""
    web = rig.place("web", 0, (LAN, "192.0.2.102/24"))
    near = rig.place("near", 0, (LAN, "192.0.2.103/24"))
    other = hosts.hosts[1]
    await rig.apply()
    with (
        hosts.capture(hosts.hosts[0]) as capture,
        EchoServer(web.path, "192.0.2.102", 80) as server,
        EchoServer(other.path, other.address, 81) as outside,
    ):
        ask(other.path, "192.0.2.102", 80)
        ask(near.path, "192.0.2.102", 80)
        ask(web.path, other.address, 81)
        assert [peer[0] for peer in server.seen] == [other.address, "192.0.2.103"]
        assert outside.seen[0][0] == "192.0.2.102"
        frame = capture.wait_for(lambda frame: frame.addresses[0] == "192.0.2.102")
        assert frame.macs[0] == "02:42:c0:00:02:66"
    assert "default via 192.0.2.2" in command_in(web.path, "ip", "route")
    links = command_in(web.path, "ip", "-o", "link")
    assert "eth1" not in links, "no way through the node"
    rig.remove("web")
    await rig.apply()
    assert "192.0.2.102" not in command_in(near.path, "ip", "address")


async def test_l2bridge_shows_the_lan_one_mac(rig: OverlayRig, hosts: Rig) -> None:
    """Two tasks, two addresses, one MAC upstream, in ARP too; each is reached and has its own policy."""
    one = rig.place("one", 0, (L2BRIDGE, "192.0.2.102/24"))
    two = rig.place("two", 0, (L2BRIDGE, "192.0.2.103/24"))
    other = hosts.hosts[1]
    set_policy(rig, "two", "deny in tcp 81")
    await rig.apply()
    own = hosts.hosts[0].command("ip", "-br", "link", "show", "eth0").split()[2]
    with (
        hosts.capture(hosts.hosts[0]) as capture,
        EchoServer(one.path, "192.0.2.102", 80) as server,
        EchoServer(two.path, "192.0.2.103", 80),
        EchoServer(two.path, "192.0.2.103", 81),
        EchoServer(other.path, other.address, 82) as outside,
    ):
        ask(other.path, "192.0.2.102", 80)
        ask(other.path, "192.0.2.103", 80)
        assert not is_reachable(other.path, "192.0.2.103", 81)
        ask(one.path, other.address, 82)
        ask(two.path, other.address, 82)
        ask(two.path, "192.0.2.102", 80)
        assert [peer[0] for peer in server.seen] == [other.address, "192.0.2.103"]
        assert [peer[0] for peer in outside.seen] == ["192.0.2.102", "192.0.2.103"]
        upstream = senders(capture.frames(), hosts.hosts[0].name) - {own}
        assert len(upstream) == 1, upstream
        (mac,) = upstream
    neighbours = other.command("ip", "neigh")
    for address in ("192.0.2.102", "192.0.2.103"):
        assert f"{address} dev eth0 lladdr {mac}" in neighbours


async def test_l2bridge_outlives_the_daemon_and_is_mended(rig: OverlayRig, hosts: Rig) -> None:
    one = rig.place("one", 0, (L2BRIDGE, "192.0.2.102/24"))
    other = hosts.hosts[1]
    await rig.apply()
    with EchoServer(one.path, "192.0.2.102", 80):
        ask(other.path, "192.0.2.102", 80)
        await rig.restart(0)
        ask(other.path, "192.0.2.102", 80)
        await rig.apply()
        for damage in ("ip link del up0", "nft delete table bridge swarmpy_macs"):
            command_in(sandbox(rig, L2BRIDGE), *damage.split())
            await rig.backends[0].mend()
            other.command("ip", "neigh", "flush", "all")
            ask(other.path, "192.0.2.102", 80)


async def test_l2tunnel_sends_local_traffic_through_the_switch(rig: OverlayRig, hosts: Rig) -> None:
    """Two tasks of one node meet only if the switch sends back what came by the same port."""
    one = rig.place("one", 0, (L2TUNNEL, "192.0.2.102/24"))
    two = rig.place("two", 0, (L2TUNNEL, "192.0.2.103/24"))
    await rig.apply()
    with EchoServer(one.path, "192.0.2.102", 80), hosts.capture(hosts.hosts[0]) as capture:
        assert not is_reachable(two.path, "192.0.2.102", 80)
        command_in(hosts.switch, "bridge", "link", "set", "dev", hosts.hosts[0].name, "hairpin", "on")
        ask(two.path, "192.0.2.102", 80, data=b"by way of the switch")
        assert capture.has(b"by way of the switch")


async def test_addresses_come_from_the_lan(rig: OverlayRig, hosts: Rig) -> None:
    """By DHCP, before the task begins; given back when it goes; asked for anew by a new daemon."""
    other = hosts.hosts[1]
    with DhcpServer(other.path, "eth0", other.address, "192.0.2.110", other.address) as server:
        rig.place("web", 0, (ASKING, ""), mac="02:53:00:00:00:01")
        placed = rig.tasks[TaskId("web")]
        endpoint = placed.endpoint
        endpoint = replace(endpoint, legs=(replace(endpoint.legs[0], addresses=()),))
        rig.tasks[TaskId("web")] = type(placed)(endpoint, 0, placed.path)
        await rig.apply()
        await rig.backends[0].attach(endpoint)
        assert "192.0.2.110/24" in command_in(placed.path, "ip", "address")
        assert f"default via {other.address}" in command_in(placed.path, "ip", "route")
        with (
            EchoServer(other.path, other.address, 81) as outside,
            EchoServer(placed.path, "192.0.2.110", 80),
        ):
            ask(placed.path, other.address, 81)
            ask(other.path, "192.0.2.110", 80)
            assert outside.seen[0][0] == "192.0.2.110", "nobody translated it"
            await rig.restart(0)
            await rig.apply()
            ask(other.path, "192.0.2.110", 80)
            await rig.backends[0].attach(endpoint)
        assert server.given == {"02:53:00:00:00:01": "192.0.2.110"}
        rig.remove("web")
        await rig.apply()
        wait_until(lambda: server.seen[-1] == 7, "the address given back")


async def test_what_a_node_lacks_is_said(rig: OverlayRig) -> None:
    """This machine's kernel may have ipvlan: then it is used."""
    rig.place("one", 0, (IPVLAN, "192.0.2.102/24"))
    endpoint = rig.tasks[TaskId("one")].endpoint
    await rig.apply()
    found = await rig.backends[0].probe()
    assert {"bridge", "host", "l2bridge", "l2tunnel", "macvlan", "none", "overlay"} <= set(found.drivers)
    if "ipvlan" in found.drivers:
        await rig.backends[0].attach(endpoint)
    else:
        assert any("load the module ipvlan" in sentence for sentence in found.lacking)
        with pytest.raises(TaskRejected, match="load the module ipvlan"):
            await rig.backends[0].attach(endpoint)
    rig.place(
        "two",
        0,
        (network("gone", 0, "192.0.2.0/24", driver="macvlan", options={"parent": "eth7"}), "192.0.2.9/24"),
    )
    with pytest.raises(TaskRejected, match="interface eth7, which this node has not got"):
        await rig.backends[0].attach(rig.tasks[TaskId("two")].endpoint)


async def test_ports_of_a_task_on_the_lan_are_refused(rig: OverlayRig) -> None:
    port = HostPort(protocol="tcp", published_port=8080, target_port=80)
    rig.place("web", 0, (LAN, "192.0.2.102/24"), ports=(port,))
    with pytest.raises(TaskRejected, match="on the node's LAN itself"):
        await rig.backends[0].attach(rig.tasks[TaskId("web")].endpoint)


@pytest.mark.parametrize("config", [LAN, L2BRIDGE], ids=["macvlan", "l2bridge"])
async def test_an_address_that_moves_is_announced(rig: OverlayRig, hosts: Rig, config: NetworkConfig) -> None:
    """The LAN knew it by another MAC, and would believe that for long."""
    other = hosts.hosts[1]
    other.command(
        "ip", "neigh", "replace", "192.0.2.102", "lladdr", "02:00:00:00:00:07", "dev", "eth0", "nud", "stale"
    )
    web = rig.place("web", 0, (config, "192.0.2.102/24"))
    await rig.apply()
    await rig.backends[0].attach(web.endpoint)
    wait_until(lambda: "02:00:00:00:00:07" not in other.command("ip", "neigh"), "the LAN told")
    with EchoServer(web.path, "192.0.2.102", 80):
        ask(other.path, "192.0.2.102", 80)
