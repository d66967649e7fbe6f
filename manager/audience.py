"""Who is to hear of changes in a network: the sessions of the nodes that hold it.

An index, so that a change of one endpoint costs as many steps as there are nodes on its network, not as there
are sessions. A node has one session at a time; the one that came last counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Generic, Protocol, TypeVar

from swarmpy.model.ids import NetworkId, NodeId


class HasNode(Protocol):
    node_id: NodeId


M = TypeVar("M", bound=HasNode)


class Audience(Generic[M]):
    """Members by network. ``place`` and ``leave`` are told by the members themselves."""

    def __init__(self) -> None:
        self._members: dict[NetworkId, dict[NodeId, M]] = {}
        self._places: dict[NodeId, tuple[M, frozenset[NetworkId]]] = {}

    def members(self, network_id: NetworkId) -> Collection[M]:
        return self._members.get(network_id, {}).values()

    def place(self, member: M, networks: Iterable[NetworkId]) -> None:
        """The member holds exactly these networks now."""
        known = self._places.get(member.node_id)
        before = known[1] if known is not None else frozenset()
        after = frozenset(networks)
        if known is not None and known[0] is member and before == after:
            return
        for network_id in sorted(before - after):
            self._remove(network_id, member.node_id)
        for network_id in sorted(after):
            self._members.setdefault(network_id, {})[member.node_id] = member
        self._places[member.node_id] = member, after

    def leave(self, member: M) -> None:
        """The member is gone, unless a newer one of its node has taken its places."""
        known = self._places.get(member.node_id)
        if known is None or known[0] is not member:
            return
        for network_id in sorted(known[1]):
            self._remove(network_id, member.node_id)
        del self._places[member.node_id]

    def _remove(self, network_id: NetworkId, node_id: NodeId) -> None:
        members = self._members[network_id]
        del members[node_id]
        if not members:
            del self._members[network_id]
