"""Policies of endpoints hold on real packets, outside of the task, from its first packet on."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from net_hosts import (
    PATIENCE_S,
    EchoServer,
    Rig,
    ask,
    command_in,
    is_reachable,
    net_hosts,
    socket_in,
)
from overlay_rig import BLUE, OverlayRig, network, overlay_rig
from policy_rig import queues, set_policy

from agent.dataplane.linux import plan
from agent.dataplane.linux.policy.rules import TABLE
from agent.dataplane.linux.policy.station import ifb_name
from swarmpy.model.ids import TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

DUAL = network("dual", 4099, "10.4.0.0/24", "fd00:4::/64")
MACVLAN = network("lan", 0, "192.0.2.0/24", driver="macvlan")
DATAGRAM = socket.SOCK_DGRAM


@pytest.fixture
def hosts() -> Iterator[Rig]:
    with net_hosts(2) as rig:
        yield rig


@pytest.fixture
async def rig(hosts: Rig, tmp_path: Path) -> AsyncIterator[OverlayRig]:
    async with overlay_rig(hosts, tmp_path) as made:
        yield made


def sandbox(rig: OverlayRig, node: int = 0) -> Path:
    return plan.sandbox_path(rig.folders[node] / "netns", BLUE.id)


def port(name: str) -> str:
    return plan.network_port_name(TaskId(name))


def answers(path: Path, address: str, number: int, *, timeout_s: float = 0.4) -> bool:
    """Over UDP; for who expects none, unless it is given longer."""
    try:
        return bool(ask(path, address, number, kind=DATAGRAM, timeout_s=timeout_s).answer)
    except OSError:
        return False


async def test_first_fitting_rule_decides(rig: OverlayRig) -> None:
    """By address, port and protocol; near and far alike; what no rule fits passes."""
    web = rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    near = rig.place("near", 0, (BLUE, "10.1.0.3/16"))
    far = rig.place("far", 1, (BLUE, "10.1.0.4/16"))
    set_policy(rig, "web", "allow in tcp 22 from 10.1.0.4/32; deny in tcp 22,8000-8100; deny in udp 53")
    await rig.apply()
    with (
        EchoServer(web.path, "10.1.0.2", 22),
        EchoServer(web.path, "10.1.0.2", 8050),
        EchoServer(web.path, "10.1.0.2", 445),
        EchoServer(web.path, "10.1.0.2", 53, DATAGRAM),
        EchoServer(web.path, "10.1.0.2", 54, DATAGRAM),
    ):
        assert is_reachable(far.path, "10.1.0.2", 22, timeout_s=PATIENCE_S)
        assert not is_reachable(near.path, "10.1.0.2", 22)
        for client in (near, far):
            assert not is_reachable(client.path, "10.1.0.2", 8050)
            assert is_reachable(client.path, "10.1.0.2", 445, timeout_s=PATIENCE_S)
            assert not answers(client.path, "10.1.0.2", 53)
            assert answers(client.path, "10.1.0.2", 54, timeout_s=PATIENCE_S)


async def test_who_may_not_be_called_may_call(rig: OverlayRig) -> None:
    """Answers pass, of TCP, UDP and echoes; so one direction can be closed without the other."""
    web = rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    far = rig.place("far", 1, (BLUE, "10.1.0.4/16"))
    set_policy(rig, "web", "deny in")
    await rig.apply()
    with (
        EchoServer(far.path, "10.1.0.4", 80),
        EchoServer(far.path, "10.1.0.4", 53, DATAGRAM),
        EchoServer(web.path, "10.1.0.2", 80),
        EchoServer(web.path, "10.1.0.2", 53, DATAGRAM),
    ):
        assert ask(web.path, "10.1.0.4", 80).answer == b"hello"
        assert answers(web.path, "10.1.0.4", 53, timeout_s=PATIENCE_S)
        command_in(web.path, "ping", "-c", "1", "-W", "2", "10.1.0.4")
        assert not is_reachable(far.path, "10.1.0.2", 80)
        assert not answers(far.path, "10.1.0.2", 53)


async def test_a_datagram_larger_than_a_frame_is_answered(rig: OverlayRig) -> None:
    """Its fragments carry no ports."""
    web = rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    far = rig.place("far", 1, (BLUE, "10.1.0.4/16"))
    set_policy(rig, "web", "deny in")
    await rig.apply()
    with EchoServer(far.path, "10.1.0.4", 53, DATAGRAM):
        assert ask(web.path, "10.1.0.4", 53, kind=DATAGRAM, data=b"x" * 6000).answer == b"x" * 6000


async def test_what_a_task_sends_is_held_too(rig: OverlayRig) -> None:
    web = rig.place("web", 0, (DUAL, "10.4.0.2/24,fd00:4::2/64"))
    far = rig.place("far", 1, (DUAL, "10.4.0.4/24,fd00:4::4/64"))
    set_policy(rig, "web", "deny out tcp 25; deny out to fd00:4::4/128; deny in icmp")
    await rig.apply()
    with (
        EchoServer(far.path, "10.4.0.4", 25),
        EchoServer(far.path, "10.4.0.4", 80),
        EchoServer(far.path, "fd00:4::4", 80),
        EchoServer(web.path, "fd00:4::2", 80),
    ):
        assert not is_reachable(web.path, "10.4.0.4", 25)
        assert is_reachable(web.path, "10.4.0.4", 80, timeout_s=PATIENCE_S)
        assert not is_reachable(web.path, "fd00:4::4", 80)
        assert is_reachable(far.path, "fd00:4::2", 80, timeout_s=PATIENCE_S), (
            "an answer, and neighbours find each other"
        )
    with pytest.raises(AssertionError, match="packet loss"):
        command_in(far.path, "ping", "-c", "1", "-W", "1", "10.4.0.2")


async def test_policies_are_keyed_by_address(rig: OverlayRig) -> None:
    """Two endpoints behind one uplink, each with its own policy."""
    rig.place("one", 0, (BLUE, "10.1.0.2/16"))
    rig.place("two", 0, (BLUE, "10.1.0.3/16"))
    far = rig.place("far", 1, (BLUE, "10.1.0.4/16"))
    set_policy(rig, "one", "deny in tcp 80")
    set_policy(rig, "two", "deny in tcp 81")
    await rig.apply()
    one, two = rig.tasks[TaskId("one")], rig.tasks[TaskId("two")]
    with (
        EchoServer(one.path, "10.1.0.2", 80),
        EchoServer(one.path, "10.1.0.2", 81),
        EchoServer(two.path, "10.1.0.3", 80),
        EchoServer(two.path, "10.1.0.3", 81),
    ):
        for address, number in (("10.1.0.2", 81), ("10.1.0.3", 80)):
            assert is_reachable(far.path, address, number, timeout_s=PATIENCE_S)
        for address, number in (("10.1.0.2", 80), ("10.1.0.3", 81)):
            assert not is_reachable(far.path, address, number)


async def test_a_change_leaves_connections_alone(rig: OverlayRig) -> None:
    web = rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    far = rig.place("far", 1, (BLUE, "10.1.0.4/16"))
    await rig.apply()
    with EchoServer(web.path, "10.1.0.2", 80), socket_in(far.path) as client:
        client.connect(("10.1.0.2", 80))
        set_policy(rig, "web", "deny in tcp 80")
        await rig.apply()
        client.sendall(b"still there")
        assert client.recv(100) == b"still there"
        assert not is_reachable(far.path, "10.1.0.2", 80)
        set_policy(rig, "web", "allow in tcp 80 from 10.1.0.4/32; deny in")
        await rig.apply()
        assert is_reachable(far.path, "10.1.0.2", 80, timeout_s=PATIENCE_S)
        set_policy(rig, "web", "deny in")
        await rig.apply()
        assert not is_reachable(far.path, "10.1.0.2", 80)
        set_policy(rig, "web", "")
        await rig.apply()
        assert is_reachable(far.path, "10.1.0.2", 80, timeout_s=PATIENCE_S)
        client.sendall(b"and on")
        assert client.recv(100) == b"and on"


async def test_the_task_cannot_take_it_off(rig: OverlayRig) -> None:
    """Not even with all of nftables and tc in its own namespace."""
    web = rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    far = rig.place("far", 1, (BLUE, "10.1.0.4/16"))
    set_policy(rig, "web", "deny in tcp 80")
    await rig.apply()
    command_in(web.path, "nft", "flush", "ruleset")
    with EchoServer(web.path, "10.1.0.2", 80):
        assert not is_reachable(far.path, "10.1.0.2", 80)


async def test_damage_is_mended_and_a_sound_table_is_left_alone(rig: OverlayRig) -> None:
    rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    set_policy(rig, "web", "deny in tcp 80", rate_in=10_000_000, rate_out=10_000_000)
    await rig.apply()
    path, own = sandbox(rig), port("web")

    def handles() -> str:
        return command_in(path, "nft", "-a", "list", "table", "bridge", TABLE)

    whole = handles()
    await rig.backends[0].mend()
    assert handles() == whole
    for damage in (
        f"delete table bridge {TABLE}",
        f'delete element bridge {TABLE} ports_in {{ "{own}" }}',
        f"flush chain bridge {TABLE} in-{own}",
        f"flush chain bridge {TABLE} answers",
    ):
        command_in(path, "nft", damage)
        await rig.backends[0].mend()
        assert "drop" in command_in(path, "nft", f"list chain bridge {TABLE} in-{own}")
        assert own in command_in(path, "nft", f"list map bridge {TABLE} ports_in")
        assert "syn" in command_in(path, "nft", f"list chain bridge {TABLE} answers")
    command_in(path, "tc", "qdisc", "del", "dev", own, "root")
    command_in(path, "ip", "link", "del", ifb_name(own))
    await rig.backends[0].mend()
    assert "tbf" in queues(path, own)
    assert "tbf" in queues(path, ifb_name(own))


async def test_it_outlives_the_daemon(rig: OverlayRig) -> None:
    """A new life finds what stands to be right, and leaves it; or changes it to what is wished by now."""
    web = rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    far = rig.place("far", 1, (BLUE, "10.1.0.4/16"))
    set_policy(rig, "web", "deny in tcp 80", rate_out=10_000_000)
    await rig.apply()
    path = sandbox(rig)
    before = command_in(path, "nft", "-a", "list", "table", "bridge", TABLE)
    await rig.restart(0)
    with EchoServer(web.path, "10.1.0.2", 80):
        assert not is_reachable(far.path, "10.1.0.2", 80)
        await rig.apply()
        assert command_in(path, "nft", "-a", "list", "table", "bridge", TABLE) == before
        assert not is_reachable(far.path, "10.1.0.2", 80)
        await rig.restart(0)
        set_policy(rig, "web", "")
        await rig.apply()
        assert is_reachable(far.path, "10.1.0.2", 80, timeout_s=PATIENCE_S)
    assert "tbf" not in queues(path, port("web"))
    assert ifb_name(port("web")) not in command_in(path, "ip", "link")


async def test_nothing_is_left_of_a_task(rig: OverlayRig) -> None:
    rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    rig.place("other", 0, (BLUE, "10.1.0.3/16"))
    set_policy(rig, "web", "deny in tcp 80", rate_in=10_000_000, rate_out=10_000_000)
    await rig.apply()
    rig.remove("web")
    await rig.apply()
    path, own = sandbox(rig), port("web")
    assert own not in command_in(path, "nft", "list", "table", "bridge", TABLE)
    assert ifb_name(own) not in command_in(path, "ip", "link")


@pytest.mark.parametrize("config", [BLUE, MACVLAN], ids=["overlay", "macvlan"])
@pytest.mark.parametrize("way", ["in", "out"])
async def test_a_rate_holds_back_what_is_above_it(rig: OverlayRig, config: object, way: str) -> None:
    """Judged by the kernel's counters: the bucket had to hold packets back, and let so much through."""
    address = "10.1.0.2" if config is BLUE else "192.0.2.102"
    other = "10.1.0.4" if config is BLUE else "192.0.2.104"
    bits = "/16" if config is BLUE else "/24"
    web = rig.place("web", 0, (config, address + bits))  # type: ignore[arg-type]
    far = rig.place("far", 1, (config, other + bits))  # type: ignore[arg-type]
    rate = 2_000_000
    set_policy(rig, "web", rate_in=rate if way == "in" else 0, rate_out=rate if way == "out" else 0)
    await rig.apply()
    sender, target = (far, address) if way == "in" else (web, other)
    receiver = web if way == "in" else far
    total = 400_000
    with EchoServer(receiver.path, target, 80), socket_in(sender.path) as client:
        client.connect((target, 80))
        client.setblocking(True)
        client.sendall(b"x" * total)
        client.shutdown(socket.SHUT_WR)
        got = 0
        while got < total and (data := client.recv(1 << 16)):
            got += len(data)
    assert got == total
    inside = config is not BLUE
    path = web.path if inside else sandbox(rig)
    link = "eth0" if inside else port("web")
    is_leaving = (way == "in") != inside
    bucket = queues(path, link if is_leaving else ifb_name(link))["tbf"]
    assert bucket["bytes"] >= total
    assert bucket["overlimits"] > 0
    assert bucket["options"]["rate"] == rate // 8


