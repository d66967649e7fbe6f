"""A new cluster: its first objects and its first node's identity."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from manager.allocate import pools
from manager.api.control import InitRequest
from swarmpy import pki
from swarmpy.errors import FailedPrecondition, Retry
from swarmpy.limits import JOIN_TIMEOUT_S
from swarmpy.model.changes import Create
from swarmpy.model.cluster_specs import NodeSpec
from swarmpy.model.defaults import ADDRESS_POOL, DATA_PATH_PORT, SUBNET_SIZE, node_cert_expiry
from swarmpy.model.ids import ID_BYTES, ClusterId, NodeId, RaftId, make_id
from swarmpy.model.objects import Cluster, ManagerStatus, Node, NodeDescription
from swarmpy.model.states import NodeAvailability, NodeRole
from swarmpy.pki import Identity, Role, Subject
from swarmpy.pki.unlock import UNLOCK_KEY_BYTES
from swarmpy.runtime import Env
from swarmpy.version import STORE_FORMAT

if TYPE_CHECKING:
    from manager.manager import Manager


@dataclass(frozen=True, kw_only=True)
class Wish:
    request: InitRequest
    hostname: str
    advertise_addr: str


def make_cluster(wish: Wish, env: Env) -> tuple[Cluster, Node, Identity]:
    """The cluster object with its root and tokens, the first node, and that node's identity."""
    request, entropy, now = wish.request, env.entropy, env.clock.now()
    pools.check_pools(request.default_addr_pool, request.subnet_size or SUBNET_SIZE)
    root = pki.create_root_ca(
        now,
        key=entropy.token_bytes(pki.KEY_BYTES),
        serial=entropy.token_bytes(pki.SERIAL_BYTES),
        secrets=(entropy.token_bytes(pki.SECRET_BYTES), entropy.token_bytes(pki.SECRET_BYTES)),
    )
    is_locking = request.spec.encryption_config.auto_lock_managers
    cluster = Cluster(
        id=ClusterId(make_id(entropy.token_bytes(ID_BYTES))),
        spec=request.spec,
        unlock_key=entropy.token_bytes(UNLOCK_KEY_BYTES) if is_locking else b"",
        root_ca=root,
        default_address_pool=request.default_addr_pool or ADDRESS_POOL,
        subnet_size=request.subnet_size or SUBNET_SIZE,
        data_path_port=request.data_path_port or DATA_PATH_PORT,
        store_format=STORE_FORMAT,
    )
    node = Node(
        id=NodeId(make_id(entropy.token_bytes(ID_BYTES))),
        spec=NodeSpec(role=NodeRole.MANAGER, availability=request.availability or NodeAvailability.ACTIVE),
        role=NodeRole.MANAGER,
        description=NodeDescription(hostname=wish.hostname),
    )
    identity = issue_own(cluster, node.id, env)
    return cluster, node, identity


def issue_own(cluster: Cluster, node_id: NodeId, env: Env) -> Identity:
    """A manager's identity for this node, signed here: whoever has the cluster has its root's key."""
    key, csr = pki.create_csr(env.entropy.token_bytes(pki.KEY_BYTES))
    certificate = pki.issue_certificate(
        cluster.root_ca,
        csr,
        Subject(node_id=node_id, role=Role.MANAGER, cluster_id=cluster.id),
        validity=pki.validity_from(env.clock.now(), node_cert_expiry(cluster)),
        serial=env.entropy.token_bytes(pki.SERIAL_BYTES),
    )
    return pki.load_identity(certificate=certificate, key=key, roots=pki.trust_bundle(cluster.root_ca))


async def record(manager: Manager, cluster: Cluster, node: Node, *, advertise_addr: str) -> None:
    """Commit the first objects, the ingress network among them; the cluster exists once this returned.

    A manager that is alone leads at once, but for the time that its disk takes.
    """
    status = ManagerStatus(raft_id=RaftId(manager.raft_id), addr=advertise_addr)
    member = replace(node, manager_status=status)
    changes = tuple(Create(object=each) for each in (cluster, member, pools.ingress_network(cluster)))
    last: Retry | None = None
    try:
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            while manager.access.view.cluster() is None:  # else an attempt of unknown outcome came through
                try:
                    await manager.propose(changes)
                except Retry as error:
                    last = error
                    await asyncio.sleep(error.delay_s)
    except TimeoutError:
        raise FailedPrecondition(
            f"the swarm could not be recorded within {JOIN_TIMEOUT_S:.0f} s ({last or 'no answer'}): "
            "see that the disk under the data folder keeps up, then try again"
        ) from last
