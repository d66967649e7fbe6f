"""The resolver's server: answers over UDP and TCP, and what it passes on to servers outside."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from dns_messages import A, ask, read
from dns_rig import PATIENCE_S, Answer, Client, Upstream, address_of, answer_to, read_stream
from msgspec.structs import replace

from agent.dataplane.base import Endpoint, Leg, Names, NetworkConfig
from agent.dns import forward, server, stream, wire
from agent.dns.server import DnsServer, Door, View
from agent.dns.zone import Zone
from swarmpy.model.ids import NetworkId, TaskId

OUTSIDE = "192.0.2.80"
MANY = tuple(f"10.1.{number}.1" for number in range(200))
NAMES = Names(addresses={"web": ("10.0.0.2",), "many": MANY})
BARE = Endpoint(task_id=TaskId("t"))


PORT_TRIES = 20


class Rig:
    """A resolver on loopback for tasks, with the node's servers in a file."""

    def __init__(self, folder: Path, port: int) -> None:
        self.node_file = folder / "resolv.conf"
        self.server = DnsServer(node_file=self.node_file, server_port=port)
        self.server.start()
        self.entered: list[None] = []
        self.clients: list[Client] = []

    def name_servers(self, *addresses: str) -> None:
        """Replaced as a whole, as those who write it do."""
        fresh = self.node_file.with_suffix(".new")
        fresh.write_text("# ours\n" + "".join(f"nameserver {address}\n" for address in addresses))
        os.replace(fresh, self.node_file)

    def open(
        self, endpoint: Endpoint = BARE, *, listener: type[socket.socket] = socket.socket
    ) -> tuple[Client, Door]:
        udp, tcp = both_ways(listener)
        tcp.listen()
        client = Client(udp.getsockname())

        def inside() -> nullcontext[None]:
            self.entered.append(None)
            return nullcontext()

        view = View(Zone([NAMES], lambda _: 0))
        door = Door(endpoint, udp=udp, tcp=tcp, view=view, inside=inside)
        self.server.open(endpoint.task_id, door)
        self.clients.append(client)
        return client, door