async def test_a_slow_endpoint_does_not_slow_others(rig: OverlayRig) -> None:
    """The flow to the capped one takes longer than ten to another: compared, not timed."""
    slow = rig.place("slow", 0, (BLUE, "10.1.0.2/16"))
    fast = rig.place("fast", 0, (BLUE, "10.1.0.3/16"))
    far = rig.place("far", 1, (BLUE, "10.1.0.4/16"))
    set_policy(rig, "slow", rate_in=200_000)
    await rig.apply()
    with (
        EchoServer(slow.path, "10.1.0.2", 80),
        EchoServer(fast.path, "10.1.0.3", 80),
        socket_in(far.path) as held,
        socket_in(far.path) as free,
    ):
        held.connect(("10.1.0.2", 80))
        held.setblocking(False)
        sent = held.send(b"x" * 500_000)
        free.connect(("10.1.0.3", 80))
        got = 0
        for _ in range(10):
            free.sendall(b"y" * 50_000)
            mark = got + 50_000
            while got < mark:
                got += len(free.recv(1 << 16))
        bucket = queues(sandbox(rig), port("slow"))["tbf"]
        assert bucket["backlog"] > 0, "it still waits"
        assert sent


async def test_an_attach_that_comes_late_does_not_bring_an_old_policy_back(rig: OverlayRig) -> None:
    """The task was asked for before its policy changed, and is attached after."""
    web = rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    far = rig.place("far", 1, (BLUE, "10.1.0.4/16"))
    set_policy(rig, "web", "deny in tcp 80")
    await rig.apply()
    await rig.backends[0].attach(web.endpoint)
    with EchoServer(web.path, "10.1.0.2", 80):
        assert not is_reachable(far.path, "10.1.0.2", 80)
