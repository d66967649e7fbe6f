"""What the checkers cost: per committed event in a cluster of 20,000 tasks on 5,000 nodes, and for a history.

Processor time, since others may use the machine too.

python -m tests.bench.sim.bench_checkers [--tasks 20000] [--nodes 5000] [--managers 3]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from msgspec.structs import replace

from agent.events import SaveStatus
from manager.store.events import Commit, Event, Notice
from manager.store.tables import Tables
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Kind, Node, NodeDescription, Object, Revision, Service, Task, TaskStatus
from swarmpy.model.specs import (
    EndpointSpec,
    PortConfig,
    ResourceRequirements,
    Resources,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import PublishMode, TaskState
from swarmpy.sim.checkers import Checkers
from swarmpy.sim.checkers.linearizable import Verdict, check_history

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from client_histories import Maker

AT = Timestamp(1_700_000_000_000_000_000)
BATCH = 250
LIFE = (TaskState.PREPARING, TaskState.RUNNING, TaskState.FAILED)


def id_of(kind: str, number: int) -> str:
    return f"{kind}{number:024}"


def service_of(number: int) -> tuple[Service, Revision]:
    """Every second one reserves, every tenth has a host-mode port."""
    ports = (PortConfig(target_port=80, published_port=80 + number, publish_mode=PublishMode.HOST),)
    reservations = Resources(nano_cpus=10**6, memory_bytes=10**6) if number % 2 else None
    spec = ServiceSpec(
        name=f"service-{number}",
        task_template=TaskSpec(resources=ResourceRequirements(reservations=reservations)),
        endpoint_spec=EndpointSpec(ports=ports if number % 10 == 0 else ()),
    )
    service_id, revision_id = ServiceId(id_of("s", number)), RevisionId(id_of("r", number))
    service = Service(id=service_id, spec=spec, revision_id=revision_id, template_id=revision_id)
    return service, Revision(id=revision_id, service_id=service_id, spec=spec)


def node_of(task: int, services: int, nodes: int) -> NodeId:
    """Tasks of one service are on different nodes."""
    return NodeId(id_of("n", (task // services + 37 * (task % services)) % nodes))


def changes(tasks: int, nodes: int) -> Iterator[Object]:
    """Every object whenever it is stored: nodes, services, then each task through its life."""
    resources = Resources(nano_cpus=10**12, memory_bytes=10**15)
    for number in range(nodes):
        yield Node(id=NodeId(id_of("n", number)), description=NodeDescription(resources=resources))
    services = max(tasks // 100, 1)
    for number in range(services):
        yield from service_of(number)
    assigned = TaskStatus(timestamp=AT, state=TaskState.ASSIGNED, message="scheduler assigned task to node")
    made = []
    for number in range(tasks):
        service = number % services
        task = Task(
            id=TaskId(id_of("t", number)),
            version=number,
            created_at=AT,
            updated_at=AT,
            service_id=ServiceId(id_of("s", service)),
            revision_id=RevisionId(id_of("r", service)),
            slot=1 + number // services,
            node_id=node_of(number, services, nodes),
            status=assigned,
        )
        made.append(task)
        yield task
    for state in LIFE:
        for number, task in enumerate(made):
            status = replace(task.status, state=state, report=task.status.report + 1, message="started")
            made[number] = replace(task, status=status)
            yield made[number]


def notices(tasks: int, nodes: int) -> list[Notice]:
    rows: dict[str, Object] = {}
    found: list[Notice] = []
    kinds = {Node: Kind.NODE, Service: Kind.SERVICE, Revision: Kind.REVISION, Task: Kind.TASK}
    for number, new in enumerate(changes(tasks, nodes), start=1):
        found.append(Event(kinds[type(new)], rows.get(new.id), new))
        rows[new.id] = new
        if number % BATCH == 0:
            found.append(Commit(number))
    found.append(Commit(number + 1))
    return found


def copied(told: list[Notice]) -> list[Notice]:
    """The same as another manager has it: equal values, but objects of its own."""
    rows: dict[str, Object] = {}
    found: list[Notice] = []
    for notice in told:
        if isinstance(notice, Event) and notice.new is not None:
            new = replace(notice.new)
            found.append(Event(notice.kind, rows.get(new.id), new))
            rows[new.id] = new
        else:
            found.append(notice)
    return found


def run(tasks: int, nodes: int, managers: int) -> None:
    told = notices(tasks, nodes)
    events = sum(isinstance(notice, Event) for notice in told)
    streams = [told, *(copied(told) for _ in range(managers - 1))]
    checkers = Checkers(lambda: 0.0)
    for number in range(managers):
        checkers.started(f"m{number}", Tables())
    began = time.process_time()
    for number in range(tasks):
        node_id, task_id = node_of(number, max(tasks // 100, 1), nodes), TaskId(id_of("t", number))
        for state in LIFE:
            checkers.persisted(node_id, (SaveStatus(task_id, TaskStatus(state=state)),))
        checkers.machine_started(node_id, task_id)
    reports_s = time.process_time() - began
    took = []
    for number, stream in enumerate(streams):
        began = time.process_time()
        for notice in stream:
            checkers.committed(f"m{number}", notice)
        took.append(time.process_time() - began)
    print(f"{events} events, {managers} managers, {len(checkers.violations)} violations")
    print(f"the first manager's event, all checkers: {took[0] / events * 1e6:.2f} us")
    for number, seconds in enumerate(took[1:], start=2):
        print(f"the same of manager {number}, compared:     {seconds / events * 1e6:.2f} us")
    print(f"all managers, per committed event:       {sum(took) / events * 1e6:.2f} us")
    print(f"a task's three reports and one start:    {reports_s / tasks * 1e6:.2f} us")


def run_history(count: int) -> None:
    for overlap in (5.0, 1000.0):
        history = Maker(Random(1), names=200, concurrency=overlap).history(count)
        began = time.process_time()
        results = check_history(history)
        seconds = time.process_time() - began
        assert all(result.verdict is Verdict.OK for result in results)
        print(f"linearizability: {count} operations of 200 names, {overlap:g} s overlap: {seconds:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--nodes", type=int, default=5_000)
    parser.add_argument("--managers", type=int, default=3)
    arguments = parser.parse_args()
    run(arguments.tasks, arguments.nodes, arguments.managers)
    run_history(10_000)
