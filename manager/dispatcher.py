"""The dispatcher: the leader's end of every agent's session.

Liveness is the stream: its end makes a node ``disconnected`` at once (the nodes reconciler turns that into
``down`` after a grace), and heartbeats are the slower check above it. What became of a session is reported
by a loop of the dispatcher's own, since a session's call may be cancelled at any point. Statuses of all
agents are coalesced into few proposals and acknowledged once they are committed, so an agent resends what was
lost.

A manager that does not lead answers a session with a Redirect. Decides nothing about tasks or nodes; what it
knows of a node comes from the node's certificate and the store.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import islice

import structlog

from manager.control_loop import commit_barrier
from manager.fan_out import FanOut
from manager.proposer import Proposer
from manager.reconcile.nodes import RESTARTING_MESSAGE, doubted
from manager.reports import report_groups
from manager.session import Session, Shared
from manager.store.events import Event, Resync
from manager.store.store import Store
from manager.store.watch import Watch
from manager.usage import UsageBook
from swarmpy import codec
from swarmpy.errors import OutcomeUnknown, PermissionDenied, Rejected, Retry, Unavailable
from swarmpy.limits import (
    BATCH_GROUPS_MAX,
    HEARTBEAT_MISSES_MAX,
    RPC_TIMEOUT_S,
    SESSION_LAST_WORDS_S,
    SESSION_STARTS_MAX,
    SESSION_STARTS_WINDOW_S,
    STATUS_COMMIT_GAP_S,
    STATUS_UPDATES_MAX,
)
from swarmpy.model.changes import Batch, Group, NodeReport
from swarmpy.model.defaults import heartbeat_period
from swarmpy.model.ids import ID_BYTES, SECOND_NS, NodeId, SessionId, TaskId, make_id
from swarmpy.model.objects import (
    Cluster,
    Node,
    NodeDescription,
    NodeStatus,
    TaskStatus,
)
from swarmpy.model.states import NodeState, Owner
from swarmpy.pb import dispatcher_pb2 as pb
from swarmpy.pki import trust_bundle
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)


Send = Callable[[pb.ManagerMessage], Awaitable[None]]


@dataclass(frozen=True)
class _Update:
    """Statuses of one agent that wait to be committed."""

    session: Session
    sequence: int
    statuses: tuple[tuple[TaskId, TaskStatus], ...]


class Dispatcher:
    """Serves sessions for one term of leadership, which ends ``outage_s`` without a leader."""

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        env: Env,
        *,
        epoch: int,
        outage_s: float = 0.0,
        usage: UsageBook | None = None,
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._env = env
        self._epoch = epoch
        self._outage_s = outage_s
        self._usage = usage if usage is not None else UsageBook()
        self._sessions: dict[NodeId, Session] = {}
        self._shared = Shared()
        self._fan_out = FanOut(store, self._sessions, self._shared.audience)
        self._updates: asyncio.Queue[_Update] = asyncio.Queue(maxsize=STATUS_UPDATES_MAX)
        self._starts: dict[NodeId, deque[float]] = {}
        self._doubtful: dict[NodeId, NodeStatus | None] = {}
        """Nodes whose record may be at odds with their session, or its end (then: the status to report)."""
        self._watch: Watch | None = None
        self._has_doubts = asyncio.Event()
        self._is_open = asyncio.Event()
        self._is_over = False

    async def run(self) -> None:
        """Until cancelled, then ``close``."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch_store())
                tasks.create_task(self._commit_statuses())
                tasks.create_task(self._report_nodes())
                await self._doubt_all_nodes()
                self._is_open.set()
        finally:
            self.close()

    def close(self) -> None:
        """The term is over: every session, and whoever waits for one, is told to look for the leader."""
        self._is_over = True
        self._is_open.set()
        for session in list(self._sessions.values()):
            session.close("this manager leads no longer", last=pb.ManagerMessage(redirect=pb.Redirect()))

    async def wait_open(self) -> None:
        """Until sessions are served: what is known of nodes is then no longer an earlier leader's word."""
        await self._is_open.wait()

    def session_of(self, node_id: NodeId) -> Session | None:
        return self._sessions.get(node_id)

    @property
    def is_caught_up(self) -> bool:
        """Whether sessions have been told to look at all that has changed in the store."""
        return self._watch is not None and not self._watch.backlog

    @property
    def backlog(self) -> dict[str, int]:
        """What waits to be committed, and what waits for the slowest agent."""
        lengths = {"status_updates": self._updates.qsize(), "doubtful_nodes": len(self._doubtful)}
        for session in self._sessions.values():
            for name, length in session.backlog.items():
                lengths[name] = max(length, lengths.get(name, 0))
        return lengths

    # --- one session

    def make_session(self, node_id: NodeId, session_id: str) -> Session:
        return Session(node_id, SessionId(session_id), self._shared)

    async def serve(
        self,
        node_id: NodeId,
        peer_host: str,
        messages: AsyncIterator[pb.AgentMessage],
        send: Send,
    ) -> None:
        """Run one session until the agent goes, fails to beat, or is replaced by its own successor."""
        hello = await self._first_message(messages)
        await self._is_open.wait()
        if self._is_over:
            await send(pb.ManagerMessage(redirect=pb.Redirect()))
            return
        self._check_rate(node_id)
        session = self.make_session(node_id, make_id(self._env.entropy.token_bytes(ID_BYTES)))
        host = hello.advertise_addr.rpartition(":")[0] or hello.advertise_addr or peer_host
        session.notify(self._welcome(session))  # first: from its registration on, others notify it too
        try:
            await self._register(session, host, codec.from_pb(NodeDescription, hello.description))
            session.notify(self._managers())
            session.notify(self._node_notice(node_id))
            log.info("session_started", node_id=node_id, session_id=session.session_id, addr=host)
            await self._carry(session, messages, send)
        finally:
            self._unregister(session)

    async def _carry(self, session: Session, messages: AsyncIterator[pb.AgentMessage], send: Send) -> None:
        """Both halves of the stream, until one ends or the session is closed."""
        writing = asyncio.create_task(self._write(session, send))
        halves = [writing, asyncio.create_task(self._read(session, messages))]
        closing = asyncio.create_task(session.wait_closed())
        try:
            done, _ = await asyncio.wait([*halves, closing], return_when=asyncio.FIRST_COMPLETED)
            if done == {closing}:
                await asyncio.wait([writing], timeout=SESSION_LAST_WORDS_S)
        finally:
            for task in (*halves, closing):
                task.cancel()
            results = await asyncio.gather(*halves, closing, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _first_message(self, messages: AsyncIterator[pb.AgentMessage]) -> pb.Hello:
        try:
            async with asyncio.timeout(RPC_TIMEOUT_S):
                first = await anext(messages, None)
        except TimeoutError:
            raise PermissionDenied("a session starts with hello, and none has come") from None
        if first is None or first.WhichOneof("message") != "hello":
            raise PermissionDenied("a session starts with hello")
        return first.hello

    async def _register(self, session: Session, host: str, description: NodeDescription) -> None:
        if self._store.node(session.node_id) is None:
            raise PermissionDenied(
                f"node {session.node_id} is not part of this swarm: it was removed; leave and join again"
            )
        predecessor = self._sessions.get(session.node_id)
        self._sessions[session.node_id] = session
        if predecessor is not None:
            predecessor.close("a newer session of the node took over")
        status = self._status(session, NodeState.READY, addr=host)
        report = NodeReport(node_id=session.node_id, status=status, description=description)
        group = Group(owner=Owner.DISPATCHER, changes=(report,))
        await self._commit([group], is_moot=lambda: self._is_overtaken(session))

    def _check_rate(self, node_id: NodeId) -> None:
        """Two machines with one identity would take the session from each other for ever."""
        now = self._env.clock.monotonic()
        starts = self._starts.setdefault(node_id, deque())
        while starts and starts[0] <= now - SESSION_STARTS_WINDOW_S:
            starts.popleft()
        if len(starts) >= SESSION_STARTS_MAX:
            raise Unavailable(
                f"node {node_id} has opened {len(starts)} sessions within {SESSION_STARTS_WINDOW_S:.0f} s: "
                "if its data folder was copied to another machine, let that one leave and join"
            )
        starts.append(now)

    def _unregister(self, session: Session) -> None:
        session.close("the stream broke")
        if self._sessions.get(session.node_id) is not session:
            return  # a newer session of the same node took over
        if self._is_over:
            return  # the next leader finds out for itself who is alive
        del self._sessions[session.node_id]
        message = RESTARTING_MESSAGE if session.is_leaving else session.end_reason
        log.info("session_ended", node_id=session.node_id, session_id=session.session_id, reason=message)
        node = self._store.node(session.node_id)
        if node is None:
            self._starts.pop(session.node_id, None)
        else:
            gone = self._status(session, NodeState.DISCONNECTED, addr=node.status.addr, message=message)
            self._doubt(session.node_id, gone)

    def _is_overtaken(self, session: Session) -> bool:
        """Whether a newer session of the same node exists, so that this one's end says nothing any more."""
        return self._sessions.get(session.node_id, session) is not session

    def _status(self, session: Session, state: NodeState, *, addr: str, message: str = "") -> NodeStatus:
        return NodeStatus(
            state=state,
            message=message,
            addr=addr,
            since=self._env.clock.now(),
            epoch=self._epoch,
            session_id=session.session_id,
        )

    def _doubt(self, node_id: NodeId, gone: NodeStatus | None = None) -> None:
        self._doubtful[node_id] = gone or self._doubtful.get(node_id)
        self._has_doubts.set()

    async def _report_nodes(self) -> None:
        """Commit which nodes have gone, and vouch for those that were called gone and have a session."""
        while True:
            await self._has_doubts.wait()
            self._has_doubts.clear()
            while self._doubtful:
                taken = dict(islice(self._doubtful.items(), BATCH_GROUPS_MAX))
                for node_id in taken:
                    del self._doubtful[node_id]
                groups = [group for node_id, gone in taken.items() for group in self._verdict(node_id, gone)]
                try:
                    if groups:
                        batch = Batch(groups=tuple(groups), at=self._env.clock.now(), epoch=self._epoch)
                        await self._proposer.propose(batch)
                except Retry as error:
                    # judged anew: who has gone may be back by then
                    self._doubtful = {**taken, **self._doubtful}
                    await asyncio.sleep(error.delay_s)

    def _verdict(self, node_id: NodeId, gone: NodeStatus | None) -> list[Group]:
        """What the node's record should say now, if it does not say so already."""
        session, node = self._sessions.get(node_id), self._store.node(node_id)
        if node is None:
            return []
        status = gone
        if session is not None:
            is_known = node.status.state is NodeState.READY
            status = None if is_known else self._status(session, NodeState.READY, addr=node.status.addr)
        if status is None:
            return []
        return [Group(owner=Owner.DISPATCHER, changes=(NodeReport(node_id=node_id, status=status),))]

    async def _write(self, session: Session, send: Send) -> None:
        while True:
            if self._env.buggify("dispatcher.resync"):
                session.resync()
            for message in session.next_messages(self._store):
                await send(message)
            if session.is_closed:
                return
            await session.wait()

    async def _read(self, session: Session, messages: AsyncIterator[pb.AgentMessage]) -> None:
        """Take what the agent says, until it falls silent or ends the stream."""
        try:
            while True:
                period = heartbeat_period(self._store.cluster())
                async with asyncio.timeout(period / SECOND_NS * HEARTBEAT_MISSES_MAX):
                    message = await anext(messages, None)
                if message is None:
                    session.close("the agent ended the stream")
                    return
                await self._take(session, message)
        except TimeoutError:
            session.close("heartbeats were missed")

    async def _take(self, session: Session, message: pb.AgentMessage) -> None:
        match message.WhichOneof("message"):
            case "statuses":
                await self._updates.put(self._checked(session, message.statuses))
            case "description":
                description = codec.from_pb(NodeDescription, message.description)
                report = NodeReport(node_id=session.node_id, description=description)
                await self._commit([Group(owner=Owner.DISPATCHER, changes=(report,))])
            case "usage":
                own = [task for task in message.usage.tasks if self._is_task_of(session, task.task_id)]
                self._usage.take(own, self._env.clock.now())
            case "goodbye":
                session.is_leaving = True
            case _:
                pass  # a heartbeat, or something newer than this manager

    def _is_task_of(self, session: Session, task_id: str) -> bool:
        task = self._store.task(TaskId(task_id))
        return task is not None and task.node_id == session.node_id

    def _checked(self, session: Session, update: pb.StatusUpdate) -> _Update:
        """Drop statuses of tasks that are not this node's: an agent speaks for its own tasks only."""
        statuses = []
        for reported in update.statuses:
            task = self._store.task(TaskId(reported.task_id))
            if task is None or task.node_id != session.node_id:
                log.info("status_refused", node_id=session.node_id, task_id=reported.task_id)
                continue
            statuses.append((task.id, codec.from_pb(TaskStatus, reported.status)))
        return _Update(session, update.sequence, tuple(statuses))

    # --- what agents are told

    async def _watch_store(self) -> None:
        with self._store.watch() as watch:
            self._watch = watch
            while True:
                await watch.wait()
                for event in watch.take():
                    match event:
                        case Event(old=old, new=new):
                            self._spread(old, new)
                        case Resync():
                            for session in self._sessions.values():
                                session.resync()
                        case _:
                            pass

    def _spread(self, old: object | None, new: object | None) -> None:
        """Tell the sessions concerned that something may have changed for them."""
        self._fan_out.spread(old, new)
        match new if new is not None else old:
            case Node():
                self._node_changed(old, new)
            case Cluster(root_ca=root):
                if not isinstance(old, Cluster) or trust_bundle(old.root_ca) != trust_bundle(root):
                    for session in self._sessions.values():
                        session.notify(self._node_notice(session.node_id))
            case _:
                pass

    def _node_changed(self, old: object | None, new: object | None) -> None:
        before = old if isinstance(old, Node) else None
        after = new if isinstance(new, Node) else None
        if after is not None and after.status.state is not NodeState.READY and after.id in self._sessions:
            # decided on an older state of affairs, and committed after the session was
            self._doubt(after.id)
        manager_before = before.manager_status if before else None
        manager_after = after.manager_status if after else None
        if manager_before != manager_after:
            managers = self._managers()
            for session in self._sessions.values():
                session.notify(managers)
        if after is None:
            assert before is not None
            if before.id in self._sessions:
                self._sessions[before.id].close("the node was removed")
        elif after.id in self._sessions and (before is None or _told(before) != _told(after)):
            self._sessions[after.id].notify(self._node_notice(after.id))

    def _welcome(self, session: Session) -> pb.ManagerMessage:
        period = heartbeat_period(self._store.cluster())
        return pb.ManagerMessage(welcome=pb.Welcome(session_id=session.session_id, heartbeat_period=period))

    def _managers(self) -> pb.ManagerMessage:
        peers = [
            pb.ManagerPeer(node_id=node.id, addr=node.manager_status.addr)
            for node in sorted(self._store.manager_nodes(), key=lambda node: node.id)
            if node.manager_status is not None
        ]
        return pb.ManagerMessage(managers=pb.ManagerList(managers=peers))

    def _node_notice(self, node_id: NodeId) -> pb.ManagerMessage:
        notice = pb.NodeNotice()
        node = self._store.node(node_id)
        if node is not None:
            codec.write_pb(node, notice.node)
        cluster = self._store.cluster()
        if cluster is not None:
            notice.root_ca = trust_bundle(cluster.root_ca)
        return pb.ManagerMessage(node=notice)

    # --- what agents report

    async def _commit_statuses(self) -> None:
        """Coalesce what has come in since the last commit; the first after quiet goes at once."""
        while True:
            updates = [await self._updates.get()]
            count = len(updates[0].statuses)
            most = 1 if self._env.buggify("dispatcher.small_batch") else BATCH_GROUPS_MAX
            while count < most and not self._updates.empty():
                updates.append(self._updates.get_nowait())
                count += len(updates[-1].statuses)
            reports = (report for update in updates for report in update.statuses)
            await self._commit_reports(report_groups(self._store, reports, self._env.clock.now()))
            for update in updates:
                update.session.notify(pb.ManagerMessage(status_ack=pb.StatusAck(sequence=update.sequence)))
            await asyncio.sleep(STATUS_COMMIT_GAP_S)

    async def _commit_reports(self, groups: list[Group]) -> None:
        """Commit, in parts if it is too much for one entry; what is too large by itself is dropped."""
        try:
            await self._commit(groups)
        except Rejected as error:
            if len(groups) == 1:
                log.warning("status_rejected", reason=str(error))
                return
            middle = len(groups) // 2
            await self._commit_reports(groups[:middle])
            await self._commit_reports(groups[middle:])

    async def _commit(self, groups: list[Group], *, is_moot: Callable[[], bool] = lambda: False) -> None:
        """Propose what merges harmlessly when repeated, until its outcome is known or it ``is_moot``."""
        if not groups:
            return
        batch = Batch(groups=tuple(groups), at=self._env.clock.now(), epoch=self._epoch)
        while not (self._is_over or is_moot()):
            try:
                await self._proposer.propose(batch)
            except OutcomeUnknown:
                await commit_barrier(self._proposer, self._env, epoch=self._epoch)
            except Retry as error:
                await asyncio.sleep(error.delay_s)
            else:
                return

    async def _doubt_all_nodes(self) -> None:
        """A new leader does not know who is alive: nodes are ``unknown`` until they open a session."""
        groups = []
        now, nodes = self._env.clock.now(), self._store.nodes()
        for node in sorted(nodes, key=lambda node: node.id):
            status = doubted(
                node, now=now, epoch=self._epoch, outage_s=self._outage_s, cluster_size=len(nodes)
            )
            if status is not None:
                report = NodeReport(node_id=node.id, status=status)
                groups.append(Group(owner=Owner.DISPATCHER, changes=(report,)))
        for start in range(0, len(groups), BATCH_GROUPS_MAX):
            await self._commit(groups[start : start + BATCH_GROUPS_MAX])


def _told(node: Node) -> tuple[object, ...]:
    """What a node is told about itself."""
    return node.spec, node.role, node.wanted_issuer
