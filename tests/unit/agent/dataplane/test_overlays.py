"""Overlay networks carry packets between tasks of several nodes, and only between those that share one."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from net_hosts import EchoServer, Rig, ask, command_in, is_reachable, net_hosts, send_frames
from overlay_rig import BLUE, INSIDE, RED, OverlayRig, network, overlay_rig

from agent.dataplane.base import HostPort
from agent.dataplane.linux import plan
from agent.dataplane.linux.netlink import Link, Netlink
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.ids import NetworkId, TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

DUAL = network("dual", 4099, "10.4.0.0/24", "fd00:4::/64")
INGRESS = network("ingress", 4100, "10.0.0.0/24", is_ingress=True)


@pytest.fixture
def hosts() -> Iterator[Rig]:
    with net_hosts(2) as rig:
        yield rig


@pytest.fixture
async def rig(hosts: Rig, tmp_path: Path) -> AsyncIterator[OverlayRig]:
    async with overlay_rig(hosts, tmp_path) as made:
        yield made


async def test_tasks_of_two_nodes_meet(rig: OverlayRig, hosts: Rig) -> None:
    """Each sees the other's own address; on the wire it is VXLAN with the network's number."""
    web = rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    near = rig.place("near", 0, (BLUE, "10.1.0.3/16"))
    far = rig.place("far", 1, (BLUE, "10.1.0.4/16"))
    await rig.apply()
    with hosts.capture() as capture, EchoServer(web.path, "10.1.0.2", 80) as server:
        for client in (near, far):
            ask(client.path, "10.1.0.2", 80, data=b"a word to find")
        assert [peer[0] for peer in server.seen] == ["10.1.0.3", "10.1.0.4"]
        frame = capture.wait_for(lambda frame: frame.vni == BLUE.vni)
        assert frame.addresses == (rig.hosts[1].address, rig.hosts[0].address)
        assert frame.ports[1] == 4789
    with EchoServer(web.path, "10.1.0.2", 81, socket.SOCK_DGRAM):
        assert ask(far.path, "10.1.0.2", 81, kind=socket.SOCK_DGRAM).answer == b"hello"


async def test_overlapping_networks_do_not_meet(rig: OverlayRig) -> None:
    blue = rig.place("blue", 0, (BLUE, "10.1.0.2/16"))
    red = rig.place("red", 0, (RED, "10.1.0.2/16"))
    blue_client = rig.place("bluec", 1, (BLUE, "10.1.0.3/16"))
    red_client = rig.place("redc", 1, (RED, "10.1.0.3/16"))
    await rig.apply()
    with (
        EchoServer(blue.path, "10.1.0.2", 80, greeting=b"blue "),
        EchoServer(red.path, "10.1.0.2", 80, greeting=b"red "),
    ):
        assert ask(blue_client.path, "10.1.0.2", 80).answer == b"blue hello"
        assert ask(red_client.path, "10.1.0.2", 80).answer == b"red hello"
    assert not is_reachable(blue_client.path, "10.1.0.9", 80)


async def test_a_task_on_two_networks(rig: OverlayRig) -> None:
    """And one whose MAC was wished for; links are in the order of the networks, the node's last."""
    both = rig.place("both", 0, (BLUE, "10.1.0.2/16"), (INSIDE, "10.3.0.2/16"))
    left = rig.place("left", 1, (BLUE, "10.1.0.3/16"), mac="02:00:00:00:00:77")
    right = rig.place("right", 1, (INSIDE, "10.3.0.3/16"))
    await rig.apply()
    with EchoServer(both.path, "0.0.0.0", 80):
        assert ask(left.path, "10.1.0.2", 80).answer == b"hello"
        assert ask(right.path, "10.3.0.2", 80).answer == b"hello"
        assert not is_reachable(right.path, "10.1.0.2", 80)
    assert "02:00:00:00:00:77" in command_in(left.path, "ip", "link", "show", "eth0")
    assert "default via" in command_in(both.path, "ip", "route", "show", "dev", "eth2")
    sandbox = await rig.backends[0].attach(both.endpoint)
    assert sandbox.addresses[:2] == ("10.1.0.2/16", "10.3.0.2/16")
    assert Path(sandbox.resolv_conf).read_text().startswith("nameserver 127.0.0.11\n")
    assert "10.1.0.2\tboth\n10.3.0.2\tboth\n" in Path(sandbox.hosts).read_text()


