"""Queries passed on to servers outside, over UDP, or over TCP if they came so.

Each attempt has a socket of its own, connected, with a random port and a random id, and takes only an answer
to its own question: nobody can put in another. Servers are asked in their order; the next one is asked too
once the one before failed, refused, or took too long, and the first good answer is taken. A truncated answer
goes to the client as it is, who then asks over TCP. If nobody has a good answer the client gets the last bad
one. More queries than the bound are failed at once rather than queued: clients ask again.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext

from agent.dns import wire
from agent.dns.limits import (
    DNS_FORWARD_TIMEOUT_S,
    DNS_FORWARDS_MAX,
    DNS_FORWARDS_PER_TASK_MAX,
    DNS_STREAM_BYTES_MAX,
    DNS_TRY_S,
)
from agent.dns.loop import READABLE, WRITABLE, Loop, Timer
from agent.dns.upstream import SERVER_PORT, Inside
from agent.dns.wire import Query

Done = Callable[[bytes], None]

_LENGTH_BYTES = 2
_BAD = (wire.SERVFAIL, wire.REFUSED)


class Wish:
    """What is asked of whom. ``inside``: where the servers are reached from; None: from the node."""

    __slots__ = ("inside", "is_stream", "packet", "query", "servers")

    def __init__(
        self, query: Query, packet: bytes, servers: tuple[str, ...], *, inside: Inside | None, is_stream: bool
    ) -> None:
        self.query = query
        self.packet = packet
        self.servers = servers
        self.inside = inside
        self.is_stream = is_stream


class Forwarder:
    """Bounds what is under way."""

    def __init__(self, loop: Loop, *, port: int = SERVER_PORT) -> None:
        self.loop = loop
        self.port = port
        self._count = 0

    def ask(self, wish: Wish, under_way: set[Forward], done: Done) -> None:
        """``done`` gets the answer, unless the forward is given up. ``under_way``: those of the task."""
        if not wish.servers or self._count >= DNS_FORWARDS_MAX or len(under_way) >= DNS_FORWARDS_PER_TASK_MAX:
            done(wire.failure(wish.query, wire.SERVFAIL))
            return
        self._count += 1
        forward = Forward(self, wish, under_way, done)
        under_way.add(forward)
        forward.advance()

    def ended(self) -> None:
        self._count -= 1


class Forward:
    """One query under way."""

    def __init__(self, forwarder: Forwarder, wish: Wish, under_way: set[Forward], done: Done) -> None:
        self.loop = forwarder.loop
        self.wish = wish
        self._forwarder = forwarder
        self._under_way = under_way
        self._done = done
        self._servers: Iterator[str] = iter(wish.servers)
        self._attempts: set[_Attempt] = set()
        self._worst = wire.failure(wish.query, wire.SERVFAIL)
        self._timer: Timer | None = None
        self._deadline = self.loop.after(DNS_FORWARD_TIMEOUT_S, self._expire)

    def advance(self) -> None:
        """Ask the next server; with none left, wait for those that were asked."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for server in self._servers:
            with contextlib.suppress(OSError):  # no way there: the next
                self._attempts.add(self._open(server))
                self._timer = self.loop.after(DNS_TRY_S, self.advance)
                return
        if not self._attempts:
            self._expire()

    def _open(self, server: str) -> _Attempt:
        kind = socket.SOCK_STREAM if self.wish.is_stream else socket.SOCK_DGRAM
        found = socket.getaddrinfo(server, self._forwarder.port, type=kind, flags=socket.AI_NUMERICHOST)
        family, _, _, _, address = found[0]
        inside = self.wish.inside
        with nullcontext() if inside is None else inside():
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        attempt: _Attempt = _Stream(self, sock) if self.wish.is_stream else _Datagram(self, sock)
        try:
            with contextlib.suppress(BlockingIOError):  # a TCP connection under way
                sock.connect(address)
            attempt.begin()
        except OSError:
            attempt.close()
            raise
        return attempt

    def answered(self, attempt: _Attempt, packet: bytes) -> None:
        packet = self.wish.packet[:2] + packet[2:]
        if wire.rcode_of(packet) in _BAD:
            self._worst = packet
            self.failed(attempt)
        else:
            self._finish(packet)

    def failed(self, attempt: _Attempt) -> None:
        attempt.close()
        self._attempts.discard(attempt)
        self.advance()

    def _expire(self) -> None:
        self._finish(self._worst)

    def _finish(self, packet: bytes) -> None:
        self.give_up()
        self._done(packet)

    def give_up(self) -> None:
        """The client is gone, or has its answer."""
        self._deadline.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for attempt in self._attempts:
            attempt.close()
        self._attempts.clear()
        self._under_way.discard(self)
        self._forwarder.ended()


class _Datagram:
    """One server asked over UDP."""

    def __init__(self, forward: Forward, sock: socket.socket) -> None:
        self._forward = forward
        self._sock = sock
        self._id = secrets.randbits(16)

    def begin(self) -> None:
        self._sock.send(self._id.to_bytes(2) + self._forward.wish.packet[2:])
        self._forward.loop.watch(self._sock.fileno(), READABLE, self._read)

    def _read(self) -> None:
        try:
            packet = self._sock.recv(DNS_STREAM_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:  # nobody is there
            self._forward.failed(self)
            return
        if wire.is_answer_to(self._forward.wish.query, self._id, packet):
            self._forward.answered(self, packet)

    def close(self) -> None:
        self._forward.loop.forget(self._sock.fileno())
        self._sock.close()


class _Stream:
    """One server asked over TCP."""

    def __init__(self, forward: Forward, sock: socket.socket) -> None:
        self._forward = forward
        self._sock = sock
        self._id = secrets.randbits(16)
        packet = self._id.to_bytes(2) + forward.wish.packet[2:]
        self._unsent = len(packet).to_bytes(_LENGTH_BYTES) + packet
        self._read_bytes = bytearray()

    def begin(self) -> None:
        self._forward.loop.watch(self._sock.fileno(), WRITABLE, self._step)

    def _step(self) -> None:
        try:
            if self._unsent:
                self._write()
                return
            data = self._sock.recv(DNS_STREAM_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._take(data)

    def _write(self) -> None:
        self._unsent = self._unsent[self._sock.send(self._unsent) :]
        if not self._unsent:
            self._forward.loop.change(self._sock.fileno(), READABLE)

    def _take(self, data: bytes) -> None:
        self._read_bytes += data
        size = int.from_bytes(self._read_bytes[:_LENGTH_BYTES])
        packet = bytes(self._read_bytes[_LENGTH_BYTES:])
        if data and (len(self._read_bytes) < _LENGTH_BYTES or len(packet) < size):
            return
        if len(packet) >= size and wire.is_answer_to(self._forward.wish.query, self._id, packet[:size]):
            self._forward.answered(self, packet[:size])
        else:  # it closed, or speaks of something else
            self._forward.failed(self)

    def close(self) -> None:
        self._forward.loop.forget(self._sock.fileno())
        self._sock.close()


_Attempt = _Datagram | _Stream
