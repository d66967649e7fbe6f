"""Connections that the kernel tracks, and sockets, in one namespace: find them by the other side, end them.

Addresses are packed here, IPv4 ones within IPv6 sockets as IPv4: a socket that speaks to ``::ffff:10.0.1.2``
is one to 10.0.1.2.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from agent.dataplane.linux.balancing.wire import Message, Wire, attribute, attributes, nested

_CONNTRACK = 1
_GET, _DELETE = (_CONNTRACK << 8 | kind for kind in (1, 2))
_TUPLE_ORIGINAL, _TUPLE_REPLY, _ID, _ZONE = 1, 2, 12, 18
_TUPLE_ADDRESSES, _TUPLE_PROTOCOL = 1, 2
_V4_SOURCE, _V4_TARGET, _V6_SOURCE, _V6_TARGET = 1, 2, 3, 4
_V4_BYTES = 4
_PROTOCOL_NUMBER, _SOURCE_PORT, _TARGET_PORT = 1, 2, 3

_BY_FAMILY, _DESTROY = 20, 21
_TCP, _UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
_TCP_ESTABLISHED, _TCP_TIME_WAIT, _TCP_CLOSE, _TCP_LISTEN = 1, 6, 7, 10
_STATES = {
    _TCP: 0xFFF & ~(1 << _TCP_TIME_WAIT | 1 << _TCP_CLOSE | 1 << _TCP_LISTEN),
    _UDP: 1 << _TCP_ESTABLISHED,
}
"""Of TCP all that lives, of UDP what is connected."""
_REQUEST = struct.Struct("=BBBxI")
_SOCKET_ID = slice(4, 52)
_MAPPED = bytes(10) + b"\xff\xff"
_GONE = (0, errno.ENOENT)
_UNKNOWN = (errno.ENOENT, errno.EOPNOTSUPP)


class Ends(NamedTuple):
    """As the local side sees a connection."""

    protocol: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int


class Flow(NamedTuple):
    """A tracked connection. ``ends``: as its client addressed it. ``identity``: for the kernel to find it."""

    ends: Ends
    target: bytes
    """Where it really leads."""
    family: int
    identity: bytes

    @property
    def is_redirected(self) -> bool:
        return self.ends.remote != self.target

    def has(self, addresses: frozenset[bytes]) -> bool:
        return not addresses.isdisjoint((self.ends.local, self.ends.remote, self.target))


class Socket(NamedTuple):
    """A connected one. ``identity`` has the kernel's cookie: no other is ever taken for it."""

    ends: Ends
    family: int
    identity: bytes


def pack(addresses: Iterable[str]) -> frozenset[bytes]:
    return frozenset(ip_address(address).packed for address in addresses)


def tracked(wire: Wire, addresses: frozenset[bytes]) -> list[Flow]:
    """All from or to one of the addresses, be it by a virtual address.

    The kernel goes through the connections of all namespaces for it, and through all empty places in between:
    some 10 ms however few there are.
    """
    payloads = wire.dump(Message(_GET, 0, struct.pack(">BBH", socket.AF_UNSPEC, 0, 0)))
    # most are not worth a closer look
    near = [each for each in payloads if any(address in each for address in addresses)]
    return [flow for flow in map(_flow, near) if flow.has(addresses)]


def of_sockets(wire: Wire, sockets: Sequence[Socket]) -> list[Flow | None]:
    """The connection that each socket is an end of, as far as it is tracked: looked up, without a search."""
    found = wire.ask([Message(_GET, 0, _as_tuple(each.ends)) for each in sockets])
    return [_flow(payload) if payload else None for payload in found]


def forget(wire: Wire, flows: Sequence[Flow]) -> int:
    """How many of them were still there."""
    results = wire.each(
        [Message(_DELETE, 0, struct.pack(">BBH", flow.family, 0, 0) + flow.identity) for flow in flows]
    )
    _refuse(result for result in results if result not in _GONE)
    return results.count(0)


