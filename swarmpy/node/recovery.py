"""A node that becomes its cluster's only manager: from its own log, or from a backup.

Both work on files while no part runs on them. ``stand_alone`` changes one file, in one write. ``receive``
prepares files that mean nothing without the identity, which its caller saves last: that is the moment at
which the node is in the swarm. A restored node is a new node to the cluster, whoever made the backup: an old
one's key is not in it, and the old one may still be about.

What is written into the cluster's state is ``manager/recovery.py``'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from manager import manager as managers
from manager import recovery
from manager.api.context import LOCKED, NOT_A_MANAGER
from manager.api.control import ClusterAccess, LocalState, RestoreRequest
from manager.manager import Manager, ManagerConfig
from swarmpy.errors import FailedPrecondition, NotInSwarm, Retry, Unavailable
from swarmpy.limits import JOIN_TIMEOUT_S
from swarmpy.model.ids import ID_BYTES, NodeId, make_id
from swarmpy.node import founding
from swarmpy.node.keys import NodeKeys
from swarmpy.node.part import Part
from swarmpy.node.state import NodeState
from swarmpy.pki import Identity, Role
from swarmpy.runtime import Env

HAS_QUORUM = (
    "the managers of this swarm have a quorum: nothing has to be recovered. To drop all managers but this "
    "one nevertheless, force it"
)


def check_survivor(part: Part, state: LocalState, error: str, env: Env) -> None:
    """Refuse a node that holds no swarm's state to go on from."""
    if part.is_locked:
        raise NotInSwarm(LOCKED)
    if state is LocalState.ERROR:
        raise FailedPrecondition(f"this node can't go on as a manager: {error}")
    if part.identity.role is not Role.MANAGER:
        raise NotInSwarm(NOT_A_MANAGER)
    if not managers.has_log(part.manager_config(), env):
        raise FailedPrecondition(
            "this manager has lost its copy of the swarm's state: "
            "recover another manager, or restore a backup"
        )


async def check_lost(access: ClusterAccess | None) -> None:
    """Refuse while the managers can still decide anything together."""
    if access is None:
        return  # this one does not even run
    try:
        await access.read_barrier()
    except Retry:
        return
    raise FailedPrecondition(HAS_QUORUM)


async def stand_alone(config: ManagerConfig, node_id: NodeId, hostname: str, env: Env) -> None:
    """Rewrite the log of a manager that is stopped. Nothing was changed if it raises."""
    await asyncio.to_thread(recovery.make_alone, config, node_id, hostname, env)


async def wait_leading(manager: Manager | None) -> None:
    """Until the only manager leads, and has applied all that it holds."""
    try:
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            if manager is not None:
                await manager.wait_current()
                return
    except TimeoutError:
        pass
    raise Unavailable("the manager has not come up yet: see 'swarmpy info' and the daemon's log")


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The place in a swarm whose files are there; it is this node's once they are saved."""

    identity: Identity
    state: NodeState


def files_of(data_dir: Path, state: NodeState, keys: NodeKeys) -> ManagerConfig:
    """Where a manager's files are, or are to be. Unavailable if they are locked."""
    return ManagerConfig(
        folder=data_dir / "raft",
        key=keys.raft_key(),
        listen_addr=state.listen_addr,
        advertise_addr=state.advertise_addr,
    )


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A backup that is sent, and what it is to become."""

    request: RestoreRequest
    chunks: AsyncIterator[bytes]
    hostname: str


async def receive(
    backup: Incoming, files: ManagerConfig, state: NodeState, keys: NodeKeys, env: Env
) -> Restored:
    """Take a backup in and make it a manager's files. If it raises, the caller clears the folders.

    The key of the log is on disk once it is known what that is to be sealed with.
    """
    node_id = NodeId(make_id(env.entropy.token_bytes(ID_BYTES)))
    me = recovery.Claimant(
        node_id=node_id,
        hostname=backup.hostname,
        raft_id=managers.new_raft_id(node_id, env),
        address=state.advertise_addr,
        availability=backup.request.availability,
    )
    incoming = recovery.Restore(files, me, env)
    try:
        async for chunk in backup.chunks:
            await asyncio.to_thread(incoming.feed, chunk)
        cluster = await asyncio.to_thread(incoming.finish)
        keys.set_unlock_key(cluster.unlock_key)
    finally:
        incoming.discard()
    return Restored(identity=founding.issue_own(cluster, node_id, env), state=state)
