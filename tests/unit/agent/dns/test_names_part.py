"""Names in a task's namespace, asked for as programs ask: by glibc, musl, BusyBox and plain sockets."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from dns_messages import A, ask, read
from dns_rig import PATIENCE_S, Client, Upstream, address_of, answer_to
from msgspec.structs import replace
from net_hosts import command_in, run_in, wait_until
from scratch_network import scratch_network

from agent.dataplane.base import Endpoint, Leg, Names, NetworkConfig, NetworkState, NodeState
from agent.dataplane.linux import names, namespaces
from agent.dataplane.linux.names import NamesPart
from agent.dataplane.linux.nftables import LOW_DESCRIPTORS
from agent.dataplane.linux.spaces import NamespaceSpace
from swarmpy.model.ids import NetworkId, TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

OUTSIDE = "192.0.2.80"
RESOLVER = ("127.0.0.11", 53)
FRONT = Names(
    addresses={
        "web": ("10.0.0.2",),
        "tasks.web": ("10.0.0.3", "10.0.0.4", "10.0.0.5"),
        "dual": ("10.0.0.6", "fd00::6"),
        "many": tuple(f"10.1.{number}.1" for number in range(200)),
    },
    pointers={"10.0.0.3": "web.1.abc.front"},
)
BACK = Names(addresses={"db": ("10.9.0.2",)})
NETWORKS = {
    NetworkId(name): NetworkState(config=NetworkConfig(id=NetworkId(name), name=name), names=known)
    for name, known in (("front", FRONT), ("back", BACK))
}


def endpoint(task: str, *networks: str, mode: str = "") -> Endpoint:
    legs = tuple(
        Leg(network=NETWORKS[NetworkId(name)].config, link=f"eth{number}")
        for number, name in enumerate(networks)
    )
    return Endpoint(task_id=TaskId(task), legs=legs, mode=mode)


class Rig:
    """A node in a scratch namespace with a part, and tasks' namespaces."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.node_file = folder / "node.conf"
        self.node_file.write_text("nameserver 127.0.0.1\n")  # on the node's loopback
        self._port = port
        self._spaces: dict[str, NamespaceSpace] = {}
        self._node = NamespaceSpace()
        self.start_part()

    def start_part(self) -> None:
        self.part = NamesPart(draw=lambda _: 0, node_file=self.node_file, server_port=self._port)
        self.part.start_up(self._node)

    def apply(self, **changed: Names) -> None:
        networks = {
            network_id: replace(network, names=changed[network_id]) if network_id in changed else network
            for network_id, network in NETWORKS.items()
        }
        self.part.apply(NodeState(networks=networks))

    def attach(self, endpoint: Endpoint) -> Path:
        """Into a namespace as it is made: with loopback down."""
        task = str(endpoint.task_id)
        path = self.folder / task
        if task not in self._spaces:
            namespaces.make(path).close()
            self._spaces[task] = NamespaceSpace(path)
        self.part.attach(endpoint, self._spaces[task])
        return path

    def table(self, task: str) -> str:
        return self._spaces[task].nft.run("list ruleset")

    def close(self) -> None:
        self.part.shut_down()
        for space in self._spaces.values():
            space.close()
            namespaces.remove(space.path)


def outside(packet: bytes) -> list[bytes]:
    """IPv4 alone."""
    is_asked_for = packet[-4:-2] == A.to_bytes(2)
    return [address_of(packet, OUTSIDE) if is_asked_for else answer_to(packet)]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with scratch_network(), Upstream(outside) as upstream:
        yield upstream


@pytest.fixture
def rig(tmp_path: Path, upstream: Upstream) -> Iterator[Rig]:
    rig = Rig(tmp_path, upstream.port)
    rig.apply()
    yield rig
    rig.close()


def asked(path: Path, *packets: bytes, is_stream: bool = False) -> list[bytes]:
    def ask_all() -> list[bytes]:
        client = Client(RESOLVER)
        try:
            return [client.ask_stream(packet) if is_stream else client.ask(packet) for packet in packets]
        finally:
            client.close()

    return run_in(path, ask_all)


def found(path: Path, name: str, **options: bool) -> tuple[str, ...]:
    return read(asked(path, ask(name), **options)[0]).data


def test_a_task_knows_the_names_of_its_networks(rig: Rig) -> None:
    both = rig.attach(endpoint("both", "front", "back"))
    front = rig.attach(endpoint("front", "front"))
    bare = rig.attach(endpoint("bare"))
    assert found(both, "web") == found(front, "web") == ("10.0.0.2",)
    assert found(both, "db") == ("10.9.0.2",)
    assert found(front, "db") == found(bare, "web") == (OUTSIDE,)  # passed on


