"""The scheduler through a cluster's life, against an oracle that tries every node for every single task.

Nodes come, go and change; services change their wishes; tasks are placed in batches and end. Each placement
must be the one that the oracle makes, one task after the other: a node that every filter takes, of those the
one with the fewest tasks of the service, then in all, then the most free, then the smallest id. A task that
waits has no node that would take it, and its reason counts nodes as the oracle does.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from budget import machine_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from world import GIB, START, World, make_node

from manager.schedule.nodes import LoadCache
from manager.schedule.scheduler import place
from swarmpy.limits import NODE_FAILURES_MAX
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Kind, Node, Revision, Task, TaskStatus
from swarmpy.model.specs import (
    EndpointSpec,
    Placement,
    Platform,
    PortConfig,
    ResourceRequirements,
    Resources,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import NodeAvailability, NodeState, PublishMode, TaskState

SERVICES = ("a", "b", "c")
NODES = tuple(f"n{number}" for number in range(1, 7))
CPU = 10**9

Load = dict[str, list[Task]]
"""The tasks of each node."""

node_specs = st.fixed_dictionaries(
    {
        "state": st.sampled_from([NodeState.READY] * 5 + [NodeState.DOWN, NodeState.UNKNOWN]),
        "availability": st.sampled_from([NodeAvailability.ACTIVE] * 5 + list(NodeAvailability)),
        "labels": st.sampled_from([{}, {"disk": "ssd"}, {"disk": "hdd"}]),
    }
)
sizes = st.builds(
    lambda cpus, memory: Resources(nano_cpus=cpus * CPU, memory_bytes=memory * GIB),
    st.sampled_from([0, 2, 4, 4]),
    st.sampled_from([1, 4, 4, 8]),
)
platforms = st.sampled_from([Platform(architecture="x86_64", os="linux")] * 3 + [Platform()])
specs = st.builds(
    lambda cpus, memory, constraints, wanted, most, ports: ServiceSpec(
        task_template=TaskSpec(
            resources=ResourceRequirements(
                reservations=Resources(nano_cpus=cpus * CPU, memory_bytes=memory * GIB)
            ),
            placement=Placement(constraints=constraints, platforms=wanted, max_replicas=most),
        ),
        endpoint_spec=EndpointSpec(
            ports=tuple(PortConfig(published_port=port, publish_mode=PublishMode.HOST) for port in ports)
        ),
    ),
    st.sampled_from([0, 0, 1, 3]),
    st.sampled_from([0, 0, 1, 3]),
    st.sampled_from([(), (), ("node.labels.disk==ssd",), ("node.labels.disk!=hdd", "node.id!=n1")]),
    st.sampled_from([(), (), (Platform(architecture="amd64", os="linux"),)]),
    st.sampled_from([0, 0, 1, 2]),
    st.sampled_from([(), (), (80,), (80, 81), (81,)]),
)


# --- the oracle


def is_held(task: Task) -> bool:
    return TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING


def is_active(task: Task) -> bool:
    return is_held(task) and task.desired_state <= TaskState.COMPLETE


class Oracle:
    """What each node carries, and what follows from it, reckoned anew for each question."""

    def __init__(self, world: World) -> None:
        self.revisions = {
            each.id: each.spec for each in world.tables.all(Kind.REVISION) if isinstance(each, Revision)
        }
        self.nodes: tuple[Node, ...] = tuple(sorted(world.tables.nodes(), key=lambda node: node.id))
        self.load: Load = {node.id: [t for t in world.tasks() if t.node_id == node.id] for node in self.nodes}

    def reserved(self, tasks: Iterable[Task]) -> Resources:
        wanted = [self.reservation(task) for task in tasks if is_held(task)]
        return Resources(
            nano_cpus=sum(each.nano_cpus for each in wanted),
            memory_bytes=sum(each.memory_bytes for each in wanted),
        )

    def reservation(self, task: Task) -> Resources:
        resources = self.revisions[task.revision_id].task_template.resources
        assert resources is not None
        assert resources.reservations is not None
        return resources.reservations

    def host_ports(self, task: Task) -> list[int]:
        endpoint = self.revisions[task.revision_id].endpoint_spec
        assert endpoint is not None
        return [port.published_port for port in endpoint.ports]

    def refusal(self, task: Task, node: Node) -> str:
        """The words for the first filter that refuses the node; empty if none does."""
        placement = self.revisions[task.revision_id].task_template.placement
        assert placement is not None
        there = self.load[node.id]
        wanted, used, has = self.reservation(task), self.reserved(there), node.description.resources
        held_ports = {port for each in there if is_held(each) for port in self.host_ports(each)}
        of_service = [each for each in there if each.service_id == task.service_id and is_active(each)]
        is_closed = node.spec.availability not in (NodeAvailability.ACTIVE, NodeAvailability.UNSPECIFIED)
        if is_closed or node.status.state != NodeState.READY:
            return "not available for new tasks"
        if wanted.nano_cpus and used.nano_cpus + wanted.nano_cpus > has.nano_cpus:
            return "insufficient resources"
        if wanted.memory_bytes and used.memory_bytes + wanted.memory_bytes > has.memory_bytes:
            return "insufficient resources"
        if not all(meets(each, node) for each in placement.constraints):
            return "scheduling constraints not satisfied"
        if placement.platforms and node.description.platform.architecture != "x86_64":
            return "unsupported platform"
        if held_ports & set(self.host_ports(task)):
            return "host-mode port already in use"
        if placement.max_replicas and len(of_service) >= placement.max_replicas:
            return "max replicas per node limit exceed"
        return ""

    def rank(self, task: Task, node: Node) -> tuple[int, int, int, int, int, str]:
        there = self.load[node.id]
        active = [each for each in there if is_active(each)]
        of_service = [each for each in active if each.service_id == task.service_id]
        failed = [
            each
            for each in there
            if each.status.state in (TaskState.FAILED, TaskState.REJECTED)
            and each.revision_id == task.revision_id
        ]
        used, has = self.reserved(there), node.description.resources
        return (
            len(failed) if len(failed) >= NODE_FAILURES_MAX else 0,
            len(of_service),
            len(active),
            used.nano_cpus - has.nano_cpus,
            used.memory_bytes - has.memory_bytes,
            node.id,
        )

    def best_node(self, task: Task) -> str:
        fitting = [node for node in self.nodes if not self.refusal(task, node)]
        return min(fitting, key=lambda node: self.rank(task, node)).id if fitting else ""

    def reason(self, task: Task) -> str:
        counts = Counter(self.refusal(task, node) for node in self.nodes)
        if not counts:
            return "no suitable node"
        order = [*WORDS]
        ranked = sorted(counts.items(), key=lambda item: (-item[1], order.index(item[0])))
        clauses = "; ".join(WORDS[words].format(count, "" if count == 1 else "s") for words, count in ranked)
        return f"no suitable node ({clauses})"


WORDS = {
    "not available for new tasks": "{0} node{1} not available for new tasks",
    "insufficient resources": "insufficient resources on {0} node{1}",
    "scheduling constraints not satisfied": "scheduling constraints not satisfied on {0} node{1}",
    "unsupported platform": "unsupported platform on {0} node{1}",
    "host-mode port already in use": "host-mode port already in use on {0} node{1}",
    "max replicas per node limit exceed": "max replicas per node limit exceed",
}
"""The filters in their order, and what is said of the nodes that they refuse."""


def meets(constraint: str, node: Node) -> bool:
    key, is_equal, value = constraint.partition("==") if "==" in constraint else constraint.partition("!=")
    actual = node.id if key == "node.id" else node.spec.labels.get("disk", "")
    return (actual == value) == (is_equal == "==")


# --- the machine


class Scheduling(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(reconcilers=())
        self.cache = LoadCache()
        """Kept for the whole life, as a leader keeps it; it must never be behind the truth."""
        self.revisions: dict[str, RevisionId] = {}
        self.numbers = itertools.count(1)

    @initialize(some=st.tuples(specs, specs, specs))
    def start(self, some: tuple[ServiceSpec, ...]) -> None:
        for service, spec in zip(SERVICES, some, strict=True):
            self.change_service(service, spec)
        for id_ in NODES[:4]:
            self.world.put(make_node(id_, labels={"disk": "ssd"}))

    @rule(id_=st.sampled_from(NODES), fields=node_specs, size=sizes, platform=platforms)
    def put_node(self, id_: str, fields: dict[str, object], size: Resources, platform: Platform) -> None:
        """It comes, or changes in every way."""
        node = make_node(id_, **fields)
        description = replace(node.description, resources=size, platform=platform)
        self.world.put(replace(node, description=description))

    @rule(id_=st.sampled_from(NODES))
    def remove_node(self, id_: str) -> None:
        if self.world.has_node(id_):
            self.world.delete(Kind.NODE, id_)

    @rule(service=st.sampled_from(SERVICES), spec=specs)
    def change_service(self, service: str, spec: ServiceSpec) -> None:
        revision_id = RevisionId(f"{service}-{next(self.numbers)}")
        self.world.put(Revision(id=revision_id, service_id=ServiceId(service), spec=spec))
        self.revisions[service] = revision_id

    @precondition(lambda self: self.world.tables.tasks())
    @rule(
        pick=st.integers(0, 99),
        state=st.sampled_from([TaskState.RUNNING, TaskState.FAILED, TaskState.COMPLETE]),
        is_wished=st.booleans(),
        is_kept=st.booleans(),
    )
    def move_task(self, pick: int, state: TaskState, *, is_wished: bool, is_kept: bool) -> None:
        """It runs, ends, is told to stop, or is deleted."""
        tasks = self.world.tasks()
        task = tasks[pick % len(tasks)]
        if not is_kept:
            self.world.delete(Kind.TASK, task.id)
        elif task.status.state < state:
            desired = TaskState.RUNNING if is_wished else TaskState.SHUTDOWN
            status = TaskStatus(state=state, timestamp=START)
            changed = replace(task, version=0, status=status, desired_state=max(desired, task.desired_state))
            self.world.put(changed)

    @rule(service=st.sampled_from(SERVICES), id_=st.sampled_from(NODES), count=st.integers(4, 6))
    def keep_failing(self, service: str, id_: str, count: int) -> None:
        """So often that the node is the last choice for this revision."""
        if self.world.has_node(id_):
            for _ in range(count):
                status = TaskStatus(state=TaskState.FAILED, timestamp=START)
                self.world.put(replace(self.new_task(service), node_id=NodeId(id_), status=status))

    @rule(wanted=st.lists(st.sampled_from(SERVICES), min_size=1, max_size=9), again=st.booleans())
    def place(self, wanted: list[str], *, again: bool) -> None:
        tasks = [self.new_task(service) for service in wanted]
        if again:
            tasks += list(self.world.tables.unplaced_tasks())
        placed = place(self.world.tables, tasks, START, load=self.cache.picture(self.world.tables))
        assert [task.id for task in placed] == [task.id for task in tasks]
        self.check_against_the_oracle(placed)
        self.check_order_does_not_matter(tasks, placed)
        for task in placed:
            self.world.put(replace(task, version=0))

    @rule(service=st.sampled_from(SERVICES), count=st.integers(3, 9))
    def scale_up(self, service: str, count: int) -> None:
        self.place([service] * count, again=True)

    def new_task(self, service: str) -> Task:
        number = next(self.numbers)
        return Task(
            id=TaskId(f"t{number:04}"),
            service_id=ServiceId(service),
            slot=number,
            revision_id=self.revisions[service],
        )

    def check_against_the_oracle(self, placed: tuple[Task, ...]) -> None:
        oracle = Oracle(self.world)
        groups: dict[RevisionId, list[Task]] = {}
        for task in placed:
            groups.setdefault(task.revision_id, []).append(task)
        for members in groups.values():
            for task in members:
                assert task.node_id == oracle.best_node(task)
                if task.node_id:
                    assert task.status.state == TaskState.ASSIGNED
                    assert not task.status.err
                    oracle.load[task.node_id].append(task)
            for task in members:
                if not task.node_id:
                    assert task.status.state == TaskState.PENDING
                    assert task.status.err == oracle.reason(task)

    def check_order_does_not_matter(self, tasks: list[Task], placed: tuple[Task, ...]) -> None:
        """Neither the order in which objects were stored, nor that of the tasks of one group."""
        mirror = World(reconcilers=())
        for kind in (Kind.TASK, Kind.REVISION, Kind.NODE):
            for each in reversed(list(self.world.tables.all(kind))):
                mirror.tables.put(kind, each)
        assert place(mirror.tables, tasks, START) == placed
        by_group = sorted(tasks, key=lambda task: list(self.group_order(tasks)).index(task.revision_id))
        turned = [
            task for _, some in itertools.groupby(by_group, lambda t: t.revision_id) for task in [*some][::-1]
        ]
        again = place(self.world.tables, turned, START)
        assert nodes_by_group(again) == nodes_by_group(placed)

    @staticmethod
    def group_order(tasks: list[Task]) -> dict[RevisionId, None]:
        return dict.fromkeys(task.revision_id for task in tasks)

    @rule(count=st.integers(1, 12), nodes=st.integers(1, 6))
    def place_on_equal_nodes(self, count: int, nodes: int) -> None:
        """Nothing asked for, nothing there: the difference between two nodes is one at most."""
        world = World(*[make_node(f"n{number}") for number in range(nodes)], reconcilers=())
        world.put(Revision(id=RevisionId("a-r"), service_id=ServiceId("a"), spec=plain_spec()))
        task = Task(id=TaskId("t"), service_id=ServiceId("a"), revision_id=RevisionId("a-r"))
        placed = place(world.tables, [replace(task, slot=slot) for slot in range(count)], START)
        per_node = Counter({NodeId(f"n{number}"): 0 for number in range(nodes)})
        per_node.update(each.node_id for each in placed)
        assert len(per_node) == nodes
        assert max(per_node.values()) - min(per_node.values()) <= 1

    @invariant()
    def what_is_remembered_of_nodes_is_true(self) -> None:
        remembered, fresh = (cache.picture(self.world.tables) for cache in (self.cache, LoadCache()))
        for id_ in map(NodeId, NODES):
            assert remembered.of(id_) == fresh.of(id_)


def plain_spec() -> ServiceSpec:
    return ServiceSpec(
        task_template=TaskSpec(
            resources=ResourceRequirements(reservations=Resources()), placement=Placement()
        ),
        endpoint_spec=EndpointSpec(),
    )


def nodes_by_group(placed: Iterable[Task]) -> dict[RevisionId, list[str]]:
    found: dict[RevisionId, list[str]] = {}
    for task in placed:
        found.setdefault(task.revision_id, []).append(task.node_id)
    return {revision_id: sorted(nodes) for revision_id, nodes in found.items()}


TestScheduling = Scheduling.TestCase
TestScheduling.settings = machine_settings(examples=60, steps=30)
