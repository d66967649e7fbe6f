"""Reconcilers: what to change so that the stored world gets closer to what is wished."""

from __future__ import annotations

from manager.reconcile.cluster import ClusterUpkeep
from manager.reconcile.endpoints import Endpoints
from manager.reconcile.enforcer import ConstraintEnforcer
from manager.reconcile.global_services import GlobalServices
from manager.reconcile.nodes import NodeHealth
from manager.reconcile.pending import PendingTasks
from manager.reconcile.plan import Reconciler
from manager.reconcile.reaper import Reaper
from manager.reconcile.replicated import ReplicatedServices
from manager.reconcile.roles import Roles
from manager.schedule.nodes import LoadCache


def all_reconcilers() -> tuple[Reconciler, ...]:
    """One of each, for one term of leadership, over one loop: they share what is measured of the nodes.

    Nodes come first, so that what is decided about tasks in the same run knows of them.
    """
    cache = LoadCache()
    return (
        NodeHealth(),
        Roles(),
        Endpoints(),
        ConstraintEnforcer(cache),
        ReplicatedServices(cache),
        GlobalServices(cache),
        PendingTasks(cache),
        Reaper(),
        ClusterUpkeep(),
    )
