"""What nodes and tasks call things of the mesh: tables, links, marks, addresses. Pure.

A mark is 0x5a000000 and the low 24 bits of a node's ingress address: of the node that a client came in on.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
    ip_network,
)

from agent.dataplane.base import Peer, Subnet
from swarmpy.model.addresses import mac_of

Interface = IPv4Interface | IPv6Interface

TABLE = "swarmpy_mesh"
LINK = "sw-ing"
"""The node's leg in the ingress network."""
PORT = "node"
"""Its far end, in the network's sandbox."""

MARK, MARK_MASK = 0x5A000000, 0xFF000000
CLASSIC = MARK
"""The connection mark, where a client comes in, of a port whose tasks see the node's address."""
ROUTES = 90
"""A task's routing table for answers through the mesh, and the priority of the rule that leads there."""
HOP4, HOP6 = IPv4Address("169.254.90.1"), IPv6Address("fe80::5a")
"""Stand in for the gateway of a reply, whose MAC is put in as the packet leaves."""
LAST_RESORT_METRIC = 0x5A00
PROTOCOLS = ("tcp", "udp", "sctp")
PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}


def version_of(address: str) -> int:
    return 6 if ":" in address else 4


def is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def mark_of(peer: Peer) -> int:
    return MARK | int.from_bytes(ip_address(peer.ingress_addresses[0]).packed[-3:])


def gateways(peers: Iterable[Peer]) -> dict[str, int]:
    """MAC to mark, of all nodes in the ingress network."""
    present = [peer for peer in peers if peer.ingress_addresses]
    return {mac_of(peer.ingress_addresses[0]): mark_of(peer) for peer in present}


def with_prefix(addresses: Iterable[str], subnets: Iterable[Subnet]) -> tuple[Interface, ...]:
    """A node's ingress addresses; those that are in no subnet are left out."""
    known = [ip_network(subnet.cidr) for subnet in subnets]
    return tuple(
        ip_interface(f"{address}/{network.prefixlen}")
        for address in addresses
        for network in known
        if ip_address(address) in network
    )
