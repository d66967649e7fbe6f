"""What the store and the codec cost: medians per operation, and memory per pending task.

Run it with ``python tests/bench/store/bench_store.py [TASKS]``; nothing here asserts a time.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable

from manager.store.draft import Draft
from manager.store.store import Store
from swarmpy import codec
from swarmpy.limits import BATCH_GROUPS_MAX
from swarmpy.model.changes import Batch, Create, Group, Order, Report
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Kind, Node, Revision, Service, Task, TaskStatus
from swarmpy.model.specs import ServiceSpec
from swarmpy.model.states import Owner, TaskState

AT = Timestamp(1_700_000_000_000_000_000)
SERVICE, REVISION, NODE = ServiceId("s" * 25), RevisionId("r" * 25), NodeId("n" * 25)
PENDING = TaskStatus(
    timestamp=AT,
    state=TaskState.PENDING,
    message="pending task scheduling",
    err="no suitable node (insufficient resources on 5 nodes)",
)


def pending_task(number: int) -> Task:
    return Task(
        id=TaskId(f"{number:025d}"),
        created_at=AT,
        updated_at=AT,
        service_id=SERVICE,
        slot=number,
        revision_id=REVISION,
        status=PENDING,
    )


def create(*objects: Task | Node | Service | Revision) -> Group:
    return Group(owner=Owner.ORCHESTRATOR, changes=tuple(Create(object=each) for each in objects))


def creations(first: int, count: int) -> bytes:
    groups = tuple(create(pending_task(number)) for number in range(first, first + count))
    return codec.encode(Batch(groups=groups, at=AT, epoch=1))


def service_batch() -> Batch:
    service = Service(id=SERVICE, spec=ServiceSpec(name="web"), revision_id=REVISION)
    group = create(service, Revision(id=REVISION, service_id=SERVICE), Node(id=NODE))
    return Batch(groups=(group,), at=AT)


def store_with_service() -> Store:
    store = Store()
    assert not store.apply_batch(service_batch()).refused
    return store


def apply_all(store: Store, entries: list[bytes]) -> None:
    for index, entry in enumerate(entries):
        assert not store.apply(entry, index).refused


def median_s(run: Callable[[], object], *, repeat: int = 5) -> float:
    times = []
    for _ in range(repeat):
        gc.collect()
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def row(name: str, value: float, unit: str) -> None:
    print(f"{name:<58} {value:>12,.1f} {unit}")


def bench_codec() -> None:
    task = pending_task(1)
    data = codec.encode(task)
    count = 20_000
    row("encode one task", median_s(lambda: [codec.encode(task) for _ in range(count)]) / count * 1e6, "us")
    times_s = median_s(lambda: [codec.decode(Task, data) for _ in range(count)])
    row("decode one task", times_s / count * 1e6, "us")
    newer = data + b"\xfa\x3e\x03new"
    times_s = median_s(lambda: [codec.decode(Task, newer) for _ in range(count)])
    row("decode one task with an unknown field", times_s / count * 1e6, "us")
    row("one task on the wire", len(data), "bytes")


def bench_apply(tasks: int) -> Store:
    entries = [creations(first, BATCH_GROUPS_MAX) for first in range(0, tasks, BATCH_GROUPS_MAX)]
    store = store_with_service()
    row(f"apply: creates in batches of {BATCH_GROUPS_MAX}", tasks / timed(store, entries), "tasks/s")
    single = [creations(tasks + number, 1) for number in range(5_000)]
    row("apply: creates one by one", len(single) / timed(store, single), "tasks/s")
    orders = [
        codec.encode(Batch(groups=tuple(order(first + n) for n in range(BATCH_GROUPS_MAX)), at=AT))
        for first in range(0, 10_000, BATCH_GROUPS_MAX)
    ]
    row(f"apply: orders in batches of {BATCH_GROUPS_MAX}", 10_000 / timed(store, orders), "tasks/s")
    slice_s = max(timed(store, [entry]) for entry in orders)
    row(f"apply: the longest of these batches of {BATCH_GROUPS_MAX}", slice_s * 1e3, "ms")
    with store.watch() as watch:
        reports = [
            codec.encode(Batch(groups=tuple(report(first + n) for n in range(BATCH_GROUPS_MAX)), at=AT))
            for first in range(0, 10_000, BATCH_GROUPS_MAX)
        ]
        row("apply: status reports, with a watcher", 10_000 / timed(store, reports), "tasks/s")
        watch.take()
    return store


def order(number: int) -> Group:
    change = Order(task_id=TaskId(f"{number:025d}"), desired_state=TaskState.SHUTDOWN)
    return Group(owner=Owner.ORCHESTRATOR, changes=(change,))


def report(number: int) -> Group:
    status = TaskStatus(timestamp=AT, state=TaskState.SHUTDOWN, message="never started")
    change = Report(task_id=TaskId(f"{number:025d}"), status=status)
    return Group(owner=Owner.ORCHESTRATOR, changes=(change,))


def timed(store: Store, entries: list[bytes]) -> float:
    gc.collect()
    started = time.perf_counter()
    apply_all(store, entries)
    return time.perf_counter() - started


def bench_snapshot(store: Store) -> None:
    count = len(store.tasks())
    row(f"freeze {count:,} tasks", median_s(store.freeze) * 1e3, "ms")
    frozen = store.freeze()
    slices = list(store.encode(frozen))
    row("encode the snapshot, in all", median_s(lambda: list(store.encode(frozen)), repeat=3) * 1e3, "ms")
    row("encode the snapshot, per slice", median_s(lambda: next(store.encode(frozen))) * 1e3, "ms")
    row("snapshot, per task", sum(map(len, slices)) / count, "bytes")
    row("restore", median_s(lambda: Store().restore(slices), repeat=3) * 1e3, "ms")


def bench_reading(store: Store) -> None:
    count = len(store.tasks())
    started = time.perf_counter()
    store.by_prefix(Kind.TASK, "0000")
    row(f"first prefix search of {count:,} tasks", (time.perf_counter() - started) * 1e3, "ms")
    apply_all(store, [creations(1_000_000, BATCH_GROUPS_MAX)])
    started = time.perf_counter()
    store.by_prefix(Kind.TASK, "0000")
    row(f"prefix search after {BATCH_GROUPS_MAX} creates", (time.perf_counter() - started) * 1e3, "ms")


def bench_draft() -> None:
    store = store_with_service()
    apply_all(store, [creations(first, BATCH_GROUPS_MAX) for first in range(0, 10_000, BATCH_GROUPS_MAX)])
    groups = [create(pending_task(20_000 + number)) for number in range(250)]
    groups += [order(number) for number in range(250)]

    def plan() -> Draft:
        draft = Draft(store)
        for group in groups:
            assert draft.apply(group) is None
        return draft

    row("draft: 500 groups over a service of 10,000 tasks", median_s(plan) * 1e3, "ms")
    draft = plan()
    iterate_s = median_s(lambda: sum(1 for _ in draft.tasks_of_service(SERVICE)))
    row("draft: iterate over that service", iterate_s * 1e3, "ms")


def bench_memory() -> None:
    entries = [creations(first, BATCH_GROUPS_MAX) for first in range(0, 10_000, BATCH_GROUPS_MAX)]
    store = store_with_service()
    gc.collect()
    tracemalloc.start()
    apply_all(store, entries)
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    row("memory per pending task, indexes included", used / 10_000, "bytes")


def main() -> None:
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    bench_codec()
    store = bench_apply(tasks)
    bench_snapshot(store)
    bench_reading(store)
    bench_draft()
    bench_memory()


if __name__ == "__main__":
    main()
