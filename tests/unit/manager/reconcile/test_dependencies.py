"""Dependencies: first tasks wait, later ones never do."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from world import World, make_node

from manager.reconcile.dependencies import waits_for
from swarmpy.model.ids import Duration, TaskId
from swarmpy.model.objects import Kind, TaskStatus
from swarmpy.model.specs import (
    ContainerSpec,
    Dependency,
    Global,
    GlobalJob,
    Replicated,
    ReplicatedJob,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from swarmpy.model.states import DependencyCondition, HealthState, RestartCondition, TaskState

STARTED, HEALTHY, COMPLETED = (
    DependencyCondition.STARTED,
    DependencyCondition.HEALTHY,
    DependencyCondition.COMPLETED,
)
MODES = {
    "replicated": ServiceMode(replicated=Replicated(replicas=2)),
    "global": ServiceMode(global_=Global()),
    "replicated-job": ServiceMode(replicated_job=ReplicatedJob(max_concurrent=2, total_completions=2)),
    "global-job": ServiceMode(global_job=GlobalJob()),
}


def spec_of(name: str, mode: str = "replicated", **fields: Any) -> ServiceSpec:
    policy = RestartPolicy(condition=fields.pop("condition", RestartCondition.ANY), delay=Duration(0))
    template = TaskSpec(container_spec=ContainerSpec(image="i1"), restart_policy=policy)
    return ServiceSpec(name=name, mode=MODES[mode], task_template=template, **fields)


def on(service: str, condition: DependencyCondition, **fields: Any) -> tuple[Dependency, ...]:
    return (Dependency(service=service, condition=condition, **fields),)


def world_of(web: ServiceSpec) -> World:
    world = World(make_node("n1"), make_node("n2"))
    world.create_service("web", web)
    world.live()
    return world


def end_all(world: World, name: str, state: TaskState) -> None:
    for task in world.tasks(name):
        if task.status.state <= TaskState.RUNNING:
            world.report(task.id, state)


@pytest.mark.parametrize("mode", MODES)
def test_the_first_tasks_of_every_mode_wait_until_the_other_service_runs(mode: str) -> None:
    world = world_of(spec_of("web", mode, depends_on=on("db", STARTED)))
    assert world.tasks("web") == []
    assert waits_for(world.tables, world.service("web")) == (
        "waiting for service db, which does not exist: service_started"
    )
    world.create_service("db", spec_of("db"))
    world.settle()
    assert waits_for(world.tables, world.service("web")) == "waiting for service db: service_started"
    world.live()
    assert len(world.tasks("web")) == 2
    world.assert_quiet()


def test_what_runs_is_not_held_back_by_what_becomes_of_the_dependency() -> None:
    world = world_of(spec_of("web", depends_on=on("db", STARTED)))
    world.create_service("db", spec_of("db"))
    world.live()
    world.delete(Kind.SERVICE, "db")
    world.report(world.running("web")[0].id, TaskState.FAILED)
    world.scale("web", 4)
    world.live(60)
    assert len(world.running("web")) == 4


def test_health_is_waited_for_and_noticed() -> None:
    world = world_of(spec_of("web", depends_on=on("db", HEALTHY)))
    world.create_service("db", spec_of("db"))
    world.settle()
    for health in (HealthState.STARTING, HealthState.UNHEALTHY):
        set_health(world, health)
        assert world.tasks("web") == []
    set_health(world, HealthState.HEALTHY, is_unready=True)
    assert world.tasks("web") == []
    set_health(world, HealthState.HEALTHY)
    assert len(world.tasks("web")) == 2


def set_health(world: World, health: HealthState, *, is_unready: bool = False) -> None:
    task = world.tasks("db")[0]
    report = task.status.report + 1
    status = TaskStatus(state=TaskState.RUNNING, health=health, is_unready=is_unready, report=report)
    world.put(replace(world.task(TaskId(task.id)), status=status))
    world.settle()


@pytest.mark.parametrize("mode", ["replicated-job", "global-job"])
def test_a_job_must_have_completed_all_of_it(mode: str) -> None:
    world = world_of(spec_of("web", depends_on=on("db", COMPLETED)))
    world.create_service("db", spec_of("db", mode))
    world.live()
    first, second = world.tasks("db")
    world.report(first.id, TaskState.COMPLETE)
    world.live()
    assert world.tasks("web") == []
    world.report(second.id, TaskState.COMPLETE)
    world.live()
    assert len(world.tasks("web")) == 2


def test_a_failed_job_is_waited_for() -> None:
    world = world_of(spec_of("web", depends_on=on("db", COMPLETED)))
    world.create_service("db", spec_of("db", "replicated-job", condition=RestartCondition.NONE))
    world.live()
    end_all(world, "db", TaskState.FAILED)
    world.live(3600)
    assert waits_for(world.tables, world.service("web")) == (
        "waiting for service db: service_completed_successfully"
    )


def test_a_service_whose_tasks_end_well_counts_as_completed() -> None:
    world = world_of(spec_of("web", depends_on=on("db", COMPLETED)))
    world.create_service("db", spec_of("db", condition=RestartCondition.ON_FAILURE))
    world.live()
    assert world.tasks("web") == []
    end_all(world, "db", TaskState.COMPLETE)
    world.live()
    assert len(world.tasks("web")) == 2


def test_an_optional_service_may_be_absent_and_is_waited_for_if_it_is_there() -> None:
    absent = world_of(spec_of("web", depends_on=on("db", HEALTHY, optional_=True)))
    assert len(absent.tasks("web")) == 2
    present = World(make_node("n1"))
    present.create_service("db", spec_of("db"))
    present.create_service("web", spec_of("web", depends_on=on("db", HEALTHY, optional_=True)))
    present.settle()
    assert present.tasks("web") == []


def test_a_service_scaled_to_nothing_is_not_waited_for() -> None:
    world = World(make_node("n1"))
    world.create_service("db", replace(spec_of("db"), mode=ServiceMode(replicated=Replicated(replicas=0))))
    world.create_service("web", spec_of("web", depends_on=on("db", HEALTHY)))
    world.live()
    assert len(world.running("web")) == 2


def test_a_condition_that_is_not_named_is_that_it_has_started() -> None:
    world = world_of(spec_of("web", depends_on=on("db", DependencyCondition.UNSPECIFIED)))
    world.create_service("db", spec_of("db"))
    world.live()
    assert len(world.running("web")) == 2
