"""A DHCP client without I/O (RFC 2131): one lease on one link. Pure.

``start``, ``take`` and ``wake`` say what to do; ``wake_at`` is when the last of them is to be called next. It
asks until it is answered, at growing intervals; renews at half of the lease's time, asks anybody at seven
eighths, and gives the address up at its end, to begin anew.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import Final

from swarmpy.limits import DHCP_RETRY_MAX_S, DHCP_RETRY_S

SERVER_PORT, CLIENT_PORT = 67, 68
ANYBODY: Final = "255.255.255.255"
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = range(1, 8)
_HEAD: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_COOKIE: Final = b"\x63\x82\x53\x63"
_BOOT_REQUEST, _BOOT_REPLY, _ETHERNET, _BROADCAST = 1, 2, 1, 0x8000
_MASK, _ROUTER, _HOSTNAME, _WISH, _LEASE, _KIND, _SERVER, _PARAMETERS, _CLIENT = (
    1,
    3,
    12,
    50,
    51,
    53,
    54,
    55,
    61,
)
_PAD, _END = 0, 255
_LEASE_S_MIN: Final = 10
_RENEW, _REBIND = 0.5, 0.875


@dataclass(frozen=True, slots=True)
class Message:
    """What matters of a DHCP message. ``options``: by number."""

    kind: int
    xid: int
    mac: str
    own: str = "0.0.0.0"
    yours: str = "0.0.0.0"
    is_reply: bool = False
    options: tuple[tuple[int, bytes], ...] = ()

    def option(self, number: int) -> bytes:
        return next((value for key, value in self.options if key == number), b"")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a server gave."""

    address: IPv4Interface
    router: str
    server: str
    lease_s: float


@dataclass(frozen=True, slots=True)
class Send:
    payload: bytes
    to: str


@dataclass(frozen=True, slots=True)
class Bind:
    grant: Grant


@dataclass(frozen=True, slots=True)
class Unbind:
    grant: Grant


Action = Send | Bind | Unbind


def encode(message: Message) -> bytes:
    mac = bytes.fromhex(message.mac.replace(":", ""))
    own, yours = IPv4Address(message.own).packed, IPv4Address(message.yours).packed
    operation = _BOOT_REPLY if message.is_reply else _BOOT_REQUEST
    flags = _BROADCAST if message.own == "0.0.0.0" else 0
    none = bytes(4)
    head = _HEAD.pack(
        operation, _ETHERNET, len(mac), 0, message.xid, 0, flags, own, yours, none, none, mac, b"", b""
    )
    options = ((_KIND, bytes([message.kind])), *message.options)
    tail = b"".join(bytes([number, len(value)]) + value for number, value in options)
    return head + _COOKIE + tail + bytes([_END])


def decode(data: bytes) -> Message | None:
    """None: that is no DHCP message."""
    if len(data) < _HEAD.size + len(_COOKIE) or data[_HEAD.size : _HEAD.size + 4] != _COOKIE:
        return None
    operation, _, size, _, xid, _, _, own, yours, _, _, hardware, _, _ = _HEAD.unpack_from(data)
    options, at = [], _HEAD.size + 4
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            return None
        options.append((data[at], data[at + 2 : at + 2 + data[at + 1]]))
        at += 2 + data[at + 1]
    kind = next((value[0] for number, value in options if number == _KIND and len(value) == 1), 0)
    return Message(
        kind=kind,
        xid=xid,
        mac=hardware[: min(size, 16)].hex(":"),
        own=str(IPv4Address(own)),
        yours=str(IPv4Address(yours)),
        is_reply=operation == _BOOT_REPLY,
        options=tuple((number, value) for number, value in options if number != _KIND),
    )


def grant_of(message: Message) -> Grant | None:
    """What an offer or acknowledgement gives; None if it makes no sense."""
    mask, lease = message.option(_MASK), message.option(_LEASE)
    server, router = message.option(_SERVER), message.option(_ROUTER)[:4]
    if len(mask) != 4 or len(lease) != 4 or len(server) != 4 or message.yours == "0.0.0.0":
        return None
    try:
        address = IPv4Interface(f"{message.yours}/{IPv4Address(mask)}")
    except ValueError:
        return None
    return Grant(
        address=address,
        router=str(IPv4Address(router)) if len(router) == 4 else "",
        server=str(IPv4Address(server)),
        lease_s=float(max(_LEASE_S_MIN, int.from_bytes(lease))),
    )


