"""The user-space port: a process of its own that encrypts what goes between nodes, if the kernel cannot.

The daemon starts it, tells it keys and peers, and may go: the port works on, so that tasks keep their
connections. It takes packets from its device, seals them for the peer that they are addressed to, and sends
them; what it takes from the network it opens, checks that it is from that peer to this node's secure port,
and gives to the kernel. For whom it has no key it has no datagram. It keeps nothing on disk: when it ends,
its device is gone, and with it every route. Keys of the ring are kept with their counts, used or not.

One thread; what it does with a datagram never waits for anything but the network.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
from pathlib import Path
from typing import Final

import msgspec

from agent.dataplane.linux.encryption.userspace import orders
from agent.dataplane.linux.encryption.userspace.orders import Ask, Configure, Key, Member, Order, Status, Stop
from agent.dataplane.linux.encryption.userspace.packets import Passage, target_of
from agent.dataplane.linux.encryption.userspace.records import HEAD, Assembly, Opener, Sealer
from agent.dataplane.linux.encryption.userspace.tunnel import Tunnel, message_of, packet_in, packet_of

_SOL_UDP: Final = 17
_UDP_SEGMENT, _UDP_GRO = 103, 104
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER_BYTES: Final = 8 << 20
_DATAGRAMS_MAX: Final = 60
"""In one call: the kernel cuts a buffer into 64 at most, and it may have 64 KiB."""
_SEND_BYTES_MAX: Final = 65_000
_RECEIVE_BYTES: Final = 1 << 17
_BURST: Final = 64
"""Packets of one direction before the other has its turn."""
_ORDER_S: Final = 2.0
_CONTROL_BYTES: Final = 64


class _Peer:
    """``way_in``, ``way_out``: what may pass."""

    def __init__(self, addr: str, own: str, port: int) -> None:
        self.addr = addr
        self.sealer: Sealer | None = None
        self.way_out = Passage(own, addr, port)
        self.way_in = Passage(addr, own, port)


class Port:
    """The process's whole state. ``run`` ends after a ``Stop``."""

    def __init__(self, link: str, socket_path: Path, program: str) -> None:
        self._program = program
        self._tunnel = Tunnel(link)
        self._orders = _listen(socket_path)
        self._udp: socket.socket | None = None
        self._bound: tuple[str, int] = ("", 0)
        self._udp_port = 0
        self._piece_bytes = 0
        self._peers: dict[bytes, _Peer] = {}
        self._sealers: dict[str, Sealer] = {}
        self._openers: dict[str, Opener] = {}
        self._by_index: dict[tuple[int, int], tuple[Opener, _Peer]] = {}
        self._assembly = Assembly()
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._counts = dict.fromkeys(("sent", "unsent", "taken", "refused"), 0)

    def run(self) -> None:
        poll = select.epoll()
        poll.register(self._tunnel.fd, select.EPOLLIN)
        poll.register(self._orders, select.EPOLLIN)
        watched = -1
        is_going = True
        while is_going:
            if self._udp is not None and watched != self._udp.fileno():
                # a socket that was closed is no longer in the poll
                watched = self._udp.fileno()
                poll.register(watched, select.EPOLLIN)
            ready = {fd for fd, _ in poll.poll()}
            if self._tunnel.fd in ready:
                self._send()
            if watched in ready:
                self._take()
            if self._orders.fileno() in ready:
                is_going = self._listen_to_order()
                if self._udp is not None and self._udp.fileno() != watched:
                    watched = -1
        self._tunnel.close()

    # --- packets

    def _send(self) -> None:
        counts = self._counts
        for _ in range(_BURST):
            raw = self._tunnel.read()
            if raw is None:
                return
            packet = packet_in(raw)
            peer = self._peers.get(target_of(packet))
            if peer is None or peer.sealer is None or self._udp is None or not peer.way_out.has(packet):
                counts["unsent"] += 1
                continue
            buffer, size = peer.sealer.seal(message_of(raw), piece_bytes=self._piece_bytes)
            try:
                self._transmit(buffer, size, (peer.addr, self._udp_port))
                counts["sent"] += 1
            except OSError:
                counts["unsent"] += 1  # no route, or the device is down: whoever sent it will send it again

    def _transmit(self, buffer: bytes, size: int, target: tuple[str, int]) -> None:
        assert self._udp is not None
        if len(buffer) <= size:
            self._udp.sendto(buffer, target)
            return
        step = size * min(_DATAGRAMS_MAX, _SEND_BYTES_MAX // size)
        cut = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", size))]
        view = memoryview(buffer)
        for start in range(0, len(buffer), step):
            self._udp.sendmsg([view[start : start + step]], cut, 0, target)

    def _take(self) -> None:
        assert self._udp is not None
        counts = self._counts
        for _ in range(_BURST):
            try:
                length, told, _, _ = self._udp.recvmsg_into(
                    [self._buffer], _CONTROL_BYTES, socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of what was sent
            size = length
            for level, kind, data in told:
                if level == _SOL_UDP and kind == _UDP_GRO:
                    size = struct.unpack_from("=i", data)[0]
            for record in self._assembly.records(self._view[:length], max(size, HEAD.size + 1)):
                found = self._by_index.get((record.number, record.tag))
                message = found[0].open(record.sequence, record.sealed) if found is not None else None
                if found is None or not message or not found[1].way_in.has(packet_of(message)):
                    counts["refused"] += 1
                elif self._tunnel.write(message):
                    counts["taken"] += 1
                else:
                    counts["refused"] += 1

    # --- orders

    def _listen_to_order(self) -> bool:
        """Carry out one order. Whether to go on."""
        connection, _ = self._orders.accept()
        with connection:
            connection.settimeout(_ORDER_S)
            try:
                order = orders.receive_order(connection)
                error = self._carry_out(order)
                orders.send(connection, self._status(error))
            except (OSError, msgspec.DecodeError) as failure:
                # nothing has changed, or whoever gave the order does not wait for what it led to
                print(f"an order came to nothing: {failure}", file=sys.stderr, flush=True)  # noqa: T201
                return True
        return not isinstance(order, Stop)

    def _carry_out(self, order: Order) -> str:
        match order:
            case Ask():
                return ""
            case Stop():
                self._peers, self._by_index = {}, {}
                return ""
            case Configure():
                return self._configure(order)

    def _configure(self, order: Configure) -> str:
        """What went wrong, in a sentence; then nobody is sent to and nothing is taken."""
        self._peers, self._by_index = {}, {}
        try:
            self._bind(order.addr, order.port)
            self._tunnel.set_large(order.is_large)
        except OSError as error:
            return f"the user-space port cannot take {order.addr} port {order.port}: {error.strerror}"
        self._piece_bytes = order.piece_bytes
        self._udp_port = order.port
        sealers = {name: each for name, each in self._sealers.items() if each.tag in order.tags}
        openers = {name: each for name, each in self._openers.items() if each.tag in order.tags}
        for member in order.members:
            peer = _Peer(member.addr, order.addr, order.secure_port)
            self._add_sealer(peer, member, order, sealers)
            for key in member.receiving:
                opener = self._openers.get(key.name) or _opener(key, order.reached)
                openers[key.name] = opener
                self._by_index[key.number, key.tag] = opener, peer
            self._peers[_packed(member.addr)] = peer
        self._sealers, self._openers = sealers, openers
        return ""

    def _add_sealer(self, peer: _Peer, member: Member, order: Configure, sealers: dict[str, Sealer]) -> None:
        key = member.sending
        if key is not None:
            peer.sealer = self._sealers.get(key.name) or _sealer(key, order.reached)
            sealers[key.name] = peer.sealer

    def _bind(self, addr: str, port: int) -> None:
        if self._udp is not None and self._bound == (addr, port):
            return
        if self._udp is not None:
            self._udp.close()
            self._udp = None
        family = socket.AF_INET6 if ":" in addr else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            udp.bind((addr, port))
            for name, forced in (
                (socket.SO_SNDBUF, _SO_SNDBUFFORCE),
                (socket.SO_RCVBUF, _SO_RCVBUFFORCE),
            ):
                with contextlib.suppress(OSError):  # without the right to force it the kernel gives less
                    udp.setsockopt(socket.SOL_SOCKET, name, _BUFFER_BYTES)
                    udp.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_BYTES)
            udp.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        except OSError:
            udp.close()
            raise
        self._udp, self._bound = udp, (addr, port)

    def _status(self, error: str) -> Status:
        return Status(
            program=self._program,
            pid=os.getpid(),
            error=error,
            sending={name: sealer.sequence for name, sealer in self._sealers.items()},
            receiving={name: opener.window.highest for name, opener in self._openers.items()},
            counts=self._counts,
        )


def _sealer(key: Key, reached: dict[str, int]) -> Sealer:
    return Sealer(key.material, tag=key.tag, number=key.number, sequence=reached.get(key.name, 0))


def _opener(key: Key, reached: dict[str, int]) -> Opener:
    return Opener(key.material, tag=key.tag, number=key.number, highest=reached.get(key.name, 0))


def _packed(addr: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in addr else socket.AF_INET, addr)


def _listen(path: Path) -> socket.socket:
    """Bound from its folder: a socket's path is short, that of a folder need not be."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    os.chdir(path.parent)
    path.unlink(missing_ok=True)
    former = os.umask(0o177)
    listener.bind(path.name)
    os.umask(former)
    listener.listen()
    os.chdir("/")
    return listener


def main() -> None:
    """Arguments: the device's name, the path of the socket for orders, the digest of this program."""
    link, socket_path, program = sys.argv[-3:]
    Port(link, Path(socket_path), program).run()
