"""Convergence: whatever happens to nodes, tasks and specs, once it stops the wished state is reached.

A machine plays users, agents and failures against the real reconcilers over the real store. After every
step that the managers have seen: never more tasks than replicas and overlap, one task per slot. In the end
everything heals, and then: every slot runs, or waits for a node with a reason, or is done; and nobody wants
anything more.
"""

from __future__ import annotations

from collections import Counter

from budget import machine_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace
from world import GIB, World, make_node, seconds

from swarmpy.model.defaults import replicas, restart_policy
from swarmpy.model.ids import Duration, ServiceId
from swarmpy.model.objects import Kind, Service, Task
from swarmpy.model.specs import (
    ContainerSpec,
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
    RestartCondition,
    TaskState,
    UpdateOrder,
    UpdateState,
    is_terminal,
)

SERVICES = ("a", "b")
NODES = ("n1", "n2", "n3", "n4")
AFTER_ALL_S = 600.0

policies = st.sampled_from(
    [
        None,
        RestartPolicy(condition=RestartCondition.ON_FAILURE, delay=Duration(seconds(5))),
        RestartPolicy(condition=RestartCondition.NONE),
        RestartPolicy(max_attempts=2),
        RestartPolicy(max_attempts=1, window=Duration(seconds(3)), delay=Duration(seconds(1))),
        RestartPolicy(delay=Duration(0)),
    ]
)
updates = st.sampled_from(
    [
        None,
        UpdateConfig(parallelism=2, delay=Duration(seconds(2)), failure_action=FailureAction.CONTINUE),
        UpdateConfig(parallelism=1, order=UpdateOrder.START_FIRST, failure_action=FailureAction.ROLLBACK),
        UpdateConfig(parallelism=0, failure_action=FailureAction.CONTINUE),
    ]
)
placements = st.sampled_from(
    [None, None, Placement(constraints=("node.labels.disk==ssd",)), Placement(max_replicas=1)]
)
reservations = st.sampled_from([0, 0, GIB, 12 * GIB])
templates = st.builds(
    lambda image, policy, placement, memory: TaskSpec(
        container_spec=ContainerSpec(image=image),
        restart_policy=policy,
        placement=placement,
        resources=ResourceRequirements(reservations=Resources(memory_bytes=memory)),
    ),
    st.sampled_from(["i1", "i2", "i3"]),
    policies,
    placements,
    reservations,
)
specs = st.builds(
    lambda count, template, update: ServiceSpec(
        mode=ServiceMode(replicated=Replicated(replicas=count)), task_template=template, update_config=update
    ),
    st.integers(0, 6),
    templates,
    updates,
)


