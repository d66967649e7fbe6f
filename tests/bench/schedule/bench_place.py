"""How long the scheduler takes: ``python tests/bench/schedule/bench_place.py``. Medians of five runs.

The target: one service, 1,000 nodes x 10,000 tasks in 0.1 s, 5,000 x
100,000 in 1 s, which swarm mode's own benchmark does in 0.65 s and 10.3 s.
"""

from __future__ import annotations

import gc
import statistics
import time

from manager.schedule.scheduler import place
from manager.store.tables import Tables
from swarmpy.model.cluster_specs import NodeSpec as Spec
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Kind, Node, NodeDescription, NodeStatus, Revision, Task
from swarmpy.model.specs import (
    Placement,
    PlacementPreference,
    Platform,
    ResourceRequirements,
    Resources,
    ServiceSpec,
    SpreadOver,
    TaskSpec,
)
from swarmpy.model.states import NodeState, TaskState

RUNS = 5
NOW = Timestamp(1_000_000_000)
GIB = 1 << 30

PLAIN = TaskSpec()
BUSY = TaskSpec(
    resources=ResourceRequirements(reservations=Resources(nano_cpus=1_000_000, memory_bytes=4 << 20)),
    placement=Placement(
        constraints=("node.labels.disk==ssd", "node.role==worker"),
        preferences=(PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.zone")),),
        platforms=(Platform(architecture="amd64", os="linux"),),
    ),
)


def cluster_of(count: int, template: TaskSpec) -> Tables:
    service_id = ServiceId("service")
    view = Tables()
    revision = Revision(id=RevisionId("rev"), service_id=service_id, spec=ServiceSpec(task_template=template))
    view.put(Kind.REVISION, revision)
    for number in range(count):
        view.put(
            Kind.NODE,
            Node(
                id=NodeId(f"node{number:05}"),
                spec=Spec(labels={"disk": "ssd", "zone": f"z{number % 5}"}),
                status=NodeStatus(state=NodeState.READY),
                description=NodeDescription(
                    platform=Platform(architecture="x86_64", os="linux"),
                    resources=Resources(nano_cpus=64_000_000_000, memory_bytes=256 * GIB),
                ),
            ),
        )
    return view


def tasks_of(count: int) -> list[Task]:
    return [
        Task(
            id=TaskId(f"+{slot}"),
            service_id=ServiceId("service"),
            slot=slot,
            revision_id=RevisionId("rev"),
        )
        for slot in range(1, count + 1)
    ]


def measure(nodes: int, tasks: int, template: TaskSpec) -> float:
    view = cluster_of(nodes, template)
    wanted = tasks_of(tasks)
    times = []
    for _ in range(RUNS):
        gc.collect()
        started = time.perf_counter()
        placed = place(view, wanted, NOW)
        times.append(time.perf_counter() - started)
        assert all(task.status.state == TaskState.ASSIGNED for task in placed)
    return statistics.median(times)


if __name__ == "__main__":
    for nodes, tasks in ((1_000, 10_000), (5_000, 100_000), (5_000, 100)):
        for name, template in (("no needs", PLAIN), ("constraints, resources, spread", BUSY)):
            seconds = measure(nodes, tasks, template)
            print(f"{nodes:5} nodes x {tasks:6} tasks, {name}: {seconds:.3f} s ({tasks / seconds:,.0f}/s)")