class Client:
    """``xid`` tells this client's conversation from others'. Times are of one monotonic clock."""

    def __init__(self, mac: str, *, xid: int, hostname: str = "") -> None:
        self.wake_at = 0.0
        self.grant: Grant | None = None
        """What is bound now."""
        self._mac = mac
        self._xid = xid
        self._hostname = hostname
        self._offer: Grant | None = None
        self._retry_s = DHCP_RETRY_S
        self._bound_at = 0.0

    def start(self, now: float) -> list[Action]:
        self._offer = None
        self._retry_s = DHCP_RETRY_S
        return self._ask(now)

    def take(self, data: bytes, now: float) -> list[Action]:
        message = decode(data)
        if message is None or not message.is_reply or (message.xid, message.mac) != (self._xid, self._mac):
            return []
        if message.kind == OFFER and self.grant is None and self._offer is None:
            self._offer = grant_of(message)
            self._retry_s = DHCP_RETRY_S
            return self._ask(now) if self._offer is not None else []
        if message.kind == NAK:
            return [*self._give_up(), *self.start(now)]
        if message.kind == ACK and (self._offer is not None or self.grant is not None):
            return self._bind(grant_of(message), now)
        return []

    def wake(self, now: float) -> list[Action]:
        """No answer came, or it is time to renew."""
        if self.grant is not None:
            if now >= self._bound_at + self.grant.lease_s:
                return [*self._give_up(), *self.start(now)]
            return self._renew(self.grant, now)
        if self._retry_s >= DHCP_RETRY_MAX_S:
            self._offer = None  # whoever offered is silent: anybody else will do
        return self._ask(now)

    def release(self) -> list[Action]:
        """The link is about to go."""
        if self.grant is None:
            return []
        server = (_SERVER, IPv4Address(self.grant.server).packed)
        payload = self._message(RELEASE, (server,), own=str(self.grant.address.ip))
        return [Send(payload, self.grant.server)]

    def _ask(self, now: float) -> list[Action]:
        self.wake_at = now + self._retry_s
        self._retry_s = min(2 * self._retry_s, DHCP_RETRY_MAX_S)
        if self._offer is None:
            return [Send(self._message(DISCOVER, ()), ANYBODY)]
        wish = (_WISH, self._offer.address.ip.packed)
        server = (_SERVER, IPv4Address(self._offer.server).packed)
        return [Send(self._message(REQUEST, (wish, server)), ANYBODY)]

    def _renew(self, grant: Grant, now: float) -> list[Action]:
        end = self._bound_at + grant.lease_s
        self.wake_at = min(max(now + (end - now) / 2, now + DHCP_RETRY_S), end)
        to = grant.server if now < self._bound_at + grant.lease_s * _REBIND else ANYBODY
        return [Send(self._message(REQUEST, (), own=str(grant.address.ip)), to)]

    def _bind(self, grant: Grant | None, now: float) -> list[Action]:
        if grant is None:
            return []
        former, self.grant, self._offer = self.grant, grant, None
        self._bound_at = now
        self.wake_at = now + grant.lease_s * _RENEW
        gone: list[Action] = [Unbind(former)] if former and former.address != grant.address else []
        return [*gone, Bind(grant)]

    def _give_up(self) -> list[Action]:
        former, self.grant = self.grant, None
        return [Unbind(former)] if former is not None else []

    def _message(self, kind: int, options: tuple[tuple[int, bytes], ...], *, own: str = "0.0.0.0") -> bytes:
        client = (_CLIENT, bytes([_ETHERNET]) + bytes.fromhex(self._mac.replace(":", "")))
        more = [client, (_PARAMETERS, bytes([_MASK, _ROUTER, _LEASE, _SERVER]))]
        if self._hostname:
            more.append((_HOSTNAME, self._hostname.encode()[:63]))
        return encode(Message(kind=kind, xid=self._xid, mac=self._mac, own=own, options=(*options, *more)))
