"""The checkers of the committed state: each notices what it is for, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from store_values import node, revision, service, task

from swarmpy.limits import PROPOSE_TIMEOUT_S
from swarmpy.model.cluster_specs import NetworkSpec
from swarmpy.model.ids import NetworkId, NodeId, RevisionId, ServiceId, TaskId
from swarmpy.model.objects import (
    Endpoint,
    Network,
    NetworkAttachment,
    Node,
    NodeDescription,
    Revision,
    Service,
    Task,
    TaskStatus,
    VirtualIP,
)
from swarmpy.model.specs import (
    Driver,
    EndpointSpec,
    PortConfig,
    ResourceRequirements,
    Resources,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import PortProtocol, PublishMode, TaskState, UpdateOrder
from swarmpy.sim.checkers.demand import Demand, demand_of
from swarmpy.sim.checkers.exclusive import VXLAN_IDS_OPTION, Exclusive
from swarmpy.sim.checkers.reservations import Reservations
from swarmpy.sim.checkers.slots import Slots
from swarmpy.sim.checkers.starts import Starts
from swarmpy.sim.checkers.task_life import TaskLife
from swarmpy.sim.checkers.violations import Violation, Violations

S = TaskState
N1, N2 = NodeId("n1"), NodeId("n2")


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def in_state(known: Task, state: TaskState) -> Task:
    return replace(known, status=TaskStatus(state=state))


def sentences(violations: Violations) -> list[str]:
    return [violation.sentence for violation in violations]


def only(violations: Violations) -> str:
    (sentence,) = sentences(violations)
    return sentence


# --- violations


def test_violations_are_counted_and_the_first_kept() -> None:
    heard: list[Violation] = []
    violations = Violations(lambda: 12.5, limit=2, on_found=heard.append)
    assert not violations
    for number in range(5):
        violations.add("some", f"number {number}", node="n1")
    assert len(violations) == 5
    assert len(heard) == 5
    assert sentences(violations) == ["number 0", "number 1"]
    assert str(heard[0]) == "12.500 some: number 0 node=n1"


# --- task life


def walk(*states: TaskState, reported: bool = True) -> Violations:
    """A task through these states, each of which its agent has reported."""
    violations = Violations()
    life = TaskLife(violations)
    known: Task | None = None
    for state in states:
        following = in_state(task("t1", on="n1"), state)
        if reported:
            life.reported(N1, following.id, state)
        life.event(known, following)
        known = following
    return violations


def test_an_ordinary_life_is_fine() -> None:
    assert not walk(S.PENDING, S.ASSIGNED, S.ACCEPTED, S.PREPARING, S.STARTING, S.RUNNING, S.FAILED)
    assert not walk(S.ASSIGNED, S.RUNNING, S.ORPHANED)


def test_states_that_only_managers_set_need_no_report() -> None:
    assert not walk(S.NEW, S.PENDING, S.ASSIGNED, S.REJECTED, reported=False)
    assert not walk(S.PENDING, S.SHUTDOWN, reported=False)


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ((S.RUNNING,), "was created as running"),
        ((S.PENDING, S.RUNNING), "went from pending to running, which nobody may do"),
        ((S.ASSIGNED, S.RUNNING, S.PREPARING), "went back from running to preparing"),
        ((S.ASSIGNED, S.FAILED, S.ORPHANED), "went on to orphaned although it had ended as failed"),
    ],
)
def test_a_step_that_nobody_may_make(states: tuple[TaskState, ...], said: str) -> None:
    assert said in only(walk(*states))


def test_a_state_that_no_agent_reported() -> None:
    assert "running, which no agent has reported" in only(walk(S.ASSIGNED, S.RUNNING, reported=False))


def test_a_report_counts_for_its_state_only_and_from_the_right_node() -> None:
    violations = Violations()
    life = TaskLife(violations)
    known = task("t1", on="n1")
    life.reported(N1, known.id, S.FAILED)
    life.event(known, in_state(known, S.RUNNING))
    assert "no agent has reported" in only(violations)
    life.reported(N2, known.id, S.STARTING)
    life.event(known, in_state(known, S.STARTING))
    assert "only another node reported" in sentences(violations)[1]


def test_the_report_of_a_deleted_task_is_forgotten() -> None:
    violations = Violations()
    life = TaskLife(violations)
    ended = in_state(task("t1", on="n1"), S.FAILED)
    life.reported(N1, ended.id, S.FAILED)
    life.event(ended, None)
    assert not violations
    life.event(task("t1", on="n1"), ended)
    assert "no agent" in only(violations)


def test_without_reports_origins_are_not_judged() -> None:
    violations = Violations()
    TaskLife(violations, has_reports=False).event(
        task("t1", on="n1"), in_state(task("t1", on="n1"), S.RUNNING)
    )
    assert not violations


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"desired_state": S.READY}, "is wished ready after running"),
        ({"node_id": N2}, "was moved to another node"),
        ({"node_id": NodeId("")}, "was moved to another node"),
        ({"slot": 2}, "was given another slot"),
        ({"service_id": ServiceId("s2")}, "was given another slot"),
        ({"revision_id": RevisionId("other")}, "was given another revision"),
    ],
)
def test_what_never_changes(change: dict[str, Any], said: str) -> None:
    violations = Violations()
    known = task("t1", on="n1", slot=1)
    TaskLife(violations).event(known, replace(known, **change))
    assert said in only(violations)


def test_placing_a_task_is_no_move() -> None:
    violations = Violations()
    waiting = task("t1")
    TaskLife(violations).event(waiting, task("t1", on="n1"))
    assert not violations


def test_a_task_that_may_run_is_not_deleted() -> None:
    violations = Violations()
    TaskLife(violations).event(in_state(task("t1", on="n1"), S.RUNNING), None)
    assert "was deleted while running" in only(violations)


def test_a_gap_may_skip_steps_but_not_go_back() -> None:
    violations = Violations()
    life = TaskLife(violations)
    known = task("t1")
    life.reported(N1, known.id, S.RUNNING)
    life.event(known, in_state(task("t1", on="n1"), S.RUNNING), is_gap=True)
    assert not violations
    life.event(in_state(known, S.RUNNING), in_state(known, S.ASSIGNED), is_gap=True)
    assert "went back" in only(violations)


# --- starts


@pytest.mark.parametrize(("second", "said"), [(N1, "a second time"), (N2, "on a second node")])
def test_a_second_start(second: NodeId, said: str) -> None:
    violations = Violations()
    starts = Starts(violations)
    starts.started(N1, TaskId("t1"))
    starts.started(N2, TaskId("t2"))
    assert not violations
    starts.started(second, TaskId("t1"))
    assert said in only(violations)


def test_starts_are_bounded() -> None:
    starts = Starts(Violations(), limit=3)
    for number in range(10):
        starts.started(N1, TaskId(f"t{number}"))
    assert len(starts._started) == 3


# --- exclusive holdings


def port(number: int, mode: PublishMode = PublishMode.INGRESS, **fields: Any) -> PortConfig:
    return PortConfig(target_port=80, published_port=number, publish_mode=mode, **fields)


def published(id_: str, *ports: PortConfig) -> Service:
    return replace(service(id_), endpoint=Endpoint(ports=ports))


def test_a_published_port_is_one_services() -> None:
    violations = Violations()
    exclusive = Exclusive(violations, {})
    first = published("s1", port(8080), port(8081))
    exclusive.event(None, first)
    exclusive.event(None, published("s2", port(8080, protocol=PortProtocol.UDP)))
    exclusive.event(None, published("s3", port(8080, PublishMode.HOST)))
    assert not violations
    exclusive.event(None, published("s4", port(8081)))
    assert "published port tcp 8081 is held twice" in only(violations)


def test_what_was_given_up_is_free() -> None:
    violations = Violations()
    exclusive = Exclusive(violations, {})
    first = published("s1", port(8080), port(8081))
    exclusive.event(None, first)
    exclusive.event(first, published("s1", port(8081)))
    exclusive.event(None, published("s2", port(8080)))
    exclusive.event(published("s1", port(8081)), None)
    exclusive.event(None, published("s3", port(8081)))
    assert not violations
    exclusive.event(None, published("s4", port(8080)))
    assert "8080" in only(violations)


def on_host_port(id_: str, state: TaskState, on: str = "n1") -> Task:
    return in_state(task(id_, on=on), state)


def test_a_host_port_is_one_tasks_until_it_has_ended() -> None:
    violations = Violations()
    exclusive = Exclusive(violations, {"s1-r": Demand(host_ports=(("tcp", 80, ""),))})
    running = on_host_port("t1", S.RUNNING)
    exclusive.event(None, running)
    exclusive.event(running, replace(running, desired_state=S.SHUTDOWN))
    exclusive.event(None, task("t2"))  # it waits: no port yet
    exclusive.event(None, on_host_port("t3", S.ASSIGNED, on="n2"))
    assert not violations
    exclusive.event(task("t2"), on_host_port("t2", S.ASSIGNED))
    assert "host port n1 tcp 80 is held twice" in only(violations)
    exclusive.event(running, on_host_port("t1", S.SHUTDOWN))
    exclusive.event(on_host_port("t2", S.ASSIGNED), on_host_port("t2", S.FAILED))
    exclusive.event(None, on_host_port("t4", S.ASSIGNED))
    assert len(violations) == 1


def test_addresses_are_one_holders_in_each_network() -> None:
    violations = Violations()
    exclusive = Exclusive(violations, {})

    def attached(id_: str, network: str, address: str) -> Task:
        attachment = NetworkAttachment(network_id=NetworkId(network), addresses=(address,))
        return task(id_, on="n1", networks=(attachment,))

    first = attached("t1", "net1", "10.0.0.5/24")
    exclusive.event(None, first)
    exclusive.event(None, attached("t2", "net2", "10.0.0.5/24"))
    assert not violations
    vip = VirtualIP(network_id=NetworkId("net1"), addr="10.0.0.5/24")
    exclusive.event(None, replace(service("s1"), endpoint=Endpoint(virtual_ips=(vip,))))
    assert "address net1 10.0.0.5 is held twice" in only(violations)
    exclusive.event(first, in_state(first, S.FAILED))
    exclusive.event(service("s1"), service("s1"))
    exclusive.event(None, attached("t3", "net1", "10.0.0.5/24"))
    assert len(violations) == 1


def test_a_vni_is_one_networks() -> None:
    violations = Violations()
    exclusive = Exclusive(violations, {})

    def overlay(id_: str, vni: str) -> Network:
        state = Driver(name="overlay", options={VXLAN_IDS_OPTION: vni})
        return Network(id=NetworkId(id_), spec=NetworkSpec(name=id_), driver_state=state)

    exclusive.event(None, overlay("net1", "4097"))
    exclusive.event(None, overlay("net2", "4098"))
    assert not violations
    exclusive.event(None, overlay("net3", "4097"))
    assert "VNI 4097 is held twice" in only(violations)


# --- slots


def in_slot(id_: str, slot: int = 1, **fields: Any) -> Task:
    return task(id_, on="n1", slot=slot, **fields)


def start_first(id_: str = "s1") -> Service:
    known = service(id_)
    config = UpdateConfig(order=UpdateOrder.START_FIRST)
    return replace(known, spec=replace(known.spec, update_config=config))


def test_two_tasks_in_one_slot() -> None:
    violations = Violations()
    slots = Slots(violations)
    for id_, slot in (("t1", 1), ("t2", 2)):
        slots.task_event(None, in_slot(id_, slot))
    slots.batch_end()
    assert not violations
    slots.task_event(None, in_slot("t3", 1))
    slots.batch_end()
    assert "slot 1 of service s1 has 2 tasks that are wanted" in only(violations)


def test_a_node_is_a_slot_of_a_global_service() -> None:
    violations = Violations()
    slots = Slots(violations)
    slots.task_event(None, task("t1", on="n1"))
    slots.task_event(None, task("t2", on="n2"))
    slots.batch_end()
    assert not violations
    slots.task_event(None, task("t3", on="n2"))
    slots.batch_end()
    assert "slot n2" in only(violations)


def test_a_replacement_in_one_batch_is_fine_in_any_order() -> None:
    violations = Violations()
    slots = Slots(violations)
    slots.task_event(None, in_slot("t1"))
    slots.batch_end()
    slots.task_event(None, in_slot("t2", desired_state=S.READY))
    slots.task_event(in_slot("t1"), in_slot("t1", desired_state=S.SHUTDOWN))
    slots.batch_end()
    slots.task_event(in_slot("t2"), in_state(in_slot("t2"), S.FAILED))
    slots.task_event(None, in_slot("t3"))
    slots.batch_end()
    assert not violations


def test_start_first_overlaps_two_and_never_three() -> None:
    violations = Violations()
    slots = Slots(violations)
    slots.service_event(None, start_first())
    for id_ in ("t1", "t2"):
        slots.task_event(None, in_slot(id_))
        slots.batch_end()
    assert not violations
    slots.task_event(None, in_slot("t3"))
    slots.batch_end()
    assert "3 tasks" in only(violations)


def test_start_first_ends_once_no_plan_of_it_can_be_under_way() -> None:
    time = Time()
    violations = Violations(time)
    slots = Slots(violations)
    slots.service_event(None, start_first())
    slots.service_event(start_first(), service("s1"))
    slots.task_event(None, in_slot("t1"))
    slots.task_event(None, in_slot("t2"))
    time.now = PROPOSE_TIMEOUT_S - 1
    slots.batch_end()
    assert not violations
    slots.task_event(in_slot("t2"), in_slot("t2", desired_state=S.SHUTDOWN))
    slots.task_event(None, in_slot("t3"))
    time.now = PROPOSE_TIMEOUT_S + 1
    slots.batch_end()
    assert "2 tasks" in only(violations)


# --- reservations


def sized(cpus: int, id_: str = "n1") -> Node:
    return node(id_, description=NodeDescription(resources=Resources(nano_cpus=cpus)))


def reserving(cpus: int) -> dict[str, Demand]:
    return {"s1-r": Demand(reservations=(("nano_cpus", cpus),))}


def test_reservations_that_do_not_fit() -> None:
    violations = Violations()
    reservations = Reservations(violations, reserving(4))
    reservations.node_event(None, sized(10))
    for id_ in ("t1", "t2"):
        reservations.task_event(None, task(id_, on="n1"))
    reservations.task_event(None, task("t3"))  # it waits
    assert not violations
    reservations.task_event(task("t3"), task("t3", on="n1"))
    assert "node n1 has 10 of nano_cpus, and 12 are reserved" in only(violations)


def test_a_task_holds_what_it_reserves_until_it_has_ended() -> None:
    violations = Violations()
    reservations = Reservations(violations, reserving(6))
    reservations.node_event(None, sized(10))
    first = task("t1", on="n1")
    reservations.task_event(None, first)
    reservations.task_event(first, replace(first, desired_state=S.SHUTDOWN))
    reservations.task_event(replace(first, desired_state=S.SHUTDOWN), in_state(first, S.SHUTDOWN))
    reservations.task_event(None, task("t2", on="n1"))
    reservations.task_event(task("t2", on="n1"), None)
    assert not violations
    assert reservations._sums == {}
    reservations.task_event(None, task("t3", on="n1"))
    reservations.task_event(None, task("t4", on="n1"))
    assert "12 are reserved" in only(violations)


def test_a_node_that_shrinks_is_judged_by_new_placements_only() -> None:
    time = Time()
    violations = Violations(time)
    reservations = Reservations(violations, reserving(4))
    reservations.node_event(None, sized(10))
    reservations.task_event(None, task("t1", on="n1"))
    reservations.node_event(sized(10), sized(6))
    time.now = PROPOSE_TIMEOUT_S - 1
    reservations.task_event(None, task("t2", on="n1"))  # planned before
    assert not violations
    reservations.task_event(task("t2", on="n1"), in_state(task("t2", on="n1"), S.FAILED))
    time.now = PROPOSE_TIMEOUT_S + 1
    reservations.task_event(None, task("t3", on="n1"))
    assert "node n1 has 6 of nano_cpus, and 8 are reserved" in only(violations)


def test_the_demand_of_a_revision_is_read_off_its_spec() -> None:
    spec = ServiceSpec(
        name="s1",
        task_template=TaskSpec(
            resources=ResourceRequirements(reservations=Resources(nano_cpus=5, memory_bytes=7))
        ),
        endpoint_spec=EndpointSpec(ports=(port(80, PublishMode.HOST), port(81), port(0, PublishMode.HOST))),
    )
    known = Revision(id=RevisionId("s1-r"), service_id=ServiceId("s1"), spec=spec)
    assert demand_of(known) == Demand(
        reservations=(("nano_cpus", 5), ("memory_bytes", 7)), host_ports=(("tcp", 80, ""),)
    )
    assert demand_of(revision("s2-r", "s2")) == Demand()


def test_a_node_holds_its_place_in_the_ingress_network() -> None:
    violations = Violations()
    exclusive = Exclusive(violations, {})
    place = NetworkAttachment(network_id=NetworkId("in"), addresses=("10.0.0.5/24",), mac="02:aa:00:00:00:01")
    first = node("n1", attachments=(place,))
    exclusive.event(None, first)
    exclusive.event(None, node("n2"))
    assert not violations
    exclusive.event(node("n2"), node("n2", attachments=(replace(place, mac=""),)))
    assert "address in 10.0.0.5 is held twice" in only(violations)
    exclusive.event(node("n2"), None)
    exclusive.event(first, node("n1"))
    exclusive.event(None, task("t1", on="n1", networks=(place,)))
    assert len(violations) == 1
    exclusive.event(None, task("t2", on="n1", networks=(replace(place, addresses=()),)))
    assert "MAC in 02:aa:00:00:00:01 is held twice" in str(list(violations)[-1])
