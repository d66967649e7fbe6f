"""rtnetlink messages of the mesh beyond ``netlink``'s: routing by mark, for both IP versions. Pure."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from agent.dataplane.linux.balancing.wire import attribute
from agent.dataplane.linux.mesh.names import Interface
from agent.dataplane.linux.netlink import Message

Address = IPv4Address | IPv6Address

_SETLINK, _DELADDR, _NEWROUTE, _NEWRULE = 19, 21, 24, 32
_REPLACE, _EXCLUSIVE, _CREATE = 0x100, 0x200, 0x400
_IFLA_IFNAME, _IFLA_MTU = 3, 4
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 5, 6, 15
_LOCAL_TABLE, _LOCAL, _LOOPBACK_METRIC = 255, 2, 0x5A00
_ONLINK = 4
_PROTOCOL_STATIC, _UNICAST = 4, 1
_FRA_PRIORITY, _FRA_MARK, _FRA_TABLE, _FRA_MASK, _TO_TABLE = 6, 10, 15, 16, 1
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def set_mtu(name: str, mtu: int) -> Message:
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    return Message(_SETLINK, 0, body + attribute(_IFLA_IFNAME, name.encode() + b"\0") + _u32(_IFLA_MTU, mtu))


def delete_address(index: int, address: Interface) -> Message:
    body = (
        _ADDRESS.pack(_family(address.ip), address.network.prefixlen, 0, 0, index)
        + attribute(_IFA_LOCAL, address.ip.packed)
        + attribute(_IFA_ADDRESS, address.ip.packed)
    )
    return Message(_DELADDR, 0, body)


def add_default_route(index: int, gateway: Address, *, table: int, metric: int = 0) -> Message:
    """The gateway is taken to be on the link, whatever the link's own addresses are."""
    body = (
        _ROUTE.pack(_family(gateway), 0, 0, 0, table, _PROTOCOL_STATIC, 0, _UNICAST, _ONLINK)
        + attribute(_RTA_GATEWAY, gateway.packed)
        + _u32(_RTA_OIF, index)
        + (_u32(_RTA_PRIORITY, metric) if metric else b"")
        + _u32(_RTA_TABLE, table)
    )
    return Message(_NEWROUTE, _CREATE | _REPLACE, body)


def accept_loopback(index: int) -> Message:
    """Packets to ::1 are the node's own also if they came by this link, as NAT may have made them."""
    body = (
        _ROUTE.pack(socket.AF_INET6, 128, 0, 0, _LOCAL_TABLE, _PROTOCOL_STATIC, 0, _LOCAL, 0)
        + attribute(_RTA_DST, IPv6Address("::1").packed)
        + _u32(_RTA_OIF, index)
        + _u32(_RTA_PRIORITY, _LOOPBACK_METRIC)
    )
    return Message(_NEWROUTE, _CREATE | _REPLACE, body)


def add_mark_rule(version: int, mark: int, mask: int, *, table: int) -> Message:
    """Packets with the mark are looked up in the table first. EEXIST if the rule is there."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    body = (
        _ROUTE.pack(family, 0, 0, 0, table, 0, 0, _TO_TABLE, 0)
        + _u32(_FRA_PRIORITY, table)
        + _u32(_FRA_MARK, mark)
        + _u32(_FRA_MASK, mask)
        + _u32(_FRA_TABLE, table)
    )
    return Message(_NEWRULE, _CREATE | _EXCLUSIVE, body)
