"""The scheduler's tables: filters and their words, spread, ties, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from world import GIB, START, World, make_node

from manager.schedule.scheduler import place
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import (
    EngineDescription,
    EnginePlugin,
    Kind,
    Node,
    NodeStatus,
    Revision,
    Service,
    Task,
    TaskStatus,
)
from swarmpy.model.specs import (
    ContainerSpec,
    DiscreteGenericResource,
    Driver,
    EndpointSpec,
    GenericResource,
    Global,
    Mount,
    NamedGenericResource,
    Placement,
    Platform,
    PortConfig,
    ResourceRequirements,
    Resources,
    ServiceMode,
    ServiceSpec,
    Standalone,
    TaskSpec,
    VolumeOptions,
)
from swarmpy.model.states import (
    MountType,
    NodeAvailability,
    NodeState,
    PortProtocol,
    PublishMode,
    TaskState,
)


class Board:
    """Nodes and tasks; places and keeps what was placed."""

    def __init__(self, *nodes: str, **fields: Any) -> None:
        self.world = World(reconcilers=())
        for node in nodes:
            self.world.put(make_node(node, **fields))
        self.now = Timestamp(START)

    def service(self, name: str, spec: ServiceSpec | None = None, **template: Any) -> None:
        spec = spec or ServiceSpec(name=name, task_template=TaskSpec(**template))
        self.world.put(Revision(id=RevisionId(f"{name}-r1"), service_id=ServiceId(name), number=1, spec=spec))
        self.world.put(Service(id=ServiceId(name), spec=spec, template_id=RevisionId(f"{name}-r1")))

    def wanted(self, service: str, count: int, **fields: Any) -> list[Task]:
        number = self.world.tables.version
        known: dict[str, Any] = {"revision_id": RevisionId(f"{service}-r1"), **fields}
        return [
            Task(
                id=TaskId(f"{service}-{number}-{slot:04}"), service_id=ServiceId(service), slot=slot, **known
            )
            for slot in range(1, count + 1)
        ]

    def place(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        placed = place(self.world.tables, tasks, self.now)
        for task in placed:
            self.world.put(task)
        return placed

    def place_new(self, service: str, count: int, **fields: Any) -> list[str]:
        return [task.node_id for task in self.place(self.wanted(service, count, **fields))]

    def counts(self, service: str = "") -> dict[str, int]:
        return dict(Counter(task.node_id for task in self.world.tasks(service)))

    def fail(self, task: Task, state: TaskState = TaskState.FAILED) -> None:
        status = TaskStatus(timestamp=self.now, state=state)
        self.world.put(replace(task, status=status, desired_state=TaskState.SHUTDOWN))


def reserving(nano_cpus: int = 0, memory_bytes: int = 0, **kinds: int) -> ResourceRequirements:
    generic = tuple(
        GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=value))
        for kind, value in kinds.items()
    )
    return ResourceRequirements(
        reservations=Resources(nano_cpus=nano_cpus, memory_bytes=memory_bytes, generic_resources=generic)
    )


def host_port(port: int, protocol: PortProtocol = PortProtocol.TCP) -> PortConfig:
    return PortConfig(target_port=80, published_port=port, protocol=protocol, publish_mode=PublishMode.HOST)


# --- reasons


def reason(board: Board, service: str = "a") -> str:
    (task,) = place(board.world.tables, board.wanted(service, 1), board.now)
    assert task.status.state == TaskState.PENDING
    assert task.status.message == "pending task scheduling"
    assert not task.node_id
    return task.status.err


def test_no_nodes_at_all() -> None:
    board = Board()
    board.service("a")
    assert reason(board) == "no suitable node"


@pytest.mark.parametrize(
    ("node", "template", "clause"),
    [
        ({"state": NodeState.DOWN}, {}, "2 nodes not available for new tasks"),
        ({"state": NodeState.UNKNOWN}, {}, "2 nodes not available for new tasks"),
        ({"state": NodeState.DISCONNECTED}, {}, "2 nodes not available for new tasks"),
        ({"availability": NodeAvailability.PAUSE}, {}, "2 nodes not available for new tasks"),
        ({"availability": NodeAvailability.DRAIN}, {}, "2 nodes not available for new tasks"),
        ({}, {"resources": reserving(nano_cpus=9 * 10**9)}, "insufficient resources on 2 nodes"),
        ({}, {"resources": reserving(memory_bytes=33 * GIB)}, "insufficient resources on 2 nodes"),
        ({}, {"resources": reserving(gpu=1)}, "insufficient resources on 2 nodes"),
        (
            {},
            {
                "container_spec": ContainerSpec(
                    mounts=(
                        Mount(
                            type=MountType.VOLUME,
                            volume_options=VolumeOptions(driver_config=Driver(name="netapp")),
                        ),
                    )
                )
            },
            "missing plugin on 2 nodes",
        ),
        (
            {},
            {"placement": Placement(constraints=("node.labels.disk==ssd",))},
            "scheduling constraints not satisfied on 2 nodes",
        ),
        (
            {},
            {"placement": Placement(constraints=("node.bogus!=x",))},
            "scheduling constraints not satisfied on 2 nodes",
        ),
        (
            {},
            {"placement": Placement(platforms=(Platform(architecture="arm64", os="linux"),))},
            "unsupported platform on 2 nodes",
        ),
    ],
)
def test_each_filter_has_swarm_modes_words(
    node: dict[str, Any], template: dict[str, Any], clause: str
) -> None:
    board = Board("n1", "n2", **node)
    board.service("a", **template)
    assert reason(board) == f"no suitable node ({clause})"


def test_one_node_is_singular() -> None:
    board = Board("n1", state=NodeState.DOWN)
    board.service("a", placement=Placement(constraints=("node.role==manager",)))
    assert reason(board) == "no suitable node (1 node not available for new tasks)"
    board = Board("n1")
    board.service("a", placement=Placement(constraints=("node.role==manager",)))
    assert reason(board) == "no suitable node (scheduling constraints not satisfied on 1 node)"


def make_engine_node(name: str, executor: str) -> Node:
    node = make_node(name)
    engine = EngineDescription(plugins=(EnginePlugin(type="Executor", name=executor),))
    return replace(node, description=replace(node.description, engine=engine))


@pytest.mark.parametrize("image", ["host", "host:latest"])
def test_the_nodes_own_root_is_not_for_engines(image: str) -> None:
    board = Board()
    for executor in ("podman", "docker"):
        board.world.put(make_engine_node(executor, executor))
    board.service("a", container_spec=ContainerSpec(image=image))
    board.service("b", container_spec=ContainerSpec(image="box:1"))
    assert reason(board) == 'no suitable node (image "host" not run by the engines of 2 nodes)'
    assert board.place_new("b", 1) != [""]

    board.world.put(make_engine_node("n-oci", "oci"))
    board.world.put(make_node("n-old"))  # names none, as before there was a choice
    assert sorted(board.place_new("a", 4)) == ["n-oci", "n-oci", "n-old", "n-old"]


def test_a_container_by_hand_goes_where_it_was_started_and_hears_the_engine_itself() -> None:
    board = Board()
    board.world.put(make_engine_node("n1", "podman"))
    mode = ServiceMode(standalone=Standalone(node_id=NodeId("n1")))
    template = TaskSpec(container_spec=ContainerSpec(image="host"))
    board.service("a", ServiceSpec(name="a", task_template=template, mode=mode))
    assert board.place_new("a", 1, node_id=NodeId("n1")) == ["n1"]


def test_clauses_are_ranked_by_count_and_a_node_counts_once() -> None:
    board = Board("n1", "n2", "n3")
    # n4 is down and has too little of everything: it counts as not available only
    board.world.put(make_node("n4", state=NodeState.DOWN))
    board.service("a", resources=reserving(nano_cpus=9 * 10**9))
    assert reason(board) == (
        "no suitable node (insufficient resources on 3 nodes; 1 node not available for new tasks)"
    )


def test_host_port_and_max_replicas_clauses() -> None:
    board = Board("n1", "n2")
    board.service("a", ServiceSpec(name="a", endpoint_spec=EndpointSpec(ports=(host_port(80),))))
    assert sorted(board.place_new("a", 2)) == ["n1", "n2"]
    assert reason(board) == "no suitable node (host-mode port already in use on 2 nodes)"
    board.service("b", placement=Placement(max_replicas=1))
    assert sorted(board.place_new("b", 2)) == ["n1", "n2"]
    assert reason(board, "b") == "no suitable node (max replicas per node limit exceed)"


def test_the_rest_of_a_group_says_why_there_is_no_room_left() -> None:
    board = Board("n1", "n2")
    board.world.put(make_node("n3", availability=NodeAvailability.PAUSE))
    board.service("a", resources=reserving(memory_bytes=16 * GIB))
    placed = board.place(board.wanted("a", 6))
    assert [task.status.state for task in placed] == [TaskState.ASSIGNED] * 4 + [TaskState.PENDING] * 2
    assert placed[0].status.message == "scheduler assigned task to node"
    assert {task.status.err for task in placed[4:]} == {
        "no suitable node (insufficient resources on 2 nodes; 1 node not available for new tasks)"
    }


def test_a_task_that_waits_for_the_same_reason_comes_back_unchanged() -> None:
    board = Board("n1", state=NodeState.DOWN)
    board.service("a")
    (waiting,) = board.place(board.wanted("a", 1))
    (again,) = place(board.world.tables, [waiting], Timestamp(board.now + 10**9))
    assert again is waiting
    board.world.put(make_node("n2", state=NodeState.DOWN))
    (changed,) = place(board.world.tables, [waiting], Timestamp(board.now + 10**9))
    assert changed.status.err == "no suitable node (2 nodes not available for new tasks)"
    assert changed.status.report == waiting.status.report + 1
    assert changed.status.timestamp == waiting.status.timestamp


# --- filters in detail


def test_host_ports_differ_by_protocol() -> None:
    board = Board("n1")
    board.service("a", ServiceSpec(name="a", endpoint_spec=EndpointSpec(ports=(host_port(80),))))
    udp = host_port(80, PortProtocol.UDP)
    board.service("b", ServiceSpec(name="b", endpoint_spec=EndpointSpec(ports=(udp,))))
    assert board.place_new("a", 1) == ["n1"]
    assert board.place_new("b", 1) == ["n1"]
    assert reason(board, "b") == "no suitable node (host-mode port already in use on 1 node)"


def test_resources_and_ports_are_freed_when_the_task_has_ended_not_when_it_is_told_to() -> None:
    board = Board("n1")
    board.service("a", resources=reserving(nano_cpus=8 * 10**9))
    (task,) = board.place(board.wanted("a", 1))
    board.world.put(replace(task, desired_state=TaskState.SHUTDOWN))
    assert "insufficient resources" in reason(board)
    board.fail(task, TaskState.SHUTDOWN)
    assert board.place_new("a", 1) == ["n1"]


def test_limits_play_no_part_and_named_generic_resources_count_by_kind() -> None:
    board = Board()
    named = tuple(
        GenericResource(named_resource_spec=NamedGenericResource(kind="gpu", value=f"id{n}"))
        for n in range(2)
    )
    node = make_node("n1")
    resources = replace(node.description.resources, generic_resources=named)
    board.world.put(replace(node, description=replace(node.description, resources=resources)))
    board.service("a", resources=reserving(gpu=1))
    placed = board.place(board.wanted("a", 3))
    assert [task.node_id for task in placed] == ["n1", "n1", ""]


@pytest.mark.parametrize(
    ("wanted", "actual", "fits"),
    [
        (Platform(architecture="amd64", os="linux"), Platform(architecture="x86_64", os="linux"), True),
        (Platform(architecture="x86_64", os="linux"), Platform(architecture="amd64", os="linux"), True),
        (Platform(architecture="aarch64", os="linux"), Platform(architecture="arm64", os="linux"), True),
        (Platform(architecture="arm", os="linux"), Platform(architecture="armv7l", os="linux"), True),
        (Platform(architecture="386", os="linux"), Platform(architecture="i686", os="linux"), True),
        (Platform(architecture="arm64"), Platform(architecture="x86_64", os="linux"), False),
        (Platform(os="windows"), Platform(architecture="x86_64", os="linux"), False),
        (Platform(os="linux"), Platform(architecture="x86_64", os="linux"), True),
        (Platform(), Platform(architecture="x86_64", os="linux"), True),
        (Platform(os="linux"), Platform(), False),  # a node that names no platform is refused
    ],
)
def test_platforms(wanted: Platform, actual: Platform, fits: bool) -> None:
    board = Board()
    node = make_node("n1")
    board.world.put(replace(node, description=replace(node.description, platform=actual)))
    board.service("a", placement=Placement(platforms=(wanted,)))
    (task,) = board.place(board.wanted("a", 1))
    assert (task.node_id == "n1") is fits


MIXED = {
    "linux": Platform(architecture="x86_64", os="linux"),
    "windows": Platform(architecture="amd64", os="windows"),
    "silent": Platform(),
}


@pytest.mark.parametrize(
    ("wanted", "fitting"),
    [
        ((Platform(architecture="amd64", os="linux"),), {"linux"}),
        ((Platform(architecture="amd64", os="windows"),), {"windows"}),
        ((Platform(architecture="arm64", os="linux"),), set()),
        ((), {"linux", "windows", "silent"}),
        ((Platform(os="windows"),), {"windows"}),
        ((Platform(architecture="amd64"),), {"linux", "windows"}),
        ((Platform(architecture="x86_64", os="linux"), Platform(os="windows")), {"linux", "windows"}),
    ],
)
def test_platforms_in_a_swarm_of_two_systems(wanted: tuple[Platform, ...], fitting: set[str]) -> None:
    board = Board()
    for name, platform in MIXED.items():
        node = make_node(name)
        board.world.put(replace(node, description=replace(node.description, platform=platform)))
    board.service("a", placement=Placement(platforms=wanted))
    assert {task.node_id for task in board.place(board.wanted("a", 9))} == (fitting or {""})


@pytest.mark.parametrize(
    ("constraint", "fitting"),
    [
        ("node.platform.os==windows", {"windows"}),
        ("node.platform.os!=windows", {"linux", "silent"}),
        ("node.platform.os == Windows", {"windows"}),
        ("node.labels.system==win", {"windows"}),
        ("node.labels.system!=win", {"linux", "silent"}),
    ],
)
def test_constraints_in_a_swarm_of_two_systems(constraint: str, fitting: set[str]) -> None:
    board = Board()
    for name, platform in MIXED.items():
        node = make_node(name, labels={"system": "win"} if name == "windows" else {})
        board.world.put(replace(node, description=replace(node.description, platform=platform)))
    board.service("a", placement=Placement(constraints=(constraint,)))
    assert {task.node_id for task in board.place(board.wanted("a", 9))} == fitting


@pytest.mark.parametrize(
    ("driver", "plugins", "fits"),
    [
        ("syslog", (), True),  # an agent that names no log plug-ins is not judged by them
        ("syslog", (("Log", "json-file"),), False),
        ("syslog", (("Log", "syslog"),), True),
        ("none", (("Log", "json-file"),), True),
        ("syslog", (("Volume", "local"),), True),
    ],
)
def test_log_drivers(driver: str, plugins: tuple[tuple[str, str], ...], fits: bool) -> None:
    board = Board()
    node = make_node("n1")
    engine = EngineDescription(plugins=tuple(EnginePlugin(type=type_, name=name) for type_, name in plugins))
    board.world.put(replace(node, description=replace(node.description, engine=engine)))
    board.service("a", log_driver=Driver(name=driver))
    (task,) = board.place(board.wanted("a", 1))
    assert (task.node_id == "n1") is fits


# --- spread


def test_spread_by_service_first_then_by_all() -> None:
    board = Board("n1", "n2", "n3", "n4", "n5")
    board.service("a")
    board.service("b")
    board.place_new("a", 18)
    first = board.counts("a")
    assert sorted(first.values()) == [3, 3, 4, 4, 4]
    light = {node for node, count in first.items() if count == 3}
    b_nodes = board.place_new("b", 2)
    assert set(b_nodes) == light
    board.place_new("a", 3)
    counts = board.counts("a")
    assert sorted(counts.values()) == [4, 4, 4, 4, 5]
    assert all(counts[node] == 4 for node in light)
    heaviest = next(node for node, count in counts.items() if count == 5)
    (last,) = board.place_new("b", 1)
    assert last not in light
    assert last != heaviest


def test_an_emptied_node_gets_all_of_one_service_and_one_of_the_other() -> None:
    board = Board("n1", "n2", "n3", "n4", "n5")
    board.service("a")
    board.service("b")
    board.place_new("a", 20)
    board.place_new("b", 2)
    for task in board.world.tasks():
        if task.node_id == "n1":
            board.world.delete(Kind.TASK, task.id)
    placed = board.place([*board.wanted("a", 4), *board.wanted("b", 2)])
    assert [task.node_id for task in placed if task.service_id == "a"] == ["n1"] * 4
    assert [str(task.node_id) for task in placed if task.service_id == "b"].count("n1") == 1


def test_ties_go_to_free_resources_then_to_the_smallest_id() -> None:
    board = Board("n2", "n1")
    big = make_node("n3")
    resources = replace(big.description.resources, nano_cpus=64 * 10**9)
    board.world.put(replace(big, description=replace(big.description, resources=resources)))
    board.service("a")
    assert board.place_new("a", 3) == ["n3", "n1", "n2"]


def test_tasks_told_to_stop_or_ended_are_not_active() -> None:
    board = Board("n1", "n2")
    board.service("a")
    one, two = board.place(board.wanted("a", 2))
    board.world.put(replace(one, desired_state=TaskState.SHUTDOWN))
    assert board.place_new("a", 1) == [one.node_id]
    assert two.node_id != one.node_id


def fail_there(board: Board, service: str, tries: int, **fields: Any) -> list[str]:
    """Place one task after the other, each of which fails at once."""
    nodes: list[str] = []
    for _ in range(tries):
        (task,) = board.place(board.wanted(service, 1, **fields))
        nodes.append(task.node_id)
        board.fail(task, TaskState.REJECTED)
    return nodes


def test_a_node_where_tasks_keep_failing_is_tried_last() -> None:
    board = Board("n1", "n2")
    board.service("a")
    board.place(board.wanted("a", 1))
    assert board.counts("a") == {"n1": 1}
    assert fail_there(board, "a", 5) == ["n2"] * 5
    assert fail_there(board, "a", 1) == ["n1"]


def test_failures_count_per_revision_and_for_five_minutes() -> None:
    board = Board("n1", "n2")
    board.service("a")
    board.place(board.wanted("a", 1))
    fail_there(board, "a", 5)
    board.world.put(
        Revision(id=RevisionId("a-r2"), service_id=ServiceId("a"), number=2, spec=ServiceSpec(name="a"))
    )
    assert fail_there(board, "a", 5, revision_id=RevisionId("a-r2")) == ["n2"] * 5
    board.now = Timestamp(board.now + 301 * 10**9)
    assert fail_there(board, "a", 1) == ["n2"]


def test_a_global_task_is_only_checked_against_its_node_and_its_failures_do_not_count() -> None:
    board = Board("n1", "n2")
    spec = ServiceSpec(
        name="g",
        mode=ServiceMode(global_=Global()),
        task_template=TaskSpec(resources=reserving(nano_cpus=5 * 10**9)),
    )
    board.service("g", spec)
    wanted = [replace(task, slot=0, node_id=NodeId("n2")) for task in board.wanted("g", 2)]
    first, second = board.place(wanted)
    assert first.node_id == second.node_id == "n2"
    assert first.status.state == TaskState.ASSIGNED
    assert second.status.state == TaskState.PENDING
    assert second.status.err == "insufficient resources on 1 node"


def test_node_status_of_a_node_just_joined_is_not_ready() -> None:
    board = Board()
    board.world.put(replace(make_node("n1"), status=NodeStatus()))
    board.service("a")
    assert reason(board) == "no suitable node (1 node not available for new tasks)"
