"""A node's own addresses: which one to listen on, and which one to tell the others.

Texts are ``host:port``; an IPv6 host stands in brackets. Asks the kernel, sends nothing.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct

from swarmpy.config import SWARM_PORT
from swarmpy.errors import FailedPrecondition, InvalidArgument

_SIOCGIFADDR = 0x8915
_CONTAINER_LINKS = ("lo", "docker", "br-", "veth", "sw-", "podman", "cni", "virbr")
"""Bridges and tunnels of containers: never what other nodes should use."""


_NO_DATA_PATH = "data path address must be a non-zero IP address or network interface (without a port number)"


def with_port(address: str, port: int = SWARM_PORT) -> str:
    """``host`` or ``host:port`` as ``host:port``; a bare IPv6 address gets its brackets."""
    host, colon, text = address.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        bare = address.strip("[]")
        return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise InvalidArgument(f"invalid address {address!r}: {text!r} is not a port")
    return address


def resolve_listen(address: str) -> str:
    """The address to listen on, from ``host``, ``host:port`` or an interface's name."""
    full = with_port(address or "0.0.0.0")
    host, _, port = full.rpartition(":")
    return f"{resolve_host(host)}:{port}"


def resolve_advertise(wanted: str, listen: str) -> str:
    """The address that other nodes shall use: what the user named, else the machine's only address."""
    if wanted:
        host, _, port = with_port(wanted, _port_of(listen)).rpartition(":")
        return f"{resolve_host(host)}:{port}"
    host = listen.rpartition(":")[0]
    if not ipaddress.ip_address(host.strip("[]")).is_unspecified:
        return listen
    found = host_addresses()
    if not found:
        raise FailedPrecondition("no IP address could be found on this node: name one with --advertise-addr")
    if len(found) > 1:
        raise FailedPrecondition(
            "could not choose an IP address to advertise since this system has multiple addresses "
            f"({', '.join(found)}) - specify one with --advertise-addr"
        )
    return with_port(found[0], _port_of(listen))


def resolve_data_path(wanted: str) -> str:
    """Where overlay traffic is taken: an address or an interface's name; empty stays empty."""
    if not wanted:
        return ""
    try:
        address = ipaddress.ip_address(resolve_host(wanted).strip("[]"))
    except InvalidArgument:
        raise InvalidArgument(_NO_DATA_PATH) from None
    if address.is_unspecified:
        raise InvalidArgument(_NO_DATA_PATH)
    return str(address)


def resolve_host(host: str) -> str:
    """An IP address as it is; an interface's name as that interface's address."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        found = interface_addresses().get(host)
        if not found:
            raise InvalidArgument(
                f"{host!r} is neither an IP address nor an interface of this node with an address"
            ) from None
        address = ipaddress.ip_address(found[0])
    return f"[{address}]" if address.version == 6 else str(address)


def host_addresses() -> list[str]:
    """The IPv4 addresses of this node's own interfaces, bridges and tunnels of containers left out."""
    found = interface_addresses()
    return [
        address for name in sorted(found) if not name.startswith(_CONTAINER_LINKS) for address in found[name]
    ]


def interface_addresses() -> dict[str, list[str]]:
    """IPv4 addresses by interface, asked of the kernel."""

    found: dict[str, list[str]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:
                continue  # an interface without an IPv4 address
            found[name] = [socket.inet_ntoa(answer[20:24])]
    return found


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])
