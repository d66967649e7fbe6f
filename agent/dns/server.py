"""``DnsServer``: answers all tasks' queries, in one thread of its own.

A task has a ``Door``: a UDP and a TCP socket in its namespace. Tasks on the same networks share a ``View``,
whose zone is replaced as a whole: the next query sees the new one, whichever thread replaced it. What is not
in the zone is passed on, from the node's namespace or, to a task's own servers, from the task's.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from functools import partial
from pathlib import Path

from agent.dataplane.base import Endpoint
from agent.dns import wire
from agent.dns.forward import Done, Forward, Forwarder, Wish
from agent.dns.limits import (
    DNS_ACCEPT_PAUSE_S,
    DNS_BATCH_MAX,
    DNS_CONNECTIONS_MAX,
    DNS_CONNECTIONS_PER_TASK_MAX,
    DNS_UDP_BYTES_MAX,
)
from agent.dns.loop import READABLE, Loop
from agent.dns.stream import Connection
from agent.dns.upstream import SERVER_PORT, Inside, NodeServers, own_servers
from agent.dns.wire import Query
from agent.dns.zone import Zone, has_way_out
from swarmpy.model.ids import TaskId

NODE_FILE = Path("/etc/resolv.conf")
_NDOTS = "ndots:"
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class View:
    """What tasks on the same networks see: the newest zone."""

    __slots__ = ("zone",)

    def __init__(self, zone: Zone) -> None:
        self.zone = zone


class Door:
    """One task's way in, and its own wishes. ``inside`` enters its namespace."""

    def __init__(
        self, endpoint: Endpoint, *, udp: socket.socket, tcp: socket.socket, view: View, inside: Inside
    ) -> None:
        self.udp = udp
        self.tcp = tcp
        self.view = view
        self.inside = inside
        self.forwards: set[Forward] = set()
        self.connections: set[Connection] = set()
        self.is_open = True
        self.wish_for(endpoint)

    def wish_for(self, endpoint: Endpoint) -> None:
        self.servers = own_servers(endpoint.dns)
        self.has_way_out = has_way_out(endpoint)
        self.keeps_single_labels = any(option.startswith(_NDOTS) for option in endpoint.dns_options)
        """Who sets ndots looks for single words in the search domains; the root is not asked for them."""


class DnsServer:
    """All methods are for one thread, which is not the server's. ``node_file`` names the node's servers."""

    def __init__(self, *, node_file: Path = NODE_FILE, server_port: int = SERVER_PORT) -> None:
        self._loop = Loop()
        self._forwarder = Forwarder(self._loop, port=server_port)
        self._node_servers = NodeServers(node_file)
        self._doors: dict[TaskId, Door] = {}
        self._connections = 0

    def start(self) -> None:
        """The thread is born into the caller's network namespace, and passes queries on from there."""
        self._loop.start()

    def stop(self) -> None:
        """Close all doors and end."""
        for task_id in list(self._doors):
            self.close(task_id)
        self._loop.stop()

    def open(self, task_id: TaskId, door: Door) -> None:
        """Answer at ``door``, whose sockets do not block, until it is closed."""
        self.close(task_id)
        self._doors[task_id] = door
        self._loop.post(partial(self._watch, door))

    def close(self, task_id: TaskId) -> None:
        door = self._doors.pop(task_id, None)
        if door is not None:
            self._loop.post(partial(self._close, door))

    def door(self, task_id: TaskId) -> Door | None:
        return self._doors.get(task_id)

    # --- in the server's thread

    def _watch(self, door: Door) -> None:
        self._loop.watch(door.udp.fileno(), READABLE, partial(self._read_datagrams, door))
        self._loop.watch(door.tcp.fileno(), READABLE, partial(self._accept, door))

    def _close(self, door: Door) -> None:
        door.is_open = False
        for forward in list(door.forwards):
            forward.give_up()
        for connection in list(door.connections):
            connection.close()
        for sock in (door.udp, door.tcp):
            self._loop.forget(sock.fileno())
            sock.close()

    def _read_datagrams(self, door: Door) -> None:
        receive, send = door.udp.recvfrom, door.udp.sendto
        view = door.view
        for _ in range(DNS_BATCH_MAX):
            try:
                packet, sender = receive(DNS_UDP_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                continue  # an error that an earlier answer met
            zone = view.zone  # it may be replaced between two queries
            answer = zone.answers.get(packet[2:])
            if answer is not None:
                message: bytes | Query | None = answer.message(packet[:2])
            else:
                message = zone.respond(packet)
            if isinstance(message, bytes):
                with contextlib.suppress(OSError):  # its queue is full or it is gone: clients ask again
                    send(message, sender)
            elif message is not None:
                self._forward(door, message, packet, partial(_send_datagram, door, sender), is_stream=False)

    def _accept(self, door: Door) -> None:
        try:
            sock, _ = door.tcp.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:  # it would be ready again at once, and for ever
                self._loop.forget(door.tcp.fileno())
                self._loop.after(DNS_ACCEPT_PAUSE_S, partial(self._accept_again, door))
            return  # else it gave up before
        if len(door.connections) >= DNS_CONNECTIONS_PER_TASK_MAX or self._connections >= DNS_CONNECTIONS_MAX:
            sock.close()
            return
        sock.setblocking(False)
        self._connections += 1
        connection = Connection(
            self._loop, sock, respond=partial(self._respond, door), closed=partial(self._gone, door)
        )
        door.connections.add(connection)
        connection.begin()

    def _accept_again(self, door: Door) -> None:
        if door.is_open:
            self._loop.watch(door.tcp.fileno(), READABLE, partial(self._accept, door))

    def _gone(self, door: Door, connection: Connection) -> None:
        door.connections.discard(connection)
        self._connections -= 1

    def _respond(self, door: Door, packet: bytes, done: Done) -> None:
        message = door.view.zone.respond_stream(packet)
        if isinstance(message, bytes):
            done(message)
        elif message is not None:
            self._forward(door, message, packet, done, is_stream=True)

    def _forward(self, door: Door, query: Query, packet: bytes, done: Done, *, is_stream: bool) -> None:
        if not door.has_way_out and not door.servers:
            done(wire.failure(query, wire.SERVFAIL))
            return
        if door.keeps_single_labels and query.type in (wire.A, wire.AAAA) and "." not in query.name:
            done(wire.failure(query, wire.NOERROR))
            return
        servers, inside = door.servers, door.inside if door.servers else None
        wish = Wish(
            query, packet, servers or self._node_servers.servers(), inside=inside, is_stream=is_stream
        )
        self._forwarder.ask(wish, door.forwards, done)


def _send_datagram(door: Door, sender: tuple[str, int], message: bytes) -> None:
    if door.is_open:
        with contextlib.suppress(OSError):  # its queue is full or it is gone: clients ask again
            door.udp.sendto(message, sender)
