"""A large service through the real control loop: ``python tests/bench/schedule/bench_control_loop.py``.

One manager whose log is a list: what is measured is deciding, drafting, applying and watching, not raft.
Printed are the time until all tasks are stored, and the lag of the event loop meanwhile (how late a timer of
5 ms comes: what raft, the API and the sessions would wait). Medians of three runs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import statistics
import sys
import time
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

from clusters import apply, make_node, make_service, memory_proposer, seeded_env, store_with

from manager.control_loop import ControlLoop
from manager.reconcile import all_reconcilers
from manager.store.store import Store
from swarmpy.model.changes import Create
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Kind
from swarmpy.model.specs import Placement, TaskSpec
from swarmpy.model.states import NodeState, TaskState

RUNS = 3
REPLICAS = 10_000
TIMER_S = 0.005


async def lags(into: list[float]) -> None:
    while True:
        due = time.perf_counter() + TIMER_S
        await asyncio.sleep(TIMER_S)
        into.append(time.perf_counter() - due)


async def stored(store: Store, nodes: int, template: TaskSpec | None) -> tuple[float, list[float]]:
    for number in range(nodes):
        apply(store, Create(object=make_node(f"n{number:05}", state=NodeState.READY, cpus=64)))
    log, proposer = memory_proposer(store)
    await log.start()
    loop = ControlLoop(store, proposer, seeded_env(), reconcilers=all_reconcilers(), epoch=1)
    late: list[float] = []
    async with asyncio.TaskGroup() as tasks:
        work = [tasks.create_task(loop.run()), tasks.create_task(lags(late))]
        await asyncio.sleep(0.2)
        late.clear()
        service, revision = make_service("web", replicas=REPLICAS, template=template)
        started = time.perf_counter()
        apply(store, Create(object=service), Create(object=revision))
        while len(store.tasks_of_service(ServiceId("web-s"))) < REPLICAS:
            await asyncio.sleep(TIMER_S)
        took = time.perf_counter() - started
        for task in work:
            task.cancel()
    assert store.version > 0
    return took, late


def run(name: str, nodes: int, template: TaskSpec | None = None) -> None:
    totals, worst, usual = [], [], []
    for _ in range(RUNS):
        gc.collect()
        store = store_with(nodes=0)
        took, late = asyncio.run(stored(store, nodes, template))
        totals.append(took)
        worst.append(max(late))
        usual.append(statistics.quantiles(late, n=100)[98])
        placed = sum(1 for task in store.tasks() if task.status.state == TaskState.ASSIGNED)
        assert placed in (0, REPLICAS)
        assert len(store.all(Kind.TASK)) == REPLICAS
    print(
        f"{REPLICAS} tasks, {name}: stored in {statistics.median(totals):.2f} s; loop lag p99 "
        f"{statistics.median(usual) * 1000:.0f} ms, longest {statistics.median(worst) * 1000:.0f} ms"
    )


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    nowhere = TaskSpec(placement=Placement(constraints=("node.labels.none==x",)))
    run("5 nodes, none fits", 5, nowhere)
    run("5 nodes", 5)
    run("1,000 nodes", 1_000)
