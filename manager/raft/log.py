"""The replicated log of one manager: the asyncio shell around ``SyncObjCore``.

Drives ticks (a timer, and at once after a proposal or a message), turns callbacks into awaitable calls with
bounds, and tells subscribers what changed. A proposal that certainly was not taken is proposed again while
time lasts; one whose fate is open ends as ``OutcomeUnknown``: the leader changed, the connection to it broke,
a snapshot covered its place, or its time is up.

Fail stop: a failed write or sync of the log, and any exception out of consensus, ends all acknowledging;
``status().fatal`` says why, nothing is sent any more, and the process must exit.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import structlog

from manager.raft import state_files
from manager.raft.codec import Change
from manager.raft.journal import Identity
from manager.raft.members import check_removal
from manager.raft.parts import Parts
from manager.raft.proposer import Member, RaftStatus, StateMachine, StatusCallback
from manager.raft.reading import ReadRounds
from manager.raft.sealing import Sealer
from manager.raft.snapshotter import Snapshotter
from manager.raft.syncobj import Settled, SyncObjCore, Verdict
from manager.raft.wire import Wire
from swarmpy import limits
from swarmpy.errors import (
    FailedPrecondition,
    InvalidArgument,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    Retry,
    SwarmError,
    Unavailable,
)
from swarmpy.pb import raft_pb2 as pb
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)

_ENTRY_TEXT = (
    f"the change is too large for one transaction: at most {limits.ENTRY_BYTES_MAX} bytes, "
    "split it or make its objects smaller"
)
_UNKNOWN_TEXT = "the leader of the swarm changed before it answered: the change may or may not have been made"


@dataclass(frozen=True, kw_only=True)
class RaftConfig:
    folder: Path
    """Holds the log and the snapshot, and nothing else."""
    sealer: Sealer
    snapshot_entries: int = limits.RAFT_SNAPSHOT_ENTRIES
    batch_bytes: int = limits.RAFT_BATCH_BYTES_MAX
    snapshot_pause_s: float = limits.RAFT_SNAPSHOT_PAUSE_S


def create_single(env: Env, config: RaftConfig, member: Member) -> None:
    """The files of a new cluster's first manager; ``SyncObjLog.open`` comes next."""
    identity = Identity(raft_id=member.raft_id, members=(member,))
    state_files.create(env.disk, config.folder, identity, config.sealer)


def create_joined(env: Env, config: RaftConfig, member: Member, members: tuple[Member, ...]) -> None:
    """The files of a manager that is about to join ``members``.

    It must be opened and started before it asks to be added: from then on its answer is needed.
    """
    others = tuple(m for m in members if m.raft_id != member.raft_id)
    identity = Identity(raft_id=member.raft_id, members=(*others, member), is_joined=True)
    state_files.create(env.disk, config.folder, identity, config.sealer)


class _Pending:
    """One proposal under way."""

    __slots__ = ("deadline", "future", "size")

    def __init__(self, future: asyncio.Future[tuple[Verdict, object]], size: int, deadline: float) -> None:
        self.future, self.size, self.deadline = future, size, deadline


