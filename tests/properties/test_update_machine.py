"""Updates of one service, whatever is asked of it meanwhile: pace, overlap, canaries, and that they end.

Users update, scale, relabel, roll back, and let paused updates go on; tasks start slowly, fail, or cannot
run at all (the image ``bad``); leaders change between any two steps. Nodes do not fail here: how many tasks
are down is then the update's doing alone.
"""

from __future__ import annotations

import itertools
import math

from budget import machine_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from rollout import Rollout, spec
from world import seconds

from manager.api import service_plan
from manager.reconcile.update import is_under_way
from swarmpy.model.defaults import replicas, update_config
from swarmpy.model.ids import Duration
from swarmpy.model.objects import Task
from swarmpy.model.specs import Replicated, ServiceMode, ServiceSpec, UpdateConfig
from swarmpy.model.states import FailureAction, TaskState, UpdateOrder, UpdateState

BAD = "bad"
REPLICAS = 5
DEADLINE_S = 30.0
AFTER_ALL_S = 400.0
ENDS = (
    UpdateState.COMPLETED,
    UpdateState.PAUSED,
    UpdateState.ROLLBACK_COMPLETED,
    UpdateState.ROLLBACK_PAUSED,
)

images = st.sampled_from(["one", "two", "three", BAD])
counts = st.integers(1, 7)


def configs(order: UpdateOrder) -> st.SearchStrategy[UpdateConfig]:
    return st.builds(
        UpdateConfig,
        parallelism=st.sampled_from([0, 1, 1, 2]),
        delay=st.sampled_from([Duration(0), Duration(seconds(3))]),
        monitor=st.just(Duration(seconds(5))),
        max_failure_ratio=st.sampled_from([0.0, 0.0, 0.5]),
        failure_action=st.sampled_from(list(FailureAction)[1:]),
        pause_after=st.sampled_from([0, 0, 1, 2]),
        progress_deadline=st.just(Duration(seconds(DEADLINE_S))),
        order=st.just(order),
    )


def wish(image: str, count: int, update: UpdateConfig) -> ServiceSpec:
    """A rollback goes at the pace of the update, but never rolls back itself."""
    is_endless = update.failure_action == FailureAction.CONTINUE
    action = FailureAction.CONTINUE if is_endless else FailureAction.PAUSE
    back = replace(update, failure_action=action, pause_after=0)
    return spec(image, replicas=count, update=update, rollback_config=back)


class Updates(RuleBasedStateMachine):
    """See the module's docstring."""

    @initialize(data=st.data(), order=st.sampled_from(list(UpdateOrder)[1:]))
    def start(self, data: st.DataObject, order: UpdateOrder) -> None:
        self.configs = configs(order)
        self.order = order
        update = data.draw(self.configs)
        self.rollout = Rollout(wish("one", REPLICAS, update))
        self.pace = _pace(update)
        """As many slots may be down now: the largest pace since none was."""
        self.ran: set[int] = set()
        """Slots in which a task ran, and that exist since."""
        self.hit: set[int] = set()
        """Slots in which a task failed by itself, until one runs again."""
        self.reached: set[str] = set()
        """Slots (and templates) that a canary had reached when it paused."""
        self.look()

    # --- users

    @rule(data=st.data(), image=images, count=counts)
    def update(self, data: st.DataObject, image: str, count: int) -> None:
        update = data.draw(self.configs)
        self.pace = max(self.pace, _pace(update))
        self.rollout.update(wish(image, count, update))

    @rule(count=counts)
    def scale(self, count: int) -> None:
        mode = ServiceMode(replicated=Replicated(replicas=count))
        self.rollout.update(replace(self.rollout.service.spec, mode=mode))

    @rule(value=st.sampled_from(["x", "y"]))
    def relabel(self, value: str) -> None:
        self.rollout.update(replace(self.rollout.service.spec, labels={"k": value}))

    @precondition(lambda self: service_plan.is_paused(self.rollout.service))
    @rule()
    def resume(self) -> None:
        self.rollout.do(service_plan.resume)

    @rule(pick=st.integers(0, 9))
    def roll_back(self, pick: int) -> None:
        kept = sorted(self.rollout.world.tables.revisions_of(self.rollout.service.id), key=lambda r: r.number)
        chosen = kept[pick % len(kept)]
        if chosen.id != self.rollout.service.revision_id:
            self.pace = max(self.pace, _pace(chosen.spec.rollback_config or UpdateConfig(parallelism=1)))
            self.rollout.do(service_plan.rollback_to, chosen.number)

    # --- tasks and time

    def may_run(self, task: Task) -> bool:
        if self.rollout.image_of(task) != BAD:
            return True
        self.hit.add(task.slot)
        return False

    @rule()
    def agents_work(self) -> None:
        self.rollout.world.run_agents(may_run=self.may_run)

    @precondition(lambda self: self.rollout.world.running())
    @rule(pick=st.integers(0, 99))
    def fail(self, pick: int) -> None:
        running = self.rollout.world.running()
        task = running[pick % len(running)]
        self.hit.add(task.slot)
        self.rollout.world.report(task.id, TaskState.FAILED)

    @rule(amount=st.sampled_from([0.5, 2.0, 6.0, DEADLINE_S]))
    def live(self, amount: float) -> None:
        """From event to event; what must hold is looked at in between."""
        world = self.rollout.world
        until = world.now + seconds(amount)
        for _ in itertools.count():
            world.settle()
            self.look()
            if world.run_agents(may_run=self.may_run):
                self.look()
                continue
            wake = world.next_wake()
            if wake is None or wake > until:
                break
            world.now = max(world.now, type(world.now)(wake))
        world.now = max(world.now, type(world.now)(until))

    # --- leaders

    @rule()
    def settle(self) -> None:
        self.rollout.world.settle()
        self.rollout.world.assert_quiet()

    @rule()
    def one_round(self) -> None:
        if self.rollout.world.has_work():
            self.rollout.world.run_once()

    @rule()
    def change_leader(self) -> None:
        self.rollout.world = self.rollout.world.successor()

    # --- what must hold

    @invariant()
    def look(self) -> None:
        if not hasattr(self, "rollout"):
            return
        slots: dict[int, list[Task]] = {}
        for task in self.rollout.world.tasks():
            if task.desired_state <= TaskState.RUNNING:
                slots.setdefault(task.slot, []).append(task)
        up = {slot for slot, tasks in slots.items() if any(map(_runs, tasks))}
        self.ran = (self.ran & slots.keys()) | up
        self.hit -= up
        self.check_pace(slots, up)
        self.check_overlap(slots)
        self.check_canary(slots)

    def check_pace(self, slots: dict[int, list[Task]], up: set[int]) -> None:
        down = {slot for slot in slots if slot in self.ran and slot not in up and slot not in self.hit}
        if self.order == UpdateOrder.START_FIRST:
            assert not down, f"nothing runs in {down}"
        assert len(down) <= self.pace, f"{down} are down, at a pace of {self.pace}"
        if not down:
            self.pace = _pace(self.rollout.service.spec.update_config or UpdateConfig(parallelism=1))
            back = self.rollout.service.spec.rollback_config or UpdateConfig(parallelism=1)
            self.pace = max(self.pace, _pace(back))

    def check_overlap(self, slots: dict[int, list[Task]]) -> None:
        limit = 1 if self.order == UpdateOrder.STOP_FIRST else 2
        for slot, tasks in slots.items():
            assert len(tasks) <= limit, f"slot {slot} has {len(tasks)} tasks"
        assert len(slots) <= max(replicas(self.rollout.service.spec), len(slots))

    def check_canary(self, slots: dict[int, list[Task]]) -> None:
        """Nothing but a user's word lets more slots run what the canary runs."""
        service = self.rollout.service
        status = service.update_status
        is_due = update_config(service.spec).pause_after and status is not None and not status.resumed_at
        if not is_due or status is None or status.state not in (UpdateState.UPDATING, UpdateState.PAUSED):
            self.reached = set()
            return
        made = {
            f"{slot}/{service.template_id}"
            for slot, tasks in slots.items()
            if any(task.revision_id == service.template_id for task in tasks)
        }
        if status.state == UpdateState.PAUSED:
            assert not self.reached or made <= self.reached, f"{made - self.reached} passed the pause"
            self.reached = made

    def teardown(self) -> None:
        if not hasattr(self, "rollout"):
            return
        self.live(AFTER_ALL_S)
        self.rollout.world.assert_quiet()
        service = self.rollout.service
        assert service.update_status is None or service.update_status.state in ENDS, service.update_status
        assert len({task.slot for task in self.rollout.world.live_tasks()}) == replicas(service.spec)
        if not is_under_way(service):
            container = service.spec.task_template.container_spec
            assert container is not None
            shown = {self.rollout.image_of(task) for task in self.rollout.world.live_tasks()}
            # one that starts first and never runs leaves its predecessor running
            assert shown == {container.image} or container.image == BAD


