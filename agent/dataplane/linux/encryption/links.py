"""rtnetlink messages for the devices that encrypt."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from socket import AF_INET, AF_UNSPEC
from typing import Final

from agent.dataplane.linux.netlink import Message, attribute, link_body, name_attribute, u32

_NEWLINK, _SETLINK, _NEWADDR = 16, 19, 20
_LINK = struct.Struct("=BxHiII")
_IFF_UP, _IFF_NOARP = 0x1, 0x80
_ADDRESS = struct.Struct("=BBBBi")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_SCOPE_LINK: Final = 253
_REPLACE: Final = 0x100
_ADDRESS_OF_LINKS: Final = IPv4Address("169.254.90.90")
_CREATE, _EXCLUSIVE = 0x400, 0x200
_IFLA_MTU, _IFLA_LINKINFO, _INFO_KIND = 4, 18, 1
_NESTED: Final = 0x8000


def add_wireguard(name: str, *, mtu: int) -> Message:
    info = attribute(_INFO_KIND, b"wireguard\0")
    body = (
        link_body() + name_attribute(name) + u32(_IFLA_MTU, mtu) + attribute(_IFLA_LINKINFO | _NESTED, info)
    )
    return Message(_NEWLINK, _CREATE | _EXCLUSIVE, body)


def raise_link(name: str, *, mtu: int) -> Message:
    """Up, and never asking for neighbours."""
    flags = _IFF_UP | _IFF_NOARP
    body = _LINK.pack(AF_UNSPEC, 0, 0, flags, flags) + name_attribute(name) + u32(_IFLA_MTU, mtu)
    return Message(_SETLINK, 0, body)


def give_address(index: int) -> Message:
    """The kernel lets nothing in by a device that has no address and is to check where packets come from.

    Nobody ever calls it, and it is the same on all nodes.
    """
    raw = _ADDRESS_OF_LINKS.packed
    body = (
        _ADDRESS.pack(AF_INET, len(raw) * 8, 0, _SCOPE_LINK, index)
        + attribute(_IFA_LOCAL, raw)
        + attribute(_IFA_ADDRESS, raw)
    )
    return Message(_NEWADDR, _CREATE | _REPLACE, body)
