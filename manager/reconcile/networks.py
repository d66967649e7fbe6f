"""Networks: a subnet and a VNI for each, in the order in which they were made.

It also keeps the memory of addresses (``Addresses``) up to date, for all that give addresses out: it hears of
every change, so it notes what each releases, and forgets networks that are gone.

Networks that get nothing, since the pools are exhausted or the VNI that they ask for is another's, are tried
again when a network goes, and now and then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from manager.allocate.addresses import Addresses
from manager.allocate.pools import CannotAllocate, Latest, Pools, needs_allocation
from manager.reconcile.plan import NOTHING, Note, Plan
from manager.store.view import View
from swarmpy.limits import NETWORKS_RETRY_S, PLAN_GROUPS_MAX
from swarmpy.model.changes import Group, Update
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.objects import Network
from swarmpy.model.states import Owner

_KEY: Final = "networks"
_RETRY_NS: Final = int(NETWORKS_RETRY_S * SECOND_NS)


class Networks:
    """It has one key: what one network gets depends on what the others have."""

    name = "networks"

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._latest: Latest | None = None

    def keys(self, view: View) -> Iterable[str]:
        self._addresses.keep_only(network.id for network in view.networks())
        return (_KEY,)

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        if isinstance(new, Network):
            return (_KEY,) if needs_allocation(new) else ()
        if isinstance(old, Network):
            self._addresses.forget(old.id)
            return (_KEY,)
        self._addresses.note_released(old, new)
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        waiting = [network for network in view.networks() if needs_allocation(network)]
        if not waiting:
            return NOTHING
        waiting.sort(key=lambda network: (network.created_at, network.version, network.id))
        pools = Pools(view, view.cluster(), self._latest)
        groups: list[Group] = []
        notes: list[Note] = []
        for network in waiting[:PLAN_GROUPS_MAX]:
            try:
                allocated = pools.allocate(network)
            except CannotAllocate as error:
                notes.append(_failure(network, error))
            else:
                groups.append(Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=allocated),)))
        self._latest = pools.latest
        return Plan(
            groups=tuple(groups),
            notes=tuple(notes),
            wake_at=Timestamp(now + _RETRY_NS) if notes else None,
            is_partial=len(waiting) > PLAN_GROUPS_MAX,
        )


def _failure(network: Network, error: CannotAllocate) -> Note:
    facts = {"network_id": network.id, "network": network.spec.name, "reason": str(error)}
    return Note(event="network_not_allocated", facts=facts)
