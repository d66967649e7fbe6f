"""Connections to an address that is gone end at once, idle ones too, and no others: by real sockets."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from net_hosts import UPLINK, EchoServer, command_in, socket_in
from vip_rig import NET, PORT, VIP, VIP6, VipRig, backend_addresses, endpoint, serving, vip_rig, web

from agent.dataplane.base import NetworkConfig, NetworkState, NodeState
from agent.dataplane.linux.balancing import flows
from agent.dataplane.linux.balancing.connections import Connections, CutCount
from agent.dataplane.linux.balancing.wire import Message, Wire
from agent.dataplane.linux.spaces import NamespaceSpace
from swarmpy.errors import Unavailable
from swarmpy.model.ids import NetworkId, TaskId

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces"),
]

SOCK_DIAG_BY_FAMILY = 20
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.fixture
def rig() -> Iterator[VipRig]:
    with vip_rig() as rig:
        yield rig


def connected(rig: VipRig, address: str, kind: int = TCP) -> tuple[socket.socket, str]:
    """A socket through the virtual address, and the backend that it came to."""
    client = socket_in(rig.client.path, kind, socket.AF_INET6 if ":" in address else socket.AF_INET)
    client.connect((address, PORT))
    client.sendall(b"hello")
    return client, client.recv(100).decode().split()[0]


def woken(clients: list[socket.socket]) -> list[socket.socket]:
    """Those that have something to read by now: it is an error or the end."""
    poll = select.poll()
    for client in clients:
        poll.register(client, select.POLLIN)
    ready = {number for number, _ in poll.poll(0)}
    return [client for client in clients if client.fileno() in ready]


def is_aborted(client: socket.socket) -> bool:
    try:
        client.recv(1)
    except ConnectionAbortedError:
        return True
    return False


def answers(client: socket.socket) -> bool:
    client.sendall(b"ping")
    return client.recv(100).endswith(b"ping")


@pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("vip", [VIP, VIP6, f"::ffff:{VIP}"], ids=["ipv4", "ipv6", "mapped"])
def test_idle_readers_wake_and_others_are_untouched(rig: VipRig, vip: str, kind: int) -> None:
    backends = backend_addresses(2)
    of_version = [each for each in backends if (":" in each) == (vip == VIP6)]
    gone = of_version[0]
    with serving(rig.far.path, backends, kind), ExitStack() as stack:
        rig.attach()
        rig.tell(web(backends))
        pairs = [connected(rig, vip, kind) for _ in range(30)]
        for client, _ in pairs:
            stack.enter_context(client)
        doomed = [client for client, backend in pairs if backend == gone]
        lucky = [client for client, backend in pairs if backend != gone]
        assert doomed
        assert lucky
        rig.tell(web([each for each in backends if each != gone]))
        assert woken([client for client, _ in pairs]) == []
        assert rig.connections.cut({NET: (gone,)}) == CutCount(len(doomed), len(doomed))
        assert sorted(map(id, woken(doomed))) == sorted(map(id, doomed))
        assert woken(lucky) == []
        assert all(is_aborted(client) for client in doomed)
        assert all(answers(client) for client in lucky)
        assert rig.connections.cut({NET: (gone,)}) == CutCount(0, 0)
        again, backend = connected(rig, vip, kind)
        stack.enter_context(again)
        assert backend in of_version[1:]


def test_direct_connections_end_too_on_both_sides(rig: VipRig) -> None:
    """A client of the address itself, and a client from there at a server of the task's."""
    rig.attach()
    with ExitStack() as stack:
        stack.enter_context(serving(rig.far.path, ["192.0.2.11", "192.0.2.12"], TCP))
        server = stack.enter_context(socket_in(rig.client.path))
        server.bind((rig.client.address, PORT))
        server.listen()
        accepted = []
        for source in ("192.0.2.11", "192.0.2.12"):
            caller = stack.enter_context(socket_in(rig.far.path))
            caller.bind((source, 0))
            caller.connect((rig.client.address, PORT))
            accepted.append(stack.enter_context(server.accept()[0]))
        calling = [stack.enter_context(connected(rig, each)[0]) for each in ("192.0.2.11", "192.0.2.12")]
        rig.connections.cut({NET: ("192.0.2.11",)})
        assert is_aborted(accepted[0])
        assert is_aborted(calling[0])
        assert woken([accepted[1], calling[1], server]) == []
        assert answers(calling[1])


