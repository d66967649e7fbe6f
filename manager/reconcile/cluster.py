"""The cluster object: forgets removed nodes whose certificates have expired by now, and raises the format of
the store once all managers know a newer one. It is never lowered: some entries may need it already.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from manager.reconcile.plan import NOTHING, Plan
from manager.store.view import View
from swarmpy.model.changes import Group, Update
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Cluster, Node
from swarmpy.model.states import NodeRole, Owner


class ClusterUpkeep:
    """Its one key is the cluster's id."""

    name = "cluster"

    def keys(self, view: View) -> Iterable[str]:
        cluster = view.cluster()
        return () if cluster is None else (cluster.id,)

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        cluster = view.cluster()
        if cluster is None:
            return ()
        match new if new is not None else old:
            case Cluster():
                return (cluster.id,)
            case Node():
                return (cluster.id,) if _knowledge(old) != _knowledge(new) else ()
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        cluster = view.cluster()
        if cluster is None:
            return NOTHING
        kept = tuple(removed for removed in cluster.removed_nodes if removed.expires_at > now)
        wake_at = min((removed.expires_at for removed in kept), default=None)
        changed = replace(cluster, removed_nodes=kept, store_format=_format_of(view, cluster))
        if changed == cluster:
            return Plan(wake_at=wake_at)
        group = Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=changed),))
        return Plan(groups=(group,), wake_at=wake_at)


def _knowledge(node: object | None) -> int | None:
    """The newest format that a manager knows; None: it is no manager."""
    if not isinstance(node, Node) or node.role is not NodeRole.MANAGER:
        return None
    return node.description.store_format


def _format_of(view: View, cluster: Cluster) -> int:
    """The newest format that every manager knows. One that was not heard of yet knows nothing new."""
    known = [node.description.store_format for node in view.manager_nodes()]
    return max(cluster.store_format, min(known, default=0))