def _pace(update: UpdateConfig) -> float:
    return update.parallelism or math.inf


def _runs(task: Task) -> bool:
    return task.status.state == TaskState.RUNNING


TestUpdates = Updates.TestCase
TestUpdates.settings = machine_settings(examples=25, steps=20)


steps = st.lists(
    st.tuples(
        st.sampled_from(["update", "scale", "resume", "abort", "time"]), images, counts, st.integers(0, 9)
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=20, deadline=None)
@given(script=steps, order=st.sampled_from(list(UpdateOrder)[1:]), data=st.data())
def test_leaders_that_change_all_the_time_get_where_one_leader_gets(
    script: list[tuple[str, str, int, int]], order: UpdateOrder, data: st.DataObject
) -> None:
    updates = [data.draw(configs(order)) for _ in range(len(script) + 1)]
    assert _end_of(script, updates, is_restless=False) == _end_of(script, updates, is_restless=True)


def _end_of(
    script: list[tuple[str, str, int, int]], updates: list[UpdateConfig], *, is_restless: bool
) -> tuple[object, ...]:
    rollout = Rollout(wish("one", REPLICAS, updates[0]))
    for (act, image, count, amount), update in zip(script, updates[1:], strict=True):
        match act:
            case "update":
                rollout.update(wish(image, count, update))
            case "scale":
                mode = ServiceMode(replicated=Replicated(replicas=count))
                rollout.update(replace(rollout.service.spec, mode=mode))
            case "resume" if service_plan.is_paused(rollout.service):
                rollout.do(service_plan.resume)
            case "abort" if is_under_way(rollout.service) and rollout.service.previous_id:
                rollout.do(service_plan.rollback)
        _live(rollout, amount, is_restless=is_restless)
    _live(rollout, AFTER_ALL_S, is_restless=is_restless)
    status = rollout.service.update_status
    return rollout.service.spec, rollout.images(), status and (status.state, status.started_at)


def _live(rollout: Rollout, amount: float, *, is_restless: bool) -> None:
    until = rollout.world.now + seconds(amount)
    while True:
        if is_restless:
            rollout.world = rollout.world.successor()
        rollout.world.settle()
        if rollout.world.run_agents(may_run=lambda task: rollout.image_of(task) != BAD):
            continue
        wake = rollout.world.next_wake()
        if wake is None or wake > until:
            break
        rollout.world.now = max(rollout.world.now, type(rollout.world.now)(wake))
    rollout.world.now = max(rollout.world.now, type(rollout.world.now)(until))
