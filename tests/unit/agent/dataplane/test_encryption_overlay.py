"""Encrypted networks through the whole Linux backend: tasks on two nodes, and what is on the wire."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from encryption_rig import PATTERN, ring
from msgspec.structs import replace
from net_hosts import Capture, EchoServer, Rig, ask, is_reachable, net_hosts, socket_in
from overlay_rig import OverlayRig, network, overlay_rig

from agent.dataplane.base import NodeState, Peer
from agent.dataplane.linux.encryption import part
from agent.dataplane.linux.encryption.probe import Found
from swarmpy.errors import SwarmError, TaskRejected
from swarmpy.model.ids import NodeId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

GREEN = network("green", 4100, "10.1.0.0/16", is_encrypted=True)
WEB, CLIENT = "10.1.0.2", "10.1.0.3"
PLAIN_PORT, SECURE_PORT, USERSPACE_PORT = 4789, 4790, 4792


class EncryptedRig:
    """Nodes that tell each other what the managers would."""

    def __init__(self, rig: OverlayRig, hosts: Rig) -> None:
        self.rig = rig
        self.hosts = hosts
        self.web = rig.place("web", 0, (GREEN, f"{WEB}/16"))
        self.client = rig.place("client", 1, (GREEN, f"{CLIENT}/16"))

    async def peer(self, node: int) -> Peer:
        told = await self.rig.backends[node].probe()
        return Peer(
            node_id=NodeId(self.rig.hosts[node].name),
            addr=self.rig.hosts[node].address,
            boot_id=self.rig.backends[node].epoch,
            number=node + 1,
            encryption=told.encryption,
            wireguard_key=told.wireguard_key,
        )

    def state_of(self, node: int, peers: list[Peer]) -> NodeState:
        known = {peer.node_id: peer for peer in peers}
        return replace(self.rig.state_of(node), peers=known, keys=ring())

    async def meet(self, *known: int) -> None:
        peers = [await self.peer(node) for node in known]
        for node, backend in enumerate(self.rig.backends):
            await backend.apply(self.state_of(node, peers))

    def capture(self) -> Capture:
        return self.hosts.capture()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[EncryptedRig]:
    with net_hosts(2) as hosts:
        async with overlay_rig(hosts, tmp_path) as made:
            yield EncryptedRig(made, hosts)


def udp_ports(capture: Capture) -> set[int]:
    return {frame.ports[1] for frame in capture.frames() if frame.protocol == socket.IPPROTO_UDP}


async def test_tasks_talk_and_the_wire_tells_nothing(rig: EncryptedRig) -> None:
    await rig.meet(0, 1)
    with rig.capture() as capture, EchoServer(rig.web.path, WEB, 80):
        assert ask(rig.client.path, WEB, 80, data=PATTERN).answer == PATTERN
        large = PATTERN * 4_000
        assert ask(rig.client.path, WEB, 80, data=large).answer[:13] == PATTERN
        assert not capture.has(PATTERN)
        assert udp_ports(capture) == {USERSPACE_PORT}


async def test_nothing_leaves_before_the_peer_is_known(rig: EncryptedRig) -> None:
    own = [await rig.peer(0), await rig.peer(1)]
    mute = [replace(peer, encryption=(), boot_id="", number=0) for peer in own]
    for node, backend in enumerate(rig.rig.backends):
        await backend.apply(rig.state_of(node, [own[node], mute[1 - node]]))
    with rig.capture() as capture, EchoServer(rig.web.path, WEB, 80):
        assert not is_reachable(rig.client.path, WEB, 80)
        assert not udp_ports(capture) & {PLAIN_PORT, SECURE_PORT, USERSPACE_PORT}


async def test_nothing_leaves_without_secrets(rig: EncryptedRig) -> None:
    peers = [await rig.peer(0), await rig.peer(1)]
    for node, backend in enumerate(rig.rig.backends):
        await backend.apply(replace(rig.state_of(node, peers), keys=()))
    with rig.capture() as capture, EchoServer(rig.web.path, WEB, 80):
        assert not is_reachable(rig.client.path, WEB, 80)
        assert not udp_ports(capture) & {PLAIN_PORT, SECURE_PORT, USERSPACE_PORT}


async def test_connections_outlive_the_daemon(rig: EncryptedRig) -> None:
    await rig.meet(0, 1)
    with EchoServer(rig.web.path, WEB, 80):
        client = socket_in_task(rig)
        await rig.rig.restart(1)
        await rig.meet(0, 1)
        client.sendall(b"still here")
        assert client.recv(100) == b"still here"
        client.close()


def socket_in_task(rig: EncryptedRig) -> socket.socket:

    client = socket_in(rig.client.path)
    client.connect((WEB, 80))
    client.sendall(b"first")
    assert client.recv(100) == b"first"
    return client


async def test_a_node_without_a_way_refuses_the_task(
    rig: EncryptedRig, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(part, "find_ways", lambda: Found(lacking="the kernel has nothing for it"))
    backend = await rig.rig.restart(0)
    assert (await backend.probe()).encryption == ()
    state = rig.state_of(0, [await rig.peer(0), await rig.peer(1)])

    with pytest.raises(TaskRejected, match="this node cannot encrypt: the kernel has nothing for it"):
        await backend.attach(rig.web.endpoint)
    with pytest.raises(SwarmError, match="this node cannot encrypt"):
        await backend.apply(state)