async def test_internal_networks_have_no_way_out(rig: OverlayRig) -> None:
    task = rig.place("task", 0, (INSIDE, "10.3.0.2/16"))
    await rig.apply()
    assert command_in(task.path, "ip", "route", "show", "default") == ""
    assert "eth1" not in command_in(task.path, "ip", "link")
    port = HostPort(protocol="tcp", published_port=8080, target_port=80)
    with pytest.raises(TaskRejected, match="networks are all internal"):
        await rig.backends[0].attach(rig.place("web", 0, (INSIDE, "10.3.0.3/16"), ports=(port,)).endpoint)


async def test_ipv6_inside(rig: OverlayRig) -> None:
    web = rig.place("web", 0, (DUAL, "10.4.0.2/24,fd00:4::2/64"))
    near = rig.place("near", 0, (DUAL, "10.4.0.3/24,fd00:4::3/64"))
    far = rig.place("far", 1, (DUAL, "10.4.0.4/24,fd00:4::4/64"))
    await rig.apply()
    with EchoServer(web.path, "fd00:4::2", 80) as server, EchoServer(web.path, "10.4.0.2", 80):
        for client in (near, far):
            ask(client.path, "fd00:4::2", 80)
            ask(client.path, "10.4.0.2", 80)
        assert [peer[0] for peer in server.seen] == ["fd00:4::3", "fd00:4::4"]


@pytest.mark.parametrize("is_routed", [False, True])
async def test_ipv6_underlay_and_another_port(is_routed: bool, tmp_path: Path) -> None:
    with net_hosts(2, is_routed=is_routed) as hosts:
        async with overlay_rig(hosts, tmp_path, address="address6", data_path_port=5789) as rig:
            web = rig.place("web", 0, (BLUE, "10.1.0.2/16"))
            far = rig.place("far", 1, (BLUE, "10.1.0.3/16"))
            await rig.apply()
            with hosts.capture() as capture, EchoServer(web.path, "10.1.0.2", 80):
                assert ask(far.path, "10.1.0.2", 80).answer == b"hello"
                frame = capture.wait_for(lambda frame: frame.vni == BLUE.vni)
                assert frame.ports[1] == 5789
                assert frame.addresses == (rig.hosts[1].address6, rig.hosts[0].address6)
            assert "mtu 1430 " in command_in(web.path, "ip", "link", "show", "eth0")


@pytest.mark.parametrize(("mtu", "wish", "expected"), [(1500, 0, 1450), (9000, 0, 8950), (1500, 1280, 1280)])
async def test_mtu(mtu: int, wish: int, expected: int, tmp_path: Path) -> None:
    """The largest packet that fits arrives whole and unfragmented; the way out is told the same size."""
    config = network("sized", 4200, "10.5.0.0/24", mtu=wish)
    with net_hosts(2, mtu=mtu) as hosts:
        async with overlay_rig(hosts, tmp_path) as rig:
            web = rig.place("web", 0, (config, "10.5.0.2/24"))
            far = rig.place("far", 1, (config, "10.5.0.3/24"))
            await rig.apply()
            assert f"mtu {expected} " in command_in(web.path, "ip", "link", "show", "eth0")
            assert f"mtu {expected}" in command_in(web.path, "ip", "route", "show", "default")
            fitting = str(expected - 28)
            command_in(far.path, "ping", "-c1", "-W3", "-Mdo", "-s", fitting, "10.5.0.2")
            with pytest.raises(AssertionError):
                command_in(far.path, "ping", "-c1", "-W1", "-Mdo", "-s", str(expected - 27), "10.5.0.2")