class SyncObjLog:
    """``RaftLog`` over PySyncObj."""

    def __init__(self, core: SyncObjCore, wire: Wire, executor: Executor) -> None:
        self._core, self._wire, self._executor = core, wire, executor
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_kicked = self._is_stopped = self._is_changing = self._is_handing_over = False
        self._fatal: str | None = None
        self._pending: dict[_Pending, None] = {}
        self._pending_bytes = 0
        self._subscribers: dict[StatusCallback, None] = {}
        self._changed: asyncio.Future[None] = self._loop.create_future()
        self._leader: str | None = None
        self._reads = ReadRounds(core, self._loop)
        core.on_read_answer = self._reads.answered
        core.on_install = self._fail_pending
        self._seen = self.status()

    @classmethod
    def open(
        cls,
        config: RaftConfig,
        machine: StateMachine,
        wire: Wire,
        env: Env,
        *,
        executor: Executor | None = None,
    ) -> SyncObjLog:
        """Load what is on disk; raises ``Corrupt`` if it can't be trusted.

        ``executor`` runs the writing of snapshots: one thread of its own unless given.
        """
        executor = executor or env.threads("raft-snapshot", 1)
        snapshotter = Snapshotter(
            env.disk,
            config.folder / state_files.SNAPSHOT_NAME,
            config.sealer,
            executor=executor,
            rest=functools.partial(env.clock.rest, config.snapshot_pause_s),
        )
        loaded = state_files.load(env.disk, config.folder, config.sealer, into=machine)
        loaded.journal.compact_in(executor)
        parts = Parts(
            journal=loaded.journal,
            snapshotter=snapshotter,
            machine=machine,
            wire=wire,
            env=env,
            members=loaded.members,
            head=loaded.head,
            snapshot_entries=config.snapshot_entries,
            batch_bytes=config.batch_bytes,
        )
        return cls(SyncObjCore(parts), wire, executor)

    # --- life

    async def start(self) -> None:
        await self._wire.start(self)
        self._on_timer()

    async def stop(self) -> None:
        """Stop answering; what is in the log is durable afterwards."""
        if self._is_stopped:
            return
        self._end()
        await self._wire.stop()
        # A snapshot still being written goes to a side file that nobody will use.
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._core.snapshotter.close()
        self._core.journal.give_up_compaction()
        if self._fatal is None:
            self._core.journal.close()

    def _end(self) -> None:
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._core.transport.mute()
        self._fail_pending()
        self._reads.fail_all()
        self._wake()

    # --- proposals

    async def propose(self, entry: bytes) -> object:
        if len(entry) > limits.ENTRY_BYTES_MAX:
            raise InvalidArgument(_ENTRY_TEXT)
        deadline = self._loop.time() + limits.PROPOSE_TIMEOUT_S
        while True:
            await self._wait_for_leader()
            verdict, result = await self._submit(functools.partial(self._core.submit, entry), len(entry))
            match verdict:
                case Verdict.APPLIED if isinstance(result, Exception):
                    raise result
                case Verdict.APPLIED:
                    return result
                case Verdict.FULL:
                    raise Retry("too many changes are under way on the leader: try again")
                case Verdict.UNKNOWN:
                    raise OutcomeUnknown(self._fatal or _UNKNOWN_TEXT)
            if self._loop.time() >= deadline:
                raise NoLeader
            await self._wait_for_change(limits.RAFT_TICK_S)

    async def _submit(self, submit: Callable[[Settled], None], size: int) -> tuple[Verdict, object]:
        """Hand one proposal to the core and wait for what becomes of it."""
        is_full = len(self._pending) >= limits.RAFT_PROPOSALS_MAX
        if is_full or self._pending_bytes + size > limits.RAFT_PROPOSAL_BYTES_MAX:
            raise Retry("too many changes are under way on this manager: try again")
        future: asyncio.Future[tuple[Verdict, object]] = self._loop.create_future()
        pending = _Pending(future, size, self._loop.time() + limits.PROPOSE_TIMEOUT_S)
        self._pending[pending] = None
        self._pending_bytes += size
        submit(functools.partial(self._settled, pending))
        self._kick()
        return await future

    def _settled(self, pending: _Pending, verdict: Verdict, result: object) -> None:
        if self._pending.pop(pending, pending) is None:
            self._pending_bytes -= pending.size
        if not pending.future.done():
            pending.future.set_result((verdict, result))

    def _fail_pending(self) -> None:
        for pending in list(self._pending):
            self._settled(pending, Verdict.UNKNOWN, None)

    def _expire_pending(self) -> None:
        now = self._loop.time()
        for pending in list(self._pending):
            if pending.deadline > now:
                break
            self._settled(pending, Verdict.UNKNOWN, None)

    # --- reads

    async def read_barrier(self) -> None:
        try:
            async with asyncio.timeout(limits.READ_BARRIER_TIMEOUT_S):
                while True:
                    await self._wait_for_leader()
                    answer = self._reads.ask(self._core.leader)
                    self._kick()
                    index = await answer
                    if index:
                        break
                    await self._wait_for_change(limits.RAFT_TICK_S)
        except TimeoutError:
            self._raise_stopped()
            raise NoLeader from None
        try:
            async with asyncio.timeout(limits.READ_BARRIER_TIMEOUT_S):
                await self._reads.applied(index)
        except TimeoutError:
            self._raise_stopped()
            raise Unavailable("this manager is still catching up with the leader: try again") from None

    # --- members

    async def add_member(self, member: Member) -> None:
        self._check_may_change()
        if member.raft_id in self._core.members():
            return
        if member.raft_id in self._core.transport.removed:
            raise FailedPrecondition(
                f"manager {member.raft_id} was removed from the cluster: "
                "it must leave the swarm and join again"
            )
        await self._change(Change(True, member.raft_id, member.address))

    async def remove_member(self, raft_id: str) -> None:
        self._check_may_change()
        members = self._core.members()
        if raft_id not in members:
            return
        check_removal(members, [m for m in members if self._core.is_reachable(m)], raft_id)
        if raft_id == self._core.raft_id:
            await self.transfer_leadership()
            raise NotLeader(
                "this manager handed leadership over before leaving: ask the new leader",
                leader=self._core.leader,
            )
        await self._change(Change(False, raft_id, members[raft_id]))

    async def transfer_leadership(self) -> None:
        self._check_leads()
        if len(self._core.members()) == 1:
            raise FailedPrecondition("there is no other manager to hand leadership to")
        self._is_handing_over = True
        try:
            async with asyncio.timeout(limits.RAFT_TRANSFER_TIMEOUT_S):
                while self._core.is_leader or self._core.leader is None:
                    if self._core.is_leader:
                        self._core.hand_over()
                        self._kick()
                    await self._wait_for_change(limits.RAFT_APPEND_PERIOD_S)
        except TimeoutError:
            raise Retry("no other manager could take over leadership: try again") from None
        finally:
            self._is_handing_over = False
            self._wake()

    async def _change(self, change: Change) -> None:
        self._is_changing = True
        try:
            verdict, _ = await self._submit(functools.partial(self._core.submit_change, change), 0)
        finally:
            self._is_changing = False
        if verdict is Verdict.UNKNOWN:
            raise OutcomeUnknown(self._fatal or _UNKNOWN_TEXT)
        if verdict is not Verdict.APPLIED:
            self._check_leads()
            raise Retry("the leader could not change its members just now: try again")

    def _check_may_change(self) -> None:
        self._check_leads()
        if not self._core.is_ready_leader:
            raise Retry("this manager has just become the leader: try again")
        if self._is_changing or self._core.has_open_change():
            raise Retry("another manager is being added or removed: try again")

    def _check_leads(self) -> None:
        self._raise_stopped()
        if not self._core.is_leader:
            raise NotLeader(leader=self._core.leader)

    # --- status

    def status(self) -> RaftStatus:
        core = self._core
        members = tuple(
            Member(raft_id=raft_id, address=address, is_reachable=core.is_reachable(raft_id))
            for raft_id, address in core.members().items()
        )
        is_over = self._fatal is not None or self._is_stopped
        return RaftStatus(
            raft_id=core.raft_id,
            term=core.term,
            # the library names whom it heard last until it stands for election, which it can't do alone
            leader=core.leader if not is_over and core.leader and core.is_reachable(core.leader) else None,
            is_leader=core.is_leader and not is_over,
            is_ready_leader=core.is_ready_leader and not is_over,
            commit=core.commit_index,
            applied=core.applied_index,
            members=members,
            is_removed=core.is_removed,
            fatal=self._fatal,
        )

    @property
    def backlog(self) -> dict[str, int]:
        """Proposals under way: how many, and their bytes."""
        return {"raft_proposals": len(self._pending), "raft_proposal_bytes": self._pending_bytes}

    def subscribe(self, callback: StatusCallback) -> Callable[[], None]:
        self._subscribers[callback] = None
        return lambda: self._subscribers.pop(callback, None)

    def _publish(self) -> None:
        """Tell subscribers if anything but the indexes has changed."""
        status = self.status()
        if status.essence == self._seen.essence:
            return
        self._seen = status
        self._wake()
        for callback in self._subscribers:
            self._loop.call_soon(callback, status)

    # --- called by the wire

    @property
    def raft_id(self) -> str:
        return self._core.raft_id

    @property
    def is_newcomer(self) -> bool:
        """Joins, and has heard nothing from the others yet: it may have to ask (again) to be added."""
        return self._core.is_newcomer

    def peers(self) -> Mapping[str, str]:
        return {i: a for i, a in self._core.members().items() if i != self._core.raft_id}

    def may_dial(self, peer: str) -> bool:
        core = self._core
        # One of the two dials. So does a leader, to members that may not know it yet, and whoever is not
        # connected to a leader: it may have been removed, and then nobody dials it to tell it so.
        is_eager = core.is_leader or core.leader not in core.transport.connected
        return not self._is_stopped and not core.is_removed and (core.raft_id > peer or is_eager)

    def connected(self, peer: str) -> None:
        self._guard(self._core.transport.peer_connected, peer)
        self._kick()
        self._wake()

    def disconnected(self, peer: str) -> None:
        self._guard(self._core.transport.peer_disconnected, peer)
        if peer == self._core.leader:
            # Its answers to what was forwarded may be lost with the connection.
            self._fail_pending()
            self._reads.fail_round()

    def receive(self, peer: str, frame: pb.RaftFrame) -> None:
        try:
            self._guard(self._core.transport.receive, peer, frame)
            self._kick()
        except InvalidArgument as error:
            log.warning("raft frame refused", peer=peer, reason=str(error))
            self._wire.drop(peer)

    def removed(self) -> None:
        self._guard(self._core.removed_here)

    # --- driving

    def _on_timer(self) -> None:
        if not self._is_stopped:
            self._timer = self._loop.call_later(limits.RAFT_TICK_S, self._on_timer)
            self._tick()
            self._expire_pending()
            self._reads.expire()
            self._publish()

    def _kick(self) -> None:
        if not self._is_kicked:
            self._is_kicked = True
            self._loop.call_soon(self._on_kick)

    def _on_kick(self) -> None:
        self._is_kicked = False
        self._tick()

    def _tick(self) -> None:
        if self._is_stopped:
            return
        self._guard(self._core.tick)
        core = self._core
        if core.journal.is_dirty:
            # Once what the tick sent is on its way, so that our disk works while the followers' do.
            self._loop.call_soon(self._guard, core.sync)
        if core.leader != self._leader:
            self._leader = core.leader
            self._fail_pending()
            self._reads.fail_round()
        self._reads.advance()
        if core.is_leader != self._seen.is_leader or core.is_ready_leader != self._seen.is_ready_leader:
            self._publish()
        if core.has_work:
            self._kick()

    def _guard(self, step: Callable[..., None], *arguments: object) -> None:
        """Run one step of consensus; whatever goes wrong in it stops this manager for good."""
        if self._is_stopped:
            return
        try:
            step(*arguments)
        except InvalidArgument:
            raise
        except SwarmError as error:
            self._fail(str(error))
        except Exception as error:  # the top of raft: what is not understood ends this member, and says so
            log.error("raft failed", exc_info=error)
            self._fail(f"raft failed ({type(error).__name__}: {error}): restart this manager")

    def _fail(self, reason: str) -> None:
        self._fatal = reason
        self._end()
        for peer in sorted(self._core.transport.connected):
            self._wire.drop(peer)
        self._publish()

    # --- waiting

    async def _wait_for_leader(self) -> None:
        """Until a leader is known and connected that takes proposals; raises ``NoLeader`` after a bound."""
        if self._can_reach_leader() and not self._is_stopped:
            return
        try:
            async with asyncio.timeout(limits.READ_BARRIER_TIMEOUT_S):
                while not self._can_reach_leader():
                    self._raise_stopped()
                    await self._wait_for_change(limits.RAFT_ELECTION_MIN_S)
        except TimeoutError:
            raise NoLeader from None
        self._raise_stopped()

    def _can_reach_leader(self) -> bool:
        leader = self._core.leader
        is_here = leader == self._core.raft_id
        is_reachable = leader is not None and (is_here or leader in self._core.transport.connected)
        return is_reachable and not self._is_handing_over

    async def _wait_for_change(self, timeout_s: float) -> None:
        await asyncio.wait([self._changed], timeout=timeout_s)

    def _wake(self) -> None:
        if not self._changed.done():
            self._changed.set_result(None)
        self._changed = self._loop.create_future()

    def _raise_stopped(self) -> None:
        if self._is_stopped:
            raise Unavailable(self._fatal or "this manager is stopping")
