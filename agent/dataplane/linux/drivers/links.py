"""rtnetlink messages of networks on the LAN: macvlan and ipvlan devices, and the way out through a leg."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from socket import AF_INET, AF_INET6
from typing import Final

from agent.dataplane.linux.netlink import (
    Message,
    attribute,
    link_body,
    mac_attribute,
    name_attribute,
    u32,
)

_NEWLINK, _DELADDR, _NEWROUTE = 16, 21, 24
_CREATE, _EXCLUSIVE, _REPLACE = 0x400, 0x200, 0x100
_IFLA_MTU, _IFLA_LINK, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 4, 5, 18, 28
_INFO_KIND, _INFO_DATA, _NESTED = 1, 2, 0x8000
_MACVLAN_MODE, _IPVLAN_MODE, _IPVLAN_L2 = 1, 1, 0
MODES: Final = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
_RTA_OIF, _RTA_GATEWAY = 4, 5
_IFA_LOCAL = 2
_TABLE_MAIN, _PROTOCOL_STATIC = 254, 4


def add_macvlan(name: str, *, parent: int, mode: str, mac: str, netns_fd: int) -> Message:
    """Made straight in the namespace of ``netns_fd``; the parent is in the one of the socket. No ``mac``:
    any."""
    info = attribute(_INFO_KIND, b"macvlan\0") + attribute(
        _INFO_DATA | _NESTED, u32(_MACVLAN_MODE, MODES[mode])
    )
    return _add(name, parent=parent, info=info, more=mac_attribute(mac) if mac else b"", netns_fd=netns_fd)


def add_ipvlan(name: str, *, parent: int, netns_fd: int) -> Message:
    """It has its parent's MAC."""
    data = attribute(_IPVLAN_MODE, _IPVLAN_L2.to_bytes(2, "little"))
    info = attribute(_INFO_KIND, b"ipvlan\0") + attribute(_INFO_DATA | _NESTED, data)
    return _add(name, parent=parent, info=info, more=b"", netns_fd=netns_fd)


def _add(name: str, *, parent: int, info: bytes, more: bytes, netns_fd: int) -> Message:
    body = (
        link_body()
        + name_attribute(name)
        + u32(_IFLA_LINK, parent)
        + more
        + u32(_IFLA_NET_NS_FD, netns_fd)
        + attribute(_IFLA_LINKINFO | _NESTED, info)
    )
    return Message(_NEWLINK, _CREATE | _EXCLUSIVE, body)


def set_mtu(name: str, mtu: int) -> Message:
    return Message(_NEWLINK, 0, link_body() + name_attribute(name) + u32(_IFLA_MTU, mtu))


def set_way_out(index: int, gateway: IPv4Address | IPv6Address) -> Message:
    """The default route of the gateway's family."""
    family = AF_INET if gateway.version == 4 else AF_INET6
    head = bytes([family, 0, 0, 0, _TABLE_MAIN, _PROTOCOL_STATIC, 0, 1]) + bytes(4)
    body = head + attribute(_RTA_GATEWAY, gateway.packed) + u32(_RTA_OIF, index)
    return Message(_NEWROUTE, _CREATE | _REPLACE, body)


def delete_address(index: int, address: IPv4Interface) -> Message:
    body = bytes([AF_INET, address.network.prefixlen, 0, 0]) + index.to_bytes(4, "little")
    return Message(_DELADDR, 0, body + attribute(_IFA_LOCAL, address.ip.packed))
