"""Caps on a link, as rtnetlink messages: a token bucket for what leaves it, and one for what arrives.

What leaves waits in a token bucket on the link itself. What arrives is led through a device of its own (ifb)
first, with another one. A message that sets a cap also changes one that stands, in place.
"""

from __future__ import annotations

import struct

from agent.dataplane.linux.netlink import Message, attribute, link_body, name_attribute, u32

_NEWLINK, _NEWQDISC, _DELQDISC, _NEWTFILTER = 16, 36, 37, 44
_CREATE, _REPLACE, _EXCLUSIVE = 0x400, 0x100, 0x200
_IFLA_LINKINFO, _INFO_KIND, _NESTED = 18, 1, 0x8000
_IFLA_TXQLEN = 13
_TC = struct.Struct("=BxxxiIII")
_TCA_KIND, _TCA_OPTIONS = 1, 2
_ROOT, _CLSACT, _CLSACT_HANDLE, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2
_BUCKET_HANDLE = 0x5A010000
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_RATE_SPEC = struct.Struct("=BBHhHI")
_LINKLAYER_ETHERNET = 1
_U32_SEL, _U32_ACT = 5, 7
_SELECTOR = struct.Struct("=BBBxHHhhI")
_SELECTOR_KEY = struct.Struct("=IIii")
_TERMINAL = 1
_ALL_PROTOCOLS = 0x0300
"""ETH_P_ALL in network order."""
_ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_STOLEN, _EGRESS_REDIRECT = 4, 1
_U32_MAX = (1 << 32) - 1

_BURST_S = 0.01
_BURST_BYTES_MIN = 16 << 10
_QUEUE_S = 0.1
_QUEUE_BYTES_MIN = 64 << 10


def add_ifb(name: str) -> Message:
    info = attribute(_INFO_KIND, b"ifb\0")
    body = link_body() + name_attribute(name) + u32(_IFLA_TXQLEN, 32)
    return Message(_NEWLINK, _CREATE | _EXCLUSIVE, body + attribute(_IFLA_LINKINFO | _NESTED, info))


def set_bucket(index: int, *, rate_bps: int, mtu: int) -> Message:
    """What leaves the link is no more than that, after a burst of some ten milliseconds."""
    rate = rate_bps // 8
    burst = max(_BURST_BYTES_MIN, 2 * mtu, int(rate * _BURST_S))
    queue = burst + max(_QUEUE_BYTES_MIN, int(rate * _QUEUE_S))
    spec = _RATE_SPEC.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _U32_MAX))
    parameters = spec + bytes(_RATE_SPEC.size) + struct.pack("=III", min(queue, _U32_MAX), 0, 0)
    options = attribute(_TBF_PARMS, parameters) + u32(_TBF_BURST, min(burst, _U32_MAX))
    if rate > _U32_MAX:
        options += attribute(_TBF_RATE64, struct.pack("=Q", rate))
    body = (
        _TC.pack(0, index, _BUCKET_HANDLE, _ROOT, 0)
        + attribute(_TCA_KIND, b"tbf\0")
        + attribute(_TCA_OPTIONS, options)
    )
    return Message(_NEWQDISC, _CREATE | _REPLACE, body)


def delete_bucket(index: int) -> Message:
    return Message(_DELQDISC, 0, _TC.pack(0, index, _BUCKET_HANDLE, _ROOT, 0))


def add_entrance(index: int) -> Message:
    """Where filters for what arrives can be hung."""
    body = _TC.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + attribute(_TCA_KIND, b"clsact\0")
    return Message(_NEWQDISC, _CREATE | _EXCLUSIVE, body)


def delete_entrance(index: int) -> Message:
    body = _TC.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + attribute(_TCA_KIND, b"clsact\0")
    return Message(_DELQDISC, 0, body)


def lead_through(index: int, *, target: int) -> Message:
    """All that arrives at the link goes through the ifb with the index ``target`` first."""
    redirect = struct.pack("=IIiiiiI", 0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, target)
    action = attribute(_ACT_KIND, b"mirred\0") + attribute(
        _ACT_OPTIONS | _NESTED, attribute(_MIRRED_PARMS, redirect)
    )
    selector = _SELECTOR.pack(_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _SELECTOR_KEY.pack(0, 0, 0, 0)
    options = attribute(_U32_SEL, selector) + attribute(_U32_ACT | _NESTED, attribute(1 | _NESTED, action))
    body = (
        _TC.pack(0, index, 0x80000800, _INGRESS, 1 << 16 | _ALL_PROTOCOLS)
        + attribute(_TCA_KIND, b"u32\0")
        + attribute(_TCA_OPTIONS | _NESTED, options)
    )
    return Message(_NEWTFILTER, _CREATE | _EXCLUSIVE, body)
