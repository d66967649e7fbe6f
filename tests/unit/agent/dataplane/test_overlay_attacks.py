"""What a task can try against overlay networks, and an outsider: none of it arrives.

Each attack is shown to work where the defence is not, so that it is the defence that stops it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest
from msgspec.structs import replace
from net_hosts import (
    EchoServer,
    Host,
    Rig,
    ask,
    command_in,
    is_reachable,
    net_hosts,
    run_in,
    send_frames,
    socket_in,
    wait_until,
)
from overlay_rig import BLUE, OverlayRig, network, overlay_rig

from agent.dataplane.linux import plan
from agent.dataplane.linux.overlays import spoofing
from swarmpy.model.ids import TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

DUAL = network("dual", 4099, "10.4.0.0/24", "fd00:4::/64")
VXLAN_PORT = 4789
VICTIM, ATTACKER, FRIEND = "10.4.0.2", "10.4.0.3", "10.4.0.4"


@pytest.fixture
def hosts() -> Iterator[Rig]:
    """Two nodes, and a machine that is none."""
    with net_hosts(3) as rig:
        yield rig


@pytest.fixture
async def rig(hosts: Rig, tmp_path: Path) -> AsyncIterator[OverlayRig]:
    nodes = Rig(hosts.hosts[:2], hosts.switch)
    async with overlay_rig(nodes, tmp_path) as made:
        for name, node, address in (("victim", 0, VICTIM), ("attacker", 0, ATTACKER), ("friend", 1, FRIEND)):
            made.place(name, node, (DUAL, f"{address}/24,fd00:4::{address[-1]}/64"))
        made.place("blue", 1, (BLUE, "10.1.0.2/16"))
        await made.apply()
        yield made


def path_of(rig: OverlayRig, name: str) -> Path:
    return rig.tasks[TaskId(name)].path


def mac(address: str) -> bytes:
    return b"\x02\x42" + ip_address(address).packed[-4:]


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_frame(source: str, target: str, port: int, text: bytes, *, source_mac: bytes = b"") -> bytes:
    """A whole datagram, from anybody to anybody."""
    payload = struct.pack("!HHHH", 9, port, 8 + len(text), 0) + text
    addresses = ip_address(source).packed + ip_address(target).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, 17, 0) + addresses
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return mac(target) + (source_mac or mac(source)) + b"\x08\x00" + head + payload


def vxlan(vni: int, inner: bytes) -> bytes:
    return b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0" + inner


class Ear:
    """A UDP socket in a task that hears what arrives."""

    def __init__(self, path: Path, address: str, port: int = 7000) -> None:
        self.socket = socket_in(path, socket.SOCK_DGRAM)
        self.socket.bind((address, port))
        self.socket.settimeout(0.3)

    def __enter__(self) -> Ear:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def heard(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(2000))
            except TimeoutError:
                return found


# --- frames from outside


def inject(host: Host, target: str, *, source: str = "", count: int = 3) -> None:
    """VXLAN datagrams with a frame for the blue task, from a machine's own or another's address."""
    frame = vxlan(BLUE.vni, udp_frame("10.1.0.66", "10.1.0.2", 7000, b"injected"))

    def send() -> None:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            if source:
                sock.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
                sock.bind((source, 0))
            for _ in range(count):
                sock.sendto(frame, (target, VXLAN_PORT))

    host.run(send)


async def test_only_nodes_are_heard_on_data_ports(rig: OverlayRig, hosts: Rig) -> None:
    stranger, node = hosts.hosts[2], rig.hosts[1]
    with Ear(path_of(rig, "blue"), "10.1.0.2") as ear:
        inject(stranger, node.address)
        assert ear.heard() == []
        node.command("nft", "flush", "chain", "inet", "swarmpy_guard", "input")
        inject(stranger, node.address)
        assert ear.heard() == [b"injected"] * 3  # so it was the guard
        await rig.backends[1].mend()
        inject(stranger, node.address)
        assert ear.heard() == []


async def test_tasks_cannot_send_to_data_ports(rig: OverlayRig, hosts: Rig) -> None:
    """Neither to another node, masqueraded as their own, nor to their own node."""
    attacker, here, there = path_of(rig, "attacker"), rig.hosts[0], rig.hosts[1]
    frame = vxlan(BLUE.vni, udp_frame("10.1.0.66", "10.1.0.2", 7000, b"injected"))

    def attack() -> None:
        with closing(socket_in(attacker, socket.SOCK_DGRAM)) as sock:
            for target in (there.address, here.address):
                sock.sendto(frame, (target, VXLAN_PORT))

    with Ear(path_of(rig, "blue"), "10.1.0.2") as ear:
        with closing(socket_in(there.path, socket.SOCK_DGRAM)) as other:
            other.bind((there.address, 4788))
            with closing(socket_in(attacker, socket.SOCK_DGRAM)) as sock:
                sock.sendto(b"else", (there.address, 4788))
            assert other.recv(10) == b"else"  # it does have a way there
        with hosts.capture(here) as capture:
            attack()
            assert ear.heard() == []
            assert not [frame for frame in capture.frames() if frame.ports[1] == VXLAN_PORT]
        here.command("nft", "flush", "chain", "inet", "swarmpy_guard", "forward")
        attack()
        assert ear.heard() == [b"injected"]


async def test_what_is_forwarded_for_others_is_no_node(rig: OverlayRig, hosts: Rig) -> None:
    """A machine behind a node, whose packets leave with the node's address."""
    here, there, behind = rig.hosts[0], rig.hosts[1], hosts.hosts[2]
    here.command("ip", *["address", "add", "198.51.100.1/24", "dev", "eth0"])
    here.command("nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }")
    here.command("nft", "add rule ip nat post ip saddr 198.51.100.0/24 masquerade")
    behind.command("ip", *["address", "flush", "dev", "eth0"])
    behind.command("ip", *["address", "add", "198.51.100.2/24", "dev", "eth0"])
    behind.command("ip", *["route", "add", "default", "via", "198.51.100.1"])
    here.command("sysctl", "-qw", "net.ipv4.conf.eth0.send_redirects=0", "net.ipv4.conf.all.send_redirects=0")
    with Ear(path_of(rig, "blue"), "10.1.0.2") as ear:
        inject(behind, there.address)
        assert ear.heard() == []
        here.command("nft", "flush", "chain", "inet", "swarmpy_guard", "forward")
        inject(behind, there.address)
        assert ear.heard() == [b"injected"] * 3


