"""``ControlLoop``: the one driver of all reconcilers on the leading manager.

An event only marks keys dirty; a run reads the present state and plans. All plans of a run are made over one
draft and leave as one proposal, and the next run starts when that proposal's outcome is known: so no two
decisions of this cluster ever race, and a scale-up from wish to ASSIGNED is one commit. On gaining leadership
every key is dirty; there is no other start-up code.

The loop debounces (the first change after quiet runs at once; what one run left over goes on at once), ends
a run when its time slice or its batch is full, and backs off from keys whose reconcile raised. It decides
nothing itself.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec.structs
import structlog

from manager.proposer import Proposer
from manager.reconcile.plan import PROVISIONAL_PREFIX, Note, Plan, Reconciler
from manager.store.draft import Draft
from manager.store.events import Commit, Event, Resync
from manager.store.store import Store
from manager.store.watch import Watch
from swarmpy.errors import OutcomeUnknown, Rejected, Retry
from swarmpy.limits import (
    BATCH_GROUPS_MAX,
    DEBOUNCE_S,
    RETRY_DELAY_MAX_S,
    RETRY_DELAY_MIN_S,
    SLICE_S,
)
from swarmpy.model.changes import Applied, Batch, Change, Create, Group
from swarmpy.model.ids import ID_BYTES, SECOND_NS, TaskId, Timestamp, make_id
from swarmpy.model.objects import Task
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)

_Key = tuple[int, str]
"""Index of the reconciler, its key."""

_NEVER = Timestamp(2**63)
_DOUBLINGS_MAX = 16


@dataclass
class _Run:
    """One round: groups planned over one draft, and which key each came from."""

    draft: Draft
    base: int
    """The store's version that the draft began with."""
    groups: list[Group] = field(default_factory=list)
    sources: list[_Key] = field(default_factory=list)
    notes: list[tuple[str, Note]] = field(default_factory=list)