def both_ways(listener: type[socket.socket]) -> tuple[socket.socket, socket.socket]:
    """Sockets on one port: one that is free for datagrams may be somebody's for streams."""
    for _ in range(PORT_TRIES):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        tcp = listener(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        udp.bind(("127.0.0.1", 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
        else:
            return udp, tcp
    raise AssertionError("no port is free both ways")


def one_answer(packet: bytes) -> list[bytes]:
    return [address_of(packet, OUTSIDE)]


def no_answer(packet: bytes) -> list[bytes]:
    return []


def refusal(packet: bytes) -> list[bytes]:
    return [answer_to(packet, rcode=wire.REFUSED)]


def send_for_ever(sock: socket.socket, data: bytes) -> None:
    while True:
        sock.sendall(data)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(one_answer) as upstream:
        yield upstream


@pytest.fixture
def rig(tmp_path: Path, upstream: Upstream) -> Iterator[Rig]:
    rig = Rig(tmp_path, upstream.port)
    rig.name_servers(upstream.address)
    yield rig
    rig.server.stop()
    for client in rig.clients:
        client.close()


def test_names_of_the_task_are_answered_and_others_passed_on(rig: Rig, upstream: Upstream) -> None:
    client, _ = rig.open()
    assert read(client.ask(ask("web"))).data == ("10.0.0.2",)
    assert upstream.asked == []
    reply = read(client.ask(ask("Example.org", ident=77, size=1232)))
    assert (reply.id, reply.data, reply.question) == (77, (OUTSIDE,), ("Example.org", A))
    [(protocol, packet)] = upstream.asked
    assert (protocol, packet[2:]) == ("udp", ask("Example.org", size=1232)[2:])
    assert rig.entered == []


def test_ids_and_ports_outside_are_not_the_clients(rig: Rig, upstream: Upstream) -> None:
    client, _ = rig.open()
    replies = client.ask_many([ask("example.org", ident=7)] * 40)
    assert [read(reply).id for reply in replies] == [7] * 40
    assert len({packet[:2] for _, packet in upstream.asked}) > 30


def test_a_new_zone_holds_for_the_next_query(rig: Rig) -> None:
    client, door = rig.open()
    for number in range(1, 50):
        door.view.zone = Zone([Names(addresses={"web": (f"10.0.0.{number}",)})], lambda _: 0)
        assert read(client.ask(ask("web"))).data == (f"10.0.0.{number}",)


def test_a_large_answer_is_had_over_tcp(rig: Rig) -> None:
    client, _ = rig.open()
    assert read(client.ask(ask("many"))).is_truncated
    assert len(read(client.ask_stream(ask("many"))).data) == len(MANY)


def test_one_connection_takes_many_queries_in_any_pieces(rig: Rig) -> None:
    client, _ = rig.open()
    queries = [ask(name, ident=number) for number, name in enumerate(["web", "example.org", "many"] * 20)]
    raw = b"".join(len(query).to_bytes(2) + query for query in queries)
    with client.connect() as sock:
        for place in range(0, len(raw), 7):
            sock.send(raw[place : place + 7])
        replies = {reply.id: reply for reply in (read(read_stream(sock)) for _ in queries)}
    assert len(replies) == len(queries)
    assert replies[0].data == ("10.0.0.2",)
    assert replies[1].data == (OUTSIDE,)


def test_an_idle_connection_is_closed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "DNS_CONNECTION_IDLE_S", 0.05)
    client, door = rig.open()
    with client.connect() as sock:
        assert sock.recv(1) == b""
    assert door.connections == set()


def test_connections_of_a_task_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "DNS_CONNECTIONS_PER_TASK_MAX", 2)
    client, _ = rig.open()
    kept = [client.connect() for _ in range(2)]
    for sock in kept:
        sock.sendall(b"\0")  # taken before the third comes
    with client.connect() as third:
        assert third.recv(1) == b""
    kept.pop().close()
    deadline = time.monotonic() + 10
    while not answer_if_taken(client):
        assert time.monotonic() < deadline
    kept.pop().close()


def answer_if_taken(client: Client) -> bytes:
    """b"" for a connection that was refused: closed before the query came, or, with it unread, reset."""
    try:
        return client.ask_stream(ask("web"))
    except ConnectionError:
        return b""


def test_a_client_that_does_not_read_is_cut_off(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "DNS_CONNECTION_BYTES_MAX", 1 << 16)
    client, _ = rig.open()
    query = ask("many")
    with client.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises(ConnectionError):
            send_for_ever(sock, (len(query).to_bytes(2) + query) * 100)
    assert client.ask_stream(ask("web"))


class CountingSocket(socket.socket):
    accepts = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.accepts += 1
        return super().accept()


def test_without_descriptors_connections_wait(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that cannot be accepted stays ready: nothing may spin, and it is accepted later."""
    pause_s = 0.05
    monkeypatch.setattr(server, "DNS_ACCEPT_PAUSE_S", pause_s)
    client, door = rig.open(listener=CountingSocket)
    assert isinstance(door.tcp, CountingSocket)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    began = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE_S)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            sock.connect(client.address)
            while door.tcp.accepts < 4 and time.monotonic() < began + PATIENCE_S:
                time.sleep(0.01)
            took_s = time.monotonic() - began
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert took_s >= 3 * pause_s
        query = ask("web")
        sock.sendall(len(query).to_bytes(2) + query)
        assert read(read_stream(sock)).data == ("10.0.0.2",)


def test_what_came_over_tcp_is_passed_on_over_tcp(rig: Rig, upstream: Upstream) -> None:
    client, _ = rig.open()
    assert read(client.ask_stream(ask("example.org", ident=3))).data == (OUTSIDE,)
    assert [protocol for protocol, _ in upstream.asked] == ["tcp"]


def test_a_truncated_answer_from_outside_reaches_the_client(tmp_path: Path) -> None:
    with Upstream(lambda packet: [answer_to(packet, flags=0x0200)]) as upstream:
        rig = Rig(tmp_path, upstream.port)
        rig.name_servers(upstream.address)
        client, _ = rig.open()
        assert read(client.ask(ask("example.org"))).is_truncated
        rig.server.stop()
        client.close()


@pytest.mark.parametrize("bad", [refusal, no_answer])
@pytest.mark.parametrize("is_stream", [False, True])
def test_the_next_server_is_asked(
    rig: Rig, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, *, bad: Answer, is_stream: bool
) -> None:
    monkeypatch.setattr(forward, "DNS_TRY_S", 0.05)
    with Upstream(bad, address="127.0.0.2", port=upstream.port) as other:
        rig.name_servers(other.address, "127.0.0.3", upstream.address)  # nobody is at the second
        client, _ = rig.open()
        reply = client.ask_stream(ask("example.org")) if is_stream else client.ask(ask("example.org"))
        assert read(reply).data == (OUTSIDE,)
        assert len(other.asked) == len(upstream.asked) == 1


def test_a_late_answer_still_counts(rig: Rig, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow for all of the servers is not the same as dead."""
    monkeypatch.setattr(forward, "DNS_TRY_S", 0.02)

    def late(packet: bytes) -> list[bytes]:
        deadline = time.monotonic() + 10
        while not silent.asked and time.monotonic() < deadline:
            time.sleep(0.005)
        return [address_of(packet, OUTSIDE)]

    with (
        Upstream(late, address="127.0.0.2", port=upstream.port) as slow,
        Upstream(no_answer, address="127.0.0.3", port=upstream.port) as silent,
    ):
        rig.name_servers(slow.address, silent.address)
        client, _ = rig.open()
        assert read(client.ask(ask("example.org"))).data == (OUTSIDE,)


@pytest.mark.parametrize("rcode", [wire.NXDOMAIN, wire.NOTIMP, wire.FORMERR])
def test_a_servers_no_is_an_answer(rig: Rig, upstream: Upstream, rcode: int) -> None:
    with Upstream(lambda packet: [answer_to(packet, rcode=rcode)], address="127.0.0.2", port=upstream.port):
        rig.name_servers("127.0.0.2", upstream.address)
        client, _ = rig.open()
        assert read(client.ask(ask("example.org"))).rcode == rcode


def test_the_last_bad_answer_is_better_than_none(rig: Rig, upstream: Upstream) -> None:
    with Upstream(refusal, address="127.0.0.2", port=upstream.port):
        rig.name_servers("127.0.0.2", "127.0.0.3")
        client, _ = rig.open()
        assert read(client.ask(ask("example.org"))).rcode == wire.REFUSED


def test_nobody_answers(rig: Rig, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "DNS_FORWARD_TIMEOUT_S", 0.05)
    with Upstream(no_answer, address="127.0.0.2", port=upstream.port):
        rig.name_servers("127.0.0.2")
        client, door = rig.open()
        assert read(client.ask(ask("example.org"))).rcode == wire.SERVFAIL
        assert door.forwards == set()


@pytest.mark.parametrize("servers", [(), ("127.0.0.3",), ("192.0.2.x",)])
def test_without_a_server_lookups_fail_at_once(rig: Rig, servers: tuple[str, ...]) -> None:
    rig.name_servers(*servers)
    client, _ = rig.open()
    assert read(client.ask(ask("example.org", ident=5))).rcode == wire.SERVFAIL
    assert read(client.ask_stream(ask("example.org"))).rcode == wire.SERVFAIL
    assert read(client.ask(ask("web"))).data == ("10.0.0.2",)


def test_forged_answers_are_not_taken(rig: Rig, upstream: Upstream) -> None:
    def forger(packet: bytes) -> list[bytes]:
        wrong_id = bytes((packet[0] ^ 1, packet[1])) + packet[2:]
        wrong_name = packet[:2] + ask("example.com")[2:]
        forged = [address_of(wrong, "203.0.113.66") for wrong in (wrong_id, wrong_name)]
        return [b"", b"\0", packet, *forged, address_of(packet, OUTSIDE)]

    with Upstream(forger, address="127.0.0.2", port=upstream.port):
        rig.name_servers("127.0.0.2")
        client, _ = rig.open()
        assert read(client.ask(ask("example.org"))).data == (OUTSIDE,)


def test_the_nodes_file_is_read_again_when_it_changed(rig: Rig, upstream: Upstream) -> None:
    client, _ = rig.open()
    rig.name_servers("127.0.0.3")
    assert read(client.ask(ask("example.org"))).rcode == wire.SERVFAIL
    rig.name_servers(upstream.address)
    assert read(client.ask(ask("example.org"))).data == (OUTSIDE,)
    rig.node_file.unlink()
    assert read(client.ask(ask("example.org"))).rcode == wire.SERVFAIL


def test_a_tasks_own_servers_are_asked_from_inside(rig: Rig, upstream: Upstream) -> None:
    rig.name_servers("127.0.0.3")
    client, _ = rig.open(replace(BARE, dns=("127.0.0.11", upstream.address)))
    assert read(client.ask(ask("example.org"))).data == (OUTSIDE,)
    assert rig.entered == [None]


def test_internal_networks_have_no_way_out(rig: Rig, upstream: Upstream) -> None:
    inner = Leg(network=NetworkConfig(id=NetworkId("n"), is_internal=True), link="eth0")
    client, _ = rig.open(replace(BARE, legs=(inner,)))
    assert read(client.ask(ask("example.org"))).rcode == wire.SERVFAIL
    assert read(client.ask(ask("web"))).data == ("10.0.0.2",)
    assert upstream.asked == []
    own, _ = rig.open(replace(BARE, task_id=TaskId("own"), legs=(inner,), dns=(upstream.address,)))
    assert read(own.ask(ask("example.org"))).data == (OUTSIDE,)
    assert rig.entered == [None]  # from its own namespace, where the network is as closed as ever


def test_with_ndots_single_words_are_not_asked_of_the_root(rig: Rig, upstream: Upstream) -> None:
    client, _ = rig.open(replace(BARE, dns_options=("ndots:1",)))
    reply = read(client.ask(ask("printer")))
    assert (reply.rcode, reply.records, upstream.asked) == (wire.NOERROR, (), [])
    assert read(client.ask(ask("printer.example.org"))).data == (OUTSIDE,)


def test_queries_under_way_are_bounded(rig: Rig, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "DNS_FORWARDS_PER_TASK_MAX", 3)
    monkeypatch.setattr(forward, "DNS_FORWARD_TIMEOUT_S", 60.0)
    with Upstream(no_answer, address="127.0.0.2", port=upstream.port) as silent:
        rig.name_servers(silent.address)
        client, door = rig.open()
        other, _ = rig.open(replace(BARE, task_id=TaskId("other")))
        queries = [ask("example.org", ident=number) for number in range(3)]
        reply = read(client.ask_first([*queries, ask("example.org", ident=3)]))
        assert (reply.id, reply.rcode) == (3, wire.SERVFAIL)
        assert len(door.forwards) == 3
        rig.name_servers(upstream.address)
        assert read(other.ask(ask("example.org"))).data == (OUTSIDE,)
        rig.server.close(BARE.task_id)
        assert read(other.ask(ask("web"))).data == ("10.0.0.2",)  # after the closing, in turn
        assert door.forwards == set()


def test_no_bytes_stop_the_server(rig: Rig) -> None:
    client, _ = rig.open()
    for raw in (b"", b"\0", b"\0" * 12, ask("web")[:-1], b"\xff" * 4096, ask("web") + b"\0" * 5000):
        client.send(raw)
    with client.connect() as sock:
        sock.sendall(b"\0\0\0\1\0\0\5" + b"\xff" * 64)
    client2, _ = rig.open(replace(BARE, task_id=TaskId("other")))
    assert read(client2.ask(ask("web"))).data == ("10.0.0.2",)