async def test_nodes_that_leave_are_strangers(rig: OverlayRig) -> None:
    left, node = rig.hosts[0], rig.hosts[1]
    with Ear(path_of(rig, "blue"), "10.1.0.2") as ear:
        inject(left, node.address)
        assert ear.heard() == [b"injected"] * 3  # root of a node may do as it likes
        state = rig.state_of(1)
        peers = {node_id: peer for node_id, peer in state.peers.items() if node_id != left.name}
        await rig.backends[1].apply(replace(state, peers=peers))
        inject(left, node.address)
        assert ear.heard() == []


# --- lies within a network


async def test_addresses_cannot_be_borrowed(rig: OverlayRig) -> None:
    """Not another's IP, not another's MAC, neither towards this node's tasks nor another's."""
    attacker = path_of(rig, "attacker")
    for victim, target in (("victim", VICTIM), ("friend", FRIEND)):
        with Ear(path_of(rig, victim), target) as ear:
            honest = udp_frame(ATTACKER, target, 7000, b"honest")
            lies = [
                udp_frame("10.4.0.9", target, 7000, b"address", source_mac=mac(ATTACKER)),
                udp_frame("10.4.0.9", target, 7000, b"both"),
                udp_frame(ATTACKER, target, 7000, b"mac", source_mac=mac("10.4.0.9")),
                b"".join([honest[:12], b"\x81\0\0\5", honest[12:]]),  # in a VLAN
            ]
            send_frames(attacker, "eth0", [*lies, honest])
            assert ear.heard() == [b"honest"]
    path = plan.sandbox_path(rig.folders[0] / "netns", DUAL.id)
    command_in(path, "nft", "flush", "chain", "bridge", spoofing.TABLE, "prerouting")
    with Ear(path_of(rig, "victim"), VICTIM) as ear:
        send_frames(attacker, "eth0", lies_to(VICTIM))
        assert ear.heard() == [b"address"]
        await rig.backends[0].mend()
        send_frames(attacker, "eth0", lies_to(VICTIM))
        assert ear.heard() == []


def lies_to(target: str) -> list[bytes]:
    return [udp_frame("10.4.0.9", target, 7000, b"address", source_mac=mac(ATTACKER))]


