"""Convergence of the whole control plane: whatever happened, once it stops, what is wished runs.

Replicated and global services together, by the API's own changes; drains, nodes that go down, come back or
are removed with what they ran, tasks that fail, agents that work or do not, and leaders that change in the
middle of anything, even between two rounds of their work. Then all is quiet, and: no reconciler wants
anything, each wished task runs on a node that may have it or says why it waits, and nothing is left of what
is gone.
"""

from __future__ import annotations

import itertools
from collections import Counter

from budget import machine_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from world import GIB, World, make_node, seconds

from manager.api import service_plan
from manager.schedule.filters import NO_SUITABLE_NODE
from manager.schedule.scheduler import place
from swarmpy.model.changes import Change, Delete, Group, Update
from swarmpy.model.defaults import is_global, replicas
from swarmpy.model.ids import Duration, TaskId
from swarmpy.model.objects import Kind, Service, Task
from swarmpy.model.specs import (
    ContainerSpec,
    Global,
    Placement,
    Replicated,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import (
    FailureAction,
    NodeAvailability,
    NodeState,
    Owner,
    TaskState,
    UpdateOrder,
    UpdateState,
    is_terminal,
)

SERVICES = ("a", "b", "g", "h")
GLOBALS = ("g", "h")
NODES = ("n1", "n2", "n3", "n4")
AFTER_ALL_S = 900.0
BROKEN = "broken"
"""An image whose tasks fail as soon as they start."""

templates = st.builds(
    lambda image, constraints, most, memory: TaskSpec(
        container_spec=ContainerSpec(image=image),
        restart_policy=RestartPolicy(delay=Duration(seconds(2))),
        placement=Placement(constraints=constraints, max_replicas=most),
        resources=ResourceRequirements(reservations=Resources(memory_bytes=memory)),
    ),
    st.sampled_from(["one", "two", "three", BROKEN]),
    st.sampled_from([(), (), ("node.labels.disk==ssd",)]),
    st.sampled_from([0, 0, 1, 2]),
    st.sampled_from([0, 0, 9 * GIB]),
)
updates = st.builds(
    UpdateConfig,
    parallelism=st.sampled_from([0, 1, 2]),
    order=st.sampled_from([UpdateOrder.STOP_FIRST, UpdateOrder.START_FIRST]),
    failure_action=st.sampled_from([FailureAction.CONTINUE, FailureAction.ROLLBACK, FailureAction.PAUSE]),
    monitor=st.just(Duration(seconds(5))),
)


def may_run(task: Task, world: World) -> bool:
    revision = world.tables.revision(task.revision_id)
    assert revision is not None
    container = revision.spec.task_template.container_spec
    return container is None or container.image != BROKEN


class Convergence(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.numbers = itertools.count(1)

    @initialize(nodes=st.integers(1, 4))
    def start(self, nodes: int) -> None:
        for id_ in NODES[:nodes]:
            self.world.put(make_node(id_, labels={"disk": "ssd"} if id_ != "n1" else {}))

    def commit(self, *changes: Change) -> None:
        self.world.apply(Group(owner=Owner.API, changes=changes))

    def find(self, name: str) -> Service | None:
        found = self.world.tables.by_name(Kind.SERVICE, name)
        assert found is None or isinstance(found, Service)
        return found

    # --- users

    @rule(name=st.sampled_from(SERVICES), count=st.integers(0, 6), template=templates, config=updates)
    def put(self, name: str, count: int, template: TaskSpec, config: UpdateConfig) -> None:
        mode = (
            ServiceMode(global_=Global())
            if name in GLOBALS
            else ServiceMode(replicated=Replicated(replicas=count))
        )
        spec = ServiceSpec(name=name, mode=mode, task_template=template, update_config=config)
        self.put_spec(name, spec)

    def put_spec(self, name: str, spec: ServiceSpec) -> None:
        view, service, number = self.world.tables, self.find(name), next(self.numbers)
        if service is None:
            made = service_plan.create(
                view, spec, service_id=f"{name}{number}", revision_id=f"r{number}", now=self.world.now
            )
        else:
            version = service.version
            made = service_plan.update(
                view,
                service,
                spec,
                base_version=version,
                revision_id=f"r{number}",
                now=self.world.now,
            )
        if made:
            self.commit(*made)

    @rule(name=st.sampled_from(SERVICES[:2]), count=st.integers(0, 8))
    def scale(self, name: str, count: int) -> None:
        service = self.find(name)
        if service is not None:
            self.put_spec(
                name, replace(service.spec, mode=ServiceMode(replicated=Replicated(replicas=count)))
            )

    @rule(name=st.sampled_from(SERVICES))
    def roll_back(self, name: str) -> None:
        service = self.find(name)
        if service is not None and self.world.tables.revision(service.previous_id) is not None:
            now, version = self.world.now, service.version
            self.commit(*service_plan.rollback(self.world.tables, service, base_version=version, now=now))

    @rule(name=st.sampled_from(SERVICES))
    def remove(self, name: str) -> None:
        service = self.find(name)
        if service is not None:
            self.commit(Delete(kind=Kind.SERVICE, id=service.id))

    @rule(id_=st.sampled_from(NODES), how=st.sampled_from(list(NodeAvailability)[1:]), has_ssd=st.booleans())
    def change_node(self, id_: str, how: NodeAvailability, *, has_ssd: bool) -> None:
        if self.world.has_node(id_):
            node = self.world.node(id_)
            labels = {"disk": "ssd"} if has_ssd else {}
            self.commit(
                Update(object=replace(node, spec=replace(node.spec, availability=how, labels=labels)))
            )

    # --- nodes and tasks

    @rule(id_=st.sampled_from(NODES), state=st.sampled_from([NodeState.READY, NodeState.DISCONNECTED]))
    def hear_of_node(self, id_: str, state: NodeState) -> None:
        if self.world.has_node(id_):
            self.world.set_node_state(id_, state)
        else:
            self.world.put(make_node(id_))

    @rule(id_=st.sampled_from(NODES))
    def remove_node(self, id_: str) -> None:
        """By force, whatever state it is in."""
        if self.world.has_node(id_):
            self.commit(Delete(kind=Kind.NODE, id=id_))

    @precondition(lambda self: self.on_agents())
    @rule(pick=st.integers(0, 99), state=st.sampled_from([TaskState.FAILED, TaskState.COMPLETE]))
    def end_task(self, pick: int, state: TaskState) -> None:
        tasks = self.on_agents()
        self.world.report(tasks[pick % len(tasks)].id, state)

    def on_agents(self) -> list[Task]:
        return [t for t in self.world.tasks() if TaskState.STARTING <= t.status.state <= TaskState.RUNNING]

    @rule()
    def agents_work(self) -> None:
        self.world.run_agents(may_run=lambda task: may_run(task, self.world))

    @rule(amount=st.sampled_from([0.05, 2.0, 6.0, 40.0]))
    def pass_time(self, amount: float) -> None:
        self.world.pass_time(amount)

    # --- leaders

    @rule()
    def settle(self) -> None:
        self.world.settle()
        self.world.assert_quiet()

    @rule(is_quick=st.booleans())
    def lead_for_a_moment(self, *, is_quick: bool) -> None:
        """One round, or an hour's worth of rounds; the rest is for whoever leads next."""
        if is_quick and self.world.has_work():
            self.world.run_once()
        elif not is_quick:
            self.live(30.0)

    @rule()
    def change_leader(self) -> None:
        self.world = self.world.successor()

    def live(self, amount: float) -> None:
        self.world.live(amount, may_run=lambda task: may_run(task, self.world))

    # --- what must hold at any time

    @invariant()
    def no_place_is_taken_twice(self) -> None:
        """By what may run: of a slot (a node, for global services) two at most, and two only in an update."""
        for service in self.world.tables.services():
            wished = [t for t in self.world.tasks(service.id) if t.desired_state <= TaskState.RUNNING]
            where = Counter(t.node_id if is_global(service.spec) else t.slot for t in wished)
            assert all(count <= 2 for count in where.values()), where

    @invariant()
    def reservations_fit(self) -> None:
        for node in self.world.tables.nodes():
            there = self.world.tables.tasks_of_node(node.id)
            held = [t for t in there if TaskState.ASSIGNED <= t.status.state <= TaskState.RUNNING]
            memory = sum(self.memory(task) for task in held)
            assert memory <= node.description.resources.memory_bytes

    def memory(self, task: Task) -> int:
        revision = self.world.tables.revision(task.revision_id)
        assert revision is not None
        resources = revision.spec.task_template.resources
        assert resources is not None
        assert resources.reservations is not None
        return resources.reservations.memory_bytes

    # --- and in the end

    def teardown(self) -> None:
        """Nodes that are still members come back, images work again, and whoever leads goes on leading."""
        for id_ in NODES:
            if self.world.has_node(id_):
                self.world.set_node_state(id_, NodeState.READY)
        self.world.live(AFTER_ALL_S)
        self.world.live()
        self.world.assert_quiet()
        for service in self.world.tables.services():
            if is_global(service.spec):
                self.check_global(service)
            else:
                self.check_replicated(service)
        for task in self.world.tasks():
            assert self.world.tables.service(task.service_id) is not None, f"left over: {task}"
        for each in self.world.tables.all(Kind.REVISION):
            assert self.world.tables.service(each.service_id) is not None, f"left over: {each}"  # type: ignore[union-attr]
        assert self.world.settle() == 0

    def wished(self, service: Service) -> list[Task]:
        tasks = self.world.tasks(service.id)
        for task in tasks:
            assert task.desired_state <= TaskState.RUNNING or is_terminal(task.status.state), task
        return [task for task in tasks if task.desired_state <= TaskState.RUNNING]

    def check_replicated(self, service: Service) -> None:
        wished = self.wished(service)
        running = [task for task in wished if task.status.state == TaskState.RUNNING]
        waiting = [task for task in wished if task.status.state == TaskState.PENDING]
        assert len(running) + len(waiting) == len(wished), wished
        assert len({task.slot for task in wished}) == replicas(service.spec)
        assert len({task.slot for task in running}) == len(running)
        for task in waiting:
            assert task.status.err.startswith(NO_SUITABLE_NODE)
        self.check_nobody_waits_for_nothing(waiting)
        if not waiting:  # else an update is held up
            self.check_is_up_to_date(service, running)

    def check_global(self, service: Service) -> None:
        wished = self.wished(service)
        active = {
            node.id for node in self.world.tables.nodes() if node.spec.availability == NodeAvailability.ACTIVE
        }
        # what a paused node holds stays as it is, in the middle of an update too
        on_active = [task for task in wished if task.node_id in active]
        # a successor that is to start first may wait for ever for room that only its predecessor would free
        running = [task for task in on_active if task.status.state == TaskState.RUNNING]
        assert len({task.node_id for task in running}) == len(running)
        for task in on_active:
            assert task.status.state in (TaskState.RUNNING, TaskState.PENDING)
            assert task.status.state == TaskState.RUNNING or task.status.err
        placement = service.spec.task_template.placement
        assert placement is not None
        for node in self.world.tables.nodes():
            fits = not placement.constraints or node.spec.labels.get("disk") == "ssd"
            if node.spec.availability == NodeAvailability.ACTIVE:
                assert (node.id in {task.node_id for task in wished}) == fits, f"{service.id} on {node.id}"
            elif node.spec.availability == NodeAvailability.DRAIN:
                assert node.id not in {task.node_id for task in wished}
        waiting = [task for task in wished if task.status.state == TaskState.PENDING]
        self.check_nobody_waits_for_nothing(waiting)

    def check_nobody_waits_for_nothing(self, waiting: list[Task]) -> None:
        for task in waiting:
            (asked,) = place(self.world.tables, [replace(task, id=TaskId("asked"))], self.world.now)
            assert asked.status.state == TaskState.PENDING, f"{task} could run on {asked.node_id}"

    def check_is_up_to_date(self, service: Service, running: list[Task]) -> None:
        status = service.update_status
        if status is not None and status.state not in (UpdateState.COMPLETED, UpdateState.ROLLBACK_COMPLETED):
            return  # paused by a failure, or held up by a task that finds no node
        for task in running:
            # by what is run: a change of placement alone replaces no task that still fits
            revision = self.world.tables.revision(task.revision_id)
            assert revision is not None
            assert revision.spec.task_template.container_spec == service.spec.task_template.container_spec


TestConvergence = Convergence.TestCase
TestConvergence.settings = machine_settings(examples=60, steps=30)


def test_a_global_service_comes_back_to_a_node_that_fits_again() -> None:
    """Found by the machine: what the constraint enforcer had turned down counted as ended by itself."""
    machine = Convergence()
    machine.start(1)
    for constraints in ((), ("node.labels.disk==ssd",), ()):
        template = TaskSpec(
            container_spec=ContainerSpec(image="one"),
            placement=Placement(constraints=constraints),
            resources=ResourceRequirements(reservations=Resources()),
        )
        mode = ServiceMode(global_=Global())
        machine.put_spec("g", ServiceSpec(name="g", mode=mode, task_template=template))
        machine.live(30.0)
    machine.teardown()
    assert len(machine.world.running()) == 1
