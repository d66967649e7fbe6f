"""Who holds which address and which VNI: each has one holder, and addresses are of networks that there are.

The leader gives them out over its own view, fenced by its epoch, so a clash is a defect or a race with the
removal of a network; whichever it is, it ends here, before two machines answer for one address.
"""

from __future__ import annotations

from collections.abc import Collection

from manager.store.indexes import held_by_node, held_by_service, held_by_task, vni_of
from manager.store.view import View
from swarmpy.model.ids import NetworkId
from swarmpy.model.objects import Network, Node, Object, Service, Task


def address_clash(view: View, old: Object | None, new: Object) -> str | None:
    """Why ``new`` can't hold what ``old`` did not hold; None if it can. The first reason counts."""
    had, has = (_held(each) for each in (old, new))
    for key in has:
        if key in had:
            continue
        network_id, _, address = key.partition(" ")
        if view.network(NetworkId(network_id)) is None:
            return f"network {network_id} not found"
        others = [each.id for each in view.holders_of(NetworkId(network_id), address)] if address else []
        if len(others) > 1:
            other = min(id_ for id_ in others if id_ != new.id)
            return f"address {address} of network {network_id} is already in use by {other}"
    return None


def network_clash(view: View, new: Network) -> str | None:
    """Why there can't be this network beside the others."""
    vni = vni_of(new)
    others = [each.id for each in view.networks_with_vni(vni)] if vni else []
    if len(others) > 1:
        return f"VXLAN number {vni} is already in use by network {min(i for i in others if i != new.id)}"
    if new.spec.ingress:
        ingress = [each.id for each in view.networks() if each.spec.ingress and each.id != new.id]
        if ingress:
            return f"ingress network ({min(ingress)}) is already present"
    return None


def _held(each: Object | None) -> Collection[str]:
    match each:
        case Task():
            return held_by_task(each)
        case Service():
            return held_by_service(each)
        case Node():
            return held_by_node(each)
        case _:
            return ()
