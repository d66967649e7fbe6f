"""Which way two nodes encrypt what goes between them, and what that costs of each packet. Pure.

An encrypted network is plain VXLAN between the nodes' usual addresses, but on a data port of its own. What is
sent to that port is encrypted beneath, and a network never learns how: by IPsec, through the WireGuard
device, or through the user-space port, as the two nodes at hand both can. So nodes that can different things
share a network, and its MTU is the same everywhere, whichever way its packets go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from agent.dataplane.base import NodeState, Peer
from agent.dataplane.plan import data_ports
from swarmpy.model.ids import NodeId

ESP: Final = "esp"
WIREGUARD: Final = "wireguard"
USERSPACE: Final = "userspace"
WAYS: Final = (ESP, WIREGUARD, USERSPACE)
"""The best first. Both ends of a pair come to the same: it is the first that both have."""

USERSPACE_LARGE: Final = "userspace-large"
"""Not a way, but told with them: the user-space port takes packets of many segments."""

IPV4_OVERHEAD_BYTES: Final = 116
IPV6_OVERHEAD_BYTES: Final = 156
"""What the costliest way takes, the user-space port: an IP header twice, UDP twice, VXLAN, Ethernet, its own
head, what it says of checksums, and the tag. WireGuard takes 6 less, ESP between IPv4 addresses 32 less."""

_WIREGUARD_PORT_OFFSET: Final = 1
_USERSPACE_PORT_OFFSET: Final = 2


@dataclass(frozen=True, slots=True)
class Ports:
    """``secure``: where VXLAN of encrypted networks is taken, never in the clear. The ways' own follow it."""

    secure: int
    wireguard: int
    userspace: int


def ports_of(state: NodeState) -> Ports:
    _, secure = data_ports(state)
    return Ports(secure, secure + _WIREGUARD_PORT_OFFSET, secure + _USERSPACE_PORT_OFFSET)


def overhead_of(address: str) -> int:
    """Bytes of each underlay packet that a frame's contents cannot have."""
    return IPV6_OVERHEAD_BYTES if ":" in address else IPV4_OVERHEAD_BYTES


def choose(own: Iterable[str], other: Iterable[str]) -> str:
    """The way between two nodes; empty if they have none in common."""
    common = set(own) & set(other)
    return next((way for way in WAYS if way in common), "")


def pair_up(own: Peer, peers: Mapping[NodeId, Peer], can: tuple[str, ...]) -> dict[str, tuple[Peer, ...]]:
    """Peers by the way to them, by id. Those with no way, no address or another family have no place.

    ``can``: what this node can do now, whatever the others have been told.
    """
    found: dict[str, list[Peer]] = {way: [] for way in WAYS}
    for node_id in sorted(peers):
        peer = peers[node_id]
        if node_id == own.node_id or not is_within_reach(own, peer):
            continue
        way = choose(can, peer.encryption)
        if way:
            found[way].append(peer)
    return {way: tuple(members) for way, members in found.items()}


def is_within_reach(own: Peer, peer: Peer) -> bool:
    if not own.addr or not peer.addr or own.addr == peer.addr:
        return False
    return ip_address(own.addr).version == ip_address(peer.addr).version
