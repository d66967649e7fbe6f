"""Every node answers on a published port, whichever way a client comes, and the task sees who it is.

Three nodes and an outsider; the task's peer address is asserted on each path, over TCP and UDP.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from mesh_rig import MeshRig, RunningTask, mesh_rig, port
from msgspec.structs import replace
from net_hosts import EchoServer, ask, command_in, is_reachable, socket_in

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
PORT, TARGET = 8080, 80
GATEWAY = "172.31.0.1"
"""Of the tasks of each node: the same everywhere."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[MeshRig]:
    with mesh_rig(3, tmp_path) as rig:
        yield rig


@pytest.fixture
def dual(tmp_path: Path) -> Iterator[MeshRig]:
    with mesh_rig(2, tmp_path, has_ipv6=True) as rig:
        yield rig


@contextmanager
def serving(
    *tasks: RunningTask, protocol: str = "tcp", address: str = "0.0.0.0"
) -> Iterator[list[EchoServer]]:
    """Echo servers in the tasks, which say their task's name first."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                EchoServer(
                    task.path, address, TARGET, KINDS[protocol], greeting=f"{task.endpoint.task_id} ".encode()
                )
            )
            for task in tasks
        ]


def who_was_seen(servers: list[EchoServer], path: str | Path, address: str, protocol: str = "tcp") -> str:
    """Ask once; the address that the serving task saw."""
    before = sum(len(server.seen) for server in servers)
    answer = ask(path, address, PORT, kind=KINDS[protocol])
    assert answer.answer.endswith(b" hello")
    [found] = [
        server.seen[-1][0] for server in servers if answer.answer.startswith(server.greeting) and server.seen
    ]
    assert sum(len(server.seen) for server in servers) == before + 1
    return found


def publish(rig: MeshRig, *tasks: RunningTask, protocol: str = "tcp", is_source_nat: bool = False) -> None:
    rig.publish(
        replace(port(PORT, TARGET, tasks, protocol=protocol), is_source_nat=is_source_nat),
    )


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_all_ways_to_a_port(rig: MeshRig, protocol: str) -> None:
    one, two, three = rig.nodes
    tasks = [rig.run("a", on=2), rig.run("b", on=2), rig.run("c", on=3)]
    publish(rig, *tasks, protocol=protocol)
    client = rig.run("client", on=2)
    with serving(*tasks, protocol=protocol) as servers:
        seen = {}
        for what, path, address in (
            ("outside, node without replica", rig.outside.path, one.address),
            ("outside, node with replicas", rig.outside.path, two.address),
            ("node without replica, own address", one.path, one.address),
            ("node without replica, loopback", one.path, "127.0.0.1"),
            ("node with replicas, loopback", two.path, "127.0.0.1"),
            ("node, another node", one.path, three.address),
            ("task, gateway", client.path, GATEWAY),
            ("task, own node", client.path, two.address),
            ("task, another node", client.path, one.address),
            ("replica, own node", tasks[0].path, two.address),
        ):
            seen[what] = {who_was_seen(servers, path, address, protocol) for _ in range(6)}
        assert {server.greeting for server in servers if server.seen} == {b"a ", b"b ", b"c "}
    assert seen == {
        "outside, node without replica": {rig.outside.address},
        "outside, node with replicas": {rig.outside.address},
        "node without replica, own address": {one.address},
        "node without replica, loopback": {rig.gateway_of(1)},
        "node with replicas, loopback": {rig.gateway_of(2)},
        "node, another node": {one.address},
        "task, gateway": {rig.gateway_of(2)},
        "task, own node": {rig.gateway_of(2)},
        "task, another node": {two.address},
        "replica, own node": {rig.gateway_of(2)},
    }


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_task_reaches_itself(rig: MeshRig, protocol: str) -> None:
    """It is the only backend of the port that it calls: by its own node, and by another."""
    task = rig.run("a", on=1)
    publish(rig, task, protocol=protocol)
    with serving(task, protocol=protocol) as servers:
        assert who_was_seen(servers, task.path, rig.nodes[0].address, protocol) == rig.gateway_of(1)
        assert who_was_seen(servers, task.path, rig.nodes[1].address, protocol) == rig.nodes[0].address


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_source_nat_shows_the_node_that_the_client_came_in_on(rig: MeshRig, protocol: str) -> None:
    task = rig.run("a", on=2)
    publish(rig, task, protocol=protocol, is_source_nat=True)
    with serving(task, protocol=protocol) as servers:
        for node in rig.nodes:
            seen = who_was_seen(servers, rig.outside.path, node.address, protocol)
            assert seen == rig.gateway_of(node.host.number)


def test_source_nat_needs_nothing_of_the_tasks_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before Linux 5.16, without the hook by which answers find the node of their client."""
    monkeypatch.setattr("agent.dataplane.linux.mesh.probe.has_egress_hook", lambda: False)
    with mesh_rig(2, tmp_path) as rig:
        task = rig.run("a", on=2)
        assert "egress" not in command_in(task.path, "nft", "list", "ruleset")
        publish(rig, task, is_source_nat=True)
        with serving(task) as servers:
            for node in rig.nodes:
                seen = who_was_seen(servers, rig.outside.path, node.address)
                assert seen == rig.gateway_of(node.host.number)
            rig.absent.add(1)
            rig.apply()  # nodes are followed without the hook, too
            assert who_was_seen(servers, rig.outside.path, rig.nodes[1].address) == rig.gateway_of(2)


