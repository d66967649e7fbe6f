"""The mesh over time: tasks that come and go, damage, restarts, conflicts, and nothing left at the end."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from mesh_rig import INGRESS, SUBNET6, MeshNode, MeshRig, RunningTask, mesh_rig, port
from msgspec.structs import replace
from net_hosts import PATIENCE_S, EchoServer, Rig, ask, command_in, is_reachable, net_hosts, socket_in
from overlay_rig import overlay_rig

from agent.dataplane.base import HostPort, PublishedPort
from agent.dataplane.linux import namespaces, plan
from agent.dataplane.linux.mesh import probe
from agent.dataplane.linux.mesh.host_rules import LISTING
from swarmpy.errors import Unavailable

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

PORT, TARGET = 8080, 80


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[MeshRig]:
    with mesh_rig(2, tmp_path) as rig:
        yield rig


@contextmanager
def serving(*tasks: RunningTask) -> Iterator[None]:
    with ExitStack() as stack:
        for task in tasks:
            name = f"{task.endpoint.task_id} ".encode()
            stack.enter_context(EchoServer(task.path, "0.0.0.0", TARGET, greeting=name))
        yield


@contextmanager
def connection(rig: MeshRig, node: MeshNode, task: RunningTask) -> Iterator[socket.socket]:
    """An established connection from outside to this task."""
    wanted = f"{task.endpoint.task_id} x".encode()
    for _ in range(100):
        client = socket_in(rig.outside.path)
        client.connect((node.address, PORT))
        client.sendall(b"x")
        if client.recv(100) == wanted:
            break
        client.close()
    with client:
        yield client


def is_alive(client: socket.socket) -> bool:
    client.sendall(b"still")
    return client.recv(100).endswith(b" still")


def answers(rig: MeshRig, node: MeshNode, count: int = 20) -> set[bytes]:
    return {ask(rig.outside.path, node.address, PORT).answer.split()[0] for _ in range(count)}


def test_tasks_come_and_go_and_connections_to_others_stay(rig: MeshRig) -> None:
    a, b = rig.run("a", on=1), rig.run("b", on=2)
    node = rig.nodes[0]
    rig.publish(port(PORT, TARGET, [a]))
    with serving(a, b), connection(rig, node, a) as client:
        rules = command_in(node.path, "nft", "-a", *LISTING.split())
        rig.publish(port(PORT, TARGET, [a, b]))
        assert is_alive(client)
        assert answers(rig, node) == {b"a", b"b"}
        rig.publish(port(PORT, TARGET, [b]))
        assert is_alive(client)
        assert answers(rig, node) == {b"b"}
        rig.publish(port(PORT, TARGET, [a]))
        assert command_in(node.path, "nft", "-a", *LISTING.split()) == rules  # its rules are the same ones


def test_a_node_without_a_place_in_the_ingress_network(rig: MeshRig) -> None:
    """It does not answer, its tasks still serve through the others, and it can come back."""
    a, b = rig.run("a", on=1), rig.run("b", on=2)
    rig.publish(port(PORT, TARGET, [a, b]))
    one, two = rig.nodes
    with serving(a, b):
        rig.absent.add(1)
        rig.apply()
        assert not is_reachable(rig.outside.path, one.address, PORT)
        assert answers(rig, two) == {b"a", b"b"}
        rig.absent.clear()
        rig.apply()
        assert answers(rig, one) == {b"a", b"b"}


DAMAGE = {
    "the leg": "ip link delete sw-ing",
    "its address": "ip address flush dev sw-ing",
    "the leg is down": "ip link set sw-ing down",
    "all rules": "nft flush ruleset",
    "the table": "nft delete table inet swarmpy_mesh",
    "a rule": "nft flush chain inet swarmpy_mesh publish",
    "elements": "nft flush map inet swarmpy_mesh ip_slots",
    "a port": "nft flush map inet swarmpy_mesh ip_ports",
}
TASK_DAMAGE = {
    "all rules": "nft flush ruleset",
    "the rule": "ip rule delete pref 90",
    "the route": "ip route flush table 90",
    "the neighbour": "ip neigh flush nud permanent",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_on_a_node_is_mended(rig: MeshRig, what: str) -> None:
    task = rig.run("a", on=2)
    rig.publish(port(PORT, TARGET, [task]))
    node = rig.nodes[0]
    with serving(task), connection(rig, node, task) as client:
        command_in(node.path, *DAMAGE[what].split())
        assert not is_reachable(rig.outside.path, node.address, PORT)
        node.mend()
        assert answers(rig, node, 3) == {b"a"}
        assert is_alive(client)
        before = command_in(node.path, "nft", "-a", *LISTING.split())
        node.mend()
        assert command_in(node.path, "nft", "-a", *LISTING.split()) == before


@pytest.mark.parametrize("what", TASK_DAMAGE)
def test_damage_in_a_task_is_mended(rig: MeshRig, what: str) -> None:
    task = rig.run("a", on=2)
    rig.publish(port(PORT, TARGET, [task]))
    node = rig.nodes[0]
    with serving(task), connection(rig, node, task) as client:
        command_in(task.path, *TASK_DAMAGE[what].split())
        assert not is_reachable(rig.outside.path, node.address, PORT)
        rig.nodes[1].mend()
        assert answers(rig, node, 3) == {b"a"}
        assert is_alive(client)
        rules = command_in(task.path, "nft", "-a", "list", "ruleset")
        rig.nodes[1].mend()
        assert command_in(task.path, "nft", "-a", "list", "ruleset") == rules


def test_the_sandbox_is_made_anew(rig: MeshRig) -> None:
    """As after damage to the overlay: the node's leg goes with it."""
    task = rig.run("a", on=2)
    rig.publish(port(PORT, TARGET, [task]))
    node = rig.nodes[0]
    sandbox = plan.sandbox_path(node.netns_dir, rig.config.id)
    with serving(task):
        command_in(sandbox, "ip", "link", "delete", "br0")
        assert not is_reachable(rig.outside.path, node.address, PORT)
        node.mend()
        assert answers(rig, node, 3) == {b"a"}


