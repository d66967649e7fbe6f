"""Jobs: whatever fails, stops, goes or begins anew, and whoever leads, slots are completed once each.

A machine plays users, agents, nodes, clocks and changes of leader against the real reconcilers over the real
store: one replicated job and one cron job. After every step: no more tasks at work than may be, one at most
in a slot, no slot beyond those that there are, no tick with two runs. In the end everything heals and every
task ends well: then every run is complete, and nobody wants anything more.
"""

from __future__ import annotations

from collections import Counter

from budget import machine_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace
from world import World, make_node, seconds

from manager.reconcile.jobs import going_on
from swarmpy.model.ids import Duration, Timestamp
from swarmpy.model.job_rules import job_size
from swarmpy.model.objects import Task
from swarmpy.model.specs import (
    ContainerSpec,
    CronJob,
    ReplicatedJob,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import ConcurrencyPolicy, NodeAvailability, NodeState, RunState, TaskState

NODES = ("n1", "n2", "n3")
SERVICES = ("job", "cron")

policies = st.sampled_from(
    [None, RestartPolicy(delay=Duration(0)), RestartPolicy(delay=Duration(seconds(5)))]
)
sizes = st.tuples(st.integers(0, 5), st.integers(1, 3))
ways = st.sampled_from(list(ConcurrencyPolicy)[1:])


def template(policy: RestartPolicy | None, number: int) -> TaskSpec:
    return TaskSpec(container_spec=ContainerSpec(image="i1"), restart_policy=policy, force_update=number)


class Jobs(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(*(make_node(node) for node in NODES))
        self.run_of_tick: dict[int, int] = {}
        self.most = 1
        self.is_seen = True

    # --- users

    @initialize(size=sizes, policy=policies, way=ways)
    def start(self, size: tuple[int, int], policy: RestartPolicy | None, way: ConcurrencyPolicy) -> None:
        total, self.most = size
        job = ReplicatedJob(total_completions=total, max_concurrent=self.most)
        spec = ServiceSpec(
            name="job", mode=ServiceMode(replicated_job=job), task_template=template(policy, 0)
        )
        self.world.create_service("job", spec)
        cron = CronJob(
            schedule="* * * * *",
            concurrency_policy=way,
            total_completions=total,
            max_concurrent=self.most,
        )
        self.world.create_service("cron", replace(spec, name="cron", mode=ServiceMode(cron_job=cron)))
        self.settle()

    @rule(name=st.sampled_from(SERVICES))
    def force(self, name: str) -> None:
        spec = self.world.service(name).spec
        number = spec.task_template.force_update + 1
        self.is_seen = False
        self.world.update_service(
            name, replace(spec, task_template=replace(spec.task_template, force_update=number))
        )

    @rule(suspended=st.booleans())
    def suspend(self, suspended: bool) -> None:
        spec = self.world.service("cron").spec
        assert spec.mode.cron_job is not None
        self.is_seen = False
        cron = replace(spec.mode.cron_job, suspended=suspended)
        self.world.update_service("cron", replace(spec, mode=ServiceMode(cron_job=cron)))

    # --- the world

    @rule(node=st.sampled_from(NODES), state=st.sampled_from([NodeState.READY, NodeState.DOWN]))
    def node_changes(self, node: str, state: NodeState) -> None:
        self.is_seen = False
        self.world.set_node_state(node, state)

    @rule(
        node=st.sampled_from(NODES),
        wish=st.sampled_from([NodeAvailability.ACTIVE, NodeAvailability.DRAIN]),
    )
    def operator_changes(self, node: str, wish: NodeAvailability) -> None:
        self.is_seen = False
        self.world.set_availability(node, wish)

    @rule(pick=st.integers(0, 100), is_good=st.booleans())
    def task_ends(self, pick: int, is_good: bool) -> None:
        running = [task for task in self.world.tasks() if task.status.state is TaskState.RUNNING]
        if running:
            self.is_seen = False
            state = TaskState.COMPLETE if is_good else TaskState.FAILED
            self.world.report(running[pick % len(running)].id, state)

    @rule(forward_s=st.sampled_from([1.0, 20.0, 61.0, 200.0, 86_400.0]))
    def time_passes(self, forward_s: float) -> None:
        self.is_seen = False
        self.world.pass_time(forward_s)

    @rule(back_s=st.sampled_from([1.0, 90.0, 86_400.0]))
    def the_clock_is_set_back(self, back_s: float) -> None:
        self.is_seen = False
        self.world.now = Timestamp(self.world.now - seconds(back_s))

    # --- managers and agents

    @rule()
    def settle(self) -> None:
        self.world.settle()
        self.is_seen = True

    @rule()
    def manage_a_little(self) -> None:
        if self.world.has_work():
            self.world.run_once()

    @rule()
    def another_leads(self) -> None:
        self.is_seen = False
        self.world = self.world.successor()

    @rule()
    def agents_work(self) -> None:
        self.is_seen = False
        self.world.run_agents()

    # --- what must hold

    def at_work(self, name: str) -> list[Task]:
        return [
            task
            for task in self.world.tasks(name)
            if task.desired_state <= TaskState.COMPLETE and task.status.state <= TaskState.RUNNING
        ]

    @invariant()
    def no_more_than_may_be_are_at_work(self) -> None:
        for name in SERVICES if self.world.has_service("job") else ():
            slots = Counter((task.job_iteration, task.slot) for task in self.at_work(name))
            assert all(count == 1 for count in slots.values()), slots
            runs = Counter(iteration for iteration, _ in slots)
            assert all(count <= self.most for count in runs.values()), runs
            total = job_size(self.world.service(name).spec).total
            assert all(slot < total for _, slot in slots)
            if self.is_seen:
                assert runs.keys() <= set(going_on(self.world.service(name)))

    @invariant()
    def no_tick_has_two_runs(self) -> None:
        if not self.world.has_service("cron"):
            return
        status = self.world.service("cron").cron_status
        assert status is not None
        iterations = [run.iteration for run in status.runs]
        assert iterations == sorted(set(iterations))
        for run in status.runs:
            assert self.run_of_tick.setdefault(run.tick, run.iteration) == run.iteration
            assert run.tick <= status.last_tick

    def teardown(self) -> None:
        """Everything heals: then every run is completed, slot by slot."""
        self.suspend(True)
        for node in NODES:
            self.world.set_node_state(node, NodeState.READY)
            self.world.set_availability(node, NodeAvailability.ACTIVE)
        for _ in range(200):
            self.world.live(61)
            running = [task for name in SERVICES for task in self.at_work(name)]
            if not running:
                break
            for task in running:
                if task.status.state is TaskState.RUNNING:
                    self.world.report(task.id, TaskState.COMPLETE)
        job = self.world.service("job")
        (iteration,) = going_on(job)
        done = {
            task.slot
            for task in self.world.tasks("job")
            if task.job_iteration == iteration and task.status.state is TaskState.COMPLETE
        }
        assert done == set(range(job_size(job.spec).total))
        status = self.world.service("cron").cron_status
        assert status is not None
        assert all(run.state is not RunState.RUNNING for run in status.runs)
        assert {task.job_iteration for task in self.world.tasks("cron")} <= {
            run.iteration for run in status.runs
        }
        self.world.assert_quiet()


TestJobs = Jobs.TestCase
TestJobs.settings = machine_settings(examples=8, steps=25)
