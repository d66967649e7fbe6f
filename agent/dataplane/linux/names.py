"""Names in tasks: a resolver at 127.0.0.11 in every task's namespace. A ``Part``.

The sockets are bound to that address on a port of their own, and a rule leads port 53 there, so a task may
have a server of its own on 53. The port is the same for every task and every daemon, unless a task has taken
it: so a rule that a former daemon left leads to the next one's sockets at once. While no daemon runs, errors
that would tell a client so are dropped: a lookup then waits and asks again (2.5 s with musl, 5 s with glibc),
and survives a short absence, where it would fail at once otherwise. The daemon's own sockets end with it; the
task's connections to others are not touched.

A task in the node's own network, or in none, has no resolver. Names of the ingress network are nobody's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
import struct
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agent.dataplane.base import Endpoint, Names, NodeState
from agent.dataplane.linux import namespaces
from agent.dataplane.linux.nftables import NftError, out_of_the_way
from agent.dataplane.linux.part import Space
from agent.dns.limits import DNS_PORT_TRIES_MAX
from agent.dns.server import NODE_FILE, DnsServer, Door, View
from agent.dns.upstream import SERVER_PORT
from agent.dns.zone import RESOLVER_ADDRESS, Draw, Zone, has_resolver, network_ids
from swarmpy.errors import Unavailable
from swarmpy.model.ids import NetworkId, TaskId

TABLE = "swarmpy_dns"
RESOLVER_PORT = 29_053
"""Below the range from which clients' ports are taken."""

_BACKLOG = 64
_RECEIVE_BYTES = 1 << 18
_GET_FLAGS, _SET_FLAGS, _IS_UP = 0x8913, 0x8914, 1
_INTERFACE = struct.Struct("16sH22x")


def ruleset(port: int) -> str:
    """The whole table, replaced in one transaction."""
    target = f"dnat ip to {RESOLVER_ADDRESS}:{port}"
    return f"""
add table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  chain output {{
    type nat hook output priority -100;
    ip daddr {RESOLVER_ADDRESS} udp dport {SERVER_PORT} {target}
    ip daddr {RESOLVER_ADDRESS} tcp dport {SERVER_PORT} {target}
  }}
  chain absence {{
    type filter hook output priority filter;
    ip saddr {RESOLVER_ADDRESS} icmp type destination-unreachable drop
  }}
}}
"""


@dataclass
class _Group:
    """Tasks on the same networks in the same order."""

    names: tuple[Names, ...]
    view: View
    tasks: set[TaskId]


@dataclass(frozen=True)
class _Resolver:
    """One task's. ``inode``: of the namespace in which its sockets are."""

    inode: int
    port: int
    key: tuple[NetworkId, ...]


