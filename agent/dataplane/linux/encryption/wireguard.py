"""The WireGuard device by raw generic netlink (linux/wireguard.h): our key, and a peer per node.

A peer's packets are taken from its underlay address alone, and only what is addressed to that address is sent
to it. WireGuard makes keys of sessions itself, counts, and refuses replays; so there are no secrets to derive
and no epochs here. A node's private key is made by the node and never leaves it.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.dataplane.linux.netlink import (
    Message,
    Netlink,
    attribute,
    attributes,
    u32,
)
from swarmpy.errors import Unavailable

_NETLINK_GENERIC: Final = 16
_CONTROL_FAMILY, _GET_FAMILY = 16, 3
_FAMILY_ID, _FAMILY_NAME = 1, 2
_GENERIC_HEAD: Final = struct.Struct("=BBxx")
_VERSION: Final = 1
_GET_DEVICE, _SET_DEVICE = 0, 1
_IFNAME, _PRIVATE_KEY, _PUBLIC_KEY, _LISTEN_PORT, _PEERS = 2, 3, 4, 6, 8
_PEER_KEY, _PEER_FLAGS, _PEER_ENDPOINT, _PEER_ALLOWED = 1, 3, 4, 9
_REMOVE, _REPLACE_ALLOWED = 1, 2
_ALLOWED_FAMILY, _ALLOWED_ADDRESS, _ALLOWED_BITS = 1, 2, 3
_NESTED: Final = 0x8000

KEY_BYTES: Final = 32
_PEERS_PER_MESSAGE: Final = 100
"""A netlink attribute has 64 KiB at most."""


class WireguardPeer(NamedTuple):
    key: bytes
    addr: str
    port: int


class Device(NamedTuple):
    public_key: bytes
    port: int
    peers: frozenset[WireguardPeer]


def load_key(path: Path) -> bytes:
    """The private key; made if there is none."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raw = b""
    if len(raw) != KEY_BYTES:
        raw = X25519PrivateKey.generate().private_bytes_raw()
        scratch = path.with_name(path.name + ".new")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(raw)
            os.replace(scratch, path)
        except OSError as error:
            raise Unavailable(f"cannot write {path}: {error.strerror}; free some space") from None
    return raw


def public_key_of(private_key: bytes) -> bytes:
    private = X25519PrivateKey.from_private_bytes(private_key)
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


class Change(NamedTuple):
    """``key``, ``port`` empty: as they are."""

    key: bytes
    port: int
    gone: tuple[WireguardPeer, ...]
    wanted: tuple[WireguardPeer, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.key or self.port or self.gone or self.wanted)


def diff(private_key: bytes, port: int, peers: Iterable[WireguardPeer], device: Device) -> Change:
    """Peers that are gone first: an address belongs to one peer at a time."""
    wanted = frozenset(peers)
    kept = {peer.key for peer in wanted}
    return Change(
        key=private_key if device.public_key != public_key_of(private_key) else b"",
        port=port if device.port != port else 0,
        gone=tuple(sorted(peer for peer in device.peers - wanted if peer.key not in kept)),
        wanted=tuple(sorted(wanted - device.peers)),
    )


