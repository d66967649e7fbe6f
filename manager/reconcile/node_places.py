"""Nodes' own places in the ingress network: one address each, whatever the node runs.

Every node answers on published ports, so every one has its place, down or not, from when it joins until it is
removed. In other networks nodes need none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from manager.allocate.addresses import Addresses, NoAddress, has_released
from manager.reconcile.plan import NOTHING, Note, Plan
from manager.store.networking import Place
from manager.store.view import View
from swarmpy.limits import ADDRESSES_RETRY_S
from swarmpy.model.changes import Group, Update
from swarmpy.model.ids import SECOND_NS, NodeId, Timestamp
from swarmpy.model.objects import Network, NetworkAttachment, Node
from swarmpy.model.states import Owner

_RETRY_NS: Final = int(ADDRESSES_RETRY_S * SECOND_NS)


class NodePlaces:
    """Its keys are node ids."""

    name = "node places"

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._waiting: dict[str, None] = {}
        """Nodes for which there was no address: looked at again when one is released."""

    def keys(self, view: View) -> Iterable[str]:
        ingress = view.ingress_network()
        return sorted(node.id for node in view.nodes() if not _is_in_place(node, ingress))

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new if new is not None else old:
            case Node(id=node_id) if isinstance(new, Node) and _is_news(old, new):
                return (node_id, *self._waiting)
            case Network(spec=spec) if spec.ingress:
                return self.keys(view)
        return tuple(self._waiting) if self._waiting and has_released(old, new) else ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        self._waiting.pop(key, None)
        node, ingress = view.node(NodeId(key)), view.ingress_network()
        if node is None or _is_in_place(node, ingress):
            return NOTHING
        if ingress is not None and ingress.ipam_options is None:
            return NOTHING  # its subnet comes first
        wanted: tuple[NetworkAttachment, ...] = ()
        if ingress is not None:
            try:
                wanted = self._addresses.claims(view).attachments((Place(ingress),))
            except NoAddress as error:
                self._waiting[key] = None
                facts = {"node_id": node.id, "reason": str(error)}
                note = Note(event="node_has_no_ingress_address", facts=facts)
                return Plan(notes=(note,), wake_at=Timestamp(now + _RETRY_NS))
        changed = replace(node, attachments=wanted)
        return Plan(groups=(Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=changed),)),))


def _is_news(old: object | None, new: Node) -> bool:
    return not isinstance(old, Node) or old.attachments != new.attachments


def _is_in_place(node: Node, ingress: Network | None) -> bool:
    if ingress is None:
        return not node.attachments
    return [each.network_id for each in node.attachments] == [ingress.id]
