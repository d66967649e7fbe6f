"""IPsec states and policies of the kernel by raw netlink (NETLINK_XFRM, linux/xfrm.h).

ESP in transport mode with AES-256-GCM (RFC 4106), 128-bit tag, extended sequence numbers, a replay window.
Keys go to the kernel in messages, never on a command line. A dump gives the values that were added.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET, AF_INET6, IPPROTO_ESP, IPPROTO_UDP
from typing import Final, NamedTuple

from agent.dataplane.linux.netlink import Message, Netlink, attribute, attributes

_NETLINK_XFRM: Final = 6
_NEW_STATE, _DELETE_STATE, _GET_STATE = 0x10, 0x11, 0x12
_DELETE_POLICY, _GET_POLICY, _UPDATE_POLICY = 0x14, 0x15, 0x19
_CREATE, _EXCLUSIVE = 0x400, 0x200
_AEAD, _TEMPLATE, _REPLAY = 18, 5, 23
_MODE_TRANSPORT: Final = 0
_FLAG_ESN: Final = 128
_ALLOW, _BLOCK = 0, 1
_ANY_ALGORITHM: Final = 0xFFFFFFFF

ALGORITHM: Final = b"rfc4106(gcm(aes))"
TAG_BITS: Final = 128
REPLAY_WINDOW_PACKETS: Final = 1024

DIRECTION_IN, DIRECTION_OUT = 0, 1

_SELECTOR = struct.Struct("=16s16s2s2s2s2sHBBB3xiI")
_STATE_ID = struct.Struct("=16s4sB3x16s")
_LIFETIME = struct.pack("=8Q", *([(1 << 64) - 1] * 4), 0, 0, 0, 0) + bytes(32)
"""No limits, and counters from nothing."""
_STATE_END = struct.Struct("=12xIIHBBB7x")
_POLICY_END = struct.Struct("=IIBBBB4x")
_TEMPLATE_STRUCT = struct.Struct("=16s4sB3xH2x16sIBBBxIII")
_DELETED_STATE = struct.Struct("=16s4sHBx")
_DELETED_POLICY = struct.Struct("=IB3x")
_REPLAY_HEAD = struct.Struct("=6I")

_STATE_SIZE: Final = 224
_POLICY_SIZE: Final = 168

Address = IPv4Address | IPv6Address


class State(NamedTuple):
    """One direction's key between two addresses. ``key`` has the salt at its end; ``request`` names it."""

    source: str
    target: str
    spi: int
    request: int
    key: bytes


class Policy(NamedTuple):
    """What becomes of UDP datagrams to ``port``. Empty addresses mean any, of ``family``.

    ``request`` 0: they are dropped (on their way out) or must have come encrypted (on their way in).
    ``is_open``: IPsec leaves them alone, since something else encrypts them.
    """

    direction: int
    family: int
    source: str
    target: str
    port: int
    priority: int
    request: int = 0
    is_open: bool = False

    @property
    def selector(self) -> tuple[int, int, str, str, int]:
        """What the kernel knows it by."""
        return self[:5]

    @property
    def is_block(self) -> bool:
        return self.direction == DIRECTION_OUT and not self.request and not self.is_open


class Xfrm(Netlink):
    """One socket; it belongs to the namespace that its thread was in when it was made."""

    def __init__(self) -> None:
        super().__init__(_NETLINK_XFRM)

    def states(self) -> list[State]:
        """Every ESP state of this namespace, also others'."""
        found = [parse_state(payload) for payload in self.dump(_GET_STATE, b"")]
        return [state for state in found if state is not None]

    def policies(self) -> list[Policy]:
        """Every policy for UDP to one port."""
        found = [parse_policy(payload) for payload in self.dump(_GET_POLICY, b"")]
        return [policy for policy in found if policy is not None]


# --- messages


def add_state(state: State) -> Message:
    source, target = ip_address(state.source), ip_address(state.target)
    body = (
        _selector(_family(target), port=0, protocol=0, is_any=True)
        + _STATE_ID.pack(_raw(target), state.spi.to_bytes(4, "big"), IPPROTO_ESP, _raw(source))
        + _LIFETIME
        + _STATE_END.pack(0, state.request, _family(target), _MODE_TRANSPORT, 0, _FLAG_ESN)
    )
    algorithm = ALGORITHM.ljust(64, b"\0") + struct.pack("=II", len(state.key) * 8, TAG_BITS) + state.key
    words = REPLAY_WINDOW_PACKETS // 32
    replay = _REPLAY_HEAD.pack(words, 0, 0, 0, 0, REPLAY_WINDOW_PACKETS) + bytes(4 * words)
    body += attribute(_AEAD, algorithm) + attribute(_REPLAY, replay)
    return Message(_NEW_STATE, _CREATE | _EXCLUSIVE, body)


