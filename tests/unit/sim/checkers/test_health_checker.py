"""Whether a simulation notices tasks that checks have left out of service."""

from __future__ import annotations

import pytest
from world import World, make_node

from swarmpy.model.changes import Group, Report
from swarmpy.model.objects import TaskStatus
from swarmpy.model.specs import ContainerSpec, Healthcheck, Replicated, ServiceMode, ServiceSpec, TaskSpec
from swarmpy.model.states import HealthState, Owner, TaskState
from swarmpy.sim.checkers.health import differences


@pytest.mark.parametrize(
    ("health", "is_unready", "said"),
    [
        (HealthState.HEALTHY, False, []),
        (HealthState.UNSPECIFIED, False, ["runs and is not checked, and should be healthy"]),
        (HealthState.UNHEALTHY, False, ["runs and is unhealthy, and should be healthy"]),
        (HealthState.HEALTHY, True, ["is well and gets no requests"]),
    ],
)
def test_who_runs_is_well(health: HealthState, is_unready: bool, said: list[str]) -> None:
    check = Healthcheck(test=("CMD", "healthy"))
    template = TaskSpec(container_spec=ContainerSpec(image="a", healthcheck=check))
    world = World(make_node("n1"))
    mode = ServiceMode(replicated=Replicated(replicas=1))
    world.create_service("web", ServiceSpec(name="web", mode=mode, task_template=template))
    world.live()
    (task,) = world.running()
    status = TaskStatus(state=TaskState.RUNNING, report=99, health=health, is_unready=is_unready)
    world.apply(Group(owner=Owner.AGENT, changes=(Report(task_id=task.id, status=status),)))
    (service,) = world.tables.services()
    assert [each.partition(f"task {task.id} ")[2] for each in differences(world.tables, service)] == said
