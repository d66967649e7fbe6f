"""How long a large service takes to be stored: ``python tests/bench/schedule/bench_replicated.py``.

Without raft: reconcile, draft and store, slice by slice, as the control loop calls them. Printed are the
total, the longest single reconcile (what holds the event loop), and the longest whole slice; medians of
three runs.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

from world import World, make_node

from manager.reconcile import all_reconcilers
from manager.reconcile.plan import Plan, Reconciler
from manager.store.view import View
from swarmpy.model.ids import Timestamp
from swarmpy.model.states import NodeState, TaskState

RUNS = 3


class Timed:
    """A reconciler with a stop watch."""

    def __init__(self, inner: Reconciler) -> None:
        self._inner = inner
        self.name = inner.name
        self.keys = inner.keys
        self.dirty = inner.dirty
        self.longest_s = 0.0
        self.total_s = 0.0
        self.calls = 0

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        started = time.perf_counter()
        plan = self._inner.reconcile(view, key, now)
        took = time.perf_counter() - started
        self.longest_s = max(self.longest_s, took)
        self.total_s += took
        self.calls += 1
        return plan


def run(name: str, prepare: Callable[[World], Any], change: Callable[[World], Any]) -> None:
    totals, longest, slices, lines = [], [], [], ""
    for _ in range(RUNS):
        timed = [Timed(each) for each in all_reconcilers()]
        world = World(reconcilers=timed)
        prepare(world)
        world.settle()
        change(world)
        for each in timed:
            each.longest_s = each.total_s = each.calls = 0
        gc.collect()
        longest_slice = 0.0
        started = time.perf_counter()
        while world.has_work():
            before = time.perf_counter()
            world.run_once()
            longest_slice = max(longest_slice, time.perf_counter() - before)
        totals.append(time.perf_counter() - started)
        longest.append(max(each.longest_s for each in timed))
        slices.append(longest_slice)
        lines = ", ".join(
            f"{each.name} {each.calls}x {each.total_s * 1000:.0f} (longest {each.longest_s * 1000:.1f})"
            for each in timed
            if each.calls
        )
    print(
        f"{name}: {statistics.median(totals):.2f} s in all, longest reconcile "
        f"{statistics.median(longest) * 1000:.1f} ms, longest slice {statistics.median(slices) * 1000:.1f} ms"
        f"\n    ms of the last run: {lines}"
    )


def nodes(count: int, state: NodeState = NodeState.READY) -> Callable[[World], None]:
    def put(world: World) -> None:
        for number in range(count):
            world.put(make_node(f"n{number:04}", state=state))

    return put


def running_service(node_count: int, replicas: int) -> Callable[[World], None]:
    def put(world: World) -> None:
        nodes(node_count)(world)
        world.create_service("web", replicas=replicas)
        world.settle()
        for task in world.tasks():
            world.report(task.id, TaskState.RUNNING)

    return put


if __name__ == "__main__":
    create = lambda world: world.create_service("web", replicas=10_000)  # noqa: E731
    run("10,000 tasks that no node takes", nodes(5, NodeState.DOWN), create)
    run("10,000 tasks on 1,000 nodes", nodes(1_000), create)
    run("10,000 running tasks to 0", running_service(5, 10_000), lambda world: world.scale("web", 0))
    run(
        "one of five nodes with 2,000 tasks each dies",
        running_service(5, 10_000),
        lambda world: world.set_node_state("n0001", NodeState.DOWN),
    )
