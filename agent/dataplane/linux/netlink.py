"""rtnetlink without a library: messages built with ``struct``, many per system call, no fork, no lookups.

A ``Netlink`` socket belongs to the network namespace that the thread was in when it was made, for ever, and
keeps that namespace alive until it is closed. ``batch`` sends messages that each may fail; the kernel
carries them out in order and the errors come back by position. What an error means is the caller's affair.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface
from types import TracebackType
from typing import NamedTuple, Self

NETLINK_ROUTE = 0
_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _GETADDR = 20, 22
_NEWROUTE, _GETROUTE = 24, 26
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_EXCLUSIVE, _CREATE, _REPLACE = 0x200, 0x400, 0x100

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_GROUP, _IFLA_NET_NS_FD, _IFLA_AF_SPEC = 27, 28, 26
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_IFLA_EXT_MASK, _SKIP_STATS = 29, 1 << 3
_VETH_INFO_PEER = 1
_IFLA_BR_MCAST_SNOOPING = 23
_IFLA_BRPORT_STATE, _IFLA_BRPORT_ISOLATED = 1, 33
_BR_STATE_FORWARDING = b"\3"
_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFA_F_NODAD = 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTA_TABLE = 1, 4, 5, 8, 15
_RTAX_MTU = 2
_NESTED = 0x8000
_IFF_UP = 1
_TABLE_MAIN = 254
_PROTOCOL_STATIC = 4
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_BUFFER_BYTES = 1 << 20
_BATCH_MESSAGES = 200
"""Messages per send: their acknowledgements must fit into the socket's receive buffer."""

_HEADER = struct.Struct("=IHHII")
_HEAD = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
BRIDGE_PORTS_MAX = 1023
"""Of one bridge, in Linux."""


class Message(NamedTuple):
    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    kind: str
    master: int
    is_up: bool
    mac: str
    mtu: int = 0
    is_forwarding: bool = False
    """As a port of a bridge."""
    data: bytes = b""
    """Attributes of its kind."""


def attribute(kind: int, data: bytes) -> bytes:
    size = 4 + len(data)
    return struct.pack("=HH", size, kind) + data + b"\0" * (-size % 4)


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def name_attribute(text: str) -> bytes:
    return attribute(_IFLA_IFNAME, text.encode() + b"\0")


def mac_attribute(text: str) -> bytes:
    return attribute(_IFLA_ADDRESS, bytes.fromhex(text.replace(":", "")))


def _mtu(size: int) -> bytes:
    """0: as it comes."""
    return u32(_IFLA_MTU, size) if size else b""


def link_body(index: int = 0, *, is_up: bool | None = None) -> bytes:
    flags, change = (0, 0) if is_up is None else (_IFF_UP if is_up else 0, _IFF_UP)
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)


# --- messages


def add_bridge(name: str, *, number: int = 0, mtu: int = 0) -> Message:
    """Without multicast snooping: it takes a querier, which nobody here is."""
    info = attribute(_IFLA_INFO_KIND, b"bridge\0") + attribute(
        _IFLA_INFO_DATA | _NESTED, attribute(_IFLA_BR_MCAST_SNOOPING, b"\0")
    )
    body = link_body(number) + name_attribute(name) + _mtu(mtu) + attribute(_IFLA_LINKINFO | _NESTED, info)
    return Message(_NEWLINK, _CREATE | _EXCLUSIVE, body)


class Peer(NamedTuple):
    """The far end of a veth: created straight inside the namespace of ``netns_fd``. No ``mac``: any."""

    name: str
    mac: str
    netns_fd: int


def add_veth(name: str, *, peer: Peer, master: int = 0, mac: str = "", mtu: int = 0) -> Message:
    """Both ends in one message: there is no moment at which the far end lies about in the wrong place."""
    far = (
        link_body()
        + name_attribute(peer.name)
        + (mac_attribute(peer.mac) if peer.mac else b"")
        + _mtu(mtu)
        + u32(_IFLA_NET_NS_FD, peer.netns_fd)
    )
    info = attribute(_IFLA_INFO_KIND, b"veth\0") + attribute(
        _IFLA_INFO_DATA | _NESTED, attribute(_VETH_INFO_PEER | _NESTED, far)
    )
    body = (
        link_body()
        + name_attribute(name)
        + (u32(_IFLA_MASTER, master) if master else b"")
        + (mac_attribute(mac) if mac else b"")
        + _mtu(mtu)
        + attribute(_IFLA_LINKINFO | _NESTED, info)
    )
    return Message(_NEWLINK, _CREATE | _EXCLUSIVE, body)