def test_restart_keeps_connections_and_rules(rig: MeshRig) -> None:
    """Between the two lives of the daemon too."""
    task = rig.run("a", on=2)
    rig.publish(port(PORT, TARGET, [task]))
    with serving(task), connection(rig, rig.nodes[0], task) as client:
        rules = [command_in(node.path, "nft", "-a", *LISTING.split()) for node in rig.nodes]
        for node in rig.nodes:
            node.restart()
        assert is_alive(client)
        assert answers(rig, rig.nodes[0], 3) == {b"a"}
        rig.apply()
        for node in rig.nodes:
            node.attach_again()
        assert is_alive(client)
        assert answers(rig, rig.nodes[0], 3) == {b"a"}
        assert [command_in(node.path, "nft", "-a", *LISTING.split()) for node in rig.nodes] == rules


def test_what_was_unpublished_meanwhile_goes_after_a_restart(rig: MeshRig) -> None:
    task = rig.run("a", on=2)
    rig.publish(port(PORT, TARGET, [task]), port(PORT + 1, TARGET, [task]))
    rig.nodes[0].restart()
    rig.publish(port(PORT + 1, TARGET, [task]))
    with serving(task):
        assert not is_reachable(rig.outside.path, rig.nodes[0].address, PORT)
        assert is_reachable(rig.outside.path, rig.nodes[0].address, PORT + 1, timeout_s=PATIENCE_S)


def test_nodes_that_join_and_leave_are_followed_by_tasks(rig: MeshRig) -> None:
    task = rig.run("a", on=2)
    rig.publish(port(PORT, TARGET, [task]))
    rig.absent.add(1)
    rig.apply()
    assert "02:42:0a:ff:00:02" not in command_in(task.path, "nft", "list", "ruleset")
    rig.absent.clear()
    rig.apply()
    with serving(task):
        assert answers(rig, rig.nodes[0], 3) == {b"a"}


# --- ports that others want


def bind_in(path: Path, number: int) -> socket.socket:
    listener = socket_in(path)
    listener.bind(("0.0.0.0", number))
    listener.listen()
    return listener


def test_a_port_that_a_program_of_the_node_has(rig: MeshRig) -> None:
    """It keeps it; other ports and nodes are not concerned; and the port is served once it is free."""
    task = rig.run("a", on=2)
    one, two = rig.nodes
    with serving(task):
        with EchoServer(one.path, "0.0.0.0", PORT, greeting=b"local "):
            rig.publish(port(PORT, TARGET, [task]), port(PORT + 1, TARGET, [task]))
            assert ask(rig.outside.path, one.address, PORT).answer == b"local hello"
            assert ask(rig.outside.path, one.address, PORT + 1).answer == b"a hello"
            assert ask(rig.outside.path, two.address, PORT).answer == b"a hello"
            [problem] = one.mesh.problems
            assert f"Port {PORT}/tcp does not answer on this node" in problem
            assert "port is already allocated" in problem
            assert two.mesh.problems == ()
        one.mend()
        assert one.mesh.problems == ()
        assert ask(rig.outside.path, one.address, PORT).answer == b"a hello"


def test_a_published_port_is_taken_for_programs_of_the_node(rig: MeshRig) -> None:
    task = rig.run("a", on=2)
    rig.publish(port(PORT, TARGET, [task]))
    with pytest.raises(OSError) as caught:
        bind_in(rig.nodes[0].path, PORT)
    assert caught.value.errno == errno.EADDRINUSE
    rig.publish()
    bind_in(rig.nodes[0].path, PORT).close()


def test_a_task_that_lost_its_namespace_keeps_nobody_from_ports(rig: MeshRig) -> None:
    lost, task = rig.run("lost", on=1), rig.run("a", on=2)
    one = rig.nodes[0]
    with one.host.inside():
        lost.space.close()
        namespaces.remove(lost.path)
    rig.absent.add(rig.nodes[1].host.number)  # a node goes, and tasks are to be told
    with serving(task):
        rig.publish(port(PORT, TARGET, [task]))
        assert ask(rig.outside.path, one.address, PORT).answer == b"a hello"


