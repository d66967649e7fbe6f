"""Roles: brings the role that certificates are issued for to the one that is wished for.

A promotion holds at once: the node may then ask for a manager's certificate and join raft. A demotion holds
only when the node has left raft (``manager_status`` is gone; the membership shell sees to that first), so no
worker's certificate is ever issued to a voting member.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from manager.reconcile.plan import NOTHING, Note, Plan
from manager.store.view import View
from swarmpy.model.changes import Group, Update
from swarmpy.model.ids import NodeId, Timestamp
from swarmpy.model.objects import Node
from swarmpy.model.states import NodeRole, Owner


class Roles:
    """Its keys are node ids."""

    name = "roles"

    def keys(self, view: View) -> Iterable[str]:
        return sorted(node.id for node in view.nodes())

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        return (new.id,) if isinstance(new, Node) and _wished_role(new) is not None else ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        node = view.node(NodeId(key))
        role = _wished_role(node) if node is not None else None
        if node is None or role is None:
            return NOTHING
        return Plan(
            groups=(Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=replace(node, role=role)),)),),
            notes=(Note(event="node_role_changed", facts={"node_id": node.id, "role": role}),),
        )


def _wished_role(node: Node) -> NodeRole | None:
    """The role that the node should get now, or None if it has it or has to wait."""
    wished = node.spec.role
    if wished in (NodeRole.UNSPECIFIED, node.role):
        return None
    if wished == NodeRole.WORKER and node.manager_status is not None:
        return None
    return wished
