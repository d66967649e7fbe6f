"""Whatever happens to a node's overlay networks, the next round mends it, and connections live on."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from net_hosts import EchoServer, Rig, command_in, is_reachable, net_hosts, socket_in
from overlay_rig import BLUE, RED, OverlayRig, overlay_rig

from agent.dataplane.base import NodeState
from agent.dataplane.linux import namespaces, plan
from agent.dataplane.linux.backend import LinuxBackend
from agent.dataplane.linux.netlink import Message, Netlink
from agent.dataplane.linux.nftables import Nftables
from agent.dataplane.linux.overlays import network as overlay_network
from swarmpy.errors import Unavailable
from swarmpy.model.ids import TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]


class Killed(BaseException):
    """The process is gone: nothing after it runs, no cleaning up either."""


@pytest.fixture
def hosts() -> Iterator[Rig]:
    with net_hosts(2) as rig:
        yield rig


@pytest.fixture
async def rig(hosts: Rig, tmp_path: Path) -> AsyncIterator[OverlayRig]:
    async with overlay_rig(hosts, tmp_path) as made:
        yield made


@pytest.fixture
async def pair(rig: OverlayRig) -> OverlayRig:
    """A server on the first node, a client on the second."""
    rig.place("web", 0, (BLUE, "10.1.0.2/16"))
    rig.place("far", 1, (BLUE, "10.1.0.3/16"))
    await rig.apply()
    return rig


def path_of(rig: OverlayRig, name: str) -> Path:
    return rig.tasks[TaskId(name)].path


def sandbox(rig: OverlayRig, node: int) -> Path:
    return plan.sandbox_path(rig.folders[node] / "netns", BLUE.id)


@contextmanager
def conversation(rig: OverlayRig) -> Iterator[Callable[[], bool]]:
    """A connection from far to web; the call says whether it still carries words."""
    with (
        EchoServer(path_of(rig, "web"), "10.1.0.2", 80),
        closing(socket_in(path_of(rig, "far"))) as client,
    ):
        client.connect(("10.1.0.2", 80))

        def speak() -> bool:
            client.sendall(b"word")
            return client.recv(10) == b"word"

        assert speak()
        yield speak


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Message]]:
    """All rtnetlink messages that are sent to change something in networks."""
    sent: list[Message] = []
    original = Netlink.batch

    def batch(self: Netlink, messages: list[Message]) -> list[int]:
        sent.extend(message for message in messages if b"sw-ing" not in message.body)
        return original(self, messages)

    with monkeypatch.context() as patched:
        patched.setattr(Netlink, "batch", batch)
        yield sent


# --- lives of the daemon


async def test_connections_outlive_the_daemon(pair: OverlayRig) -> None:
    """Also while the new one has not yet been told anything."""
    with conversation(pair) as speak:
        before = command_in(sandbox(pair, 0), "ip", "-o", "link", "show", "vx0").split(":")[0]
        await pair.restart(0)
        assert speak()
        await pair.apply(0)
        assert speak()
        assert command_in(sandbox(pair, 0), "ip", "-o", "link", "show", "vx0").split(":")[0] == before


async def test_a_round_without_change_changes_nothing(
    pair: OverlayRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = pair.backends[0]
    state = pair.state_of(0)
    with counted(monkeypatch) as sent:
        await backend.apply(state)
        await backend.apply(replace(state))
    assert sent == []
    links = command_in(sandbox(pair, 0), "ip", "-o", "link")
    await backend.mend()
    assert command_in(sandbox(pair, 0), "ip", "-o", "link") == links


async def test_one_endpoint_costs_two_messages(pair: OverlayRig, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.place("later", 1, (BLUE, "10.1.0.4/16"))
    state = pair.state_of(0)
    with counted(monkeypatch) as sent:
        await pair.backends[0].apply(state)
    assert len(sent) == 2


async def test_networks_left_while_the_daemon_was_away(pair: OverlayRig) -> None:
    pair.place("other", 0, (RED, "10.1.0.2/16"))
    await pair.apply()
    pair.remove("web")
    await pair.restart(0)
    assert sandbox(pair, 0).exists()
    await pair.apply(0)
    assert not sandbox(pair, 0).exists()
    assert sorted(os.listdir(pair.folders[0] / "netns")) == sorted(
        [plan.GATEWAY_NETNS, ".net-red-network-", "other"]
    )
    # its number is free for whoever comes next
    words = f"link add other type vxlan id {BLUE.vni} dstport 4789 local {pair.hosts[0].address}"
    pair.hosts[0].command("ip", *words.split())


async def test_records_of_before_networks_are_read(rig: OverlayRig) -> None:
    """Their tasks run on."""
    placed = rig.place("old", 0)
    await rig.apply(0)
    record = rig.folders[0] / "network/old/endpoint.json"
    found = msgspec.json.decode(record.read_bytes())
    short = {
        "endpoint": {"TaskID": found["endpoint"]["TaskID"], "Hostname": "old"},
        "address": found["address"],
    }
    record.write_bytes(msgspec.json.encode(short))
    backend = await rig.restart(0)
    assert await backend.list() == (TaskId("old"),)
    assert (await backend.attach(placed.endpoint)).addresses == (found["address"],)


# --- killed anywhere


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The step-th touch of the kernel is the last; the list has how many there were."""
    count = [0]

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*args: Any, **more: Any) -> Any:
            count[0] += 1
            if count[0] >= step:
                raise Killed
            return call(*args, **more)

        return counted_call

    with monkeypatch.context() as patched:
        patched.setattr(Netlink, "_send", counting(Netlink._send))
        patched.setattr(Nftables, "run", counting(Nftables.run))
        patched.setattr("agent.executor.native.shim.kernel.mount", counting(_kernel().mount))
        patched.setattr("agent.executor.native.shim.kernel.unmount", counting(_kernel().unmount))
        yield count


