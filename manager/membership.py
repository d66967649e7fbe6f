"""Membership on the leader: raft follows the wished roles.

A node that should be a worker leaves raft first and gets its new role (hence its new certificate) after: the
roles reconciler changes the role once ``manager_status`` is gone. The leader does not remove itself: it hands
leadership over, and its successor does. A change that would cost the quorum waits, and says so in the log.

Joining goes the other way round: a joining manager asks raft, and this records what it finds there. So a
crash between raft's change and the record of it is mended by the next leader. A member that nobody wants (its
node is gone, was demoted while it joined, or lost its log and has joined anew) is taken out: it would only
raise the quorum.

``steps`` decides from the store and raft's present state alone; the rest carries out one step at a time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from manager.proposer import Proposer, require_applied
from manager.raft.members import node_of
from manager.raft.proposer import Member, RaftLog, RaftStatus
from manager.store.events import Event, Resync
from manager.store.store import Store
from manager.store.view import View
from manager.store.watch import Watch
from swarmpy.errors import FailedPrecondition, PermissionDenied, Rejected, Retry
from swarmpy.limits import MEMBERSHIP_PERIOD_S
from swarmpy.model.changes import Batch, Group, NodeReport
from swarmpy.model.ids import NodeId, RaftId
from swarmpy.model.objects import ManagerStatus, Node
from swarmpy.model.states import NodeRole, Owner
from swarmpy.runtime import Env
from swarmpy.version import STORE_FORMAT, VERSION

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Record:
    """Write on a node which raft member it is; None: none."""

    node_id: NodeId
    status: ManagerStatus | None


@dataclass(frozen=True, kw_only=True)
class Expel:
    """Take a member out of raft."""

    raft_id: str


Step = Record | Expel


def steps(view: View, status: RaftStatus) -> list[Step]:
    """What is to be done now so that raft's members are the wished managers, and recorded as such."""
    if view.cluster() is None or not status.is_leader:
        return []  # the first manager has yet to record itself; or the next leader sees to it
    members = {member.raft_id: member for member in status.members}
    found: list[Step] = [
        Record(node_id=node.id, status=None)
        for node in sorted(view.manager_nodes(), key=lambda node: node.id)
        if node.manager_status is not None and node.manager_status.raft_id not in members
    ]
    by_node: dict[NodeId, list[Member]] = {}
    for raft_id in sorted(members):
        by_node.setdefault(NodeId(node_of(raft_id)), []).append(members[raft_id])
    for node_id, own in by_node.items():
        node = view.node(node_id)
        if node is None or node.spec.role is NodeRole.WORKER:
            found.extend(Expel(raft_id=member.raft_id) for member in own)
        else:
            found.extend(_settled(node, own))
    return found


def _settled(node: Node, own: list[Member]) -> list[Step]:
    """A manager is one member, and recorded."""
    known = node.manager_status
    recorded = [m for m in own if known is not None and m.raft_id == known.raft_id]
    reachable = [m for m in own if m.is_reachable]
    if not recorded:
        member = (reachable or own)[0]
        status = ManagerStatus(raft_id=RaftId(member.raft_id), addr=member.address)
        return [Record(node_id=node.id, status=status)]
    # Of two members of one node one has no log any more. Which one shows as soon as the other answers.
    if recorded[0] in reachable:
        return [Expel(raft_id=m.raft_id) for m in own if m not in reachable]
    return [Expel(raft_id=recorded[0].raft_id)] if reachable else []


def too_old(wanted: int, known: int) -> str:
    """Why a manager may not take part."""
    return (
        f"this version of SwarmPy ({VERSION}) is too old to be a manager of the swarm: its managers keep "
        f"their store in format {wanted}, this one knows formats up to {known}. Install the version of the "
        "other managers; as a worker the node may stay as it is"
    )


class Membership:
    """Adds and removes voters, and records them on their nodes."""

    def __init__(self, store: Store, proposer: Proposer, raft: RaftLog, env: Env) -> None:
        self._store = store
        self._proposer = proposer
        self._raft = raft
        self._env = env

    def check_joiner(self, node_id: NodeId, store_format: int = STORE_FORMAT) -> None:
        """Refuse a node that is not, or no longer, wished to be a manager, or could not read the log."""
        node = self._store.node(node_id)
        if node is None:
            raise PermissionDenied(f"node {node_id} is not part of this swarm: it was removed")
        if node.spec.role is not NodeRole.MANAGER:
            raise FailedPrecondition(f"node {node_id} is not a manager: promote it first")
        cluster = self._store.cluster()
        if cluster is not None and store_format < cluster.store_format:
            raise FailedPrecondition(too_old(cluster.store_format, store_format))

    async def run(self, *, epoch: int) -> None:
        """For one term of leadership, until cancelled."""
        changed = asyncio.Event()
        unsubscribe = self._raft.subscribe(lambda status: changed.set())
        try:
            with self._store.watch() as watch:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_forward(watch, changed))
                    tasks.create_task(self._settle_all(changed, epoch))
        finally:
            unsubscribe()

    async def _settle_all(self, changed: asyncio.Event, epoch: int) -> None:
        told: dict[Step, str] = {}
        while True:
            changed.clear()
            waiting = await self._settle_once(epoch)
            for step, reason in waiting.items():
                if told.get(step) != reason:
                    log.warning("membership_change_waits", step=str(step), reason=reason)
            told = waiting
            try:
                async with asyncio.timeout(MEMBERSHIP_PERIOD_S if waiting else None):
                    await changed.wait()
            except TimeoutError:
                pass  # time to try again what had to wait

    async def _settle_once(self, epoch: int) -> dict[Step, str]:
        """Do all that can be done; what has to wait, and why."""
        waiting: dict[Step, str] = {}
        while True:
            # decided anew before each step: the last one may have taken its time
            due = [step for step in steps(self._store, self._raft.status()) if step not in waiting]
            if not due:
                return waiting
            try:
                await self._carry_out(due[0], epoch)
            except (Retry, Rejected) as error:
                waiting[due[0]] = str(error)

    async def _carry_out(self, step: Step, epoch: int) -> None:
        match step:
            case Record(node_id=node_id, status=status):
                await self._record(node_id, status, epoch)
            case Expel(raft_id=raft_id) if raft_id == self._raft.status().raft_id:
                await self._raft.transfer_leadership()
                raise Retry("leadership was handed over: the next leader removes this manager")
            case Expel(raft_id=raft_id):
                await self._raft.remove_member(raft_id)
                log.info("manager_removed", raft_id=raft_id)

    async def _record(self, node_id: NodeId, status: ManagerStatus | None, epoch: int) -> None:
        report = NodeReport(node_id=node_id, manager_status=status, is_manager_removed=status is None)
        group = Group(owner=Owner.DISPATCHER, changes=(report,))
        require_applied(
            await self._proposer.propose(Batch(groups=(group,), at=self._env.clock.now(), epoch=epoch))
        )


async def _forward(watch: Watch, changed: asyncio.Event) -> None:
    while True:
        await watch.wait()
        if any(_concerns_nodes(event) for event in watch.take()):
            changed.set()


def _concerns_nodes(event: object) -> bool:
    match event:
        case Event(old=old, new=new):
            return isinstance(new if new is not None else old, Node)
        case Resync():
            return True
        case _:
            return False
