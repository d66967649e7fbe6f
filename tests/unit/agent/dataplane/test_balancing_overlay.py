"""Virtual addresses with all parts of the backend at work: across hosts, through restarts, as a node dies."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from net_hosts import EchoServer, ask, command_in, net_hosts, socket_in
from overlay_rig import BLUE, OverlayRig, overlay_rig

from agent.dataplane.base import Balancer
from swarmpy.model.ids import ServiceId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

PORT = 8_000
VIP, NEAR, FAR = "10.1.0.50", "10.1.0.2", "10.1.0.3"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[OverlayRig]:
    """A client and a backend on the first host, another backend on the second."""
    with net_hosts(2) as hosts:
        async with overlay_rig(hosts, tmp_path) as rig:
            rig.place("client", 0, (BLUE, "10.1.0.9/16"))
            rig.place("near", 0, (BLUE, f"{NEAR}/16"))
            rig.place("far", 1, (BLUE, f"{FAR}/16"))
            yield rig


async def tell(rig: OverlayRig, *backends: str) -> None:
    for node, backend in enumerate(rig.backends):
        state = rig.state_of(node)
        balancers = {ServiceId("web"): Balancer(vips=(VIP,), backends=backends)}
        network = replace(state.networks[BLUE.id], balancers=balancers)
        await backend.apply(replace(state, networks={BLUE.id: network}))


def server(rig: OverlayRig, name: str, address: str) -> EchoServer:
    return EchoServer(place(rig, name), address, PORT, greeting=f"{address} ".encode())


def place(rig: OverlayRig, name: str) -> Path:
    return next(placed.path for task_id, placed in rig.tasks.items() if task_id == name)


def who(rig: OverlayRig, name: str = "client") -> str:
    return ask(place(rig, name), VIP, PORT).answer.decode().split()[0]


async def test_backends_here_and_there_share_the_calls_of_every_task(rig: OverlayRig) -> None:
    await tell(rig, NEAR, FAR)
    with server(rig, "near", NEAR), server(rig, "far", FAR):
        for client in ("client", "near", "far"):
            assert {who(rig, client) for _ in range(30)} == {NEAR, FAR}
        await tell(rig, NEAR)
        for client in ("client", "near", "far"):
            assert {who(rig, client) for _ in range(10)} == {NEAR}


async def test_connections_outlive_the_daemon_and_the_backends_place_in_the_service(rig: OverlayRig) -> None:
    await tell(rig, FAR)
    with server(rig, "near", NEAR), server(rig, "far", FAR), socket_in(place(rig, "client")) as client:
        client.connect((VIP, PORT))
        for backends in ((NEAR, FAR), (NEAR,), ()):
            await rig.restart(0)
            await tell(rig, *backends)
            client.sendall(b"still there")
            assert client.recv(100) == f"{FAR} still there".encode()
        with pytest.raises(ConnectionRefusedError):
            who(rig)


async def test_a_dead_nodes_connections_end_at_once(rig: OverlayRig) -> None:
    await tell(rig, FAR)
    with (
        server(rig, "near", NEAR),
        server(rig, "far", FAR),
        socket_in(place(rig, "client")) as idle,
        socket_in(place(rig, "client")) as other,
    ):
        idle.connect((VIP, PORT))
        other.connect((NEAR, PORT))
        await tell(rig, NEAR)
        await rig.backends[0].cut({BLUE.id: (FAR,)})
        with pytest.raises(ConnectionAbortedError):
            idle.recv(1)
        other.sendall(b"still there")
        assert other.recv(100).endswith(b"still there")
        assert who(rig) == NEAR


async def test_tables_that_are_flushed_inside_a_task_are_mended(rig: OverlayRig) -> None:
    await tell(rig, NEAR, FAR)
    client = place(rig, "client")
    before = command_in(client, "nft", "list", "table", "inet", "swarmpy_vip")
    command_in(client, "nft", "flush", "ruleset")
    await rig.backends[0].mend()
    assert command_in(client, "nft", "list", "table", "inet", "swarmpy_vip") == before
    with server(rig, "near", NEAR), server(rig, "far", FAR):
        assert {who(rig) for _ in range(30)} == {NEAR, FAR}
