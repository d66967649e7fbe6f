"""A leader dies at every single step of what may be going on, and the next one gets to the same end.

Each story is lived once without trouble, step by step: a round of the control loop, or agents that move, or
time that passes to the next wake-up. Then it is lived again for each of its steps: there the leader has
planned a round that never gets into the log, and another one takes over, who knows nothing but the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from world import World, make_node, seconds

from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Task
from swarmpy.model.specs import (
    ContainerSpec,
    CronJob,
    Replicated,
    ReplicatedJob,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import (
    FailureAction,
    NodeAvailability,
    RestartCondition,
    TaskState,
    UpdateOrder,
    is_terminal,
)

STEPS_MAX = 400
BROKEN = "broken"


@dataclass(frozen=True)
class Story:
    """``begin`` makes a world and brings it to where ``act`` starts what is looked at, for ``last_s``."""

    begin: Callable[[], World]
    act: Callable[[World], None]
    last_s: float
    overlap: int = 0
    """How many more tasks than one may be wished for in a slot."""
    least_running: int = 0


def service(count: int, *, image: str = "app:1", **fields: Any) -> ServiceSpec:
    policy = RestartPolicy(condition=RestartCondition.ANY, delay=seconds(1))  # type: ignore[arg-type]
    template = TaskSpec(container_spec=ContainerSpec(image=image), restart_policy=policy)
    mode = fields.pop("mode", ServiceMode(replicated=Replicated(replicas=count)))
    return ServiceSpec(name="s1", task_template=template, mode=mode, **fields)


def pace(order: UpdateOrder, **fields: Any) -> UpdateConfig:
    return UpdateConfig(parallelism=2, monitor=seconds(2), order=order, **fields)  # type: ignore[arg-type]


def world_with(spec: ServiceSpec, *names: str) -> World:
    world = World(*(make_node(name) for name in names))
    world.create_service("s1", spec)
    world.live()
    return world


def updated(order: UpdateOrder, image: str, **fields: Any) -> Story:
    config = pace(order, **fields)
    is_start_first = order is UpdateOrder.START_FIRST
    return Story(
        begin=lambda: world_with(service(4, update_config=config), "n1", "n2", "n3"),
        act=lambda world: world.update_service("s1", service(4, image=image, update_config=config)),
        last_s=60,
        overlap=1 if is_start_first else 0,
        least_running=4 if is_start_first else 2,
    )


def job(mode: ServiceMode) -> Story:
    return Story(
        begin=lambda: World(make_node("n1"), make_node("n2")),
        act=lambda world: begin_job(world, mode),
        last_s=300,
    )


def begin_job(world: World, mode: ServiceMode) -> None:
    world.create_service("s1", service(0, mode=mode))


def add_node(world: World) -> None:
    world.put(make_node("n9"))


STORIES = {
    "update, stop-first": updated(UpdateOrder.STOP_FIRST, "app:2"),
    "update, start-first": updated(UpdateOrder.START_FIRST, "app:2"),
    "update that rolls back": updated(UpdateOrder.STOP_FIRST, BROKEN, failure_action=FailureAction.ROLLBACK),
    "canary": updated(UpdateOrder.START_FIRST, "app:2", pause_after=1),
    "job": job(ServiceMode(replicated_job=ReplicatedJob(total_completions=5, max_concurrent=2))),
    "cron": job(ServiceMode(cron_job=CronJob(schedule="*/2 * * * *", total_completions=2))),
    "rebalance": Story(
        begin=lambda: world_with(service(6, rebalance=True), "n1", "n2"),
        act=add_node,
        last_s=300,
        overlap=1,
        least_running=6,
    ),
    "drain, start-first": Story(
        begin=lambda: world_with(service(4, update_config=pace(UpdateOrder.START_FIRST)), "n1", "n2", "n3"),
        act=lambda world: world.set_availability("n1", NodeAvailability.DRAIN),
        last_s=60,
        overlap=1,
        least_running=4,
    ),
}


def step(world: World, until: Timestamp) -> bool:
    """One step; False at the end of the story."""
    if world.has_work():
        world.run_once()
        return True
    if world.run_agents(may_run=lambda task: image_of(world, task) != BROKEN):
        return True
    done = [task for task in world.tasks("s1") if is_work_done(task)]
    for task in done:
        world.report(task.id, TaskState.COMPLETE)
    wake = world.next_wake()
    if done or wake is None or wake > until:
        return bool(done)
    world.now = Timestamp(max(world.now, wake))
    return True


def is_work_done(task: Task) -> bool:
    return task.desired_state == TaskState.COMPLETE and task.status.state == TaskState.RUNNING


def image_of(world: World, task: Task) -> str:
    revision = world.tables.revision(task.revision_id)
    container = revision.spec.task_template.container_spec if revision is not None else None
    return container.image if container is not None else ""


def live(story: Story, *, dies_at: int = -1) -> tuple[World, int]:
    """The world at the end, and how many steps that took."""
    world = story.begin()
    story.act(world)
    until = Timestamp(world.now + seconds(story.last_s))
    for number in range(STEPS_MAX):
        if number == dies_at:
            world.lose_once()
            world = world.successor()
        if not step(world, until):
            return world, number
        check(story, world)
    raise AssertionError(f"not at its end after {STEPS_MAX} steps")


def check(story: Story, world: World) -> None:
    wished = [task for task in world.tasks("s1") if task.desired_state <= TaskState.COMPLETE]
    live_tasks = [task for task in wished if not is_terminal(task.status.state)]
    slots = Counter((task.job_iteration, task.slot) for task in live_tasks)
    assert all(count <= 1 + story.overlap for count in slots.values()), slots
    running = sum(task.status.state == TaskState.RUNNING for task in world.tasks("s1"))
    assert running >= story.least_running, f"only {running} run"
    done = Counter(
        (task.job_iteration, task.slot)
        for task in world.tasks("s1")
        if task.status.state == TaskState.COMPLETE
    )
    assert all(count == 1 for count in done.values()), f"done more than once: {done}"


def outcome(world: World) -> object:
    """What must be the same whoever led, and when."""
    service = world.service("s1")
    tasks = Counter(
        (task.job_iteration, task.slot, image_of(world, task), task.status.state)
        for task in world.tasks("s1")
        if task.desired_state <= TaskState.COMPLETE
    )
    status, cron = service.update_status, service.cron_status
    runs = [(run.iteration, run.tick, run.state) for run in cron.runs] if cron is not None else []
    return tasks, status.state if status is not None else None, service.spec, runs


@pytest.mark.parametrize("name", STORIES)
def test_the_next_leader_gets_to_the_same_end(name: str) -> None:
    story = STORIES[name]
    undisturbed, steps = live(story)
    expected = outcome(undisturbed)
    assert steps > 3, "something happens in the story"
    for dies_at in range(steps):
        world, _ = live(story, dies_at=dies_at)
        assert outcome(world) == expected, f"the leader died at step {dies_at} of {steps}"


def test_the_stories_come_to_their_point() -> None:
    """What the undisturbed ends are, so that being equal to them says something."""
    worlds = {name: live(story)[0] for name, story in STORIES.items()}
    states = {
        name: status.state for name, world in worlds.items() if (status := world.service("s1").update_status)
    }
    assert states == {
        "update, stop-first": "completed",
        "update, start-first": "completed",
        "update that rolls back": "rollback_completed",
        "canary": "paused",
    }
    spread = Counter(task.node_id for task in worlds["rebalance"].running("s1"))
    assert spread == {"n1": 2, "n2": 2, "n9": 2}
    assert "n1" not in {task.node_id for task in worlds["drain, start-first"].running("s1")}
    completed = [task for task in worlds["job"].tasks("s1") if task.status.state == TaskState.COMPLETE]
    assert sorted(task.slot for task in completed) == [0, 1, 2, 3, 4]
    cron = worlds["cron"].service("s1").cron_status
    assert cron is not None
    assert len(cron.runs) >= 2
    assert cron.missed == 0