def test_udp_from_a_socket_that_the_server_has_connected(rig: MeshRig) -> None:
    """A server with a socket per client, bound to no address, as of DTLS: both of them keep being reached."""
    task = rig.run("a", on=2)
    publish(rig, task, protocol="udp")
    with (
        socket_in(task.path, socket.SOCK_DGRAM) as general,
        socket_in(task.path, socket.SOCK_DGRAM) as own,
        socket_in(rig.outside.path, socket.SOCK_DGRAM) as client,
        socket_in(rig.outside.path, socket.SOCK_DGRAM) as other,
    ):
        for each in (general, own):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind(("0.0.0.0", TARGET))
        client.connect((rig.nodes[0].address, PORT))
        client.send(b"first")
        # two sockets have the port: the one that was bound last gets it
        data, peer = own.recvfrom(100)
        assert (data, peer[0]) == (b"first", rig.outside.address)
        own.connect(peer)
        own.send(b"answer")
        assert client.recv(100) == b"answer"
        client.send(b"second")
        assert own.recv(100) == b"second"
        other.connect((rig.nodes[0].address, PORT))
        other.send(b"another")
        data, peer = general.recvfrom(100)
        general.sendto(b"to another", peer)
        assert other.recv(100) == b"to another"


def test_ipv6(dual: MeshRig) -> None:
    """From outside, from the node, and by loopback; servers of both kinds."""
    task = dual.run("a", on=2)
    dual.publish(port(PORT, TARGET, [task]), port(PORT, TARGET, [task], protocol="udp"))
    one, two = dual.nodes
    for protocol in ("tcp", "udp"):
        with serving(task, protocol=protocol, address="::") as servers:
            for node in dual.nodes:
                seen = who_was_seen(servers, dual.outside.path, node.host.address6, protocol)
                assert seen == dual.outside.address6
            assert who_was_seen(servers, one.path, one.host.address6, protocol) == one.host.address6
            assert who_was_seen(servers, one.path, two.host.address6, protocol) == one.host.address6
            assert who_was_seen(servers, one.path, "::1", protocol) == "fd00:255::2"
            assert who_was_seen(servers, two.path, "::1", protocol) == "fd00:255::3"
            seen = who_was_seen(servers, dual.outside.path, one.address, protocol)
            assert seen.removeprefix("::ffff:") == dual.outside.address


def test_a_task_with_ipv6_in_the_mesh_alone_has_no_way_out(dual: MeshRig) -> None:
    task = dual.run("a", on=1)
    with socket_in(task.path, family=socket.AF_INET6) as client, pytest.raises(OSError) as caught:
        client.connect((dual.outside.address6, 80))
    assert "timed out" not in str(caught.value)


# --- who is refused


def refused_by(path: str | Path, address: str, protocol: str, number: int = PORT) -> bool:
    """Whether the answer is a refusal, which takes no time."""
    try:
        ask(path, address, number, kind=KINDS[protocol], timeout_s=3)
    except ConnectionRefusedError:
        return True
    except PermissionError:
        assert protocol == "udp"  # how a node's own datagrams are refused
        return True
    return False


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_without_tasks_clients_are_refused_at_once(rig: MeshRig, protocol: str) -> None:
    rig.publish(port(PORT, TARGET, [], protocol=protocol))
    node = rig.nodes[0]
    assert refused_by(rig.outside.path, node.address, protocol)
    assert refused_by(node.path, node.address, protocol)
    assert refused_by(node.path, "127.0.0.1", protocol)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_task_that_does_not_listen_refuses_at_once(rig: MeshRig, protocol: str) -> None:
    task = rig.run("a", on=2)
    publish(rig, task, protocol=protocol)
    for node in rig.nodes:
        assert refused_by(rig.outside.path, node.address, protocol)
    assert refused_by(rig.nodes[0].path, "127.0.0.1", protocol)


def test_what_is_not_published_is_not_touched(rig: MeshRig) -> None:
    task = rig.run("a", on=2)
    publish(rig, task)
    node = rig.nodes[0]
    with EchoServer(node.path, node.address, 9090) as server:
        assert ask(rig.outside.path, node.address, 9090).answer == b"hello"
        assert server.seen[0][0] == rig.outside.address
    assert refused_by(rig.outside.path, node.address, "tcp", 9090)


def test_nobody_passes_through_the_ingress_network(rig: MeshRig) -> None:
    """Not from a task to its node, not through a node to others, not from outside to tasks."""
    task = rig.run("a", on=2)
    node, outside = rig.nodes[1], rig.outside
    with (
        EchoServer(node.path, "0.0.0.0", 9090),
        EchoServer(outside.path, outside.address, 9090),
        EchoServer(task.path, "0.0.0.0", 9090),
    ):
        assert refused_by(task.path, rig.gateway_of(2), "tcp", 9090)
        outside.command("ip", "route", "add", "10.255.0.0/16", "via", node.address)
        assert not is_reachable(outside.path, task.address, 9090)
        command_in(task.path, "ip", "route", "replace", f"{outside.address}/32", "via", rig.gateway_of(2))
        assert not is_reachable(task.path, outside.address, 9090)