async def test_arp_cannot_lie(rig: OverlayRig) -> None:
    """The victim believes its neighbour's own answer, whatever another says."""
    attacker, victim = path_of(rig, "attacker"), path_of(rig, "victim")
    rig.place("near", 0, (DUAL, "10.4.0.5/24,fd00:4::5/64"))
    await rig.apply()

    def neighbour() -> str:
        return command_in(victim, "ip", "neigh", "show", "10.4.0.5")

    with EchoServer(path_of(rig, "near"), "10.4.0.5", 80):
        assert is_reachable(victim, "10.4.0.5", 80, timeout_s=9)
        assert "02:42:0a:04:00:05" in neighbour()
        lie = (
            mac(VICTIM) + mac(ATTACKER) + b"\x08\x06" + b"\0\1\x08\0\6\4\0\2"
            + mac(ATTACKER) + ip_address("10.4.0.5").packed + mac(VICTIM) + ip_address(VICTIM).packed
        )  # fmt: skip
        other = (
            mac(VICTIM) + mac(ATTACKER) + b"\x08\x06" + b"\0\1\x08\0\6\4\0\2"
            + b"\x02\0\0\0\0\x66" + ip_address(ATTACKER).packed + mac(VICTIM) + ip_address(VICTIM).packed
        )  # fmt: skip
        send_frames(attacker, "eth0", [lie, other] * 3)
        assert is_reachable(victim, "10.4.0.5", 80, timeout_s=9)
        assert "02:42:0a:04:00:05" in neighbour()
        path = plan.sandbox_path(rig.folders[0] / "netns", DUAL.id)
        command_in(path, "nft", "flush", "chain", "bridge", spoofing.TABLE, "prerouting")
        command_in(victim, "sysctl", "-qw", "net.ipv4.neigh.eth0.locktime=0")
        send_frames(attacker, "eth0", [lie])
        wait_until(lambda: "02:42:0a:04:00:03" in neighbour(), "the lie believed, without the rules")


def advertisement(kind: int, source: str, body: bytes, *, target: str) -> bytes:
    """ICMPv6 of neighbour discovery, from the attacker's MAC."""
    addresses = ip_address(source).packed + ip_address(target).packed
    message = bytes([kind, 0, 0, 0]) + body
    pseudo = addresses + struct.pack("!II", len(message), 58)
    message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    head = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + addresses
    return mac(VICTIM) + mac(ATTACKER) + b"\x86\xdd" + head + message


async def test_neighbour_discovery_cannot_lie(rig: OverlayRig) -> None:
    attacker, victim = path_of(rig, "attacker"), path_of(rig, "victim")
    rig.place("near", 0, (DUAL, "10.4.0.5/24,fd00:4::5/64"))
    await rig.apply()

    def neighbour() -> str:
        return command_in(victim, "ip", "-6", "neigh", "show", "fd00:4::5")

    override = b"\x20\0\0\0" + ip_address("fd00:4::5").packed + b"\x02\x01" + mac(ATTACKER)
    lie = advertisement(136, "fd00:4::3", override, target="fd00:4::2")
    router = advertisement(
        134, "fd00:4::3", b"\x40\0\x07\x08" + bytes(8) + b"\1\1" + mac(ATTACKER), target="fd00:4::2"
    )
    with EchoServer(path_of(rig, "near"), "fd00:4::5", 80):
        ask(victim, "fd00:4::5", 80)
        assert "02:42:0a:04:00:05" in neighbour()
        send_frames(attacker, "eth0", [lie, router] * 3)
        ask(victim, "fd00:4::5", 80)
        assert "02:42:0a:04:00:05" in neighbour()
        assert "default" not in command_in(victim, "ip", "-6", "route")
        path = plan.sandbox_path(rig.folders[0] / "netns", DUAL.id)
        command_in(path, "nft", "flush", "chain", "bridge", spoofing.TABLE, "prerouting")
        send_frames(attacker, "eth0", [lie])
        wait_until(lambda: "02:42:0a:04:00:03" in neighbour(), "the lie believed, without the rules")


async def test_tasks_do_not_reach_other_networks(rig: OverlayRig) -> None:
    """With a route and a neighbour entry made up by itself, as root of its namespace."""
    attacker = path_of(rig, "attacker")
    command_in(attacker, "ip", *["route", "add", "10.1.0.0/16", "dev", "eth0"])
    command_in(attacker, "ip", *["neigh", "add", "10.1.0.2", "lladdr", "02:42:0a:01:00:02", "dev", "eth0"])
    with EchoServer(path_of(rig, "blue"), "10.1.0.2", 80):
        assert not is_reachable(attacker, "10.1.0.2", 80)
    assert run_in(attacker, os.geteuid) == 0