def _kernel() -> Any:
    from agent.executor.native.shim import kernel

    return kernel


async def _is_killed(step: int, rig: OverlayRig, monkeypatch: pytest.MonkeyPatch) -> bool:
    state = rig.state_of(0)
    try:
        with killed_at(step, monkeypatch):
            await rig.backends[0].apply(state)
    except Killed:
        return True
    return False


async def _die(rig: OverlayRig, node: int) -> None:
    """The daemon is gone without a goodbye; a new one finds what it has left."""
    await rig.restart(node)


async def test_killed_between_any_two_steps_of_coming(
    pair: OverlayRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network, and a task on two, arrive; whenever the daemon dies, another makes it so."""
    with conversation(pair) as speak:
        step = 0
        while True:
            step += 1
            pair.place("new", 0, (BLUE, "10.1.0.9/16"), (RED, "10.1.0.9/16"))
            if not await _is_killed(step, pair, monkeypatch):
                break
            await _die(pair, 0)
            await pair.apply(0)
            assert speak()
            with EchoServer(path_of(pair, "new"), "10.1.0.9", 80):
                await pair.apply(1)
                assert is_reachable(path_of(pair, "far"), "10.1.0.9", 80, timeout_s=9)
            pair.remove("new")
            await pair.apply()
            assert sorted(os.listdir(pair.folders[0] / "netns")) == sorted(
                [plan.GATEWAY_NETNS, sandbox(pair, 0).name, "web"]
            )
        assert step > 20


async def test_killed_between_any_two_steps_of_going(
    pair: OverlayRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with conversation(pair) as speak:
        step = 0
        while True:
            step += 1
            pair.place("old", 0, (BLUE, "10.1.0.9/16"), (RED, "10.1.0.9/16"))
            await pair.apply(0)
            pair.remove("old")
            if not await _is_killed(step, pair, monkeypatch):
                break
            await _die(pair, 0)
            await pair.apply(0)
            assert speak()
            assert sorted(os.listdir(pair.folders[0] / "netns")) == sorted(
                [plan.GATEWAY_NETNS, sandbox(pair, 0).name, "web"]
            )
            ports = command_in(sandbox(pair, 0), "ip", "-o", "link", "show", "type", "veth")
            assert len(ports.splitlines()) == 1
        assert step > 5


# --- broken by others


@pytest.mark.parametrize(
    "damage",
    [
        "link delete vx0",
        "link delete br0",
        "link set vx0 nomaster",
        "link set vx0 down",
        "link set br0 down",
        "link set vx0 mtu 1400",
        "link delete {port}",
        "link set {port} nomaster",
        "link set {port} down",
        "neigh flush dev vx0 nud permanent",
    ],
)
async def test_what_outsiders_break_is_mended(pair: OverlayRig, damage: str) -> None:
    words = damage.format(port=plan.network_port_name(TaskId("web"))).split()
    command_in(sandbox(pair, 0), "ip", *words)
    await pair.backends[0].mend()
    with EchoServer(path_of(pair, "web"), "10.1.0.2", 80):
        assert is_reachable(path_of(pair, "far"), "10.1.0.2", 80, timeout_s=9)


async def test_entries_of_outsiders_go(pair: OverlayRig) -> None:
    path, node = sandbox(pair, 0), pair.hosts[1].address
    wrong = f"fdb replace 02:42:0a:01:00:03 dev vx0 dst {pair.hosts[0].address} self permanent"
    command_in(path, "bridge", *wrong.split())
    command_in(path, "bridge", *f"fdb add 00:00:00:00:00:00 dev vx0 dst {node} self permanent".split())
    command_in(
        path,
        "ip",
        *["neigh", "add", "10.1.0.77", "lladdr", "02:42:0a:01:00:4d", "dev", "vx0", "nud", "permanent"],
    )
    command_in(path, "ip", "link", "add", "p-stray", "type", "veth", "peer", "name", "elsewhere")
    await pair.backends[0].mend()
    found = await pair.backends[0].describe(BLUE.id)
    assert (found["forwarding"], found["neighbours"]) == (1, 1)
    assert "p-stray" not in command_in(path, "ip", "link")
    with EchoServer(path_of(pair, "web"), "10.1.0.2", 80):
        assert is_reachable(path_of(pair, "far"), "10.1.0.2", 80, timeout_s=9)


async def test_a_sandbox_that_vanished_is_made_anew(pair: OverlayRig) -> None:
    namespaces.remove(sandbox(pair, 0))
    backend = pair.backends[0]
    await backend.mend()
    with EchoServer(path_of(pair, "web"), "10.1.0.2", 80):
        assert is_reachable(path_of(pair, "far"), "10.1.0.2", 80, timeout_s=9)


async def test_the_gateway_and_the_guard_are_mended(pair: OverlayRig) -> None:
    host, backend = pair.hosts[0], pair.backends[0]
    host.command("ip", "link", "delete", plan.GATEWAY_LINK)
    host.command("nft", "flush", "ruleset")
    await backend.mend()
    rules = host.command("nft", "list", "ruleset")
    assert "ip saddr != @nodes drop" in rules
    assert pair.hosts[1].address in rules
    assert "masquerade" in rules
    address = (await backend.attach(pair.tasks[TaskId("web")].endpoint)).addresses[-1].partition("/")[0]
    with EchoServer(path_of(pair, "web"), address, 80):
        assert is_reachable(host.path, address, 80, timeout_s=9)


async def test_an_error_in_between_is_forgotten(pair: OverlayRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done before it is not trusted: the next round asks the kernel."""
    pair.place("later", 1, (BLUE, "10.1.0.4/16"))
    original = Netlink._send
    with monkeypatch.context() as patched:

        def fail(self: Netlink, messages: list[Message]) -> list[int]:
            original(self, messages)
            raise OSError(105, "No buffer space available")

        patched.setattr(Netlink, "_send", fail)
        with pytest.raises(Unavailable, match="No buffer space"):
            await pair.backends[0].apply(pair.state_of(0))
    command_in(sandbox(pair, 0), "ip", "link", "set", "vx0", "down")
    await pair.apply()
    with EchoServer(path_of(pair, "web"), "10.1.0.2", 80):
        assert is_reachable(path_of(pair, "later"), "10.1.0.2", 80, timeout_s=9)


# --- bounds


async def test_a_bridge_takes_so_many_ports(rig: OverlayRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay_network, "LEGS_MAX", 2)
    for number in (2, 3):
        rig.place(f"task{number}", 0, (BLUE, f"10.1.0.{number}/16"))
    await rig.apply(0)
    with pytest.raises(Unavailable, match="1023 ports"):
        await rig.backends[0].attach(rig.place("more", 0, (BLUE, "10.1.0.4/16")).endpoint)
    rig.remove("more")
    rig.remove("task2")
    rig.place("more", 0, (BLUE, "10.1.0.4/16"))
    await rig.apply(0)
    assert await rig.backends[0].list() == ("more", "task3")


async def test_an_unknown_state_detaches_all(pair: OverlayRig) -> None:
    await pair.backends[0].apply(NodeState())
    assert os.listdir(pair.folders[0] / "netns") == [plan.GATEWAY_NETNS]
    assert isinstance(pair.backends[0], LinuxBackend)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)):
        rules = pair.hosts[0].command("nft", "list", "set", "inet", "swarmpy_guard", "nodes")
    assert "elements" not in rules