def test_answers_come_from_port_53(rig: Rig) -> None:
    """A connected socket takes no answer from elsewhere; so do strict clients on others."""
    path = rig.attach(endpoint("t", "front"))

    def ask_unconnected() -> tuple[str, int]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE_S)
            sock.sendto(ask("web"), RESOLVER)
            sender: tuple[str, int] = sock.recvfrom(4096)[1]
        return sender

    assert run_in(path, ask_unconnected) == RESOLVER
    assert len(found(path, "many", is_stream=True)) == 200


def test_new_names_hold_at_once_and_change_nothing_else(rig: Rig) -> None:
    one, two = rig.attach(endpoint("one", "front")), rig.attach(endpoint("two", "back"))
    assert found(one, "web") == ("10.0.0.2",)
    found(one, "tasks.web")
    second = found(one, "tasks.web")
    rig.apply(back=Names(addresses={"db": ("10.9.0.3",)}))
    assert found(two, "db") == ("10.9.0.3",)
    assert found(one, "tasks.web")[0] == second[1]  # the turn went on: its answers were kept
    rig.apply(front=Names(), back=Names())
    assert found(one, "web") == found(two, "db") == (OUTSIDE,)


def test_a_task_may_have_a_server_of_its_own_on_port_53(rig: Rig) -> None:
    path = rig.attach(endpoint("t", "front"))

    def serve() -> None:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        ):
            udp.bind(("0.0.0.0", 53))
            tcp.bind(("0.0.0.0", 53))
            assert found(path, "web") == ("10.0.0.2",)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"to the task's own", ("127.0.0.1", 53))
            udp.settimeout(PATIENCE_S)
            assert udp.recv(100) == b"to the task's own"

    run_in(path, serve)


@pytest.mark.parametrize("mode", ["host", "none"])
def test_other_modes_have_no_resolver(rig: Rig, mode: str) -> None:
    rig.attach(endpoint("t", mode=mode))
    assert names.TABLE not in rig.table("t")
    rig.part.detach(TaskId("t"))


def test_attached_again_nothing_changes_and_what_is_missing_is_mended(rig: Rig) -> None:
    path = rig.attach(endpoint("t", "front"))
    turn = found(path, "tasks.web")
    rig._spaces["t"].nft.run(f"delete table inet {names.TABLE}")
    rig.attach(endpoint("t", "front"))
    assert found(path, "tasks.web") == turn[1:] + turn[:1]
    table = rig.table("t")
    rig.attach(endpoint("t", "front"))
    assert rig.table("t") == table


def test_a_new_daemon_serves_through_the_old_rule(rig: Rig) -> None:
    path = rig.attach(endpoint("t", "front"))
    found(path, "web")
    rig.part.shut_down()
    table = rig.table("t")
    rig.start_part()
    rig.apply()
    rig.attach(endpoint("t", "front"))
    assert rig.table("t") == table
    assert found(path, "web") == ("10.0.0.2",)


def test_a_new_daemon_mends_what_is_missing(rig: Rig) -> None:
    path = rig.attach(endpoint("t", "front"))
    rig.part.shut_down()
    rig._spaces["t"].nft.run(f"delete table inet {names.TABLE}")
    rig.start_part()
    rig.apply()
    rig.attach(endpoint("t", "front"))
    assert found(path, "web") == found(path, "web", is_stream=True) == ("10.0.0.2",)


def test_a_query_in_the_daemons_absence_waits_and_is_asked_again(rig: Rig) -> None:
    """An error would end the lookup; silence has the client ask again, in time for the next daemon."""
    path = rig.attach(endpoint("t", "front"))
    rig.part.shut_down()
    asks, is_back, answers = threading.Event(), threading.Event(), list[tuple[str, ...]]()

    def look_up() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(RESOLVER)
            sock.send(ask("web"))
            sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                sock.recv(4096)
            asks.set()
            assert is_back.wait(PATIENCE_S)
            sock.settimeout(PATIENCE_S)
            sock.send(ask("web"))
            answers.append(read(sock.recv(4096)).data)

    thread = threading.Thread(target=run_in, args=(path, look_up))
    thread.start()
    assert asks.wait(PATIENCE_S)
    rig.start_part()
    rig.apply()
    rig.attach(endpoint("t", "front"))
    is_back.set()
    thread.join()
    assert answers == [("10.0.0.2",)]