class Cluster(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.is_seen = True
        """Whether the managers have acted on everything that happened."""

    # --- users

    @initialize(spec=specs)
    def start(self, spec: ServiceSpec) -> None:
        for node in NODES[:2]:
            self.world.put(make_node(node, labels={"disk": "ssd"}))
        self.world.put(make_node(NODES[2]))
        self.put_service("a", spec)
        self.settle()

    @rule(name=st.sampled_from(SERVICES), spec=specs)
    def put_service(self, name: str, spec: ServiceSpec) -> None:
        self.is_seen = False
        if self.world.tables.service(ServiceId(name)) is None:
            for revision in list(self.world.tables.revisions_of(ServiceId(name))):
                if not self.world.tables.tasks_of_revision(revision.id):
                    self.world.delete(Kind.REVISION, revision.id)
            if self.world.tables.revisions_of(ServiceId(name)):
                return  # its former life is not over; ids are never used twice outside of tests
            self.world.create_service(name, replace(spec, name=name))
        else:
            self.world.update_service(name, replace(spec, name=name))

    @rule(name=st.sampled_from(SERVICES))
    def remove_service(self, name: str) -> None:
        if self.world.tables.service(ServiceId(name)) is not None:
            self.is_seen = False
            self.world.delete(Kind.SERVICE, name)

    @rule(name=st.sampled_from(SERVICES), count=st.integers(0, 6))
    def scale(self, name: str, count: int) -> None:
        if self.world.tables.service(ServiceId(name)) is not None:
            self.is_seen = False
            self.world.scale(name, count)

    @rule(node=st.sampled_from(NODES), availability=st.sampled_from(list(NodeAvailability)[1:]))
    def set_availability(self, node: str, availability: NodeAvailability) -> None:
        if self.world.has_node(node):
            self.is_seen = False
            self.world.set_availability(node, availability)

    @rule(node=st.sampled_from(NODES), labels=st.sampled_from([{}, {"disk": "ssd"}]))
    def label(self, node: str, labels: dict[str, str]) -> None:
        if self.world.has_node(node):
            self.is_seen = False
            self.world.change_node(node, spec=replace(self.world.node(node).spec, labels=labels))

    # --- the world

    @rule(node=st.sampled_from(NODES), state=st.sampled_from([NodeState.READY, NodeState.DISCONNECTED]))
    def hear(self, node: str, state: NodeState) -> None:
        if self.world.has_node(node):
            self.is_seen = False
            self.world.set_node_state(node, state)

    @rule(node=st.sampled_from(NODES), returns=st.booleans())
    def lose_node(self, node: str, *, returns: bool) -> None:
        """Its session ends and the grace passes; it may be back after the managers have acted."""
        self.hear(node, NodeState.DISCONNECTED)
        self.world.pass_time(2)
        self.settle()
        if returns:
            self.hear(node, NodeState.READY)
            self.settle()

    @rule(node=st.sampled_from(NODES))
    def add_or_remove_node(self, node: str) -> None:
        self.is_seen = False
        if not self.world.has_node(node):
            self.world.put(make_node(node))
        elif self.world.node(node).status.state == NodeState.DOWN:
            self.world.delete(Kind.NODE, node)

    @rule(pick=st.integers(0, 30), state=st.sampled_from([TaskState.FAILED, TaskState.COMPLETE]))
    def end_task(self, pick: int, state: TaskState) -> None:
        on_agents = [
            task
            for task in self.world.tasks()
            if TaskState.STARTING <= task.status.state <= TaskState.RUNNING
        ]
        if on_agents:
            self.is_seen = False
            self.world.report(on_agents[pick % len(on_agents)].id, state)

    @rule()
    def agents_work(self) -> None:
        self.is_seen = not self.world.run_agents() and self.is_seen

    @rule(amount=st.sampled_from([0.05, 1.0, 2.0, 30.0]))
    def pass_time(self, amount: float) -> None:
        self.is_seen = False
        self.world.pass_time(amount)

    # --- the managers

    @rule()
    def settle(self) -> None:
        self.world.settle()
        self.is_seen = True
        self.world.assert_quiet()

    @rule()
    def change_leader(self) -> None:
        self.world = self.world.successor()
        self.settle()

    @invariant()
    def never_too_many(self) -> None:
        if not self.is_seen:
            return
        for service in self.world.tables.services():
            wished = [t for t in self.world.tasks(service.id) if t.desired_state <= TaskState.RUNNING]
            per_slot = Counter(task.slot for task in wished)
            doubled = [slot for slot, count in per_slot.items() if count > 1]
            assert all(count <= 2 for count in per_slot.values()), per_slot
            assert len(per_slot) <= replicas(service.spec)
            if doubled:
                orders = {
                    each.spec.update_config.order
                    for each in self.world.tables.revisions_of(service.id)
                    if each.spec.update_config is not None
                }
                assert UpdateOrder.START_FIRST in orders, f"slots {doubled} of {service}"

    @invariant()
    def every_wished_task_has_a_place_or_a_reason(self) -> None:
        for task in self.world.tasks():
            if task.status.state == TaskState.PENDING:
                assert task.status.err.startswith("no suitable node")
                assert not task.node_id
            elif task.status.state <= TaskState.RUNNING:
                assert task.node_id

    def teardown(self) -> None:
        """Everything heals; then all is as wished, and stays so."""
        for node in NODES:
            if self.world.has_node(node):
                self.world.set_node_state(node, NodeState.READY)
                self.world.set_availability(node, NodeAvailability.ACTIVE)
        self.world.live(AFTER_ALL_S)
        self.world.live()
        self.world.assert_quiet()
        for service in self.world.tables.services():
            self._check_converged(service)
        for task in self.world.tasks():
            assert self.world.tables.service(task.service_id) is not None, f"left over: {task}"
            assert task.desired_state != TaskState.REMOVE
        assert self.world.settle() == 0

    def _check_converged(self, service: Service) -> None:
        slots: dict[int, list[Task]] = {}
        for task in self.world.tasks(service.id):
            slots.setdefault(task.slot, []).append(task)
        assert len(slots) == replicas(service.spec)
        for tasks in slots.values():
            wished = [task for task in tasks if task.desired_state <= TaskState.RUNNING]
            others = [task for task in tasks if task.desired_state > TaskState.RUNNING]
            assert all(is_terminal(task.status.state) for task in others)
            assert len(wished) <= 2
            running = [task for task in wished if task.status.state == TaskState.RUNNING]
            assert len(running) <= 1
            self._check_up_to_date(service, running)
            if not wished:
                # done: only a policy with an end leaves a slot like this
                policy = restart_policy(service.spec.task_template)
                assert policy.condition != RestartCondition.ANY or policy.max_attempts
            for task in wished:
                assert task.desired_state == TaskState.RUNNING
                assert task.status.state in (TaskState.RUNNING, TaskState.PENDING)

    def _check_up_to_date(self, service: Service, running: list[Task]) -> None:
        status = service.update_status
        if status is not None and status.state not in (UpdateState.COMPLETED, UpdateState.ROLLBACK_COMPLETED):
            return  # paused, or held up by a task that finds no node
        for task in running:
            revision = self.world.tables.revision(task.revision_id)
            assert revision is not None
            assert revision.spec.task_template.container_spec == service.spec.task_template.container_spec


TestCluster = Cluster.TestCase
TestCluster.settings = machine_settings(examples=150, steps=30)