async def test_nothing_is_flooded(rig: OverlayRig, hosts: Rig) -> None:
    """Neither broadcasts nor what is for unknown addresses leaves the node."""
    task = rig.place("task", 0, (BLUE, "10.1.0.2/16"))
    rig.place("other", 1, (BLUE, "10.1.0.3/16"))
    await rig.apply()
    mac = bytes.fromhex("02420a010002")
    with hosts.capture(rig.hosts[0]) as capture:
        head = b"\x45\0\0\x1c\0\0\0\0\x40\x11\0\0" + bytes([10, 1, 0, 2])
        for target in (b"\xff" * 6, bytes.fromhex("02420a010063"), bytes.fromhex("01005e000001")):
            packet = head + bytes([10, 1, 255, 255]) + b"\0\x09\0\x09\0\x08\0\0"
            send_frames(task.path, "eth0", [target + mac + b"\x08\0" + packet])
        is_reachable(task.path, "10.1.0.99", 80)
        send_frames(task.path, "eth0", [bytes.fromhex("02420a010003") + mac + b"\x08\0" + packet])
        capture.wait_for(lambda frame: frame.vni == BLUE.vni)  # the one that is for somebody
        assert len([frame for frame in capture.frames() if frame.vni == BLUE.vni]) == 1


async def test_tasks_come_and_go(rig: OverlayRig) -> None:
    web = rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    far = rig.place("far", 1, (BLUE, "10.1.0.3/16"))
    await rig.apply()
    with EchoServer(web.path, "10.1.0.2", 80):
        assert is_reachable(far.path, "10.1.0.2", 80, timeout_s=9)
        later = rig.place("later", 1, (BLUE, "10.1.0.4/16"))
        await rig.apply()
        assert is_reachable(later.path, "10.1.0.2", 80, timeout_s=9)
    # the address moves to a task on the other node
    rig.remove("web")
    moved = rig.place("moved", 1, (BLUE, "10.1.0.2/16"))
    stay = rig.place("stay", 0, (BLUE, "10.1.0.5/16"))
    await rig.apply()
    with EchoServer(moved.path, "10.1.0.2", 80):
        assert is_reachable(stay.path, "10.1.0.2", 80, timeout_s=9)
    for name in ("far", "later", "moved", "stay"):
        rig.remove(name)
    await rig.apply()
    for number, folder in enumerate(rig.folders):
        assert os.listdir(folder / "netns") == [plan.GATEWAY_NETNS]
        assert await rig.backends[number].describe(BLUE.id) == {}


async def test_a_new_task_is_heard_at_once(rig: OverlayRig) -> None:
    """A bridge forwards only once the kernel has noticed that a port is up: attach waits for that."""
    rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    await rig.apply()
    path = plan.sandbox_path(rig.folders[0] / "netns", BLUE.id)
    for number in range(20):
        placed = rig.place(f"task{number}", 0, (BLUE, f"10.1.1.{number + 1}/16"))
        await rig.backends[0].attach(placed.endpoint)
        name = plan.network_port_name(placed.endpoint.task_id)
        assert "state forwarding" in command_in(path, "bridge", "link", "show", "dev", name)


async def test_nodes_have_a_place_in_the_ingress_network(rig: OverlayRig) -> None:
    """Its sandbox stands without any task, and frames for other nodes' gateways find them."""
    rig.networks[INGRESS.id] = INGRESS
    rig.ingress = {0: ("10.0.0.2",), 1: ("10.0.0.3",)}
    await rig.apply()
    found = await rig.backends[0].describe(INGRESS.id)
    assert found["peers"] == [rig.hosts[1].address]
    path = plan.sandbox_path(rig.folders[0] / "netns", INGRESS.id)
    assert "02:42:0a:00:00:03" in command_in(path, "ip", "neigh", "show", "10.0.0.3")


async def test_what_is_where(rig: OverlayRig) -> None:
    rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    rig.place("far", 1, (BLUE, "10.1.0.3/16"))
    await rig.apply()
    found = await rig.backends[0].describe(BLUE.id)
    assert found == {
        "namespace": str(rig.folders[0] / "netns/.net-blue-network"),
        "bridge": "br0",
        "tunnel": "vx0",
        "vni": 4096,
        "port": 4789,
        "local": rig.hosts[0].address,
        "mtu": 1450,
        "encrypted": False,
        "peers": [rig.hosts[1].address],
        "forwarding": 1,
        "neighbours": 1,
        "ports": {"web": plan.network_port_name(TaskId("web"))},
    }
    assert await rig.backends[0].describe(NetworkId("unknown")) == {}


