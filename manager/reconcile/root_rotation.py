"""A change of the cluster's root: who is to renew its certificate now, and when the old root goes.

Level-triggered: a node whose certificate is of another authority than the present one (as its agent reports)
is wished to have one of this, so many at a time; the wish is data on the node. When none is left but nodes
that have been down for a while, the rotation ends. Those are named with the root that was left: when they are
back they may renew with it, until it expires. That list shrinks as they do so, or are removed.

It issues nothing and trusts nobody: the change itself, its texts and its certificates are ``swarmpy.pki``'s.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from manager.reconcile.plan import NOTHING, Note, Plan
from manager.store.view import View
from swarmpy import pki
from swarmpy.model.changes import Group, Update
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.objects import Cluster, Node
from swarmpy.model.root_ca import RootCA
from swarmpy.model.states import NodeRole, NodeState, Owner
from swarmpy.pki import Issuer
from swarmpy.pki.limits import ROOT_DOWN_GRACE_S, ROOT_RENEWALS_MAX

_DOWN_GRACE_NS = int(ROOT_DOWN_GRACE_S * SECOND_NS)


class RootRotations:
    """Its one key is the cluster's id."""

    name = "root"

    def keys(self, view: View) -> Iterable[str]:
        cluster = view.cluster()
        return () if cluster is None else (cluster.id,)

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        cluster = view.cluster()
        if cluster is None:
            return ()
        match new if new is not None else old:
            case Cluster():
                return (cluster.id,) if _root_of(old) != _root_of(new) else ()
            case Node():
                return (cluster.id,) if _standing(old) != _standing(new) else ()
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        cluster = view.cluster()
        if cluster is None or not cluster.root_ca.ca_cert:
            return NOTHING
        root = cluster.root_ca
        authority = pki.issuer_in(pki.issuer_of(root)[0])
        nodes = sorted(view.nodes(), key=_turn)
        late = [node for node in nodes if issuer_of(node) != authority]
        wishes = _wishes(nodes, authority)
        if root.rotation is None:
            plan = _readmissions(cluster, late, now)
            return replace(plan, groups=plan.groups + wishes)
        awaited = [at for node in late if (at := _given_up_at(node)) is None or at > now]
        if not awaited:
            return _finish(cluster, late, now)
        times = [at for at in awaited if at is not None]
        return Plan(groups=wishes, wake_at=min(times, default=None))


def issuer_of(node: Node) -> Issuer | None:
    """Whose certificate the node has, as far as it has told."""
    info = node.description.tls_info
    if info is None:
        return None
    return Issuer(subject=info.cert_issuer_subject, public_key=info.cert_issuer_public_key)


def _finish(cluster: Cluster, absent: list[Node], now: Timestamp) -> Plan:
    root = pki.finish_rotation(cluster.root_ca, (node.id for node in absent), now)
    facts = {"root": root.ca_cert_hash, "absent": str(len(absent))}
    return Plan(
        groups=(_update(replace(cluster, root_ca=root)),),
        notes=(Note(event="root_rotated", facts=facts),),
        is_partial=True,  # what follows from it is decided on the new root
    )


def _wishes(nodes: list[Node], authority: Issuer) -> tuple[Group, ...]:
    """Wish a certificate of this authority for as many of the nodes as may renew at a time.

    Also for those that have one, or are away, if something else was wished for them before: they are told of
    it first.
    """
    ready = [node for node in nodes if node.status.state is NodeState.READY and issuer_of(node) is not None]
    busy = sum(issuer_of(node) != authority and node.wanted_issuer == authority.mark for node in ready)
    other = [
        node
        for node in ready
        if node.wanted_issuer != authority.mark and (node.wanted_issuer or issuer_of(node) != authority)
    ]
    away = [
        node
        for node in nodes
        if node.status.state is not NodeState.READY and node.wanted_issuer not in (b"", authority.mark)
    ]
    chosen = other[: max(0, ROOT_RENEWALS_MAX - busy)] + away[:ROOT_RENEWALS_MAX]
    return tuple(_update(replace(node, wanted_issuer=authority.mark)) for node in chosen)


def _readmissions(cluster: Cluster, late: list[Node], now: Timestamp) -> Plan:
    """Forget who is back, or gone for good, and roots that nobody may come back with."""
    awaited = {node.id for node in late}
    kept = tuple(
        replace(retired, node_ids=node_ids)
        for retired in cluster.root_ca.retired
        if retired.expires_at > now
        and (node_ids := tuple(node_id for node_id in retired.node_ids if node_id in awaited))
    )
    wake_at = min((retired.expires_at for retired in kept), default=None)
    if kept == cluster.root_ca.retired:
        return Plan(wake_at=wake_at)
    changed = replace(cluster, root_ca=replace(cluster.root_ca, retired=kept))
    return Plan(groups=(_update(changed),), wake_at=wake_at)


def _given_up_at(node: Node) -> Timestamp | None:
    """When a change of the root waits for the node no more; None: as long as it is up, always."""
    if node.status.state is not NodeState.DOWN:
        return None
    return Timestamp((node.status.since or node.created_at) + _DOWN_GRACE_NS)


def _turn(node: Node) -> tuple[bool, str]:
    """Managers first: everybody calls them."""
    return node.role is not NodeRole.MANAGER, node.id


def _update(changed: Cluster | Node) -> Group:
    return Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=changed),))


def _root_of(cluster: object | None) -> RootCA | None:
    return cluster.root_ca if isinstance(cluster, Cluster) else None


def _standing(node: object | None) -> tuple[object, ...] | None:
    """What of a node is looked at here."""
    if not isinstance(node, Node):
        return None
    return node.description.tls_info, node.status.state, node.wanted_issuer
