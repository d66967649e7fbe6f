"""Tasks of jobs by name: their slots begin at 0, and they are to complete. Services that wait for others."""

from __future__ import annotations

from api_node import FIRST, FakeCluster
from cli_run import Run
from msgspec.structs import replace

from manager.api.container_refs import ContainerRef, find_container, name_of
from manager.explain.words import task_title
from swarmpy.model.changes import Update
from swarmpy.model.container_ids import container_id
from swarmpy.model.defaults import place_text
from swarmpy.model.ids import ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import (
    CronJob,
    Dependency,
    GlobalJob,
    Replicated,
    ReplicatedJob,
    ServiceMode,
    ServiceSpec,
)
from swarmpy.model.states import DependencyCondition, TaskState

TASK = "task1aaaaaaaaaaaaaaaaaaaaa"
OTHER = "task2aaaaaaaaaaaaaaaaaaaaa"


def job(run: Run, cluster: FakeCluster, *flags: str) -> ServiceId:
    made = run("service", "create", "--detach", "--name", "count", *flags, "host")
    assert made.code == 0, made
    id_ = ServiceId(made.out.strip())
    cluster.add_task(TASK, id_, slot=0)
    cluster.order(TASK, TaskState.COMPLETE)
    return id_


def test_the_first_task_of_a_job_is_slot_0_everywhere(run: Run, cluster: FakeCluster) -> None:
    id_ = job(run, cluster, "--mode", "replicated-job")
    task, service = cluster.store.task(TaskId(TASK)), cluster.store.service(id_)
    assert task is not None
    assert name_of(cluster.store, ContainerRef(task=task)) == f"count.0.{TASK}"
    assert task_title(service, task) == "count.0"
    for name in ("count.0", f"count.0.{TASK[:5]}", f"/count.0.{TASK}", TASK[:5]):
        assert find_container(cluster.store, name, here=FIRST).id == container_id(TASK)
    assert "count.0" in run("service", "ps", "count").out
    assert f"count.0.{TASK}" in run("top", "count").out
    late = run("node", "drain", "--wait", "--timeout", "10ms", "node-1").err
    assert f"count.0 ({TASK[:12]})" in late


def test_a_task_of_a_cron_job_is_found_by_its_run(run: Run, cluster: FakeCluster) -> None:
    id_ = job(run, cluster, "--mode", "cron", "--schedule", "@daily")
    cluster.add_task(OTHER, id_, slot=1)
    assert find_container(cluster.store, "count.0.0", here=FIRST).id == container_id(TASK)
    assert find_container(cluster.store, "count.0.1", here=FIRST).id == container_id(OTHER)
    assert find_container(cluster.store, "count.1", here=FIRST).id == container_id(OTHER)


def test_what_follows_a_services_name() -> None:
    first = Task(id=TaskId("t"), node_id="n")  # type: ignore[arg-type]
    numbered = ServiceSpec(name="web", mode=ServiceMode(replicated=Replicated()))
    assert place_text(numbered, replace(first, slot=3)) == "3"
    for mode, expected in (
        (ServiceMode(replicated_job=ReplicatedJob()), "0"),
        (ServiceMode(cron_job=CronJob()), "0"),
        (ServiceMode(global_job=GlobalJob()), "n"),
    ):
        assert place_text(ServiceSpec(name="web", mode=mode), first) == expected
    assert place_text(None, first) == "n"


def test_a_service_without_tasks_says_what_it_waits_for(run: Run, cluster: FakeCluster) -> None:
    for name in ("db", "web"):
        assert run("service", "create", "--detach", "--name", name, "host").code == 0
    service = next(each for each in cluster.store.services() if each.spec.name == "web")
    wish = Dependency(service="db", condition=DependencyCondition.HEALTHY)
    cluster.change(Update(object=replace(service, spec=replace(service.spec, depends_on=(wish,)))))
    shown = run("service", "ps", "web", "db")
    assert (shown.code, shown.err) == (0, "web has no tasks yet: waiting for service db: service_healthy\n")
    assert run("service", "ps", "-q", "web").err == ""
    cluster.add_task(TASK, service.id)
    assert run("service", "ps", "web").err == ""