def test_a_task_that_has_taken_the_port_gets_another(rig: Rig) -> None:
    path = rig.attach(endpoint("t", "front"))
    rig.part.shut_down()

    def with_port_taken() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("0.0.0.0", names.RESOLVER_PORT))
            start_again()
            assert found(path, "web") == ("10.0.0.2",)

    def start_again() -> None:
        thread = threading.Thread(target=run_in, args=(node, start_part))  # as the node's thread
        thread.start()
        thread.join()

    def start_part() -> None:
        rig.start_part()
        rig.apply()
        rig.attach(endpoint("t", "front"))

    node = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
    run_in(path, with_port_taken)


def test_after_detaching_nothing_keeps_the_namespace(rig: Rig) -> None:
    path = rig.attach(endpoint("t", "front"))
    assert found(path, "web") == ("10.0.0.2",)
    rig.part.detach(TaskId("t"))
    rig.part.detach(TaskId("t"))
    wait_until(lambda: command_in(path, "ss", "-Hlntu").strip() == "", "the resolver's sockets to be closed")
    assert rig.part._groups == {}
    rig.attach(endpoint("t", "front"))
    assert found(path, "web") == ("10.0.0.2",)


def test_resolvers_leave_the_low_descriptors_to_nftables(rig: Rig) -> None:
    """Its library ends the process when it is given another."""
    path = rig.attach(endpoint("t", "front"))
    door = rig.part._running().door(TaskId("t"))
    assert door is not None
    assert min(door.udp.fileno(), door.tcp.fileno()) >= LOW_DESCRIPTORS
    assert found(path, "web") == ("10.0.0.2",)


# --- as programs ask


@pytest.fixture
def shell(rig: Rig) -> Path:
    """A task with the resolver's resolv.conf, and addresses: glibc asks only for families in use."""
    path = rig.attach(endpoint("t", "front", "back"))
    command_in(path, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
    command_in(path, "sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=0")
    for address in ("10.0.0.99/24", "fd00::99/64"):
        command_in(
            path, "ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else [])
        )
    for link in ("eth0", "far"):
        command_in(path, "ip", "link", "set", link, "up")
    rig.folder.joinpath("resolv.conf").write_text("nameserver 127.0.0.11\noptions ndots:0\n")
    return path


def run_as_task(path: Path, *words: str) -> str:
    """``words`` in the namespace, with its resolv.conf in a mount namespace of its own."""
    conf = path.parent / "resolv.conf"
    script = f'mount --bind {conf} /etc/resolv.conf && exec "$@"'
    command = ["nsenter", f"--net={path}", "unshare", "-m", "sh", "-c", script, "sh", *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_glibc(shell: Path) -> None:
    assert run_as_task(shell, "getent", "ahostsv4", "web").split()[0] == "10.0.0.2"
    assert {line.split()[0] for line in run_as_task(shell, "getent", "ahosts", "dual").splitlines()} == {
        "10.0.0.6",
        "fd00::6",
    }
    hosts = run_as_task(shell, "getent", "ahostsv4", "tasks.web").split()
    assert {word for word in hosts if word.startswith("10.")} == {"10.0.0.3", "10.0.0.4", "10.0.0.5"}
    assert run_as_task(shell, "getent", "hosts", "10.0.0.3").split() == ["10.0.0.3", "web.1.abc.front"]
    assert len(run_as_task(shell, "getent", "ahostsv4", "many").splitlines()) == 600  # by TCP
    assert run_as_task(shell, "getent", "ahostsv4", "example.org").split()[0] == OUTSIDE


def test_busybox(shell: Path) -> None:
    assert "10.0.0.2" in run_as_task(shell, "busybox", "nslookup", "web")
    assert "web.1.abc.front" in run_as_task(shell, "busybox", "nslookup", "10.0.0.3")


LOOK_UP = """
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int argc, char **argv) {
    struct addrinfo *found, hints = {.ai_socktype = SOCK_STREAM};
    int error = getaddrinfo(argv[1], 0, &hints, &found);
    char text[64];
    if (error) return puts(gai_strerror(error)), 1;
    for (; found; found = found->ai_next) {
        getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
        puts(text);
    }
    return 0;
}
"""


@pytest.mark.skipif(
    not shutil.which("musl-gcc") or os.geteuid() != 0, reason="needs root and musl's compiler"
)
def test_musl(shell: Path, tmp_path: Path) -> None:
    (tmp_path / "look_up.c").write_text(LOOK_UP)
    program = str(tmp_path / "look_up")
    subprocess.run(["musl-gcc", "-static", "-o", program, f"{program}.c"], check=True, capture_output=True)
    assert run_as_task(shell, program, "web").split() == ["10.0.0.2"]
    assert sorted(run_as_task(shell, program, "dual").split()) == ["10.0.0.6", "fd00::6"]
    assert run_as_task(shell, program, "db").split() == ["10.9.0.2"]
    assert run_as_task(shell, program, "example.org").split() == [OUTSIDE]