def test_a_connection_in_the_making_ends_too(rig: VipRig) -> None:
    """Nobody answers for the address any more: the caller would try for minutes."""
    rig.attach()
    rig.tell(web(["192.0.2.66"]))
    command_in(
        rig.client.path,
        *f"ip neighbour replace 192.0.2.66 lladdr 02:00:00:00:00:66 dev {UPLINK} nud permanent".split(),
    )
    with socket_in(rig.client.path) as client:
        client.setblocking(False)
        assert client.connect_ex((VIP, PORT)) == errno.EINPROGRESS
        rig.connections.cut({NET: ("192.0.2.66",)})
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED


def test_an_unconnected_udp_socket_goes_on_with_another_backend(rig: VipRig) -> None:
    backends = ["192.0.2.11", "192.0.2.12"]
    with serving(rig.far.path, backends, UDP), socket_in(rig.client.path, UDP) as client:
        rig.attach()
        rig.tell(web(backends))

        def who() -> str:
            client.sendto(b"x", (VIP, PORT))
            return client.recv(100).decode().split()[0]

        first = who()
        rig.tell(web([each for each in backends if each != first]))
        assert who() == first, "it is the connection's, not the datagram's"
        rig.connections.cut({NET: (first,)})
        assert who() != first


def test_nothing_is_searched_for_where_all_are_connected_sockets(
    rig: VipRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search takes 10 ms in each namespace, however little there is."""

    def search(*_: object) -> list[flows.Flow]:
        raise AssertionError("the kernel was asked to search")

    with serving(rig.far.path, ["192.0.2.11"], TCP), ExitStack() as stack:
        rig.attach()
        rig.tell(web(["192.0.2.11"]))
        for _ in range(10):
            stack.enter_context(connected(rig, VIP)[0])
        monkeypatch.setattr(flows, "tracked", search)
        assert rig.connections.cut({NET: ("192.0.2.11",)}) == CutCount(10, 10)
        assert rig.connections.cut({NET: ("192.0.2.11",)}) == CutCount(0, 0)


def test_the_same_address_in_another_network_is_another(rig: VipRig) -> None:
    backends = ["192.0.2.11"]
    with serving(rig.far.path, backends, TCP):
        rig.attach()
        rig.tell(web(backends))
        client, _ = connected(rig, VIP)
        with client:
            assert rig.connections.cut({NetworkId("net2"): ("192.0.2.11",)}) == CutCount(0, 0)
            assert answers(client)


def test_a_task_that_left_is_not_looked_for(rig: VipRig) -> None:
    rig.connections.attach(endpoint(TaskId("gone"), "192.0.2.1/24"), NamespaceSpace(rig.client.path / "none"))
    rig.connections.detach(TaskId("gone"))
    rig.connections.detach(TaskId("gone"))
    assert rig.connections.cut({NET: ("192.0.2.11",)}) == CutCount(0, 0)


def test_half_of_many_are_cut(rig: VipRig) -> None:
    backends = ["192.0.2.11", "192.0.2.12"]
    with serving(rig.far.path, backends, UDP), ExitStack() as stack:
        rig.attach()
        rig.tell(web(backends))
        pairs = [connected(rig, VIP, UDP) for _ in range(400)]
        for client, _ in pairs:
            stack.enter_context(client)
        doomed = [client for client, backend in pairs if backend == backends[0]]
        assert rig.connections.cut({NET: (backends[0],)}) == CutCount(len(doomed), len(doomed))
        assert len(woken([client for client, _ in pairs])) == len(doomed)


def test_the_node_forgets_what_it_forwarded_there_and_nothing_else(rig: VipRig) -> None:
    """The node here is the client's host: port 9000 is translated to an address in the ingress network."""
    ingress = NetworkId("ingress")
    config = NetworkConfig(id=ingress, is_ingress=True)
    connections = Connections()
    connections.start_up(rig.space)
    connections.apply(NodeState(networks={ingress: NetworkState(config=config)}))
    rig.nft(
        f"""table inet swarmpy_test {{
        chain output {{ type nat hook output priority -100; tcp dport 9000 dnat ip to 192.0.2.11:{PORT}; }}
        chain other {{ type nat hook output priority -99; tcp dport 9001 dnat ip to 192.0.2.12:{PORT}; }}
        }}\n"""
    )
    with serving(rig.far.path, ["192.0.2.11", "192.0.2.12"], TCP), ExitStack() as stack:

        def opened(port: int, address: str = "192.0.2.2") -> socket.socket:
            client = stack.enter_context(socket_in(rig.client.path))
            client.connect((address, port))
            return client

        forwarded, other = opened(9_000), opened(9_001)
        direct = opened(PORT, "192.0.2.11")
        assert connections.cut({ingress: ("192.0.2.11",)}) == CutCount(1, 1)
        assert is_aborted(forwarded)
        assert answers(other)
        assert answers(direct), "an address of the node's surroundings that looks the same"


def test_what_passes_through_is_reset_at_its_next_packet(rig: VipRig) -> None:
    """A client beyond the node: only the connection's entry is the node's, no socket."""
    ingress = NetworkId("ingress")
    connections = Connections()
    connections.start_up(rig.space)
    config = NetworkConfig(id=ingress, is_ingress=True)
    connections.apply(NodeState(networks={ingress: NetworkState(config=config)}))
    rig.nft(
        """table inet swarmpy_test {
        map to { type inet_service : ipv4_addr; elements = { 9000 : 192.0.2.1 }; }
        chain pre { type nat hook prerouting priority -100; dnat ip to tcp dport map @to; }
        }\n"""
    )
    with EchoServer(rig.client.path, "192.0.2.1", 9_000), socket_in(rig.far.path) as caller:
        command_in(rig.client.path, "ip", "address", "add", "192.0.2.77/24", "dev", UPLINK)
        caller.connect(("192.0.2.77", 9_000))
        assert answers(caller)
        rig.nft("flush map inet swarmpy_test to")
        assert connections.cut({ingress: ("192.0.2.1",)}).flows == 1
        caller.sendall(b"anyone?")
        with pytest.raises(ConnectionResetError):
            caller.recv(1)


def test_a_namespace_that_cannot_be_entered_does_not_keep_the_others(rig: VipRig) -> None:
    backends = ["192.0.2.11"]
    rig.connections.attach(
        endpoint(TaskId("broken"), "192.0.2.1/24"), NamespaceSpace(rig.client.path / "none")
    )
    with serving(rig.far.path, backends, TCP):
        rig.attach()
        rig.tell(web(backends))
        client, _ = connected(rig, VIP)
        with client:
            with pytest.raises(Unavailable, match="task broken"):
                rig.connections.cut({NET: ("192.0.2.11",)})
            assert is_aborted(client)


@pytest.mark.parametrize("answer", [errno.ENOENT, errno.EOPNOTSUPP])
def test_a_kernel_without_socket_tables_still_forgets(
    rig: VipRig, answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Wire.dump

    def dump(wire: Wire, message: Message) -> list[bytes]:
        if message.kind == SOCK_DIAG_BY_FAMILY:
            raise OSError(answer, os.strerror(answer))
        return asked(wire, message)

    with serving(rig.far.path, ["192.0.2.11"], TCP):
        rig.attach()
        rig.tell(web(["192.0.2.11"]))
        client, _ = connected(rig, VIP)
        with client:
            monkeypatch.setattr(Wire, "dump", dump)
            assert rig.connections.cut({NET: ("192.0.2.11",)}) == CutCount(1, 0)
