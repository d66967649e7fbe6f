"""rtnetlink messages of overlay networks: the tunnel device, ports, and what a dump says of them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, ip_address

from agent.dataplane.linux.netlink import (
    Link,
    Message,
    attribute,
    attributes,
    link_body,
    mac_attribute,
    name_attribute,
    no_link_local_attribute,
    u32,
)
from agent.dataplane.plan import Tunnel

_NEWLINK, _SETLINK, _NEWADDR = 16, 19, 20
_CREATE, _EXCLUSIVE, _REPLACE = 0x400, 0x200, 0x100
_IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 4, 10, 18, 28
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_BRPORT_LEARNING, _BRPORT_UNICAST_FLOOD = 8, 9
_NESTED = 0x8000
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PROXY = 1, 4, 7, 11
_VXLAN_PORT, _VXLAN_LOCAL6, _VXLAN_UDP_CSUM = 15, 17, 18


def add_vxlan(name: str, tunnel: Tunnel, *, netns_fd: int, mtu: int) -> Message:
    """For a socket in the node's namespace: the device is made in the other one, and its datagrams are sent
    and taken in the node's. It learns nothing and answers questions for addresses from its neighbour table.

    Without checksums of its own over IPv4: what it carries has them.
    """
    local = ip_address(tunnel.local)
    address = (
        attribute(_VXLAN_LOCAL, local.packed) + attribute(_VXLAN_UDP_CSUM, b"\0")
        if isinstance(local, IPv4Address)
        else attribute(_VXLAN_LOCAL6, local.packed)
    )
    data = (
        u32(_VXLAN_ID, tunnel.vni)
        + address
        + attribute(_VXLAN_LEARNING, b"\0")
        + attribute(_VXLAN_PROXY, b"\1")
        + attribute(_VXLAN_PORT, struct.pack("!H", tunnel.port))
    )
    info = attribute(_INFO_KIND, b"vxlan\0") + attribute(_INFO_DATA | _NESTED, data)
    body = (
        link_body()
        + name_attribute(name)
        + u32(_IFLA_MTU, mtu)
        + u32(_IFLA_NET_NS_FD, netns_fd)
        + attribute(_IFLA_LINKINFO | _NESTED, info)
    )
    return Message(_NEWLINK, _CREATE | _EXCLUSIVE, body)


def tunnel_of(link: Link) -> Tunnel | None:
    """What a VXLAN device does; None of another link."""
    if link.kind != "vxlan":
        return None
    raw = attributes(link.data, 0)
    local = raw.get(_VXLAN_LOCAL) or raw.get(_VXLAN_LOCAL6) or b""
    return Tunnel(
        vni=int.from_bytes(raw.get(_VXLAN_ID, b""), "little"),
        port=int.from_bytes(raw.get(_VXLAN_PORT, b"")),
        local=str(ip_address(local)) if local else "",
    )


def set_link(name: str, *, mtu: int, master: int = 0) -> Message:
    """With this MTU and master (an index; 0 leaves it), and without IPv6 addresses of its own making.

    To be sent before the link is brought up: an address that exists does not go away again.
    """
    body = (
        link_body()
        + name_attribute(name)
        + u32(_IFLA_MTU, mtu)
        + (u32(_IFLA_MASTER, master) if master else b"")
        + no_link_local_attribute()
    )
    return Message(_SETLINK, 0, body)


def tune_network_port(name: str, *, is_way_out: bool) -> Message:
    """A port of an overlay network's bridge: the bridge learns nothing from it. Frames for addresses that the
    bridge does not know go to the tunnel and to no task.
    """
    slave = attribute(_BRPORT_LEARNING, b"\0") + attribute(_BRPORT_UNICAST_FLOOD, bytes([is_way_out]))
    info = attribute(_INFO_SLAVE_KIND, b"bridge\0") + attribute(_INFO_SLAVE_DATA | _NESTED, slave)
    return Message(
        _NEWLINK, 0, link_body() + name_attribute(name) + attribute(_IFLA_LINKINFO | _NESTED, info)
    )


def set_leg(name: str, *, mtu: int, mac: str) -> Message:
    """A task's end of a leg, whether up or down. The kernel takes a new MAC of a veth that is up."""
    body = (
        link_body()
        + name_attribute(name)
        + u32(_IFLA_MTU, mtu)
        + mac_attribute(mac)
        + no_link_local_attribute()
    )
    return Message(_SETLINK, 0, body)
