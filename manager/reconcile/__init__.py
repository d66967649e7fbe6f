"""Reconcilers: what to change so that the stored world gets closer to what is wished."""

from __future__ import annotations

from manager.allocate.addresses import Addresses
from manager.reconcile.autoscale import Autoscaler
from manager.reconcile.cluster import ClusterUpkeep
from manager.reconcile.cron import CronJobs
from manager.reconcile.endpoints import Endpoints
from manager.reconcile.enforcer import ConstraintEnforcer
from manager.reconcile.file_upkeep import FileUpkeep
from manager.reconcile.global_services import GlobalServices
from manager.reconcile.jobs import Jobs
from manager.reconcile.joins import Joins
from manager.reconcile.networks import Networks
from manager.reconcile.node_numbers import NodeNumbers
from manager.reconcile.node_places import NodePlaces
from manager.reconcile.nodes import NodeHealth
from manager.reconcile.pending import PendingTasks
from manager.reconcile.plan import Reconciler
from manager.reconcile.reaper import Reaper
from manager.reconcile.rebalance import Rebalance
from manager.reconcile.replicated import ReplicatedServices
from manager.reconcile.roles import Roles
from manager.reconcile.root_rotation import RootRotations
from manager.reconcile.standalone import Standalones
from manager.schedule.nodes import LoadCache
from manager.usage import UsageBook


def all_reconcilers(usage: UsageBook | None = None) -> tuple[Reconciler, ...]:
    """One of each, for one term of leadership, over one loop: they share what is measured of the nodes, and
    where to look for the next address. ``usage``: what agents say that tasks use.

    Nodes come first, then networks, so that what is decided about tasks in the same run knows of them; what
    is there for longer than tasks gets its addresses before them.
    """
    cache, addresses = LoadCache(), Addresses()
    return (
        NodeHealth(),
        Roles(),
        NodeNumbers(),
        Networks(addresses),
        NodePlaces(addresses),
        Endpoints(addresses),
        ConstraintEnforcer(cache),
        Autoscaler(usage if usage is not None else UsageBook()),
        ReplicatedServices(cache, addresses),
        GlobalServices(cache, addresses),
        Standalones(cache, addresses),
        CronJobs(),
        Jobs(cache, addresses),
        PendingTasks(cache, addresses),
        Rebalance(cache, addresses),
        Joins(addresses),
        Reaper(),
        RootRotations(),
        FileUpkeep(),
        ClusterUpkeep(),
    )
