"""Replicas that follow load: the decision, and the decision over time in a world of tasks."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from world import World, make_node, seconds

from manager.reconcile import all_reconcilers
from manager.reconcile.autoscale import Load, decide, wanted
from manager.usage import UsageBook
from swarmpy.limits import (
    AUTOSCALE_DOWN_DELAY_S,
    AUTOSCALE_PERIOD_S,
    AUTOSCALE_TOLERANCE,
    AUTOSCALE_UP_GAP_S,
    USAGE_FRESH_S,
)
from swarmpy.model.defaults import replicas_of
from swarmpy.model.ids import SECOND_NS, Duration, TaskId, Timestamp
from swarmpy.model.objects import AutoscaleStatus
from swarmpy.model.specs import Autoscale, Replicated, ServiceMode, ServiceSpec
from swarmpy.pb import dispatcher_pb2 as pb

NOW = Timestamp(1_700_000_000 * SECOND_NS)
WISH = Autoscale(min=2, max=10, cpu_percent=50)


def cpu(*ratios: float | None) -> tuple[Load, ...]:
    return (Load("cpu", ratios),)


def test_nothing_changes_near_the_target() -> None:
    status = AutoscaleStatus(replicas=4)
    for ratio in (1.0, 1 + AUTOSCALE_TOLERANCE, 1 - AUTOSCALE_TOLERANCE):
        assert decide(WISH, status, cpu(*[ratio] * 4), now=NOW) == status


def test_too_much_load_adds_tasks_at_once_and_then_waits_for_them() -> None:
    status = decide(WISH, AutoscaleStatus(replicas=4), cpu(2.0, 2.0, 2.0, 2.0), now=NOW)
    assert (status.replicas, status.scaled_at) == (8, NOW)
    assert status.message == "cpu at 200% of its target: 4 to 8 replicas"
    soon = Timestamp(NOW + SECOND_NS)
    assert decide(WISH, status, cpu(*[2.0] * 8), now=soon) == status
    later = Timestamp(NOW + seconds(AUTOSCALE_UP_GAP_S))
    assert decide(WISH, status, cpu(*[2.0] * 8), now=later).replicas == 10


def test_too_little_load_takes_tasks_away_only_after_a_while() -> None:
    wish = replace(WISH, scale_down_delay=Duration(60 * SECOND_NS))
    status = decide(wish, AutoscaleStatus(replicas=8), cpu(*[0.1] * 8), now=NOW)
    assert (status.replicas, status.low_since) == (8, NOW)
    assert decide(wish, status, cpu(*[0.1] * 8), now=Timestamp(NOW + 59 * SECOND_NS)) == status
    late = Timestamp(NOW + 60 * SECOND_NS)
    assert decide(wish, status, cpu(*[0.1] * 8), now=late).replicas == 4, "at most a halving"
    busy = decide(wish, status, cpu(*[1.0] * 8), now=late)
    assert (busy.replicas, busy.low_since) == (8, 0), "load that comes back starts the delay anew"


def test_what_is_not_known_moves_nothing() -> None:
    status = AutoscaleStatus(replicas=4)
    assert decide(WISH, status, cpu(None, None, None, None), now=NOW) == status
    assert decide(WISH, status, cpu(), now=NOW) == status
    assert wanted(4, Load("cpu", (2.0, None, None, None))) == 4
    assert wanted(4, Load("cpu", (0.1, None, None, None))) == 4


def test_a_changed_range_holds_at_once() -> None:
    assert decide(replace(WISH, min=6), AutoscaleStatus(replicas=4), (), now=NOW).replicas == 6
    assert decide(replace(WISH, max=3), AutoscaleStatus(replicas=4), (), now=NOW).replicas == 3


@given(
    total=st.floats(0.0, 40.0),
    start=st.integers(1, 30),
    bounds=st.tuples(st.integers(1, 10), st.integers(0, 20)),
)
def test_a_steady_load_settles_near_the_target_and_stays(
    total: float, start: int, bounds: tuple[int, int]
) -> None:
    """However it begins: within the range, not above the target if the range allows, and no swinging."""
    wish = Autoscale(min=bounds[0], max=bounds[0] + bounds[1], cpu_percent=50)
    status, now, changes = AutoscaleStatus(replicas=start), NOW, []
    for _ in range(400):
        each = total / max(status.replicas, 1)
        after = decide(wish, status, cpu(*[each] * status.replicas), now=now)
        if after.replicas != status.replicas:
            changes.append(after.replicas - status.replicas)
        status, now = after, Timestamp(now + seconds(AUTOSCALE_PERIOD_S))
    assert wish.min <= status.replicas <= wish.max
    needed = max(wish.min, min(wish.max, math.ceil(total)))
    assert needed / (1 + AUTOSCALE_TOLERANCE) - 1 <= status.replicas <= needed / (1 - AUTOSCALE_TOLERANCE) + 1
    after_bounds = changes[1:]
    assert all(change > 0 for change in after_bounds) or all(change < 0 for change in after_bounds)


# --- in a world


def autoscaled(world: World) -> None:
    spec = ServiceSpec(
        name="web",
        mode=ServiceMode(replicated=Replicated(replicas=1)),
        autoscale=Autoscale(min=2, max=6, cpu_percent=50),
    )
    world.create_service("s1", spec)
    quieten(world)


def quieten(world: World, *, after_s: float = 0.0) -> None:
    """Time passes, then managers and agents come to rest."""
    world.pass_time(after_s)
    world.settle()
    while world.run_agents():
        world.settle()


def tell(world: World, book: UsageBook, cpus: float) -> None:
    """All running tasks use so many CPUs each."""
    tasks = [pb.TaskUsage(task_id=task.id, nano_cpus=int(cpus * 10**9)) for task in world.tables.tasks()]
    book.take(tasks, world.now)


def test_a_service_grows_and_shrinks_with_its_load() -> None:
    book = UsageBook()
    world = World(make_node("n1"), make_node("n2"), reconcilers=all_reconcilers(book))
    autoscaled(world)
    assert len(world.running("s1")) == 2, "never fewer than the least"
    tell(world, book, 0.9)
    quieten(world, after_s=AUTOSCALE_PERIOD_S + 1)
    assert len(world.running("s1")) == 4
    elapsed = 0.0
    while elapsed < AUTOSCALE_DOWN_DELAY_S + 3 * AUTOSCALE_PERIOD_S:
        tell(world, book, 0.1)
        quieten(world, after_s=AUTOSCALE_PERIOD_S)
        elapsed += AUTOSCALE_PERIOD_S
    assert len(world.running("s1")) == 2


def test_another_leader_goes_on_with_what_was_decided() -> None:
    book = UsageBook()
    world = World(make_node("n1"), reconcilers=all_reconcilers(book))
    autoscaled(world)
    tell(world, book, 1.0)
    quieten(world, after_s=AUTOSCALE_PERIOD_S + 1)
    grown = replicas_of(world.service("s1"))
    assert grown == 4
    world.reconcilers = all_reconcilers()  # that knows no figures yet
    quieten(world, after_s=AUTOSCALE_DOWN_DELAY_S * 2)
    assert len(world.running("s1")) == grown


def test_figures_age() -> None:
    book = UsageBook()
    book.take([pb.TaskUsage(task_id="t1", nano_cpus=5)], NOW)
    assert book.of(TaskId("t1"), NOW) is not None
    assert book.of(TaskId("t1"), Timestamp(NOW + seconds(USAGE_FRESH_S) + 1)) is None
    assert book.of(TaskId("t2"), NOW) is None
