"""rtnetlink messages for where frames go: a tunnel's forwarding table and its neighbours."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from socket import AF_BRIDGE, AF_INET, AF_INET6

from agent.dataplane.linux.netlink import Message, Netlink, attribute, attributes

_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_CREATE, _REPLACE = 0x400, 0x100
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80
_NUD_NOARP = 0x40
_NTF_SELF, _NTF_MASTER = 0x02, 0x04
_BODY = struct.Struct("=BxxxiHBB")


def set_forwarding(index: int, mac: str, node: str) -> Message:
    return Message(_NEWNEIGH, _CREATE | _REPLACE, _forwarding(index, mac, node))


def delete_forwarding(index: int, mac: str) -> Message:
    return Message(_DELNEIGH, 0, _forwarding(index, mac))


def set_port_of(index: int, mac: str) -> Message:
    """The bridge sends frames for this MAC to this one of its ports, for as long as the port is there."""
    body = _BODY.pack(AF_BRIDGE, index, _NUD_NOARP, _NTF_MASTER, 0) + attribute(
        _NDA_LLADDR, bytes.fromhex(mac.replace(":", ""))
    )
    return Message(_NEWNEIGH, _CREATE | _REPLACE, body)


def set_neighbour(index: int, address: str, mac: str) -> Message:
    return Message(_NEWNEIGH, _CREATE | _REPLACE, _neighbour(index, address, mac))


def delete_neighbour(index: int, address: str) -> Message:
    return Message(_DELNEIGH, 0, _neighbour(index, address))


def _forwarding(index: int, mac: str, node: str = "") -> bytes:
    return (
        _BODY.pack(AF_BRIDGE, index, _NUD_PERMANENT, _NTF_SELF, 0)
        + attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))
        + (attribute(_NDA_DST, ip_address(node).packed) if node else b"")
    )


def _neighbour(index: int, address: str, mac: str = "") -> bytes:
    ip = ip_address(address)
    family = AF_INET if ip.version == 4 else AF_INET6
    return (
        _BODY.pack(family, index, _NUD_PERMANENT, 0, 0)
        + attribute(_NDA_DST, ip.packed)
        + (attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", ""))) if mac else b"")
    )


def dump_forwarding(netlink: Netlink, index: int) -> dict[str, str]:
    """MAC to node. A second destination of one MAC counts as none known: it is to be set anew."""
    found: dict[str, str] = {}
    for payload in netlink.dump(_GETNEIGH, _BODY.pack(AF_BRIDGE, 0, 0, 0, 0)):
        _, link, _, flags, _ = _BODY.unpack_from(payload)
        raw = attributes(payload, _BODY.size)
        if link != index or not flags & _NTF_SELF or _NDA_LLADDR not in raw:
            continue
        mac = raw[_NDA_LLADDR].hex(":")
        node = str(ip_address(raw[_NDA_DST])) if _NDA_DST in raw else ""
        found[mac] = "" if mac in found else node
    return found


def dump_neighbours(netlink: Netlink, index: int) -> dict[str, str]:
    """Address to MAC, of those that were set and not learnt."""
    found: dict[str, str] = {}
    for family in (AF_INET, AF_INET6):
        for payload in netlink.dump(_GETNEIGH, _BODY.pack(family, 0, 0, 0, 0)):
            _, link, state, _, _ = _BODY.unpack_from(payload)
            raw = attributes(payload, _BODY.size)
            if link == index and state & _NUD_PERMANENT and _NDA_LLADDR in raw:
                found[str(ip_address(raw[_NDA_DST]))] = raw[_NDA_LLADDR].hex(":")
    return found