def set_master(name: str, master: int) -> Message:
    return Message(_SETLINK, 0, link_body() + name_attribute(name) + u32(_IFLA_MASTER, master))


def tune_port(name: str) -> Message:
    """A bridge port for one task: it reaches the bridge but no other port, and speaks no IPv6 of its own.

    To be sent before the link is brought up: a link-local address that exists does not go away again.
    """
    slave = attribute(_IFLA_INFO_SLAVE_KIND, b"bridge\0") + attribute(
        _IFLA_INFO_SLAVE_DATA | _NESTED, attribute(_IFLA_BRPORT_ISOLATED, b"\1")
    )
    body = (
        link_body()
        + name_attribute(name)
        + no_link_local_attribute()
        + attribute(_IFLA_LINKINFO | _NESTED, slave)
    )
    return Message(_NEWLINK, 0, body)


def no_link_local(name: str) -> Message:
    """No IPv6 link-local address, and none of the chatter that goes with it."""
    return Message(_SETLINK, 0, link_body() + name_attribute(name) + no_link_local_attribute())


def no_link_local_attribute() -> bytes:
    mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE]))
    return attribute(_IFLA_AF_SPEC | _NESTED, attribute(socket.AF_INET6 | _NESTED, mode))


def set_up(index: int) -> Message:
    return Message(_SETLINK, 0, link_body(index, is_up=True))


def set_up_by_name(name: str) -> Message:
    return Message(_SETLINK, 0, link_body(is_up=True) + name_attribute(name))


def delete_link(name: str) -> Message:
    return Message(_DELLINK, 0, link_body() + name_attribute(name))


def mark_group(name: str, group: int) -> Message:
    return Message(_SETLINK, 0, link_body() + name_attribute(name) + u32(_IFLA_GROUP, group))


def delete_group(group: int) -> Message:
    """All links of a group at once: each deletion by itself waits some 20 ms for the kernel's readers."""
    return Message(_DELLINK, 0, link_body() + u32(_IFLA_GROUP, group))


def add_address(index: int, address: IPv4Interface | IPv6Interface) -> Message:
    """An IPv6 address is usable at once: nobody else has it, so nobody is asked."""
    if isinstance(address, IPv6Interface):
        family, flags, broadcast = socket.AF_INET6, _IFA_F_NODAD, b""
    else:
        family, flags = socket.AF_INET, 0
        broadcast = attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
    body = (
        _ADDRESS.pack(family, address.network.prefixlen, flags, 0, index)
        + attribute(_IFA_LOCAL, address.ip.packed)
        + attribute(_IFA_ADDRESS, address.ip.packed)
        + broadcast
    )
    return Message(_NEWADDR, _CREATE | _REPLACE, body)


def add_default_route(index: int, gateway: IPv4Address, *, mtu: int = 0) -> Message:
    """``mtu``: of what is sent along it; less than the link's has no say in what may come. 0: the link's."""
    metrics = attribute(_RTA_METRICS | _NESTED, u32(_RTAX_MTU, mtu)) if mtu else b""
    body = (
        _ROUTE.pack(socket.AF_INET, 0, 0, 0, _TABLE_MAIN, _PROTOCOL_STATIC, 0, 1, 0)
        + attribute(_RTA_GATEWAY, gateway.packed)
        + u32(_RTA_OIF, index)
        + metrics
    )
    return Message(_NEWROUTE, _CREATE | _REPLACE, body)