class NamesPart:
    """``draw``: where the turns of several addresses start. ``node_file``: the node's resolver's file."""

    def __init__(
        self,
        *,
        draw: Draw = secrets.randbelow,
        node_file: Path = NODE_FILE,
        server_port: int = SERVER_PORT,
    ) -> None:
        self._draw = draw
        self._make_server = partial(DnsServer, node_file=node_file, server_port=server_port)
        self._server: DnsServer | None = None
        self._names: dict[NetworkId, Names] = {}
        self._groups: dict[tuple[NetworkId, ...], _Group] = {}
        self._resolvers: dict[TaskId, _Resolver] = {}

    def start_up(self, node: Space) -> None:
        if self._server is None:
            self._server = self._make_server()
            self._server.start()

    def apply(self, state: NodeState) -> None:
        """New names hold for the next query when this returns. Costs what changed, not what there is."""
        self._names = {network_id: network.names for network_id, network in state.networks.items()}
        for key, group in self._groups.items():
            names = self._names_of(key)
            if any(new is not old for new, old in zip(names, group.names, strict=True)):
                group.names = names
                group.view.zone = Zone(names, self._draw)

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        if not has_resolver(endpoint):
            return
        task_id, server = endpoint.task_id, self._running()
        key, inode = network_ids(endpoint), os.stat(space.path).st_ino
        resolver, door, is_led_here = self._resolvers.get(task_id), server.door(task_id), False
        if resolver is not None and door is not None and resolver.inode == inode:
            door.wish_for(endpoint)
            if resolver.key != key:
                self._leave(task_id, resolver.key)
                door.view = self._enter(task_id, key).view
                resolver = self._resolvers[task_id] = replace(resolver, key=key)
        else:
            self.detach(task_id)
            resolver, is_led_here = self._open(endpoint, space, key=key, inode=inode)
        if is_led_here:
            return  # by a former daemon's rules
        try:
            space.nft.run(ruleset(resolver.port))
        except NftError as error:
            raise Unavailable(
                f"nftables refused the rules of the resolver of task {task_id}: {error}"
            ) from None

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        pass  # loopback is all that it needs

    def detach(self, task_id: TaskId) -> None:
        if self._server is not None:
            self._server.close(task_id)
        resolver = self._resolvers.pop(task_id, None)
        if resolver is not None:
            self._leave(task_id, resolver.key)

    def shut_down(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None
        self._resolvers.clear()
        self._groups.clear()

    def destroy(self) -> None:
        """All of it is in tasks' namespaces and ends with them."""
        self.shut_down()

    def _running(self) -> DnsServer:
        assert self._server is not None, "the part was not started"
        return self._server

    def _names_of(self, key: tuple[NetworkId, ...]) -> tuple[Names, ...]:
        return tuple(self._names.get(network_id, _NONE) for network_id in key)

    def _enter(self, task_id: TaskId, key: tuple[NetworkId, ...]) -> _Group:
        group = self._groups.get(key)
        if group is None:
            names = self._names_of(key)
            group = self._groups[key] = _Group(names, View(Zone(names, self._draw)), set())
        group.tasks.add(task_id)
        return group

    def _leave(self, task_id: TaskId, key: tuple[NetworkId, ...]) -> None:
        group = self._groups[key]
        group.tasks.discard(task_id)
        if not group.tasks:
            del self._groups[key]

    def _open(
        self, endpoint: Endpoint, space: Space, *, key: tuple[NetworkId, ...], inode: int
    ) -> tuple[_Resolver, bool]:
        task_id = endpoint.task_id
        path = space.path
        try:
            with namespaces.inside(path):
                udp, tcp = open_sockets(RESOLVER_PORT)
                is_led_here = _is_led_to(udp)
        except OSError as error:
            raise Unavailable(f"cannot open the resolver of task {task_id}: {error}") from None
        group = self._enter(task_id, key)
        inside = partial(namespaces.inside, path)
        door = Door(endpoint, udp=udp, tcp=tcp, view=group.view, inside=inside)
        resolver = _Resolver(inode=inode, port=udp.getsockname()[1], key=key)
        self._resolvers[task_id] = resolver
        self._running().open(task_id, door)
        return resolver, is_led_here


_NONE = Names()


def open_sockets(port: int) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP on one port of the resolver's address, in the calling thread's namespace.

    ``port`` unless it is taken, then any. A node has two for every task: they leave low descriptors alone.
    """
    for attempt in range(DNS_PORT_TRIES_MAX):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _raise_loopback(udp)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
            udp.bind((RESOLVER_ADDRESS, port if attempt == 0 else 0))
            tcp.bind(udp.getsockname())
            tcp.listen(_BACKLOG)
        except OSError as error:
            udp.close()
            tcp.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return out_of_the_way(udp), out_of_the_way(tcp)
    raise OSError(errno.EADDRINUSE, "no port is free on its loopback")


def _raise_loopback(sock: socket.socket) -> None:
    """Its address is there from then on. Looking first spares the wait for the kernel's lock on all links."""
    found = fcntl.ioctl(sock, _GET_FLAGS, _INTERFACE.pack(b"lo", 0))
    flags = _INTERFACE.unpack(found)[1]
    if not flags & _IS_UP:
        fcntl.ioctl(sock, _SET_FLAGS, _INTERFACE.pack(b"lo", flags | _IS_UP))


def _is_led_to(udp: socket.socket) -> bool:
    """Whether a packet to port 53 arrives here already: far cheaper than a look at the rules.

    On loopback it is there when ``sendto`` returns. If a busy kernel is late the rules are only made again.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.sendto(b"", (RESOLVER_ADDRESS, SERVER_PORT))
            _, sender = udp.recvfrom(1)
            return bool(sender == ("127.0.0.1", probe.getsockname()[1]))
        except OSError:
            return False
