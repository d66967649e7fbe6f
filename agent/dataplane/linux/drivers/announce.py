"""Telling a LAN that an address has come to a new MAC, as gratuitous ARP (RFC 5227).

An address that another task had a moment ago is known there by the MAC of that one, for as long as a minute.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

from agent.dataplane.linux import namespaces
from agent.dataplane.linux.part import Space

_ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_BROADCAST = b"\xff" * 6
_TYPE, _ETHERNET, _IPV4, _REQUEST = 0x0806, 1, 0x0800, 1


def announce(space: Space, link: str, *, mac: str, address: IPv4Address) -> None:
    sender, ip = bytes.fromhex(mac.replace(":", "")), address.packed
    frame = _ARP.pack(
        *(_BROADCAST, sender, _TYPE, _ETHERNET, _IPV4, 6, 4, _REQUEST), sender, ip, bytes(6), ip
    )
    with namespaces.inside(space.path), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((link, 0))
        raw.send(frame)