class Netlink:
    """One netlink socket, of rtnetlink or another family. Not for use by two threads at once."""

    def __init__(self, family: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def batch(self, messages: Sequence[Message]) -> list[int]:
        """Carry all out, in order; the error number of each, 0 where it went well."""
        results: list[int] = []
        for start in range(0, len(messages), _BATCH_MESSAGES):
            results += self._send(messages[start : start + _BATCH_MESSAGES])
        return results

    def do(self, *messages: Message, accept: frozenset[int] = frozenset()) -> None:
        """Carry all out; the first error that is not in ``accept`` is raised as OSError."""
        for position, error in enumerate(self.batch(messages)):
            if error and error not in accept:
                raise OSError(error, f"{os.strerror(error)} (netlink message {position + 1})")

    def _send(self, messages: Sequence[Message]) -> list[int]:
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(
            b"".join(
                _HEADER.pack(16 + len(body), kind, flags | _REQUEST | _ACK, first + position, 0) + body
                for position, (kind, flags, body) in enumerate(messages)
            )
        )
        results: dict[int, int] = {}
        while len(results) < len(messages):
            for kind, sequence, body in self._receive():
                if kind == _ERROR and sequence >= first:
                    results[sequence] = -struct.unpack_from("=i", body)[0]
        return [results[first + position] for position in range(len(messages))]

    def _receive(self) -> list[tuple[int, int, bytes]]:
        data = self._socket.recv(_BUFFER_BYTES)
        found = []
        offset = 0
        while offset + 16 <= len(data):
            size, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
            found.append((kind, sequence, data[offset + 16 : offset + size]))
            offset += (size + 3) & ~3
        return found

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        return self._dump(kind, body)

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        self._sequence += 1
        own = self._sequence
        self._socket.send(_HEADER.pack(16 + len(body), kind, _REQUEST | _DUMP, own, 0) + body)
        found: list[bytes] = []
        while True:
            for answer, sequence, payload in self._receive():
                if sequence != own:
                    continue
                if answer == _DONE:
                    return found
                if answer == _ERROR:
                    error = -struct.unpack_from("=i", payload)[0]
                    raise OSError(error, os.strerror(error))
                found.append(payload)

    # --- asking

    def links(self) -> list[Link]:
        """All, but for their counters."""
        wanted = link_body() + u32(_IFLA_EXT_MASK, _SKIP_STATS)
        return [_parse_link(payload) for payload in self._dump(_GETLINK, wanted)]

    def link(self, name: str) -> Link | None:
        """One link, without reading all."""
        self._sequence += 1
        body = link_body() + name_attribute(name)
        self._socket.send(_HEADER.pack(16 + len(body), _GETLINK, _REQUEST, self._sequence, 0) + body)
        kind, _, payload = self._receive()[0]
        if kind == _ERROR:
            error = -struct.unpack_from("=i", payload)[0]
            if error == errno.ENODEV:
                return None
            raise OSError(error, os.strerror(error))
        return _parse_link(payload)

    def addresses(self) -> list[tuple[int, IPv4Interface]]:
        """(link index, address) of every IPv4 address."""
        found = []
        for payload in self._dump(_GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)):
            _, bits, _, _, index = _ADDRESS.unpack_from(payload)
            raw = attributes(payload, 8)
            local = raw.get(_IFA_LOCAL, raw.get(_IFA_ADDRESS, b""))
            if len(local) == 4:
                found.append((index, IPv4Interface((int.from_bytes(local), bits))))
        return found

    def routes(self) -> list[tuple[int, IPv4Network]]:
        """(link index, destination) of every IPv4 route of the main table but the default ones."""
        found = []
        for payload in self._dump(_GETROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
            bits = payload[1]
            raw = attributes(payload, 12)
            table = int.from_bytes(raw.get(_RTA_TABLE, bytes([payload[4]])), "little")
            if table == _TABLE_MAIN and bits and _RTA_DST in raw:
                index = int.from_bytes(raw.get(_RTA_OIF, b""), "little")
                found.append((index, IPv4Network((int.from_bytes(raw[_RTA_DST]), bits))))
        return found


def attributes(payload: bytes, offset: int) -> dict[int, bytes]:
    """By kind. Dumps have fifty of them for each of a thousand links: every step here counts."""
    found = {}
    unpack, end = _HEAD.unpack_from, len(payload) - 4
    while offset <= end:
        size, kind = unpack(payload, offset)
        if size < 4:
            break
        found[kind & 0x3FFF] = payload[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return found


def _parse_link(payload: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(payload)
    raw = attributes(payload, 16)
    info = attributes(raw.get(_IFLA_LINKINFO, b""), 0)
    slave = attributes(info.get(_IFLA_INFO_SLAVE_DATA, b""), 0)
    return Link(
        index=index,
        name=raw[_IFLA_IFNAME].rstrip(b"\0").decode(),
        kind=info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
        master=int.from_bytes(raw.get(_IFLA_MASTER, b""), "little"),
        is_up=bool(flags & _IFF_UP),
        mac=raw.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=int.from_bytes(raw.get(_IFLA_MTU, b""), "little"),
        is_forwarding=slave.get(_IFLA_BRPORT_STATE) == _BR_STATE_FORWARDING,
        data=info.get(_IFLA_INFO_DATA, b""),
    )
