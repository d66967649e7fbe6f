"""Containers started by hand: whatever users, processes, nodes and leaders do, one task runs at most, no
start is lost or made twice, and all comes to rest as the users left it.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from world import World, make_node

from manager.api import container_changes as changes
from manager.api.container_plan import create
from manager.reconcile.standalone import is_over
from swarmpy.errors import Conflict
from swarmpy.model.changes import Change, Create, Group
from swarmpy.model.ids import SECOND_NS, Duration, NodeId
from swarmpy.model.objects import Kind, Service, StopWish, Task
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    Standalone,
    TaskSpec,
)
from swarmpy.model.standalone import store_name
from swarmpy.model.states import (
    EndpointMode,
    NodeAvailability,
    NodeState,
    Owner,
    RestartCondition,
    TaskState,
    is_terminal,
)

NODE, OTHER = NodeId("n1"), NodeId("n2")
ATTEMPTS = 2
POLICIES = {
    "no": RestartPolicy(condition=RestartCondition.NONE),
    "on-failure": RestartPolicy(condition=RestartCondition.ON_FAILURE, max_attempts=ATTEMPTS),
    "always": RestartPolicy(condition=RestartCondition.ANY),
}
AVAILABILITIES = st.sampled_from([NodeAvailability.ACTIVE, NodeAvailability.PAUSE, NodeAvailability.DRAIN])


def spec_of(policy: str, *, auto_remove: bool) -> ServiceSpec:
    return ServiceSpec(
        name=store_name(NODE, "box"),
        task_template=TaskSpec(container_spec=ContainerSpec(image="box"), restart_policy=POLICIES[policy]),
        mode=ServiceMode(standalone=Standalone(node_id=NODE, auto_remove=auto_remove)),
        endpoint_spec=EndpointSpec(mode=EndpointMode.DNSRR),
    )


class ContainersMachine(RuleBasedStateMachine):
    @initialize(policy=st.sampled_from(sorted(POLICIES)), auto_remove=st.booleans())
    def begin(self, policy: str, auto_remove: bool) -> None:
        self.world = World(make_node(NODE), make_node(OTHER))
        self.world.settle()
        self.policy = policy
        self.auto_remove = auto_remove and policy == "no"
        self.made = 0
        self.make()

    # --- users

    @property
    def id(self) -> str:
        return f"c{self.made}"

    @property
    def service(self) -> Service | None:
        return self.world.service(self.id) if self.world.has_service(self.id) else None

    @precondition(lambda self: self.service is None and self.world.has_node(NODE))
    @rule()
    def make(self) -> None:
        self.made += 1
        spec = spec_of(self.policy, auto_remove=self.auto_remove)
        self.ask(create(self.world.tables, spec, service_id=self.id, revision_id=f"{self.id}-r1"))

    def ask(self, asked: tuple[Change, ...]) -> None:
        if asked:
            self.world.apply(Group(owner=Owner.API, changes=asked))

    @precondition(lambda self: self.service is not None)
    @rule()
    def start(self) -> None:
        assert self.service is not None
        self.ask(changes.start(self.world.tables, self.service, self.world.now))

    @precondition(lambda self: self.service is not None)
    @rule(timeout=st.none() | st.integers(0, 3))
    def stop(self, timeout: int | None) -> None:
        assert self.service is not None
        wish = StopWish(timeout=None if timeout is None else Duration(timeout * SECOND_NS))
        self.ask(changes.stop(self.world.tables, self.service, wish, self.world.now))

    @precondition(lambda self: self.service is not None)
    @rule()
    def restart(self) -> None:
        assert self.service is not None
        self.ask(changes.restart(self.service, StopWish()))

    @precondition(lambda self: self.service is not None)
    @rule(is_forced=st.booleans())
    def remove(self, is_forced: bool) -> None:
        assert self.service is not None
        view, now = self.world.tables, self.world.now
        is_busy = changes.is_started(view, self.service, now) or changes.live_tasks(view, self.service)
        try:
            self.ask(changes.remove(view, self.service, is_forced=is_forced, now=now))
        except Conflict:
            assert is_busy
            assert not is_forced
        else:
            assert self.service is None

    # --- processes, nodes, leaders, time

    @rule(is_failure=st.booleans(), moves=st.integers(0, 3))
    def agents(self, is_failure: bool, moves: int) -> None:
        for _ in range(moves):
            self.world.run_agents(may_run=lambda task: not is_failure)
            self.world.settle()

    @rule(state=st.sampled_from([TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED]))
    def process_ends(self, state: TaskState) -> None:
        for task in self.tasks():
            is_live = TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
            may_end_so = state is not TaskState.REJECTED or task.status.state < TaskState.STARTING
            if is_live and may_end_so and self.is_heard():
                self.world.report(task.id, state)

    @precondition(lambda self: self.world.has_node(NODE))
    @rule(state=st.sampled_from([NodeState.READY, NodeState.DOWN, NodeState.DISCONNECTED]))
    def node_changes(self, state: NodeState) -> None:
        self.world.set_node_state(NODE, state)

    @precondition(lambda self: self.world.has_node(NODE))
    @rule(availability=AVAILABILITIES)
    def node_is_set(self, availability: NodeAvailability) -> None:
        self.world.set_availability(NODE, availability)

    @precondition(lambda self: self.world.has_node(NODE) and self.service is None)
    @rule()
    def node_goes(self) -> None:
        self.make()
        self.start()
        self.world.settle()
        self.world.delete(Kind.NODE, NODE)
        self.world.live(1.0)
        assert self.service is None, "a container goes with its node"

    @rule()
    def another_leader(self) -> None:
        applied = self.world.groups_applied
        self.world = self.world.successor()
        self.world.groups_applied = applied

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule(user=st.sampled_from(["start", "stop", "restart"]))
    def plan_races_user(self, user: str) -> None:
        """A user's change is stored while the leader's plan is on its way."""

        def meanwhile() -> None:
            if self.service is not None:
                {"start": self.start, "stop": lambda: self.stop(None), "restart": self.restart}[user]()

        if self.world.has_work():
            self.world.run_once(meanwhile=meanwhile)

    @rule()
    def plan_is_lost(self) -> None:
        self.world.lose_once()

    @rule(seconds=st.sampled_from([0.05, 1.0, 11.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    # --- what holds

    def is_heard(self) -> bool:
        return self.world.has_node(NODE) and self.world.node(NODE).status.state is NodeState.READY

    def tasks(self) -> list[Task]:
        return self.world.tasks(self.id)

    @invariant()
    def one_task_at_most_has_not_ended(self) -> None:
        if hasattr(self, "world"):
            live = [task.id for task in self.tasks() if not is_terminal(task.status.state)]
            assert len(live) <= 1, live
            assert all(task.node_id == NODE for task in self.tasks())

    @invariant()
    def no_start_is_made_twice(self) -> None:
        if not hasattr(self, "world") or self.policy != "no":
            return
        created = [
            (change.object.service_id, change.object.job_iteration)
            for group in self.world.groups_applied
            for change in group.changes
            if isinstance(change, Create) and isinstance(change.object, Task)
        ]
        assert len(created) == len(set(created)), created

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        if self.world.has_node(NODE):
            self.world.set_node_state(NODE, NodeState.READY)
        self.world.live(300.0)
        self.world.assert_quiet()
        service = self.service
        live = [task for task in self.tasks() if not is_terminal(task.status.state)]
        if service is None:
            assert not live
            return
        mode = service.spec.mode.standalone
        assert mode is not None
        if is_over(service, self.tasks(), self.world.now):
            assert not live
            assert not (self.auto_remove and mode.run), "it was to be removed with its end"
        else:
            (task,) = live
            assert task.job_iteration == mode.run
            assert task.status.state is TaskState.RUNNING
        if mode.is_wanted:
            assert any(task.job_iteration == mode.run for task in self.tasks()), "a start was lost"


TestContainers = ContainersMachine.TestCase
TestContainers.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