class ControlLoop:
    """Runs reconcilers for one term of leadership."""

    def __init__(
        self, store: Store, proposer: Proposer, env: Env, *, reconcilers: Sequence[Reconciler], epoch: int
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._env = env
        self._reconcilers = tuple(reconcilers)
        self._epoch = epoch
        self._dirty: dict[_Key, None] = {}
        self._wakes: list[tuple[Timestamp, _Key]] = []
        self._wake_at: dict[_Key, Timestamp] = {}
        """The earliest wake-up of each key: the one entry of the heap that counts."""
        self._failures: dict[_Key, int] = {}
        self._has_backlog = False

    async def run(self) -> None:
        """Until cancelled."""
        with self._store.watch() as watch:
            self._mark_all()
            last_run = float("-inf")
            while True:
                await self._wait_for_work(watch)
                await asyncio.sleep(0)  # a thousand events may just have been looked at
                quiet_s = self._env.clock.monotonic() - last_run
                if quiet_s < DEBOUNCE_S and not self._has_backlog:
                    await asyncio.sleep(DEBOUNCE_S - quiet_s)
                    self._take_events(watch)
                await self._run_once()
                last_run = self._env.clock.monotonic()

    @property
    def backlog(self) -> dict[str, int]:
        """Keys that are to be looked at, now and later."""
        return {"dirty_keys": len(self._dirty), "wakes": len(self._wakes)}

    # --- what is dirty

    def _mark_all(self) -> None:
        for index, reconciler in enumerate(self._reconcilers):
            for key in reconciler.keys(self._store):
                self._dirty[(index, key)] = None

    async def _wait_for_work(self, watch: Watch) -> None:
        self._take_events(watch)
        while not self._dirty:
            timeout_s = None
            if self._wakes:
                timeout_s = max((self._wakes[0][0] - self._env.clock.now()) / SECOND_NS, 0.0)
            try:
                async with asyncio.timeout(timeout_s):
                    await watch.wait()
            except TimeoutError:
                pass  # a wake-up is due
            self._take_events(watch)

    def _take_events(self, watch: Watch) -> None:
        for event in watch.take():
            match event:
                case Event(old=old, new=new):
                    for index, reconciler in enumerate(self._reconcilers):
                        for key in reconciler.dirty(self._store, old, new):
                            self._dirty[(index, key)] = None
                case Resync():
                    self._mark_all()
                case Commit():
                    if self._env.buggify("control_loop.resync"):
                        self._mark_all()
        now = self._env.clock.now()
        while self._wakes and self._wakes[0][0] <= now:
            at, woken = heapq.heappop(self._wakes)
            if self._wake_at.get(woken) == at:
                del self._wake_at[woken]
                self._dirty[woken] = None

    def _wake(self, key: _Key, at: Timestamp) -> None:
        """Look at the key again at this time, unless it will be looked at before."""
        if at < self._wake_at.get(key, _NEVER):
            self._wake_at[key] = at
            heapq.heappush(self._wakes, (at, key))

    def _back_off(self, key: _Key) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self._wake(key, Timestamp(self._env.clock.now() + int(retry_delay_s(failures) * SECOND_NS)))

    # --- one round

    async def _run_once(self) -> None:
        run = self._plan()
        self._has_backlog = bool(self._dirty)
        await asyncio.sleep(0)  # planning and encoding are two slices: let others run between them
        if run.groups:
            started = self._env.clock.monotonic()
            await self._commit(run.groups, run.sources, base=run.base)
            took_ms = round((self._env.clock.monotonic() - started) * 1000, 1)
            log.debug("reconciled", groups=len(run.groups), took_ms=took_ms)
        for name, note in run.notes:
            log.info(note.event, loop=name, **note.facts)

    def _plan(self) -> _Run:
        """Reconcile dirty keys over one draft until the slice or the batch is full."""
        clock = self._env.clock
        run = _Run(draft=Draft(self._store, at=clock.now()), base=self._store.version)
        deadline = clock.monotonic() + SLICE_S
        while self._dirty and len(run.groups) < BATCH_GROUPS_MAX:
            key = next(iter(self._dirty))
            del self._dirty[key]
            self._plan_key(run, key)
            if clock.monotonic() >= deadline or self._env.buggify("control_loop.slice_over"):
                break
        return run

    def _plan_key(self, run: _Run, key: _Key) -> None:
        reconciler = self._reconcilers[key[0]]
        now = self._env.clock.now()
        try:
            plan = reconciler.reconcile(run.draft, key[1], now)
            self._take_plan(run, key, plan)
        except Exception:  # the top of every control loop: one bad key must not stop the others
            log.exception("reconcile_failed", loop=reconciler.name, key=key[1])
            self._back_off(key)

    def _take_plan(self, run: _Run, key: _Key, plan: Plan) -> None:
        name = self._name(key)
        is_sound = True
        for group in plan.groups:
            stamped = stamp(group, lambda: make_id(self._env.entropy.token_bytes(ID_BYTES)))
            refusal = run.draft.apply(stamped)
            if refusal is not None:
                # the plan is at odds with the state that it was made of: a defect, or a race with itself
                log.error("plan_refused", loop=name, key=key[1], reason=refusal.reason)
                is_sound = False
                continue
            run.groups.append(stamped)
            run.sources.append(key)
        if plan.wake_at is not None:
            self._wake(key, plan.wake_at)
        if not is_sound:
            self._back_off(key)
        elif plan.is_partial:
            self._dirty[key] = None
        elif not plan.groups:
            self._failures.pop(key, None)
        run.notes.extend((name, note) for note in plan.notes)

    async def _commit(self, groups: list[Group], sources: list[_Key], *, base: int) -> bool:
        """Propose; what was not taken is decided again. Whether it came out as planned, to the version."""
        batch = Batch(groups=tuple(groups), at=self._env.clock.now(), epoch=self._epoch, base=base)
        try:
            applied = await self._proposer.propose(batch)
        except OutcomeUnknown:
            # the log order settles what happened: once a later entry is in, so is this one, or never
            log.warning("proposal_outcome_unknown", groups=len(groups))
            await commit_barrier(self._proposer, self._env, epoch=self._epoch)
        except Retry as error:
            log.info("proposal_refused", groups=len(groups), reason=str(error))
            await asyncio.sleep(error.delay_s)
        except Rejected as error:
            return await self._commit_apart(groups, sources, error, base=base)
        else:
            return self._settle(sources, applied) and applied.version == base + len(groups)
        self._dirty.update(dict.fromkeys(sources))
        return False

    async def _commit_apart(
        self, groups: list[Group], sources: list[_Key], error: Rejected, *, base: int
    ) -> bool:
        """Too much for one entry: propose in halves. The second half rests on the first."""
        if len(groups) == 1:
            log.error("group_rejected", loop=self._name(sources[0]), key=sources[0][1], reason=str(error))
            self._back_off(sources[0])
            return False
        middle = len(groups) // 2
        if await self._commit(groups[:middle], sources[:middle], base=base):
            return await self._commit(groups[middle:], sources[middle:], base=base + middle)
        self._dirty.update(dict.fromkeys(sources[middle:]))
        return False

    def _settle(self, sources: list[_Key], applied: Applied) -> bool:
        refused = {sources[refusal.index] for refusal in applied.refused}
        for key in sources:
            if key not in refused:
                self._failures.pop(key, None)
        for refusal in applied.refused:
            key = sources[refusal.index]
            log.info("group_refused", loop=self._name(key), key=key[1], reason=refusal.reason)
            if refusal.is_stale:
                self._dirty[key] = None
            else:
                self._back_off(key)
        return not refused

    def _name(self, key: _Key) -> str:
        return self._reconcilers[key[0]].name


def retry_delay_s(failures: int) -> float:
    """How long to wait after that many failures in a row."""
    factor: int = 2 ** min(failures, _DOUBLINGS_MAX)
    return min(RETRY_DELAY_MIN_S * factor, RETRY_DELAY_MAX_S)


async def commit_barrier(proposer: Proposer, env: Env, *, epoch: int) -> None:
    """Commit an empty batch; what was proposed before is then in the log for good, or never will be."""
    while True:
        try:
            await proposer.propose(Batch(at=env.clock.now(), epoch=epoch))
        except Retry as error:
            await asyncio.sleep(error.delay_s)
        else:
            return


def stamp(group: Group, new_id: Callable[[], str]) -> Group:
    """Give created tasks their real ids in place of the plan's provisional ones."""
    names: dict[str, TaskId] = {}
    changes: list[Change] = []
    for change in group.changes:
        if isinstance(change, Create) and isinstance(change.object, Task):
            provisional = change.object.id
            if provisional.startswith(PROVISIONAL_PREFIX):
                names[provisional] = TaskId(new_id())
                stamped = msgspec.structs.replace(change.object, id=names[provisional])
                changes.append(msgspec.structs.replace(change, object=stamped))
                continue
        changes.append(change)
    return msgspec.structs.replace(group, changes=tuple(changes)) if names else group
