"""The driver of all reconcilers: one proposal at a time, dirty keys, wake-ups, refusals, doubt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
from clusters import Firing, apply, make_service, scaled, seeded_env, store_with
from msgspec.structs import replace

from manager import proposer as proposer_module
from manager.control_loop import ControlLoop, retry_delay_s
from manager.proposer import RaftProposer
from manager.raft.memory import MemoryLog
from manager.reconcile.plan import NOTHING, Plan
from manager.store.store import Store
from manager.store.view import View
from swarmpy.errors import OutcomeUnknown
from swarmpy.limits import RETRY_DELAY_MAX_S
from swarmpy.model.changes import Applied, Batch, Create, Group, Update
from swarmpy.model.ids import NodeId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Service, Task, TaskStatus
from swarmpy.model.states import Owner, TaskState

DEADLINE_S = 20.0


class OneTaskEach:
    """A toy reconciler: each service gets as many assigned tasks as it wishes for, a few per call."""

    name = "toy"
    per_call = 3

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.wake_at: Timestamp | None = None
        self.fails: set[str] = set()

    def keys(self, view: View) -> Iterable[str]:
        return [service.id for service in view.services()]

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        return [new.id] if isinstance(new, Service) else []

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        self.calls.append(key)
        if key in self.fails:
            raise ValueError(f"no plan for {key}")
        service = view.service(ServiceId(key))
        if service is None or service.spec.mode.replicated is None:
            return NOTHING
        have = len(view.tasks_of_service(service.id))
        missing = (service.spec.mode.replicated.replicas or 0) - have
        groups = tuple(
            Group(owner=Owner.ORCHESTRATOR, changes=(Create(object=_task(service, number)),))
            for number in range(1, min(missing, self.per_call) + 1)
        )
        wake_at, self.wake_at = self.wake_at, None
        return Plan(groups=groups, wake_at=wake_at, is_partial=missing > self.per_call)


def _task(service: Service, number: int) -> Task:
    return Task(
        id=TaskId(f"+{number}"),
        service_id=service.id,
        slot=number,
        node_id=NodeId("node-1"),
        revision_id=service.template_id,
        status=TaskStatus(state=TaskState.ASSIGNED),
    )


class CountingProposer(RaftProposer):
    """Counts proposals that are under way at once; can forget to tell the outcome of the next one."""

    def __init__(self, store: Store) -> None:
        log = MemoryLog(store)
        log._is_running = True
        super().__init__(log)
        self.under_way = 0
        self.batches: list[Batch] = []
        self.swallow_next: bool | None = None
        """True: commit it and lose the answer; False: lose the batch."""
        self.before_next: Callable[[], None] = lambda: None
        """What another writer does while the next proposal is under way."""

    async def propose(self, batch: Batch) -> Applied:
        self.under_way += 1
        assert self.under_way == 1, "two decisions race"
        self.batches.append(batch)
        try:
            swallow, self.swallow_next = self.swallow_next, None
            self.before_next()
            self.before_next = lambda: None
            if swallow is False:
                raise OutcomeUnknown("lost")
            applied = await super().propose(batch)
            if swallow:
                raise OutcomeUnknown("committed, but the answer is lost")
            return applied
        finally:
            self.under_way -= 1


@asynccontextmanager
async def running(
    store: Store, toy: OneTaskEach, fault_point: Firing | None = None
) -> AsyncIterator[CountingProposer]:
    proposer = CountingProposer(store)
    env = seeded_env(fault_point=fault_point)
    loop = ControlLoop(store, proposer, env, reconcilers=[toy], epoch=1)
    task = asyncio.create_task(loop.run())
    try:
        yield proposer
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def test_everything_is_dirty_at_first_and_partial_plans_go_on() -> None:
    store, toy = store_with(services=(make_service("web", replicas=10),)), OneTaskEach()
    async with running(store, toy) as proposer:
        await until(lambda: len(store.tasks()) == 10)
    assert len({task.id for task in store.tasks()}) == 10
    assert not any(task.id.startswith("+") for task in store.tasks())
    assert all(batch.epoch == 1 for batch in proposer.batches)


async def test_an_event_makes_its_key_dirty() -> None:
    service, revision = make_service("web", replicas=1)
    store, toy = store_with(services=((service, revision), make_service("db", replicas=0))), OneTaskEach()
    async with running(store, toy):
        await until(lambda: len(store.tasks()) == 1)
        toy.calls.clear()
        stored = store.service(service.id)
        assert stored is not None
        apply(store, Update(object=scaled(stored, 2)))
        await until(lambda: len(store.tasks()) == 2)
    assert "db-s" not in toy.calls


async def test_a_run_of_many_keys_is_one_proposal() -> None:
    services = tuple(make_service(f"s{number}", replicas=2) for number in range(20))
    store, toy = store_with(services=services), OneTaskEach()
    async with running(store, toy) as proposer:
        await until(lambda: len(store.tasks()) == 40)
    assert len(proposer.batches) == 1


async def test_a_fault_point_ends_a_run_after_one_key() -> None:
    """What is left is planned at once, in the next run."""
    services = tuple(make_service(f"s{number}", replicas=2) for number in range(5))
    store, toy = store_with(services=services), OneTaskEach()
    async with running(store, toy, Firing("control_loop.slice_over", 2)) as proposer:
        await until(lambda: len(store.tasks()) == 10)
    assert [len(batch.groups) for batch in proposer.batches] == [2, 2, 6]


async def test_a_fault_point_makes_every_key_dirty_as_an_overflow_does() -> None:
    store = store_with(services=(make_service("web", replicas=1), make_service("db", replicas=0)))
    toy, point = OneTaskEach(), Firing("control_loop.resync", 0)
    async with running(store, toy, point):
        await until(lambda: len(store.tasks()) == 1)
        toy.calls.clear()
        point.left = 1
        stored = store.service(ServiceId("web-s"))
        assert stored is not None
        apply(store, Update(object=scaled(stored, 2)))
        await until(lambda: len(store.tasks()) == 2 and "db-s" in toy.calls)
    assert point.left == 0


async def test_one_key_that_raises_does_not_stop_the_others_and_is_tried_again() -> None:
    store = store_with(services=(make_service("bad", replicas=1), make_service("good", replicas=1)))
    toy = OneTaskEach()
    toy.fails.add("bad-s")
    async with running(store, toy):
        await until(lambda: len(store.tasks()) == 1 and toy.calls.count("bad-s") >= 2)
        toy.fails.clear()
        await until(lambda: len(store.tasks()) == 2)


async def test_a_wake_up_calls_again_without_any_event() -> None:
    store, toy = store_with(services=(make_service("web", replicas=0),)), OneTaskEach()
    toy.wake_at = Timestamp(seeded_env().clock.now() + 100_000_000)
    async with running(store, toy):
        await until(lambda: len(toy.calls) == 2)


async def test_an_unknown_outcome_is_settled_by_a_barrier_then_decided_again() -> None:
    for is_committed in (True, False):
        store, toy = store_with(services=(make_service("web", replicas=2),)), OneTaskEach()
        proposer = CountingProposer(store)
        proposer.swallow_next = is_committed
        loop = ControlLoop(store, proposer, seeded_env(), reconcilers=[toy], epoch=1)
        task = asyncio.create_task(loop.run())
        await until(lambda store=store, toy=toy: len(store.tasks()) == 2 and len(toy.calls) >= 2)  # type: ignore[misc]
        task.cancel()
        await asyncio.wait([task])
        assert proposer.batches[1].groups == ()
        assert len(store.tasks()) == 2, "nothing is created twice"


async def test_a_stale_group_is_decided_again() -> None:
    class Labeller(OneTaskEach):
        """Puts a label on each service by a guarded update."""

        def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
            self.calls.append(key)
            service = view.service(ServiceId(key))
            if service is None or service.spec.labels:
                return NOTHING
            labelled = replace(service, spec=replace(service.spec, labels={"seen": "1"}))
            return Plan(groups=(Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=labelled),)),))

    store, toy = store_with(services=(make_service("web"),)), Labeller()
    proposer = CountingProposer(store)
    proposer.before_next = lambda: apply(store, Update(object=scaled(_stored(store, "web-s"), 7)))
    loop = ControlLoop(store, proposer, seeded_env(), reconcilers=[toy], epoch=1)
    task = asyncio.create_task(loop.run())
    await until(lambda: bool(_stored(store, "web-s").spec.labels))
    task.cancel()
    await asyncio.wait([task])
    mode = _stored(store, "web-s").spec.mode
    assert mode.replicated is not None
    assert mode.replicated.replicas == 7, "the other writer's change was not overwritten"


async def test_what_is_too_much_for_one_entry_is_proposed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    store, toy = store_with(services=(make_service("web", replicas=40),)), OneTaskEach()
    toy.per_call = 40
    monkeypatch.setattr(proposer_module, "ENTRY_BYTES_MAX", 1_000)
    async with running(store, toy) as proposer:
        await until(lambda: len(store.tasks()) == 40)
    assert len(proposer.batches) > 4
    assert len(toy.calls) < 5, "each half rests on the one before: nothing had to be decided again"


async def test_a_group_that_is_too_large_by_itself_backs_off_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Heavy(OneTaskEach):
        def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
            if key != "heavy-s":
                return super().reconcile(view, key, now)
            self.calls.append(key)
            service = _stored(store, key)
            labels = replace(service.spec, labels={"x": "y" * 2_000})
            group = Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=replace(service, spec=labels)),))
            return Plan(groups=(group,))

    services = (make_service("heavy"), make_service("light", replicas=1))
    store, toy = store_with(services=services), Heavy()
    monkeypatch.setattr(proposer_module, "ENTRY_BYTES_MAX", 1_000)
    async with running(store, toy):
        await until(lambda: len(store.tasks()) == 1 and toy.calls.count("heavy-s") >= 2)
        await asyncio.sleep(0.3)
        assert toy.calls.count("heavy-s") < 6


async def test_a_plan_that_the_draft_refuses_is_made_again_later() -> None:
    class Confused(OneTaskEach):
        is_confused = True

        def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
            if not self.is_confused:
                return super().reconcile(view, key, now)
            self.calls.append(key)
            stranger = replace(_task(_stored(store, key), 1), node_id=NodeId("nowhere"))
            group = Group(owner=Owner.ORCHESTRATOR, changes=(Create(object=stranger),))
            return Plan(groups=(group,), is_partial=True)

    store, toy = store_with(services=(make_service("web", replicas=1),)), Confused()
    async with running(store, toy):
        await until(lambda: len(toy.calls) >= 2)
        assert len(toy.calls) < 10, "it is not asked without a pause"
        toy.is_confused = False
        await until(lambda: len(store.tasks()) == 1)


async def test_wake_ups_of_a_key_do_not_pile_up() -> None:
    class Restless(OneTaskEach):
        def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
            self.calls.append(key)
            return Plan(wake_at=Timestamp(now + 3600 * 10**9))

    store, toy = store_with(services=(make_service("web"),)), Restless()
    loop = ControlLoop(store, CountingProposer(store), seeded_env(), reconcilers=[toy], epoch=1)
    task = asyncio.create_task(loop.run())
    for replicas in range(2, 7):
        seen = len(toy.calls)
        apply(store, Update(object=scaled(_stored(store, "web-s"), replicas)))
        await until(lambda seen=seen: len(toy.calls) > seen)  # type: ignore[misc]
    assert len(loop._wakes) == 1
    task.cancel()
    await asyncio.wait([task])


def test_delays_grow_up_to_a_bound_however_often_it_failed() -> None:
    delays = [retry_delay_s(failures) for failures in (1, 2, 3, 50, 5_000)]
    assert delays == sorted(delays)
    assert delays[-1] == RETRY_DELAY_MAX_S


def _stored(store: Store, key: str) -> Service:
    service = store.service(ServiceId(key))
    assert service is not None
    return service