def delete_state(state: State) -> Message:
    target = ip_address(state.target)
    body = _DELETED_STATE.pack(_raw(target), state.spi.to_bytes(4, "big"), _family(target), IPPROTO_ESP)
    return Message(_DELETE_STATE, 0, body)


def set_policy(policy: Policy) -> Message:
    """Add it, or replace the one with the same selector, direction and priority."""
    action = _BLOCK if policy.is_block else _ALLOW
    body = _policy_selector(policy) + _LIFETIME
    body += _POLICY_END.pack(policy.priority, 0, policy.direction, action, 0, 0)
    if not policy.is_block and not policy.is_open:
        is_any = not policy.source
        source, target = (bytes(16),) * 2 if is_any else (_raw_text(policy.source), _raw_text(policy.target))
        body += attribute(
            _TEMPLATE,
            _TEMPLATE_STRUCT.pack(
                target,
                bytes(4),
                IPPROTO_ESP,
                policy.family,
                source,
                policy.request,
                _MODE_TRANSPORT,
                0,
                0,
                *(_ANY_ALGORITHM,) * 3,
            ),
        )
    return Message(_UPDATE_POLICY, _CREATE, body)


def delete_policy(policy: Policy) -> Message:
    return Message(_DELETE_POLICY, 0, _policy_selector(policy) + _DELETED_POLICY.pack(0, policy.direction))


def _policy_selector(policy: Policy) -> bytes:
    return _selector(
        policy.family, policy.source, policy.target, port=policy.port, protocol=IPPROTO_UDP, is_any=False
    )


def _selector(
    family: int, source: str = "", target: str = "", *, port: int, protocol: int, is_any: bool
) -> bytes:
    """``is_any``: of any family, as the selector of a state is."""
    bits = 32 if family == AF_INET else 128
    prefix = bits if source else 0
    return _SELECTOR.pack(
        _raw_text(target),
        _raw_text(source),
        port.to_bytes(2, "big"),
        b"\xff\xff" if port else b"\0\0",
        b"\0\0",
        b"\0\0",
        0 if is_any else family,
        prefix,
        prefix,
        protocol,
        0,
        0,
    )


# --- dumps


def parse_state(payload: bytes) -> State | None:
    head = payload[_SELECTOR.size :]
    target, spi, protocol, source = _STATE_ID.unpack_from(head)
    _, request, family, *_ = _STATE_END.unpack_from(payload, _STATE_SIZE - _STATE_END.size)
    if protocol != IPPROTO_ESP:
        return None
    raw = attributes(payload, _STATE_SIZE).get(_AEAD, bytes(72))
    bits = int.from_bytes(raw[64:68], "little")
    return State(
        source=_text(source, family),
        target=_text(target, family),
        spi=int.from_bytes(spi, "big"),
        request=request,
        key=raw[72 : 72 + bits // 8],
    )


def parse_policy(payload: bytes) -> Policy | None:
    target, source, port, mask, _, _, family, target_bits, _, protocol, _, _ = _SELECTOR.unpack_from(payload)
    priority, _, direction, action, *_ = _POLICY_END.unpack_from(payload, _POLICY_SIZE - _POLICY_END.size)
    if protocol != IPPROTO_UDP or mask != b"\xff\xff" or direction not in (DIRECTION_IN, DIRECTION_OUT):
        return None
    template = attributes(payload, _POLICY_SIZE).get(_TEMPLATE)
    return Policy(
        direction=direction,
        family=family,
        source=_text(source, family) if target_bits else "",
        target=_text(target, family) if target_bits else "",
        port=int.from_bytes(port, "big"),
        priority=priority,
        request=_TEMPLATE_STRUCT.unpack_from(template)[5] if template else 0,
        is_open=template is None and action == _ALLOW,
    )


# --- small things


def family_of(address: str) -> int:
    return _family(ip_address(address))


def _family(address: Address) -> int:
    return AF_INET if address.version == 4 else AF_INET6


def _raw(address: Address) -> bytes:
    return address.packed.ljust(16, b"\0")


def _raw_text(address: str) -> bytes:
    return _raw(ip_address(address)) if address else bytes(16)


def _text(raw: bytes, family: int) -> str:
    return str(ip_address(raw[:4] if family == AF_INET else raw))