class Wireguard(Netlink):
    """One socket; it belongs to the namespace that its thread was in when it was made."""

    def __init__(self) -> None:
        """OSError (ENOENT) on a kernel without WireGuard."""
        super().__init__(_NETLINK_GENERIC)
        self._family = self._find_family()

    def device(self, name: str) -> Device:
        body = _GENERIC_HEAD.pack(_GET_DEVICE, _VERSION) + attribute(_IFNAME, name.encode() + b"\0")
        key, port, peers = b"", 0, set()
        for payload in self.dump(self._family, body):
            raw = attributes(payload, _GENERIC_HEAD.size)
            key = raw.get(_PUBLIC_KEY, key)
            if _LISTEN_PORT in raw:
                port = int.from_bytes(raw[_LISTEN_PORT], "little")
            for each in _nested(raw.get(_PEERS, b"")):
                peers.add(_parse_peer(each))
        return Device(key, port, frozenset(peers))

    def carry_out(self, name: str, change: Change) -> None:
        head = attribute(_IFNAME, name.encode() + b"\0")
        if change.key or change.port:
            parts = (attribute(_PRIVATE_KEY, change.key) if change.key else b"") + (
                attribute(_LISTEN_PORT, struct.pack("=H", change.port)) if change.port else b""
            )
            self.do(self._set(head + parts))
        entries = [_peer(peer, is_gone=True) for peer in change.gone]
        entries += [_peer(peer, is_gone=False) for peer in change.wanted]
        for start in range(0, len(entries), _PEERS_PER_MESSAGE):
            some = entries[start : start + _PEERS_PER_MESSAGE]
            nested = b"".join(attribute(position | _NESTED, body) for position, body in enumerate(some))
            self.do(self._set(head + attribute(_PEERS | _NESTED, nested)))

    def _set(self, body: bytes) -> Message:
        return Message(self._family, 0, _GENERIC_HEAD.pack(_SET_DEVICE, _VERSION) + body)

    def _find_family(self) -> int:
        body = _GENERIC_HEAD.pack(_GET_FAMILY, _VERSION)
        for payload in self.dump(_CONTROL_FAMILY, body):
            raw = attributes(payload, _GENERIC_HEAD.size)
            if raw.get(_FAMILY_NAME, b"").rstrip(b"\0") == b"wireguard":
                return int.from_bytes(raw[_FAMILY_ID], "little")
        self.close()
        raise OSError(errno.ENOENT, "the kernel has no WireGuard")


def _peer(peer: WireguardPeer, *, is_gone: bool) -> bytes:
    key = attribute(_PEER_KEY, peer.key)
    if is_gone:
        return key + u32(_PEER_FLAGS, _REMOVE)
    address = ip_address(peer.addr)
    family = AF_INET if address.version == 4 else AF_INET6
    port = peer.port.to_bytes(2, "big")
    if family == AF_INET:
        endpoint = struct.pack("=H", family) + port + address.packed + bytes(8)
    else:
        endpoint = struct.pack("=H", family) + port + bytes(4) + address.packed + bytes(4)
    allowed = (
        attribute(_ALLOWED_FAMILY, struct.pack("=H", family))
        + attribute(_ALLOWED_ADDRESS, address.packed)
        + attribute(_ALLOWED_BITS, bytes([len(address.packed) * 8]))
    )
    return (
        key
        + u32(_PEER_FLAGS, _REPLACE_ALLOWED)
        + attribute(_PEER_ENDPOINT, endpoint)
        + attribute(_PEER_ALLOWED | _NESTED, attribute(_NESTED, allowed))
    )


def _parse_peer(payload: bytes) -> WireguardPeer:
    """``addr`` empty unless endpoint and the one allowed address agree: then it is none of ours."""
    raw = attributes(payload, 0)
    endpoint = raw.get(_PEER_ENDPOINT, b"")
    family = int.from_bytes(endpoint[:2], "little")
    target = endpoint[4:8] if family == AF_INET else endpoint[8:24]
    allowed = [
        attributes(each, 0).get(_ALLOWED_ADDRESS, b"") for each in _nested(raw.get(_PEER_ALLOWED, b""))
    ]
    addr = str(ip_address(target)) if target and allowed == [target] else ""
    return WireguardPeer(raw.get(_PEER_KEY, b""), addr, int.from_bytes(endpoint[2:4], "big"))


def _nested(raw: bytes) -> list[bytes]:
    """The entries of a list: they may all have the same number."""
    found = []
    offset = 0
    while offset + 4 <= len(raw):
        size = int.from_bytes(raw[offset : offset + 2], "little")
        if size < 4:
            break
        found.append(raw[offset + 4 : offset + size])
        offset += (size + 3) & ~3
    return found