def connected(wire: Wire) -> list[Socket]:
    """All TCP and UDP sockets that have another side."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for protocol, states in _STATES.items():
            for payload in _sockets(wire, _REQUEST.pack(family, protocol, 0, states) + bytes(48)):
                identity = payload[_SOCKET_ID]
                found.append(Socket(_socket_ends(protocol, payload[0], identity), payload[0], identity))
    return found


def end(wire: Wire, sockets: Iterable[Socket]) -> int:
    """How many were still there. A kernel that cannot end sockets leaves them to their timeouts."""
    results = wire.each(
        [
            Message(
                _DESTROY, 0, _REQUEST.pack(each.family, each.ends.protocol, 0, 0xFFFFFFFF) + each.identity
            )
            for each in sockets
        ]
    )
    _refuse(result for result in results if result not in (*_GONE, *_UNKNOWN))
    return results.count(0)


def _sockets(wire: Wire, ask: bytes) -> list[bytes]:
    try:
        return wire.dump(Message(_BY_FAMILY, 0, ask))
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        return []  # a kernel that does not show sockets of this kind


def _flow(payload: bytes) -> Flow:
    parts = attributes(payload, 4)
    identity = b"".join(
        attribute(kind, parts[kind]) for kind in (_TUPLE_ORIGINAL, _ID, _ZONE) if kind in parts
    )
    original, reply = _ends(parts.get(_TUPLE_ORIGINAL, b"")), _ends(parts.get(_TUPLE_REPLY, b""))
    return Flow(original, reply.local, payload[0], identity)


def _as_tuple(ends: Ends) -> bytes:
    """A question for the connection with these ends, whichever side opened it."""
    is_four = len(ends.local) == _V4_BYTES
    kinds = (_V4_SOURCE, _V4_TARGET) if is_four else (_V6_SOURCE, _V6_TARGET)
    addresses = attribute(kinds[0], ends.local) + attribute(kinds[1], ends.remote)
    protocol = attribute(_PROTOCOL_NUMBER, bytes([ends.protocol]))
    protocol += attribute(_SOURCE_PORT, struct.pack(">H", ends.local_port))
    protocol += attribute(_TARGET_PORT, struct.pack(">H", ends.remote_port))
    inner = nested(_TUPLE_ADDRESSES, addresses) + nested(_TUPLE_PROTOCOL, protocol)
    family = socket.AF_INET if is_four else socket.AF_INET6
    return struct.pack(">BBH", family, 0, 0) + nested(_TUPLE_ORIGINAL, inner)


def _ends(part: bytes) -> Ends:
    parts = attributes(part)
    ends = attributes(parts.get(_TUPLE_ADDRESSES, b""))
    protocol = attributes(parts.get(_TUPLE_PROTOCOL, b""))
    return Ends(
        int.from_bytes(protocol.get(_PROTOCOL_NUMBER, b"")),
        ends.get(_V4_SOURCE, ends.get(_V6_SOURCE, b"")),
        int.from_bytes(protocol.get(_SOURCE_PORT, b"")),
        ends.get(_V4_TARGET, ends.get(_V6_TARGET, b"")),
        int.from_bytes(protocol.get(_TARGET_PORT, b"")),
    )


def _socket_ends(protocol: int, family: int, identity: bytes) -> Ends:
    local_port, remote_port = struct.unpack_from(">HH", identity)
    local, remote = _address(family, identity[4:20]), _address(family, identity[20:36])
    return Ends(protocol, local, local_port, remote, remote_port)


def _address(family: int, raw: bytes) -> bytes:
    if family == socket.AF_INET:
        return raw[:4]
    return raw[12:] if raw.startswith(_MAPPED) else raw


def _refuse(errors: Iterable[int]) -> None:
    for error in errors:
        raise OSError(error, os.strerror(error))
