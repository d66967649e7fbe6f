"""Nodes that were removed: their certificates are refused until they must have expired, and a week longer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from msgspec.structs import replace

from swarmpy.model.defaults import node_cert_expiry
from swarmpy.model.ids import SECOND_NS, NodeId, Timestamp
from swarmpy.model.objects import Cluster, RemovedNode

REMOVED_NODE_MARGIN_NS: Final = 7 * 24 * 3600 * SECOND_NS


def refusing(cluster: Cluster, node_ids: Collection[NodeId], now: Timestamp) -> Cluster:
    """The cluster that trusts these nodes no more, and has forgotten whom it need not refuse any longer."""
    expires_at = Timestamp(now + node_cert_expiry(cluster) + REMOVED_NODE_MARGIN_NS)
    kept = tuple(r for r in cluster.removed_nodes if r.expires_at > now and r.node_id not in node_ids)
    new = tuple(RemovedNode(node_id=node_id, expires_at=expires_at) for node_id in sorted(node_ids))
    return replace(cluster, removed_nodes=(*kept, *new))
