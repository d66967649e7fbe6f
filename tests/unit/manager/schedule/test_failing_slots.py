"""A slot whose tasks fail finds the node that can run them, however few ended tasks are kept."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from world import START, World, make_node

from manager.schedule.scheduler import place
from swarmpy.model.cluster_specs import ClusterSpec, OrchestrationConfig
from swarmpy.model.ids import ClusterId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Cluster, Kind, Revision, Task, TaskStatus
from swarmpy.model.specs import ServiceSpec
from swarmpy.model.states import TaskState

NOW = Timestamp(START)
REVISION = Revision(
    id=RevisionId("r"), service_id=ServiceId("a"), number=1, spec=ServiceSpec(name="a"), version=1
)


def tried(limit: int, tries: int) -> list[str]:
    """Where the tasks of one slot go, each of which is rejected; as many are kept as ``limit`` says."""
    history = ClusterSpec(orchestration=OrchestrationConfig(task_history_retention_limit=limit))
    nodes = [make_node(name) for name in ("n1", "n2", "n3")]
    world = World(*nodes, Cluster(id=ClusterId("c"), spec=history), REVISION, reconcilers=())
    ended: list[Task] = []
    for restarts in range(tries):
        name = TaskId(f"t{restarts:02}")
        wanted = Task(
            id=name, service_id=REVISION.service_id, revision_id=REVISION.id, slot=1, restarts=restarts
        )
        (task,) = place(world.tables, [wanted], NOW)
        status = TaskStatus(timestamp=NOW, state=TaskState.REJECTED)
        ended.append(replace(task, status=status, desired_state=TaskState.SHUTDOWN))
        world.put(ended[-1])
        if limit >= 0 and len(ended) > max(limit, 1):
            world.delete(Kind.TASK, ended[-max(limit, 1) - 1].id)
    return [task.node_id for task in ended]


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, -1])
def test_it_leaves_its_node_after_five_failures(limit: int) -> None:
    assert tried(limit, 6) == ["n1"] * 5 + ["n2"]


@pytest.mark.parametrize("limit", [2, 3, 5, -1])
def test_it_does_not_come_back_before_all_others_were_tried(limit: int) -> None:
    assert tried(limit, 7)[5:] == ["n2", "n3"]
