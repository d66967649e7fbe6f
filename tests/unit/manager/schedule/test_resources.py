"""Named and counted resources, host ports on one address, sticky volumes, packing."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from world import GIB, START, World, make_node

from manager.schedule.scheduler import place
from swarmpy.model.host_ports import is_clash as is_port_clash
from swarmpy.model.ids import RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Node, NodeVolume, Revision, Service, Task
from swarmpy.model.specs import (
    ContainerSpec,
    DiscreteGenericResource,
    EndpointSpec,
    GenericResource,
    Mount,
    NamedGenericResource,
    Placement,
    PortConfig,
    ResourceRequirements,
    Resources,
    ServiceSpec,
    TaskSpec,
    VolumeOptions,
)
from swarmpy.model.states import MountType, NodeState, PlacementStrategy, PublishMode, TaskState


def discrete(kind: str, value: int) -> GenericResource:
    return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=value))


def named(kind: str, value: str) -> GenericResource:
    return GenericResource(named_resource_spec=NamedGenericResource(kind=kind, value=value))


def with_resources(node: Node, *generic: GenericResource) -> Node:
    resources = replace(node.description.resources, generic_resources=generic)
    return replace(node, description=replace(node.description, resources=resources))


def with_volumes(node: Node, *names: str) -> Node:
    volumes = tuple(NodeVolume(name=name) for name in names)
    return replace(node, description=replace(node.description, volumes=volumes))


def reserving(*generic: GenericResource, nano_cpus: int = 0, memory_bytes: int = 0) -> ResourceRequirements:
    wanted = Resources(nano_cpus=nano_cpus, memory_bytes=memory_bytes, generic_resources=generic)
    return ResourceRequirements(reservations=wanted)


def mounting(source: str, *, sticky: bool = True) -> ContainerSpec:
    mount = Mount(
        type=MountType.VOLUME, source=source, target="/d", volume_options=VolumeOptions(sticky=sticky)
    )
    return ContainerSpec(image="host", mounts=(mount,))


class Board:
    def __init__(self, *nodes: Node) -> None:
        self.world = World(*nodes, reconcilers=())
        self._number = 0

    def service(self, name: str, *, ports: tuple[PortConfig, ...] = (), **template: Any) -> None:
        spec = ServiceSpec(
            name=name, task_template=TaskSpec(**template), endpoint_spec=EndpointSpec(ports=ports)
        )
        self.world.put(Revision(id=RevisionId(f"{name}-r"), service_id=ServiceId(name), number=1, spec=spec))
        self.world.put(Service(id=ServiceId(name), spec=spec, template_id=RevisionId(f"{name}-r")))

    def place(self, name: str, count: int = 1, *, first_slot: int = 1) -> list[Task]:
        wanted = []
        for slot in range(first_slot, first_slot + count):
            self._number += 1
            task_id = TaskId(f"t{self._number:03}")
            wanted.append(
                Task(id=task_id, service_id=ServiceId(name), slot=slot, revision_id=RevisionId(f"{name}-r"))
            )
        placed = list(place(self.world.tables, wanted, START))
        for task in placed:
            self.world.put(task)
        return placed

    def nodes_of(self, name: str, count: int = 1, *, first_slot: int = 1) -> list[str]:
        return [task.node_id for task in self.place(name, count, first_slot=first_slot)]

    def end(self, task: Task) -> None:
        status = replace(task.status, state=TaskState.SHUTDOWN)
        self.world.put(replace(task, status=status, desired_state=TaskState.SHUTDOWN))


# --- generic resources


def test_named_resources_are_given_one_by_one_in_the_nodes_order_and_freed_with_the_task() -> None:
    board = Board(with_resources(make_node("n1"), named("gpu", "B"), named("gpu", "A"), named("fpga", "F")))
    board.service("a", resources=reserving(discrete("gpu", 1)))
    first, second, third = board.place("a", 3)
    assert first.generic_resources == (named("gpu", "B"),)
    assert second.generic_resources == (named("gpu", "A"),)
    assert third.status.err == "no suitable node (insufficient resources on 1 node)"
    assert third.generic_resources == ()

    board.world.put(replace(first, desired_state=TaskState.SHUTDOWN))
    assert board.nodes_of("a") == [""]  # told to stop, but it still has it
    board.end(first)
    (again,) = board.place("a")
    assert again.generic_resources == (named("gpu", "B"),)


def test_counted_resources_are_told_as_a_number() -> None:
    board = Board(with_resources(make_node("n1"), discrete("slots", 5)))
    board.service("a", resources=reserving(discrete("slots", 2)))
    placed = board.place("a", 3)
    assert [task.generic_resources for task in placed] == [(discrete("slots", 2),)] * 2 + [()]


def test_several_of_a_kind_and_several_kinds() -> None:
    node = with_resources(make_node("n1"), *(named("gpu", f"g{n}") for n in range(3)), discrete("slots", 1))
    board = Board(node)
    board.service("a", resources=reserving(discrete("slots", 1), discrete("gpu", 2)))
    board.service("b", resources=reserving(discrete("gpu", 1)))
    (both,) = board.place("a")
    assert both.generic_resources == (named("gpu", "g0"), named("gpu", "g1"), discrete("slots", 1))
    (one,) = board.place("b")
    assert one.generic_resources == (named("gpu", "g2"),)


def test_a_node_that_declares_others_now_gives_none_that_is_held() -> None:
    board = Board(with_resources(make_node("n1"), named("gpu", "A"), named("gpu", "B")))
    board.service("a", resources=reserving(discrete("gpu", 1)))
    board.place("a")
    board.world.put(with_resources(make_node("n1"), named("gpu", "C"), named("gpu", "A")))
    (next_one,) = board.place("a")
    assert next_one.generic_resources == (named("gpu", "C"),)
    assert board.nodes_of("a") == [""]


# --- host ports


def port(number: int, host_ip: str = "") -> PortConfig:
    return PortConfig(target_port=80, published_port=number, publish_mode=PublishMode.HOST, host_ip=host_ip)


@pytest.mark.parametrize(
    ("one", "other", "is_clash"),
    [
        (("tcp", 80, ""), ("tcp", 80, ""), True),
        (("tcp", 80, ""), ("udp", 80, ""), False),
        (("tcp", 80, ""), ("tcp", 81, ""), False),
        (("tcp", 80, "10.0.0.1"), ("tcp", 80, "10.0.0.2"), False),
        (("tcp", 80, "10.0.0.1"), ("tcp", 80, "10.0.0.1"), True),
        (("tcp", 80, "10.0.0.1"), ("tcp", 80, ""), True),
        (("tcp", 80, "0.0.0.0"), ("tcp", 80, "10.0.0.1"), True),
        (("tcp", 80, "::"), ("tcp", 80, "10.0.0.1"), True),
        (("tcp", 80, "eth0"), ("tcp", 80, "eth1"), False),
        (("tcp", 80, "eth0"), ("tcp", 80, "10.0.0.1"), True),  # it may be that one's address
    ],
)
def test_host_ports_on_addresses(
    one: tuple[str, int, str], other: tuple[str, int, str], is_clash: bool
) -> None:
    assert is_port_clash(one, other) is is_clash
    assert is_port_clash(other, one) is is_clash


def test_two_services_share_a_port_of_a_node_on_two_addresses() -> None:
    board = Board(make_node("n1"))
    board.service("a", ports=(port(80, "10.0.0.1"),))
    board.service("b", ports=(port(80, "10.0.0.2"),))
    board.service("all", ports=(port(80),))
    assert board.nodes_of("a") == ["n1"]
    assert board.nodes_of("b") == ["n1"]
    (refused,) = board.place("all")
    assert refused.status.err == "no suitable node (host-mode port already in use on 1 node)"


# --- volumes


def test_a_task_goes_where_its_volume_is_and_waits_if_it_cannot() -> None:
    board = Board(make_node("n1"), with_volumes(make_node("n2"), "data"), make_node("n3"))
    board.service("a", container_spec=mounting("data"))
    assert board.nodes_of("a", 2) == ["n2", "n2"]
    board.world.set_node_state("n2", NodeState.DOWN)
    (waiting,) = board.place("a")
    assert waiting.status.err == (
        "no suitable node (volume not on 2 nodes; 1 node not available for new tasks)"
    )


def test_a_volume_that_is_nowhere_is_where_the_first_task_goes() -> None:
    board = Board(make_node("n1"), make_node("n2"))
    board.service("a", container_spec=mounting("data"))
    board.service("b", container_spec=mounting("data"))
    assert board.nodes_of("a", 3) == ["n1", "n1", "n1"]
    assert board.nodes_of("b") == ["n1"]  # another service's task, before the node has told of the volume


def test_each_slot_has_a_volume_of_its_own() -> None:
    nodes = (make_node("n1"), with_volumes(make_node("n2"), "a-2"), with_volumes(make_node("n3"), "a-1"))
    board = Board(*nodes)
    board.service("a", container_spec=mounting("{{.Service.Name}}-{{.Task.Slot}}"))
    placed = board.nodes_of("a", 3)
    assert placed == ["n3", "n2", "n1"]


def test_data_comes_before_an_empty_node_but_not_before_an_even_spread() -> None:
    board = Board(make_node("n1"), with_volumes(make_node("n2"), "data"))
    board.service("noise", placement=Placement(constraints=("node.id==n2",)))
    board.place("noise", 3)
    board.service("a", container_spec=mounting("data", sticky=False))
    assert board.nodes_of("a", 3) == ["n2", "n1", "n2"]


def test_a_volume_of_another_driver_or_named_by_the_node_keeps_no_task_anywhere() -> None:
    board = Board(make_node("n1"), with_volumes(make_node("n2"), "x-{{.Node.Hostname}}"))
    board.service("a", container_spec=mounting("x-{{.Node.Hostname}}"))
    assert sorted(board.nodes_of("a", 2)) == ["n1", "n2"]


# --- packing

PACKED = Placement(strategy=PlacementStrategy.BINPACK)


def test_packing_fills_one_node_after_the_other() -> None:
    board = Board(*(make_node(f"n{n}") for n in range(1, 4)))
    board.service("a", placement=PACKED, resources=reserving(nano_cpus=2 * 10**9))
    assert board.nodes_of("a", 6) == ["n1"] * 4 + ["n2"] * 2
    assert board.nodes_of("a", 3) == ["n2"] * 2 + ["n3"]


def test_packing_takes_the_fullest_node_that_fits_and_empty_ones_last() -> None:
    board = Board(*(make_node(f"n{n}") for n in range(1, 4)))
    board.service(
        "small", placement=Placement(constraints=("node.id==n3",)), resources=reserving(memory_bytes=GIB)
    )
    board.service(
        "large", placement=Placement(constraints=("node.id==n2",)), resources=reserving(memory_bytes=30 * GIB)
    )
    board.place("small")
    board.place("large")
    board.service("a", placement=PACKED, resources=reserving(memory_bytes=GIB))
    assert board.nodes_of("a", 4) == ["n2", "n2", "n3", "n3"]


def test_packing_without_reservations_goes_by_tasks_and_keeps_the_limit_per_node() -> None:
    board = Board(*(make_node(f"n{n}") for n in range(1, 4)))
    board.service("a", placement=replace(PACKED, max_replicas=2))
    assert board.nodes_of("a", 5) == ["n1", "n1", "n2", "n2", "n3"]