def test_a_port_is_let_go_also_if_its_rules_were_damaged(rig: MeshRig) -> None:
    rig.publish(port(PORT, TARGET, [rig.run("a", on=2)]))
    node = rig.nodes[0]
    command_in(node.path, "nft", "delete", "table", "inet", "swarmpy_mesh")
    rig.publish()
    assert node.mesh.problems, "the element could not be deleted"
    node.mend()
    assert node.mesh.problems == ()
    bind_in(node.path, PORT).close()


def test_a_published_port_is_taken_for_tasks_with_host_ports(rig: MeshRig) -> None:
    rig.publish(port(PORT, TARGET, [rig.run("a", on=2)]))
    host_port = HostPort(protocol="tcp", published_port=PORT, target_port=TARGET)
    with pytest.raises(Unavailable, match=r"port is already allocated \(the routing mesh\)"):
        rig.run("b", on=1, host_ports=[host_port])


def test_an_ingress_network_that_overlaps_with_the_nodes_own(tmp_path: Path) -> None:
    """The node keeps the way to its own network, and says why it serves nothing."""
    with mesh_rig(1, tmp_path) as rig:
        node = rig.nodes[0]
        command_in(node.path, "ip", "link", "delete", "sw-ing")
        command_in(node.path, "ip", "route", "add", "10.255.7.0/24", "via", rig.outside.address)
        rig.apply()
        assert "sw-ing" not in command_in(node.path, "ip", "link")
        [problem] = node.mesh.problems
        assert "overlaps with the route to 10.255.7.0/24" in problem
        command_in(node.path, "ip", "route", "delete", "10.255.7.0/24")
        node.mend()
        assert node.mesh.problems == ()
        assert "sw-ing" in command_in(node.path, "ip", "link")


# --- the end


def test_nothing_is_left(tmp_path: Path) -> None:
    with net_hosts(1) as hosts:
        node = MeshNode(hosts.hosts[0], tmp_path / "run")
        node.start_up()
        rig = MeshRig(hosts, (node,), hosts.hosts[0], replace(INGRESS, subnets=(*INGRESS.subnets, SUBNET6)))
        rig.apply()
        rig.publish(port(PORT, TARGET, [rig.run("a", on=1)]))
        assert "sw-ing" in command_in(node.path, "ip", "link")
        node.destroy()
        links = {
            line.split(":")[1].strip() for line in command_in(node.path, "ip", "-o", "link").splitlines()
        }
        assert {link.partition("@")[0] for link in links if "@" in link or link == "sw-ing"} == {"eth0"}
        assert "swarmpy_mesh" not in command_in(node.path, "nft", "list", "ruleset")
        bind_in(node.path, PORT).close()
        assert list(tmp_path.rglob("*")) == [tmp_path / "run"]


def test_the_ingress_network_goes(rig: MeshRig) -> None:
    task = rig.run("a", on=2)
    rig.publish(port(PORT, TARGET, [task]))
    one, two = rig.nodes
    two.stop(task)
    for node in rig.nodes:
        node.apply(replace(rig.state_of(node), networks={}, published=()))
    for node in (one, two):
        assert "sw-ing" not in command_in(node.path, "ip", "link")
        assert "swarmpy_mesh" not in command_in(node.path, "nft", "list", "ruleset")
        bind_in(node.path, PORT).close()


async def test_with_all_parts_of_a_node(tmp_path: Path) -> None:
    """As the agent drives it: attach, apply, another life, and the end."""
    with net_hosts(3) as hosts:
        nodes = Rig(hosts.hosts[:2], hosts.switch)
        async with overlay_rig(nodes, tmp_path) as rig:
            rig.ingress = {0: ("10.255.0.2",), 1: ("10.255.0.3",)}
            task = rig.place("a", 1, (INGRESS, "10.255.0.9/16"))
            ports = tuple(
                PublishedPort(
                    protocol=protocol, published_port=PORT, target_port=TARGET, backends=("10.255.0.9",)
                )
                for protocol in ("tcp", "udp")
            )

            async def apply() -> None:
                for number, backend in enumerate(rig.backends):
                    await backend.apply(replace(rig.state_of(number), published=ports))

            await apply()
            outside = hosts.hosts[2]
            for life in range(2):
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    with EchoServer(task.path, "0.0.0.0", TARGET, kind) as server:
                        for host in nodes.hosts:
                            assert ask(outside.path, host.address, PORT, kind=kind).answer == b"hello"
                        assert {peer[0] for peer in server.seen} == {outside.address}
                if not life:
                    await rig.restart(0)
                    await rig.restart(1)
                    await apply()
        for host in nodes.hosts:
            assert "sw-" not in command_in(host.path, "ip", "link")
            assert "swarmpy_mesh" not in command_in(host.path, "nft", "list", "ruleset")


def test_this_machine_lacks_at_most_sctp() -> None:
    found = probe.find_lacking()
    assert all("SCTP" in sentence for sentence in found)
