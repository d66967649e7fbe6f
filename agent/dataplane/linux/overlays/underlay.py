"""What this node's overlay traffic goes over: the device with its address, as the kernel has it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from socket import AF_INET, AF_INET6

from agent.dataplane.linux.netlink import Netlink, attributes

_GETADDR = 22
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_REQUEST_BODY_BYTES = 8


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    mtu: int


def find_device(netlink: Netlink, address: str) -> Device | None:
    """The device that has the address; None if this machine has not got it."""
    wanted = ip_address(address)
    family = AF_INET if wanted.version == 4 else AF_INET6
    for payload in netlink.dump(_GETADDR, bytes([family]) + bytes(_REQUEST_BODY_BYTES - 1)):
        raw = attributes(payload, _REQUEST_BODY_BYTES)
        if raw.get(_IFA_LOCAL, raw.get(_IFA_ADDRESS)) == wanted.packed:
            index = int.from_bytes(payload[4:8], "little")
            return next(
                (Device(link.name, link.mtu) for link in netlink.links() if link.index == index), None
            )
    return None
