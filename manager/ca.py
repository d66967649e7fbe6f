"""The certificate authority's calls: a certificate for a joiner, a fresh one for a node.

* A joiner's role is that of the token whose certificate it came with; a node's is that of its record, so
  a promotion or demotion takes effect when the node asks again.
* A joining node's id is made of its public key. Asking again with the same key, after a lost answer or
  on another manager, gives the same node; a new key gives a new one. Hence a node that was removed comes
  back only as another node.
* Any manager signs: the root's key is part of the cluster object. Only the record goes through raft.
* While the root is being changed it is the new one that signs; what leads to it from the old one is shown
  with the certificate, and both are to be trusted.

It does not rotate the root or tokens, and it does not make anybody a member of raft.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from typing import Protocol

import structlog

from swarmpy import limits, pki
from swarmpy.errors import AlreadyExists, InvalidArgument, NodeRemoved, PermissionDenied, Retry, Unavailable
from swarmpy.model.cluster_specs import NodeSpec
from swarmpy.model.ids import ID_BYTES, NodeId, make_id
from swarmpy.model.objects import Cluster, Node, NodeDescription, NodeStatus
from swarmpy.model.states import NodeAvailability, NodeRole
from swarmpy.pb import ca_pb2, ca_pb2_grpc, dispatcher_pb2, types_pb2
from swarmpy.pki import Role, Subject
from swarmpy.rpc import Context, Peer, peer_host, peer_of
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)

_AVAILABILITY = {
    types_pb2.NODE_AVAILABILITY_UNSPECIFIED: NodeAvailability.ACTIVE,
    types_pb2.NODE_AVAILABILITY_ACTIVE: NodeAvailability.ACTIVE,
    types_pb2.NODE_AVAILABILITY_PAUSE: NodeAvailability.PAUSE,
    types_pb2.NODE_AVAILABILITY_DRAIN: NodeAvailability.DRAIN,
}
_WIRE_ROLE = {
    NodeRole.WORKER: types_pb2.NODE_ROLE_WORKER,
    NodeRole.MANAGER: types_pb2.NODE_ROLE_MANAGER,
}


class Registry(Protocol):
    """What the authority needs of the store and of raft."""

    def cluster(self) -> Cluster | None:
        """The cluster object; None while this manager has not caught up."""
        ...

    def node(self, node_id: NodeId) -> Node | None: ...

    def managers(self) -> Sequence[tuple[NodeId, str]]:
        """The managers that a node may call, with their ``host:port``."""
        ...

    async def catch_up(self) -> None:
        """Until all that was committed before the call is known here. ``Retry`` as a read barrier."""
        ...

    async def register(self, node: Node) -> None:
        """Commit the new node. ``AlreadyExists`` if its id is taken; ``Retry`` as a proposal does."""
        ...


class CertificateAuthority(ca_pb2_grpc.CertificateAuthorityServicer):
    def __init__(self, registry: Registry, *, env: Env) -> None:
        self._registry = registry
        self._env = env

    async def IssueCertificate(  # noqa: N802 - the name is the wire's
        self, request: ca_pb2.IssueRequest, context: Context
    ) -> ca_pb2.IssueResponse:
        peer = peer_of(context)
        await self._catch_up(peer)
        cluster = self._cluster()
        observed_host = peer_host(context)
        match peer.role:
            case Role.JOIN_WORKER | Role.JOIN_MANAGER:
                wanted = _node_from(request, peer.role.node_role, observed_host)
                _refuse_removed(cluster, wanted.id)
                node = await self._join(wanted)
            case _:
                _refuse_removed(cluster, peer.node_id)
                node = await self._known(peer.node_id)
        cluster = self._cluster()  # the root may have changed meanwhile
        certificate = pki.issue_certificate(
            cluster.root_ca,
            request.csr,
            Subject(node_id=node.id, role=Role.of_node(node.role), cluster_id=cluster.id),
            validity=pki.validity_from(self._env.clock.now(), cluster.spec.ca_config.node_cert_expiry),
            serial=self._env.entropy.token_bytes(pki.SERIAL_BYTES),
        )
        return ca_pb2.IssueResponse(
            node_id=node.id,
            cluster_id=cluster.id,
            role=_WIRE_ROLE[Role.of_node(node.role).node_role],
            certificate=certificate,
            root_ca=pki.trust_bundle(cluster.root_ca),
            managers=[
                dispatcher_pb2.ManagerPeer(node_id=node_id, addr=addr)
                for node_id, addr in self._registry.managers()
            ],
            observed_host=observed_host,
        )

    def _cluster(self) -> Cluster:
        cluster = self._registry.cluster()
        if cluster is None:
            raise Unavailable("this manager is still catching up with the cluster")
        return cluster

    async def _catch_up(self, peer: Peer) -> None:
        """A manager that lags behind would sign with a root that the cluster has left.

        Without a quorum that is better than to let certificates expire: then there would never be one again.
        """
        try:
            await self._registry.catch_up()
        except Retry as error:
            if peer.role not in (Role.WORKER, Role.MANAGER):
                raise
            log.warning("certificate_issued_without_quorum", node_id=peer.node_id, reason=str(error))

    async def _join(self, wanted: Node) -> Node:
        """The record of the joining node, stored if it is new."""
        known = self._registry.node(wanted.id)
        if known is None:
            try:
                await self._registry.register(wanted)
            except AlreadyExists:
                # The same request, on another manager or just before, was first.
                known = self._registry.node(wanted.id)
            else:
                return wanted
        if known is None:
            raise Unavailable("this manager is still catching up with the cluster")
        if known.role is not wanted.role:
            raise PermissionDenied(
                f"the key of this request belongs to node {known.id}, which is a {known.role.value}: "
                "a join token does not change the role of a node"
            )
        return known

    async def _known(self, node_id: NodeId) -> Node:
        node = self._registry.node(node_id)
        if node is None:
            # perhaps it has only just joined, elsewhere: that it is gone must not be said in error
            await self._registry.catch_up()
            node = self._registry.node(node_id)
        if node is None:
            raise NodeRemoved(f"node {node_id} is not part of the swarm (any more); it has to join anew")
        return node


def _node_from(request: ca_pb2.IssueRequest, role: NodeRole, observed_host: str) -> Node:
    if request.availability not in _AVAILABILITY:
        raise InvalidArgument(f"availability {request.availability} is unknown")
    if len(request.hostname) > limits.HOSTNAME_CHARS_MAX:
        raise InvalidArgument(f"the hostname has more than {limits.HOSTNAME_CHARS_MAX} characters")
    key_digest = hashlib.sha256(pki.check_csr(request.csr)).digest()
    return Node(
        id=NodeId(make_id(key_digest[:ID_BYTES])),
        spec=NodeSpec(role=role, availability=_AVAILABILITY[request.availability]),
        role=role,
        description=NodeDescription(hostname=request.hostname),
        status=NodeStatus(addr=_advertised_host(request.advertise_addr) or observed_host),
    )


def _advertised_host(address: str) -> str:
    """The host of ``host:port``; empty if the joiner leaves it to the manager."""
    if not address:
        return ""
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal():
            return str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))) if host else ""
    except ValueError:
        pass
    raise InvalidArgument(f"the advertised address {address[:64]!r} is not an IP address and a port")


def _refuse_removed(cluster: Cluster, node_id: NodeId) -> None:
    if any(removed.node_id == node_id for removed in cluster.removed_nodes):
        raise NodeRemoved(f"node {node_id} was removed from the swarm; it has to join anew")
