"""What a leader runs, and for how long: one set of loops per term of leadership.

Gaining leadership first commits a fence: from then on the store refuses every batch that an earlier
leader's loops proposed, however late it arrives. Then the dispatcher commits which nodes it doubts, and only
then is anything decided. Losing leadership cancels everything; nothing is handed
over, since all that matters is in the store.

A loop that fails ends its term: the failure is logged, and the term begins anew after a growing delay, with
everything dirty and every session opened again. A leader never leads on with a loop missing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

import structlog

from manager.control_loop import ControlLoop, retry_delay_s
from manager.dispatcher import Dispatcher
from manager.keys import NetworkKeys
from manager.log_hub import LogHub
from manager.membership import Membership
from manager.outage import Outage
from manager.proposer import Proposer
from manager.raft.proposer import RaftLog, RaftStatus
from manager.reconcile.plan import Reconciler
from manager.store.store import Store
from manager.streams import StreamHub
from manager.usage import UsageBook
from swarmpy.errors import Retry
from swarmpy.limits import OUTAGE_LOOK_S, TERM_SETTLED_S
from swarmpy.model.changes import Batch
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)


class Term:
    """The parts that one term of leadership runs."""

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        env: Env,
        *,
        reconcilers: Callable[[UsageBook], Sequence[Reconciler]],
        epoch: int,
        outage_s: float,
    ) -> None:
        self.epoch = epoch
        usage = UsageBook()
        self.dispatcher = Dispatcher(store, proposer, env, epoch=epoch, outage_s=outage_s, usage=usage)
        self.log_hub = LogHub(store, self.dispatcher, env)
        self.streams = StreamHub(store, self.dispatcher, env)
        self.network_keys = NetworkKeys(store, proposer, env, epoch=epoch)
        self.loop = ControlLoop(store, proposer, env, reconcilers=reconcilers(usage), epoch=epoch)


class Leader:
    """Watches raft and runs a Term whenever this manager leads."""

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        raft: RaftLog,
        env: Env,
        *,
        reconcilers: Callable[[UsageBook], Sequence[Reconciler]],
        is_new: bool = False,
    ) -> None:
        """``is_new``: this manager joins now, so until now the cluster had a leader."""
        self._store = store
        self._proposer = proposer
        self._raft = raft
        self._env = env
        self._reconcilers = reconcilers
        self.membership = Membership(store, proposer, raft, env)
        self._changed = asyncio.Event()
        self._outage = Outage(since=env.clock.monotonic()) if is_new else Outage()
        self.term: Term | None = None
        """The present term, while this manager leads and has its loops running."""

    async def run(self) -> None:
        """Until cancelled."""
        unsubscribe = self._raft.subscribe(self._status_changed)
        looking = asyncio.create_task(self._look())
        failures = 0
        try:
            while True:
                self._changed.clear()
                status = self._raft.status()
                if not status.is_ready_leader:
                    failures = 0
                    await self._changed.wait()
                    continue
                began = self._env.clock.monotonic()
                try:
                    await self._lead(status.term)
                except Exception:  # the top of all that a leader does: it must not end in silence
                    is_settled = self._env.clock.monotonic() - began >= TERM_SETTLED_S
                    failures = 1 if is_settled else failures + 1
                    delay_s = retry_delay_s(failures)
                    log.exception("term_failed", epoch=status.term, retry_in_s=delay_s)
                    await asyncio.sleep(delay_s)
        finally:
            unsubscribe()
            looking.cancel()
            await asyncio.wait([looking])

    async def _look(self) -> None:
        while True:
            self._note_leader(self._raft.status())
            await asyncio.sleep(OUTAGE_LOOK_S)

    def _status_changed(self, status: RaftStatus) -> None:
        self._note_leader(status)
        self._changed.set()

    def _note_leader(self, status: RaftStatus) -> None:
        leader = status.raft_id if status.is_leader else status.leader
        self._outage.note(leader, now=self._env.clock.monotonic())

    async def _lead(self, epoch: int) -> None:
        try:
            await self._proposer.propose(Batch(at=self._env.clock.now(), epoch=epoch))
        except Retry as error:
            log.info("leadership_fence_failed", epoch=epoch, reason=str(error))
            await asyncio.sleep(error.delay_s)
            return
        outage_s = self._outage.seconds(now=self._env.clock.monotonic())
        known_s = round(outage_s, 1) if math.isfinite(outage_s) else None
        log.info("leadership_gained", epoch=epoch, outage_s=known_s)
        term = Term(
            self._store,
            self._proposer,
            self._env,
            reconcilers=self._reconcilers,
            epoch=epoch,
            outage_s=outage_s,
        )
        self.term = term
        work = asyncio.create_task(self._run_term(term))
        try:
            while self._leads(epoch) and not work.done():
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                try:
                    await asyncio.wait([changed, work], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
        finally:
            self.term = None
            work.cancel()
            await asyncio.wait([work])
            term.dispatcher.close()  # also if it was cancelled before its first step
            term.log_hub.close()
            term.streams.close()
            log.info("leadership_lost", epoch=epoch)
        if not work.cancelled() and (failure := work.exception()) is not None:
            raise failure

    def _leads(self, epoch: int) -> bool:
        status = self._raft.status()
        return status.is_leader and status.term == epoch

    async def _run_term(self, term: Term) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run_loop(term))
            tasks.create_task(term.dispatcher.run())
            tasks.create_task(self.membership.run(epoch=term.epoch))
            tasks.create_task(term.network_keys.run())

    async def _run_loop(self, term: Term) -> None:
        """Nothing is decided on an earlier leader's word of which nodes have gone."""
        await term.dispatcher.wait_open()
        await term.loop.run()
