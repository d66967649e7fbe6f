"""Membership on the leader: raft follows the wished roles.

A node that should be a worker leaves raft first and gets its new role (hence its new certificate) after: the
roles reconciler changes the role once ``manager_status`` is gone. The leader does not remove itself: it hands
leadership over, and its successor does. A change that would cost the quorum waits, and says so in the log.

Joining goes the other way round: a joining manager asks raft, and this records what it finds there. So a
crash between raft's change and the record of it is mended by the next leader.
"""

from __future__ import annotations

import asyncio

import structlog

from manager.proposer import Proposer, require_applied
from manager.raft.members import node_of
from manager.raft.proposer import RaftLog, RaftStatus
from manager.store.events import Event, Resync
from manager.store.store import Store
from manager.store.watch import Watch
from swarmpy.errors import FailedPrecondition, NotFound, OutcomeUnknown, PermissionDenied, Retry
from swarmpy.limits import MEMBERSHIP_PERIOD_S
from swarmpy.model.changes import Batch, Group, NodeReport
from swarmpy.model.ids import NodeId, RaftId
from swarmpy.model.objects import ManagerStatus, Node
from swarmpy.model.states import NodeRole, Owner
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)


class Membership:
    """Adds and removes voters, and records them on their nodes."""

    def __init__(self, store: Store, proposer: Proposer, raft: RaftLog, env: Env) -> None:
        self._store = store
        self._proposer = proposer
        self._raft = raft
        self._env = env

    async def remove(self, node_id: NodeId) -> None:
        """Take a node out of raft and record it. FailedPrecondition if the quorum would be lost."""
        node = self._store.node(node_id)
        if node is None:
            raise NotFound(f"node {node_id} not found")
        if node.manager_status is None:
            return
        members = {member.raft_id for member in self._raft.status().members}
        if node.manager_status.raft_id in members:
            await self._raft.remove_member(node.manager_status.raft_id)
        await self._record(node_id, None)

    def check_joiner(self, node_id: NodeId) -> None:
        """Refuse a node that is not, or no longer, wished to be a manager."""
        node = self._store.node(node_id)
        if node is None:
            raise PermissionDenied(f"node {node_id} is not part of this swarm: it was removed")
        if node.spec.role is not NodeRole.MANAGER:
            raise FailedPrecondition(f"node {node_id} is not a manager: promote it first")

    async def run(self) -> None:
        """For one term of leadership: carry out demotions, and record joins and leaves on their nodes."""
        changed = asyncio.Event()
        unsubscribe = self._raft.subscribe(lambda status: changed.set())
        try:
            with self._store.watch() as watch:
                store_watch = asyncio.create_task(self._forward(watch, changed))
                try:
                    await self._settle_all(changed)
                finally:
                    store_watch.cancel()
        finally:
            unsubscribe()

    async def _forward(self, watch: Watch, changed: asyncio.Event) -> None:
        while True:
            await watch.wait()
            if any(_concerns_nodes(event) for event in watch.take()):
                changed.set()

    async def _settle_all(self, changed: asyncio.Event) -> None:
        while True:
            changed.clear()
            is_done = True
            for node in sorted(self._store.nodes(), key=lambda node: node.id):
                is_done &= await self._settle(node)
            try:
                async with asyncio.timeout(None if is_done else MEMBERSHIP_PERIOD_S):
                    await changed.wait()
            except TimeoutError:
                pass  # time to try again what had to wait

    async def _settle(self, node: Node) -> bool:
        """One step towards what the node should be; False if it has to be tried again later."""
        status = self._raft.status()
        own = node.manager_status
        try:
            if own is None:
                await self._record_join(node, status)
            elif own.raft_id not in {member.raft_id for member in status.members}:
                await self._record(node.id, None)
            elif node.spec.role is NodeRole.WORKER:
                if own.raft_id == status.raft_id:
                    await self._raft.transfer_leadership()
                    return False
                await self.remove(node.id)
                log.info("manager_removed", node_id=node.id, raft_id=own.raft_id)
        except (FailedPrecondition, Retry) as error:
            log.warning("membership_change_waits", node_id=node.id, reason=str(error))
            return False
        return True

    async def _record_join(self, node: Node, status: RaftStatus) -> None:
        for member in status.members:
            if node_of(member.raft_id) == node.id and node.spec.role is NodeRole.MANAGER:
                await self._record(
                    node.id, ManagerStatus(raft_id=RaftId(member.raft_id), addr=member.address)
                )

    async def _record(self, node_id: NodeId, status: ManagerStatus | None) -> None:
        report = NodeReport(node_id=node_id, manager_status=status, is_manager_removed=status is None)
        batch = Batch(groups=(Group(owner=Owner.DISPATCHER, changes=(report,)),), at=self._env.clock.now())
        while True:
            try:
                require_applied(await self._proposer.propose(batch))
            except OutcomeUnknown as error:
                await asyncio.sleep(error.delay_s)  # the report merges: proposing it twice is harmless
            else:
                return


def _concerns_nodes(event: object) -> bool:
    match event:
        case Event(old=old, new=new):
            return isinstance(new if new is not None else old, Node)
        case Resync():
            return True
        case _:
            return False