async def test_modes_without_networks(rig: OverlayRig) -> None:
    backend = rig.backends[0]
    host = await backend.attach(rig.place("host", 0, mode="host").endpoint)
    none = await backend.attach(rig.place("none", 0, mode="none").endpoint)
    assert host.netns == "/proc/self/ns/net"
    assert host.addresses == none.addresses == ()
    assert "lo" in command_in(none.netns, "ip", "-br", "link", "show", "up")
    assert "eth0" not in command_in(none.netns, "ip", "link")
    assert Path(host.hosts).read_text() == Path("/etc/hosts").read_text()
    port = HostPort(protocol="tcp", published_port=8080, target_port=80)
    with pytest.raises(TaskRejected, match="cannot publish ports"):
        await backend.attach(rig.place("bad", 0, mode="none", ports=(port,)).endpoint)
    with pytest.raises(TaskRejected, match="no network mode"):
        await backend.attach(rig.place("odd", 0, mode="odd").endpoint)
    backend = await rig.restart(0)
    assert await backend.list() == ("host", "none")
    await backend.detach(TaskId("host"))
    await backend.detach(TaskId("none"))


async def test_what_a_network_lacks_is_said(rig: OverlayRig) -> None:
    backend = rig.backends[0]
    with pytest.raises(Unavailable, match="not been told its own address"):
        await backend.attach(rig.place("early", 0, (BLUE, "10.1.0.2/16")).endpoint)
    rig.remove("early")
    await rig.apply()
    odd = network("odd", 4301, "10.6.0.0/24", options={"com.docker.network.driver.mtu": "huge"})
    with pytest.raises(TaskRejected, match="is no MTU"):
        await backend.attach(rig.place("sized", 0, (odd, "10.6.0.2/24")).endpoint)
    rig.remove("sized")
    twin = replace(BLUE, id=NetworkId(f"{BLUE.id}-twin"), name="twin", vni=4302)
    with pytest.raises(TaskRejected, match="ids that begin alike"):
        await backend.attach(rig.place("both", 0, (BLUE, "10.1.0.2/16"), (twin, "10.1.0.2/16")).endpoint)
    rig.remove("both")
    assert await backend.list() == ()


async def test_a_number_that_another_device_has(rig: OverlayRig) -> None:
    words = f"link add stranger type vxlan id {BLUE.vni} dstport 4789 local {rig.hosts[0].address}"
    rig.hosts[0].command("ip", *words.split())
    task = rig.place("task", 0, (BLUE, "10.1.0.2/16"))
    with pytest.raises(Unavailable, match="identifier 4096 on port 4789, which the device stranger"):
        await rig.apply(0)
    rig.hosts[0].command("ip", "link", "del", "stranger")
    await rig.apply(0)
    assert "eth0" in command_in(task.path, "ip", "link")


async def test_an_address_that_this_machine_lacks(rig: OverlayRig) -> None:
    rig.hosts[0].command("ip", "address", "del", f"{rig.hosts[0].address}/24", "dev", "eth0")
    rig.place("task", 0, (BLUE, "10.1.0.2/16"))
    with pytest.raises(Unavailable, match="no interface of this node has the address"):
        await rig.apply(0)


async def test_destroy_takes_all_networks(rig: OverlayRig) -> None:
    rig.place("task", 0, (BLUE, "10.1.0.2/16"))
    rig.place("other", 0, (RED, "10.1.0.2/16"))
    await rig.apply(0)
    await rig.backends[0].destroy()
    assert not rig.folders[0].joinpath("netns").exists() or os.listdir(rig.folders[0] / "netns") == []
    links = rig.hosts[0].run(lambda: [link.name for link in _links()])
    assert not [name for name in links if name.startswith(("sw-", "vx", "p-"))]
    assert "swarmpy" not in rig.hosts[0].command("nft", "list", "ruleset")


def _links() -> list[Link]:
    with Netlink() as netlink:
        return netlink.links()
