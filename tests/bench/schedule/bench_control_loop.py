"""A large service through the real control loop: ``python tests/bench/schedule/bench_control_loop.py``.

One manager whose log is a list: what is measured is deciding, drafting, applying and watching, not raft.
Printed are the time until all tasks are stored, and the lag of the event loop meanwhile (how late a timer of
5 ms comes: what raft, the API and the sessions would wait), in wall time and in this process's CPU
time, which other work on the machine does not stretch. Medians of three runs.
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
from manager.proposer import RaftProposer
from manager.reconcile import all_reconcilers
from manager.store.store import Store
from swarmpy.model.changes import Applied, Batch, Create
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Kind
from swarmpy.model.specs import Placement, TaskSpec
from swarmpy.model.states import NodeState, TaskState

RUNS = 3
REPLICAS = 10_000
TIMER_S = 0.005
COMMIT_S = 0.002


class Distant:
    """A proposer whose answer takes a moment, as raft's does."""

    def __init__(self, inner: RaftProposer) -> None:
        self._inner = inner

    async def propose(self, batch: Batch) -> Applied:
        await asyncio.sleep(COMMIT_S)
        applied = await self._inner.propose(batch)
        await asyncio.sleep(0)
        return applied


async def lags(into: list[float], held: list[float]) -> None:
    while True:
        due, cpu = time.perf_counter() + TIMER_S, time.process_time()
        await asyncio.sleep(TIMER_S)
        into.append(time.perf_counter() - due)
        held.append(time.process_time() - cpu)


async def stored(
    store: Store, nodes: int, template: TaskSpec | None
) -> tuple[float, list[float], list[float]]:
    for number in range(nodes):
        apply(store, Create(object=make_node(f"n{number:05}", state=NodeState.READY, cpus=64)))
    log, proposer = memory_proposer(store)
    await log.start()
    loop = ControlLoop(store, Distant(proposer), seeded_env(), reconcilers=all_reconcilers(), epoch=1)
    late: list[float] = []
    held: list[float] = []
    async with asyncio.TaskGroup() as tasks:
        work = [tasks.create_task(loop.run()), tasks.create_task(lags(late, held))]
        await asyncio.sleep(0.2)
        late.clear()
        held.clear()
        service, revision = make_service("web", replicas=REPLICAS, template=template)
        started = time.perf_counter()
        apply(store, Create(object=service), Create(object=revision))
        while len(store.tasks_of_service(ServiceId("web-s"))) < REPLICAS:
            await asyncio.sleep(TIMER_S)
        took = time.perf_counter() - started
        for task in work:
            task.cancel()
    assert store.version > 0
    return took, late, held


def run(name: str, nodes: int, template: TaskSpec | None = None) -> None:
    totals, worst, usual, cpu = [], [], [], []
    for _ in range(RUNS):
        gc.collect()
        store = store_with(nodes=0)
        took, late, held = asyncio.run(stored(store, nodes, template))
        totals.append(took)
        worst.append(max(late))
        cpu.append(max(held))
        usual.append(statistics.quantiles(late, n=100)[98])
        placed = sum(1 for task in store.tasks() if task.status.state == TaskState.ASSIGNED)
        assert placed in (0, REPLICAS)
        assert len(store.all(Kind.TASK)) == REPLICAS
    print(
        f"{REPLICAS} tasks, {name}: stored in {statistics.median(totals):.2f} s; loop lag p99 "
        f"{statistics.median(usual) * 1000:.0f} ms, longest {statistics.median(worst) * 1000:.0f} ms, "
        f"longest hold {statistics.median(cpu) * 1000:.0f} ms of CPU"
    )


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    nowhere = TaskSpec(placement=Placement(constraints=("node.labels.none==x",)))
    run("5 nodes, none fits", 5, nowhere)
    run("5 nodes", 5)
    run("1,000 nodes", 1_000)
