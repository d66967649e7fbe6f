"""A task that runs is joined to an overlay network, and taken off it: its other links notice nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from net_hosts import EchoServer, Rig, ask, command_in, is_reachable, net_hosts, socket_in
from overlay_rig import BLUE, INSIDE, OverlayRig, Placed, network, overlay_rig

from agent.dataplane.base import Leg, NetworkConfig
from agent.dataplane.linux import plan

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

SIDE = network("side", 4101, "10.5.0.0/16")


@pytest.fixture
def hosts() -> Iterator[Rig]:
    with net_hosts(2) as rig:
        yield rig


@pytest.fixture
async def rig(hosts: Rig, tmp_path: Path) -> AsyncIterator[OverlayRig]:
    async with overlay_rig(hosts, tmp_path) as made:
        yield made


def join(rig: OverlayRig, task: Placed, config: NetworkConfig, address: str, *, link: str) -> None:
    """As the agent asks for it."""
    placed = rig.tasks[task.endpoint.task_id]
    leg = Leg(network=config, link=link, addresses=(address,), is_joined=True)
    rig.networks[config.id] = config
    endpoint = replace(placed.endpoint, legs=(*placed.endpoint.legs, leg))
    rig.tasks[endpoint.task_id] = Placed(endpoint, placed.node, placed.path)


def leave(rig: OverlayRig, task: Placed, config: NetworkConfig) -> None:
    placed = rig.tasks[task.endpoint.task_id]
    legs = tuple(leg for leg in placed.endpoint.legs if leg.network.id != config.id)
    endpoint = replace(placed.endpoint, legs=legs)
    rig.tasks[endpoint.task_id] = Placed(endpoint, placed.node, placed.path)


def shown(task: Placed) -> dict[str, str]:
    """Links of the task and their MACs."""
    found = (line.split() for line in command_in(task.path, "ip", "-br", "link").splitlines())
    return {words[0].partition("@")[0]: words[2] for words in found if words[0] != "lo"}


async def test_connections_on_other_links_live_through_it(rig: OverlayRig) -> None:
    task = rig.place("task", 0, (BLUE, "10.1.0.2/16"))
    near, far = rig.place("near", 1, (BLUE, "10.1.0.3/16")), rig.place("far", 1, (SIDE, "10.5.0.3/16"))
    await rig.apply()
    before = shown(task)
    assert sorted(before) == ["eth0", "eth1"]
    with EchoServer(near.path, "10.1.0.3", 80), socket_in(task.path) as kept:
        kept.connect(("10.1.0.3", 80))
        join(rig, task, SIDE, "10.5.0.2/16", link="eth2")
        await rig.apply()
        with EchoServer(far.path, "10.5.0.3", 80), EchoServer(task.path, "10.5.0.2", 80):
            assert ask(task.path, "10.5.0.3", 80).answer == b"hello"
            assert ask(far.path, "10.5.0.2", 80).answer == b"hello"
        kept.sendall(b"still")
        assert kept.recv(100) == b"still"
        assert {name: mac for name, mac in shown(task).items() if name != "eth2"} == before
        assert shown(task)["eth2"] == "02:42:0a:05:00:02"
        assert "default via" in command_in(task.path, "ip", "route", "show", "dev", "eth1")
        sandbox = await rig.backends[0].attach(rig.tasks[task.endpoint.task_id].endpoint)
        assert sandbox.addresses[:2] == ("10.1.0.2/16", "10.5.0.2/16")
        leave(rig, task, SIDE)
        await rig.apply()
        assert shown(task) == before
        assert not is_reachable(task.path, "10.5.0.3", 80)
        kept.sendall(b"still")
        assert kept.recv(100) == b"still"
        assert plan.sandbox_path(rig.folders[0] / "netns", SIDE.id).exists() is False


async def test_one_may_leave_while_another_stays(rig: OverlayRig) -> None:
    task = rig.place("task", 0)
    await rig.apply()
    with EchoServer(task.path, "0.0.0.0", 80):
        join(rig, task, BLUE, "10.1.0.2/16", link="eth1")
        join(rig, task, SIDE, "10.5.0.2/16", link="eth2")
        far = rig.place("far", 1, (SIDE, "10.5.0.3/16"))
        await rig.apply()
        with socket_in(far.path) as kept:
            kept.connect(("10.5.0.2", 80))
            leave(rig, task, BLUE)
            await rig.apply()
            assert sorted(shown(task)) == ["eth0", "eth2"]
            kept.sendall(b"still")
            assert kept.recv(100) == b"still"
            await rig.restart(0)
            await rig.apply()
            join(rig, task, BLUE, "10.1.0.9/16", link="eth1")
            await rig.apply()
            assert sorted(shown(task)) == ["eth0", "eth1", "eth2"]
            kept.sendall(b"still")
            assert kept.recv(100) == b"still"


async def test_the_way_out_comes_and_goes_with_the_first_network_that_has_one(rig: OverlayRig) -> None:
    task = rig.place("task", 0, (INSIDE, "10.3.0.2/16"))
    await rig.apply()
    assert sorted(shown(task)) == ["eth0"]
    join(rig, task, BLUE, "10.1.0.2/16", link="eth2")
    await rig.apply()
    assert sorted(shown(task)) == ["eth0", "eth1", "eth2"]
    assert "default via" in command_in(task.path, "ip", "route", "show", "dev", "eth1")
    leave(rig, task, BLUE)
    await rig.apply()
    assert sorted(shown(task)) == ["eth0"]
    assert command_in(task.path, "ip", "route", "show", "default") == ""
    assert not _gateway_ports(rig)


def _gateway_ports(rig: OverlayRig) -> list[str]:
    path = rig.folders[0] / "netns" / plan.GATEWAY_NETNS
    found = command_in(path, "ip", "-br", "link").splitlines()
    return [line for line in found if line.startswith(plan.PORT_PREFIX)]


async def test_its_resolver_stays_open(rig: OverlayRig) -> None:
    """A query that is under way is answered, and the next one knows the names of the new network."""
    task = rig.place("task", 0, (BLUE, "10.1.0.2/16"))
    await rig.apply()
    doors = "ss -lnuH 'src 127.0.0.11' -e"
    before = command_in(task.path, "sh", "-c", doors).split()
    join(rig, task, SIDE, "10.5.0.2/16", link="eth2")
    await rig.apply()
    assert command_in(task.path, "sh", "-c", doors).split() == before
