"""What goes over the wire: who asks whom, how far, and by which MACs; and SCTP, told by its packets."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from mesh_rig import MeshRig, RunningTask, mesh_rig, port
from msgspec.structs import replace
from net_hosts import Capture, EchoServer, Frame, ask, command_in, run_in

from agent.dataplane.linux import plan

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

PORT, TARGET = 8080, 80
ARP_REQUEST = bytes.fromhex("08060001")
TTL_BYTE = 14 + 8


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[MeshRig]:
    with mesh_rig(2, tmp_path) as rig:
        yield rig


def mac_of(rig: MeshRig, number: int) -> str:
    return "02:42:" + bytes(map(int, rig.gateway_of(number).split("."))).hex(":")


def at_task(task: RunningTask) -> Capture:
    """What comes to the task in the ingress network."""
    return Capture(str(task.path), ["eth0"])


def from_task(task: RunningTask) -> Capture:
    """What the task sends there: seen at its port on the bridge."""
    sandbox = plan.sandbox_path(task.node.netns_dir, task.endpoint.legs[0].network.id)
    return Capture(str(sandbox), [plan.network_port_name(task.endpoint.task_id)])


def is_opening(frame: Frame) -> bool:
    """A TCP segment with SYN."""
    return frame.protocol == socket.IPPROTO_TCP and bool(frame.raw[14 + 20 + 13] & 2)


@pytest.mark.parametrize("number", [1, 2])
def test_source_nat_by_the_node_that_the_client_came_in_on(rig: MeshRig, number: int) -> None:
    """On the task's node and on the other: the client's source becomes that node's ingress address and a new
    port, which stays so over the overlay; answers mirror it and go to that node's MAC; the task asks for that
    by ARP; and the overlay takes nothing from the packet's life."""
    task = rig.run("a", on=2)
    rig.publish(replace(port(PORT, TARGET, [task]), is_source_nat=True))
    gateway, node = rig.gateway_of(number), rig.nodes[number - 1]
    with EchoServer(task.path, "0.0.0.0", TARGET):
        ask(rig.outside.path, node.address, PORT)
        command_in(task.path, "ip", "neigh", "flush", "all")  # it may know the node from a question of that
        with at_task(task) as come, from_task(task) as sent:
            answer = ask(rig.outside.path, node.address, PORT)
            arrived = come.wait_for(is_opening)
            answered = sent.wait_for(is_opening)
            questions = [each for each in sent.frames() if each.raw[12:14] + each.raw[20:22] == ARP_REQUEST]
    assert arrived.addresses == (gateway, task.address)
    assert arrived.ports[1] == TARGET
    assert arrived.ports[0] != answer.local[1]
    assert arrived.macs == (mac_of(rig, number), task.mac)
    assert arrived.raw[TTL_BYTE] == 64 - 1, "one router: the node"
    assert answered.addresses == (task.address, gateway)
    assert answered.ports == (TARGET, arrived.ports[0])
    assert answered.macs == (task.mac, mac_of(rig, number))
    assert socket.inet_aton(gateway) in {frame.raw[38:42] for frame in questions}


@pytest.mark.parametrize("number", [1, 2])
def test_with_the_clients_address_answers_go_to_the_node_it_came_in_on(rig: MeshRig, number: int) -> None:
    task = rig.run("a", on=2)
    rig.publish(port(PORT, TARGET, [task]))
    node = rig.nodes[number - 1]
    with EchoServer(task.path, "0.0.0.0", TARGET), at_task(task) as come, from_task(task) as sent:
        answer = ask(rig.outside.path, node.address, PORT)
        arrived, answered = come.wait_for(is_opening), sent.wait_for(is_opening)
    assert arrived.addresses == (rig.outside.address, task.address)
    assert arrived.ports == (answer.local[1], TARGET)
    assert arrived.macs == (mac_of(rig, number), task.mac)
    assert arrived.raw[TTL_BYTE] == 64 - 1
    assert answered.addresses == (task.address, rig.outside.address)
    assert answered.macs == (task.mac, mac_of(rig, number))


def test_a_large_number_of_nodes_is_one_rule(rig: MeshRig) -> None:
    task = rig.run("a", on=2)
    rules = command_in(task.path, "ip", "rule")
    assert rules.count("lookup 90") == 1
    assert command_in(task.path, "ip", "route", "show", "table", "90").count("\n") == 1


# --- SCTP: this machine's kernel may have no sockets of it, but its connection table knows it


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp_packet(source: int, target: int, *, tag: int, kind: int, initiate_tag: int) -> bytes:
    """INIT (kind 1) or INIT ACK (kind 2), with the parameters that the connection table reads."""
    chunk = struct.pack("!BBHIIHHI", kind, 0, 20, initiate_tag, 65_535, 1, 1, 1)
    head = struct.pack("!HHI", source, target, tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def raw_socket(path: str | Path) -> socket.socket:
    made = run_in(path, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP))
    made.settimeout(5)
    return made


def receive(raw: socket.socket) -> tuple[str, int, int, bytes]:
    """Sender, ports, and what follows them; the checksum is right."""
    packet, sender = raw.recvfrom(1000)
    body = packet[(packet[0] & 15) * 4 :]
    source, target = struct.unpack_from("!HH", body)
    assert struct.unpack_from("<I", body, 8)[0] == crc32c(body[:8] + bytes(4) + body[12:])
    return sender[0], source, target, body


@pytest.mark.parametrize("is_source_nat", [False, True])
def test_sctp(rig: MeshRig, is_source_nat: bool) -> None:
    """An association's first two packets, both ways through a node without replica."""
    task = rig.run("a", on=2)
    rig.publish(replace(port(PORT, TARGET, [task], protocol="sctp"), is_source_nat=is_source_nat))
    node = rig.nodes[0]
    with raw_socket(rig.outside.path) as client, raw_socket(task.path) as server:
        client.sendto(sctp_packet(7000, PORT, tag=0, kind=1, initiate_tag=0x1234), (node.address, 0))
        sender, source, target, _ = receive(server)
        assert target == TARGET
        assert sender == (rig.gateway_of(1) if is_source_nat else rig.outside.address)
        server.bind((task.address, 0))
        answer = sctp_packet(TARGET, source, tag=0x1234, kind=2, initiate_tag=0x5678)
        server.sendto(answer, (sender, 0))
        assert receive(client)[:3] == (node.address, PORT, 7000)