# --- where and to whom


def test_a_port_on_one_address(rig: MeshRig) -> None:
    task = rig.run("a", on=2)
    one, two, _ = rig.nodes
    rig.publish(
        replace(port(PORT, TARGET, [task]), host_ip=one.address),
        replace(port(PORT + 1, TARGET, [task]), host_ip="127.0.0.1"),
        replace(port(PORT + 2, TARGET, [task]), host_ip="eth0"),
        replace(port(PORT + 3, TARGET, [task]), host_ip="eth0", is_source_nat=True, is_sticky=True),
        replace(port(PORT + 4, TARGET, [task]), host_ip=one.address, is_source_nat=True),
        replace(port(PORT + 5, TARGET, [task]), host_ip="eth7"),
    )
    with serving(task) as servers:
        assert who_was_seen(servers, rig.outside.path, one.address) == rig.outside.address
        assert refused_by(one.path, "127.0.0.1", "tcp")
        assert refused_by(rig.outside.path, two.address, "tcp")
        assert ask(one.path, "127.0.0.1", PORT + 1).answer == b"a hello"
        assert refused_by(rig.outside.path, one.address, "tcp", PORT + 1)
        assert ask(rig.outside.path, one.address, PORT + 2).answer == b"a hello"
        assert ask(rig.outside.path, two.address, PORT + 2).answer == b"a hello"
        assert refused_by(one.path, "127.0.0.1", "tcp", PORT + 2)
        assert refused_by(one.path, one.address, "tcp", PORT + 2), "it does not come in by eth0"
        for number in (PORT + 3, PORT + 4):
            assert ask(rig.outside.path, one.address, number).answer == b"a hello"
            assert servers[0].seen[-1][0] == rig.gateway_of(1)
        assert refused_by(rig.outside.path, one.address, "tcp", PORT + 5)


def test_clients_that_stick(rig: MeshRig) -> None:
    """The same task on whichever node a client comes in; others spread."""
    tasks = [rig.run(name, on=number) for name, number in (("a", 1), ("b", 2), ("c", 3))]
    rig.publish(replace(port(PORT, TARGET, tasks), is_sticky=True))
    with serving(*tasks):
        answers = {ask(rig.outside.path, node.address, PORT).answer for node in rig.nodes for _ in range(8)}
        assert len(answers) == 1
        for number in range(10, 30):
            rig.outside.command("ip", "address", "add", f"192.0.2.{number}/24", "dev", "eth0")
        others = {
            ask(rig.outside.path, rig.nodes[0].address, PORT, source=f"192.0.2.{number}").answer
            for number in range(10, 30)
        }
        assert len(others) == 3


def test_shares_are_equal(rig: MeshRig) -> None:
    tasks = [rig.run(name, on=number) for name, number in (("a", 1), ("b", 2), ("c", 2))]
    publish(rig, *tasks)
    with serving(*tasks) as servers:
        for _ in range(300):
            ask(rig.outside.path, rig.nodes[2].address, PORT)
        counts = [len(server.seen) for server in servers]
    assert min(counts) > 60  # of 100: six standard deviations away
    assert sum(counts) == 300


# --- sizes


def test_large_transfers_and_segment_sizes(rig: MeshRig) -> None:
    """What the overlay cannot carry in one piece is not sent in one piece, in either direction."""
    task = rig.run("a", on=2)
    publish(rig, task)
    data = os.urandom(1 << 20)

    def send_and_get_back(path: str | Path, address: str) -> None:
        with socket_in(path) as client:
            client.connect((address, PORT))
            size = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
            assert size <= 1450 - 40
            received = bytearray()
            for start in range(0, len(data), 1 << 15):
                piece = data[start : start + (1 << 15)]
                client.sendall(piece)
                while len(received) < start + len(piece):
                    got = client.recv(1 << 16)
                    assert got
                    received += got
            assert bytes(received) == data

    with EchoServer(task.path, "0.0.0.0", TARGET):
        send_and_get_back(rig.outside.path, rig.nodes[0].address)
        send_and_get_back(rig.outside.path, rig.nodes[1].address)
        send_and_get_back(rig.nodes[0].path, "127.0.0.1")


def test_source_port_is_kept_or_drawn(rig: MeshRig) -> None:
    """The client's own port where its address is kept; a new one with source NAT."""
    task = rig.run("a", on=2)
    outcomes: dict[bool, Callable[[int, int], bool]] = {False: int.__eq__, True: int.__ne__}
    for is_source_nat, holds in outcomes.items():
        publish(rig, task, is_source_nat=is_source_nat)
        with serving(task) as servers:
            answer = ask(rig.outside.path, rig.nodes[0].address, PORT)
            assert holds(servers[0].seen[0][1], answer.local[1])
