"""The cluster object: forgets removed nodes whose certificates have expired by now."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from manager.reconcile.plan import NOTHING, Plan
from manager.store.view import View
from swarmpy.model.changes import Group, Update
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Cluster
from swarmpy.model.states import Owner


class ClusterUpkeep:
    """Its one key is the cluster's id."""

    name = "cluster"

    def keys(self, view: View) -> Iterable[str]:
        cluster = view.cluster()
        return () if cluster is None else (cluster.id,)

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        return (new.id,) if isinstance(new, Cluster) and new.removed_nodes else ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        cluster = view.cluster()
        if cluster is None or not cluster.removed_nodes:
            return NOTHING
        kept = tuple(removed for removed in cluster.removed_nodes if removed.expires_at > now)
        wake_at = min((removed.expires_at for removed in kept), default=None)
        if kept == cluster.removed_nodes:
            return Plan(wake_at=wake_at)
        changed = replace(cluster, removed_nodes=kept)
        group = Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=changed),))
        return Plan(groups=(group,), wake_at=wake_at)
