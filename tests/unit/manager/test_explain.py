"""Explanations, in worlds where each of their reasons holds."""

from __future__ import annotations

from msgspec.structs import replace
from world import GIB, World, make_node

from manager import explain
from manager.explain import Explanation
from swarmpy.model.ids import SECOND_NS
from swarmpy.model.objects import Task
from swarmpy.model.specs import (
    Autoscale,
    ContainerSpec,
    CronJob,
    Dependency,
    Placement,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import DependencyCondition, NodeAvailability, NodeState, RestartCondition, TaskState


def spec(*, count: int = 1, image: str = "app:1", **template: object) -> ServiceSpec:
    container = ContainerSpec(image=image)
    task = TaskSpec(container_spec=container, **template)  # type: ignore[arg-type]
    return ServiceSpec(
        name="web", task_template=task, mode=ServiceMode(replicated=Replicated(replicas=count))
    )


def world_with(wish: ServiceSpec, *nodes: object) -> World:
    world = World(*nodes)  # type: ignore[arg-type]
    world.create_service("s1", wish)
    quieten(world)
    return world


def quieten(world: World) -> None:
    world.settle()
    while world.run_agents():
        world.settle()


def newest(world: World) -> Task:
    return max(world.tasks("s1"), key=lambda task: task.version)


def of_task(world: World, task: Task | None = None) -> Explanation:
    return explain.explain_task(world.tables, task or newest(world), world.now)


def of_service(world: World) -> Explanation:
    return explain.explain_service(world.tables, world.service("s1"), world.now)


def texts(explanation: Explanation, about: str) -> list[str]:
    return [reason.text for reason in explanation.reasons if reason.about == about]


def test_why_pending_node_by_node() -> None:
    reserved = ResourceRequirements(reservations=Resources(nano_cpus=9 * 10**9, memory_bytes=GIB))
    wish = spec(resources=reserved, placement=Placement(constraints=("node.labels.zone==a",)))
    world = world_with(
        wish,
        make_node("n1", labels={"zone": "a"}),
        make_node("n2", availability=NodeAvailability.DRAIN),
        make_node("n3", state=NodeState.DOWN),
    )
    found = of_task(world)
    (why,) = texts(found, "Why pending")
    assert why.startswith("no suitable node (")
    assert {verdict.node: verdict.refusal for verdict in found.nodes} == {
        "n1": "9 CPUs reserved, 8 of 8 free",
        "n2": "the node is drained",
        "n3": "the node is down",
    }


def test_a_constraint_is_named_that_is_not_met() -> None:
    wish = spec(placement=Placement(constraints=("node.labels.zone==a", "node.role==worker")))
    found = of_task(world_with(wish, make_node("n1")))
    assert [verdict.refusal for verdict in found.nodes] == ["does not meet node.labels.zone==a"]


def test_why_here_among_nodes_that_would_take_it_too() -> None:
    world = world_with(spec(count=3), make_node("n1"), make_node("n2"), make_node("n3"))
    found = of_task(world)
    (why,) = texts(found, "Why here")
    assert "as 2 other nodes would" in why
    assert "it would be chosen again" in why
    assert not any(verdict.refusal for verdict in found.nodes)
    assert sum(verdict.is_chosen for verdict in found.nodes) == 1
    assert found.nodes[0].load == "0 tasks of this service, 0 in all", "itself is not counted"


def test_why_restarted_and_what_was_before() -> None:
    world = world_with(spec(), make_node("n1"))
    first = newest(world)
    world.report(first.id, TaskState.FAILED, err="task: non-zero exit (3)")
    quieten(world)
    found = of_task(world)
    assert texts(found, "Before it") == [f"{first.id} on n1: failed 0 s ago: task: non-zero exit (3)"]
    assert texts(found, "Restarts") == ["1 failure in this slot since the service was changed"]
    (failure,) = texts(of_service(world), "Failures")
    assert failure == "1 time, last 0 s ago: task: non-zero exit (3)"


def test_what_the_last_check_printed_stands_behind_the_failure() -> None:
    world = world_with(spec(), make_node("n1"))
    first = newest(world)
    world.report(first.id, TaskState.FAILED, err="unhealthy container", output="no\nroute")
    quieten(world)
    assert texts(of_task(world), "Before it") == [
        f"{first.id} on n1: failed 0 s ago: unhealthy container: no route"
    ]
    assert texts(of_service(world), "Failures") == ["1 time, last 0 s ago: unhealthy container: no route"]


def test_why_it_waits_for_its_delay() -> None:
    world = world_with(spec(restart_policy=RestartPolicy(delay=60 * SECOND_NS)), make_node("n1"))  # type: ignore[arg-type]
    world.report(newest(world).id, TaskState.FAILED, err="task: non-zero exit (3)")
    quieten(world)
    assert texts(of_task(world), "Why it waits") == ["restarting in 60s after 1 failure"]


def test_why_it_is_not_restarted() -> None:
    policy = RestartPolicy(condition=RestartCondition.NONE)
    world = world_with(spec(restart_policy=policy), make_node("n1"))
    world.report(newest(world).id, TaskState.FAILED, err="task: non-zero exit (3)")
    quieten(world)
    assert texts(of_task(world), "Why not restarted") == ['restart policy: the condition is "none"']


def test_why_it_was_stopped() -> None:
    world = world_with(spec(), make_node("n1"))
    old = newest(world)
    world.update_service("s1", spec(image="app:2"))
    quieten(world)
    (why,) = texts(of_task(world, world.tables.task(old.id)), "Why stopped")
    assert why == f"task {newest(world).id} runs revision 2 in its place"


def test_what_an_update_waits_for() -> None:
    world = world_with(spec(count=3), make_node("n1"))
    wish = spec(count=3, image="app:2")
    world.update_service("s1", wish)
    world.settle()
    found = texts(of_service(world), "Update")
    assert found[0] == "updating: update in progress"
    assert found[1] == "2 tasks still to be replaced, 1 at a time"
    assert "it waits for task" in found[2]


def test_what_replicas_follow() -> None:
    wish = replace(spec(), autoscale=Autoscale(min=2, max=5, cpu_percent=50))
    world = world_with(wish, make_node("n1"))
    found = of_service(world)
    assert texts(found, "Replicas") == ["2 of 2 run"]
    assert texts(found, "Autoscale") == [
        "between 2 and 5, 2 now; that the service itself asks for 1 does not count"
    ]


def test_what_first_tasks_wait_for() -> None:
    wish = replace(spec(), depends_on=(Dependency(service="db", condition=DependencyCondition.HEALTHY),))
    world = world_with(wish, make_node("n1"))
    assert texts(of_service(world), "Depends on") == [
        "waiting for service db, which does not exist: service_healthy"
    ]


def test_how_far_a_job_has_come() -> None:
    job = ServiceMode(replicated_job=ReplicatedJob(total_completions=3, max_concurrent=2))
    world = world_with(replace(spec(), mode=job), make_node("n1"))
    world.report(newest(world).id, TaskState.COMPLETE)
    assert texts(of_service(world), "Run") == ["0: running, 1 of 3 completed, 2 at a time"]


def test_when_a_schedule_has_its_next_run() -> None:
    job = ServiceMode(cron_job=CronJob(schedule="*/10 * * * *"))
    world = world_with(replace(spec(), mode=job), make_node("n1"))
    (text,) = texts(of_service(world), "Schedule")
    assert text.startswith("*/10 * * * * (UTC, allow): the next run is due in ")
    world = world_with(replace(spec(), mode=ServiceMode(cron_job=CronJob(schedule="@daily", suspended=True))))
    assert texts(of_service(world), "Schedule") == ["suspended: no run begins until that is taken back"]


def test_a_time_zone_that_this_manager_lacks_is_told() -> None:
    cron = CronJob(schedule="@daily", timezone="Mars/Olympus")
    world = world_with(replace(spec(), mode=ServiceMode(cron_job=cron)), make_node("n1"))
    (schedule,) = texts(of_service(world), "Schedule")
    assert schedule.startswith('cron: unknown time zone "Mars/Olympus"')


def test_a_slot_is_named_by_its_task_that_counts() -> None:
    world = world_with(spec(), make_node("n1"))
    first = newest(world)
    world.report(first.id, TaskState.FAILED)
    quieten(world)
    assert explain.task_in_slot(world.tables, world.service("s1"), 1) == newest(world)
    assert explain.task_in_slot(world.tables, world.service("s1"), 9) is None
