"""Rolling updates: pace, order, what counts as changed, failures, rollback."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from world import World, make_network, make_node, seconds

from swarmpy.model.ids import Duration
from swarmpy.model.objects import Endpoint, Task
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    Placement,
    PortConfig,
    Replicated,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import (
    FailureAction,
    NodeState,
    PublishMode,
    TaskState,
    UpdateOrder,
    UpdateState,
)


def spec(image: str, *, replicas: int = 4, update: UpdateConfig | None = None, **fields: Any) -> ServiceSpec:
    template = TaskSpec(
        container_spec=ContainerSpec(image=image), restart_policy=RestartPolicy(delay=Duration(seconds(1)))
    )
    known: dict[str, Any] = {
        "name": "web",
        "mode": ServiceMode(replicated=Replicated(replicas=replicas)),
        "task_template": template,
        "update_config": update,
    }
    return ServiceSpec(**{**known, **fields})


def config(**fields: Any) -> UpdateConfig:
    return UpdateConfig(**{"parallelism": 1, **fields})


def running_world(before: ServiceSpec) -> World:
    world = World(*[make_node(f"n{number}") for number in range(1, 4)])
    world.create_service("web", before)
    world.live()
    world.pass_time(100)
    return world


def image_of(world: World, task: Task) -> str:
    revision = world.tables.revision(task.revision_id)
    assert revision is not None
    container = revision.spec.task_template.container_spec
    assert container is not None
    return container.image


def images(world: World) -> list[str]:
    """Of what runs, by slot."""
    running = sorted(world.running(), key=lambda task: (task.slot, task.version))
    return [image_of(world, task) for task in running]


def is_bad(world: World, task: Task) -> bool:
    return image_of(world, task) == "bad"


def state_of(world: World) -> tuple[UpdateState, str]:
    status = world.service("web").update_status
    assert status is not None
    return status.state, status.message


def test_one_at_a_time_by_default_and_completed_after_the_monitor_period() -> None:
    world = running_world(spec("a"))
    world.update_service("web", spec("b"))
    started = world.now
    most_down = 0
    while True:
        world.settle()
        most_down = max(most_down, 4 - len(world.running()))
        if not world.run_agents():
            break
    assert most_down <= 1
    assert images(world) == ["b"] * 4
    assert state_of(world) == (UpdateState.UPDATING, "update in progress")
    world.live(4.9)
    assert state_of(world)[0] == UpdateState.UPDATING
    world.live(0.2)
    assert state_of(world) == (UpdateState.COMPLETED, "update completed")
    status = world.service("web").update_status
    assert status is not None
    assert status.started_at == started
    assert status.completed_at == started + seconds(5)
    world.assert_quiet()


@pytest.mark.parametrize(("parallelism", "at_once"), [(1, 1), (2, 2), (0, 4)])
def test_parallelism(parallelism: int, at_once: int) -> None:
    world = running_world(spec("a"))
    world.update_service("web", spec("b", update=UpdateConfig(parallelism=parallelism)))
    world.settle()
    new = [task for task in world.live_tasks() if image_of(world, task) == "b"]
    assert len(new) == at_once
    assert [task.slot for task in new] == list(range(1, at_once + 1))
    world.live(30)
    assert images(world) == ["b"] * 4


def test_the_delay_follows_each_slot() -> None:
    world = running_world(spec("a", replicas=3))
    world.update_service("web", spec("b", replicas=3, update=config(delay=Duration(seconds(10)))))
    world.live()
    assert images(world) == ["b", "a", "a"]
    world.live(9.9)
    assert images(world) == ["b", "a", "a"]
    world.live(0.2)
    assert images(world) == ["b", "b", "a"]
    world.live(10)
    assert images(world) == ["b", "b", "b"]
    world.live(10.8)  # the delay is not below the monitor period: watched for the delay and a second
    assert state_of(world)[0] == UpdateState.UPDATING
    world.live(0.2)
    assert state_of(world)[0] == UpdateState.COMPLETED


def test_stop_first_never_runs_two_in_a_slot() -> None:
    world = running_world(spec("a"))
    world.update_service("web", spec("b"))
    while True:
        world.settle()
        slots = [task.slot for task in world.tasks() if task.status.state == TaskState.RUNNING]
        assert len(slots) == len(set(slots))
        if not world.run_agents():
            break
    assert images(world) == ["b"] * 4


def test_start_first_never_runs_fewer_than_wished() -> None:
    world = running_world(spec("a"))
    world.update_service("web", spec("b", update=config(order=UpdateOrder.START_FIRST)))
    world.settle()
    assert len(world.live_tasks()) == 5  # one slot has two
    while True:
        world.settle()
        assert len(world.running()) >= 4
        assert len(world.live_tasks()) <= 5
        if not world.run_agents():
            break
    assert images(world) == ["b"] * 4


@pytest.mark.parametrize(
    "after",
    [
        spec("a", labels={"x": "y"}),
        spec("a", update=UpdateConfig(parallelism=3)),
        spec("a", replicas=5),
        spec("a"),
    ],
)
def test_what_restarts_nothing(after: ServiceSpec) -> None:
    world = running_world(spec("a"))
    before = {task.id for task in world.running()}
    world.update_service("web", after)
    world.live(10)
    assert before <= {task.id for task in world.running()}
    assert world.service("web").update_status is None


def test_ports_count_as_changed() -> None:
    world = running_world(spec("a"))
    world.put(make_network("ingress", ingress=True))
    before = {task.id for task in world.running()}
    port = PortConfig(target_port=80, published_port=8080, publish_mode=PublishMode.INGRESS)
    world.update_service("web", spec("a", endpoint_spec=EndpointSpec(ports=(port,))))
    world.live(10)
    assert not before & {task.id for task in world.running()}


def placed_spec(constraint: str) -> ServiceSpec:
    after = spec("a")
    placement = Placement(constraints=(constraint,))
    return replace(after, task_template=replace(after.task_template, placement=placement))


def test_new_constraints_restart_only_what_no_longer_fits() -> None:
    world = running_world(spec("a"))
    kept = {task.id for task in world.running() if task.node_id != "n1"}
    world.update_service("web", placed_spec("node.id!=n1"))
    world.live(10)
    running = world.running()
    assert len(running) == 4
    assert kept < {task.id for task in running}
    assert all(task.node_id != "n1" for task in running)
    world.assert_quiet()


def test_an_update_that_can_not_be_placed_takes_down_one_task_only() -> None:
    world = running_world(spec("a"))
    impossible = placed_spec("node.id==nowhere")
    container = ContainerSpec(image="b")
    template = replace(impossible.task_template, container_spec=container)
    world.update_service("web", replace(impossible, task_template=template))
    world.live(100)
    # the rest was turned down by the enforcer in swarm mode too: no node meets the present constraints
    assert all(task.status.state == TaskState.PENDING for task in world.live_tasks())


def test_a_newer_spec_takes_the_update_over() -> None:
    world = running_world(spec("a"))
    world.update_service("web", spec("b", update=config(delay=Duration(seconds(20)))))
    world.live()
    assert images(world) == ["b", "a", "a", "a"]
    world.update_service("web", spec("c"))
    world.live(10)
    assert images(world) == ["c"] * 4
    assert state_of(world)[0] == UpdateState.COMPLETED


def test_back_to_the_old_revision_in_the_middle_of_start_first_keeps_the_old_tasks() -> None:
    world = running_world(spec("a"))
    old = {task.id for task in world.running()}
    world.update_service("web", spec("b", update=config(order=UpdateOrder.START_FIRST)))
    world.settle()
    service = world.service("web")
    back = replace(service, version=0, template_id=service.previous_id, update_status=None)
    world.put(back)
    world.live(10)
    assert {task.id for task in world.running()} == old
    world.assert_quiet()


def test_a_new_leader_continues_in_the_middle() -> None:
    world = running_world(spec("a"))
    world.update_service("web", spec("b", update=config(delay=Duration(seconds(20)))))
    world.live(25)
    assert images(world) == ["b", "b", "a", "a"]
    successor = world.successor()
    successor.live(10)
    assert images(successor) == ["b", "b", "a", "a"]
    successor.live(10)
    assert images(successor) == ["b", "b", "b", "a"]


# --- failures


def test_a_failing_update_pauses_and_says_which_task() -> None:
    world = running_world(spec("a"))
    world.update_service("web", spec("bad"))
    world.live(may_run=lambda task: not is_bad(world, task))
    state, message = state_of(world)
    assert state == UpdateState.PAUSED
    failed = next(task for task in world.tasks() if task.status.state == TaskState.FAILED)
    assert message == f"update paused due to failure or early termination of task {failed.id}"
    assert images(world) == ["a"] * 3
    world.live(100, may_run=lambda task: not is_bad(world, task))
    assert images(world) == ["a"] * 3
    world.update_service("web", spec("c"))
    world.live(10)
    assert images(world) == ["c"] * 4


def test_a_task_that_fails_within_the_monitor_period_counts() -> None:
    world = running_world(spec("a"))
    world.update_service("web", spec("b", update=config(delay=Duration(seconds(20)))))
    world.live(3)
    (first,) = [task for task in world.running() if image_of(world, task) == "b"]
    world.report(first.id, TaskState.FAILED)
    world.live()
    assert state_of(world)[0] == UpdateState.PAUSED


def test_a_failing_replica_of_the_old_revision_does_not_count() -> None:
    world = running_world(spec("a"))
    world.update_service("web", spec("b", update=config(delay=Duration(seconds(20)))))
    world.live(3)
    old = next(task for task in world.running() if image_of(world, task) == "a")
    world.report(old.id, TaskState.FAILED)
    world.live()
    assert state_of(world)[0] == UpdateState.UPDATING


def test_continue_goes_on_to_the_end() -> None:
    world = running_world(spec("a", replicas=3))
    update = config(failure_action=FailureAction.CONTINUE)
    bad = spec("bad", replicas=3, update=update)
    bad = replace(bad, task_template=replace(bad.task_template, restart_policy=None))
    world.update_service("web", bad)
    world.live(60, may_run=lambda task: not is_bad(world, task))
    assert images(world) == []
    assert state_of(world) == (UpdateState.COMPLETED, "update completed")


def test_the_ratio_is_of_the_changed_slots() -> None:
    world = running_world(spec("a"))
    update = config(parallelism=4, max_failure_ratio=0.25)
    world.update_service("web", spec("b", update=update))
    failing = True

    def may_run(task: Task) -> bool:
        return not (failing and task.slot == 2 and image_of(world, task) == "b" and not task.restarts)

    world.live(10, may_run=may_run)
    assert state_of(world)[0] == UpdateState.COMPLETED
    assert images(world) == ["b"] * 4


def test_rollback_returns_to_the_previous_revision() -> None:
    world = running_world(spec("a"))
    update = config(failure_action=FailureAction.ROLLBACK)
    world.update_service("web", spec("bad", update=update))
    world.live(may_run=lambda task: not is_bad(world, task))
    service = world.service("web")
    assert service.previous_id == ""
    assert service.revision_id == service.template_id == "web-r1"
    assert service.spec == spec("a")
    state, message = state_of(world)
    assert state == UpdateState.ROLLBACK_STARTED
    assert message.startswith("update rolled back due to failure or early termination of task task")
    world.live(20)
    assert state_of(world) == (UpdateState.ROLLBACK_COMPLETED, "rollback completed")
    assert images(world) == ["a"] * 4
    world.assert_quiet()


def test_a_failing_rollback_pauses() -> None:
    world = running_world(spec("a"))
    update = config(failure_action=FailureAction.ROLLBACK)
    world.update_service("web", spec("bad", update=update))
    world.live(20, may_run=lambda task: False)
    state, message = state_of(world)
    assert state == UpdateState.ROLLBACK_PAUSED
    assert message.startswith("rollback paused due to failure or early termination of task ")


def test_a_task_displaced_by_a_dead_node_is_no_failure() -> None:
    world = running_world(spec("a"))
    world.update_service("web", spec("b", update=config(delay=Duration(seconds(20)))))
    world.live(3)
    (first,) = [task for task in world.running() if image_of(world, task) == "b"]
    world.set_node_state(first.node_id, NodeState.DOWN)
    world.live(100)
    assert state_of(world)[0] == UpdateState.COMPLETED
    assert images(world) == ["b"] * 4


def rolling_back_to_a_taken_port(*, mode: PublishMode = PublishMode.INGRESS) -> World:
    """The update gave the port up, the service ``rival`` took it, and then the update fails."""
    port = PortConfig(target_port=80, published_port=8080, publish_mode=mode)
    before = spec("good", replicas=3, endpoint_spec=EndpointSpec(ports=(port,)))
    world = running_world(before)
    after = spec("bad", replicas=3, update=config(failure_action=FailureAction.ROLLBACK))
    world.update_service("web", after)
    rival = world.create_service("rival", replicas=0)
    world.put(replace(rival, endpoint=Endpoint(ports=(port,))))
    world.live(120, may_run=lambda task: not is_bad(world, task))
    return world


def test_a_rollback_to_a_port_that_another_service_has_now_pauses_and_says_so() -> None:
    world = rolling_back_to_a_taken_port()
    assert state_of(world) == (
        UpdateState.PAUSED,
        "update paused: it cannot be rolled back: port '8080' is already in use by service 'rival' (rival) "
        "as an ingress port",
    )
    service = world.service("web")
    assert service.spec.endpoint_spec is None
    assert service.endpoint.ports == ()
    assert service.previous_id, "the user can still roll back, once the port is free"
    world.assert_quiet()


def test_a_rollback_to_a_port_of_host_mode_that_another_service_wishes_too_goes_on() -> None:
    world = rolling_back_to_a_taken_port(mode=PublishMode.HOST)
    assert state_of(world) == (UpdateState.ROLLBACK_COMPLETED, "rollback completed")
    assert [port.published_port for port in world.service("web").endpoint.ports] == [8080]


def test_a_port_that_is_taken_while_the_rollback_is_proposed_pauses_it_too() -> None:
    port = PortConfig(target_port=80, published_port=8080)
    world = running_world(spec("good", endpoint_spec=EndpointSpec(ports=(port,))))
    world.update_service("web", spec("bad", update=config(failure_action=FailureAction.ROLLBACK)))

    def take_port() -> None:
        if not world.has_service("rival"):
            rival = world.create_service("rival", replicas=0)
            world.put(replace(rival, endpoint=Endpoint(ports=(port,))))

    def is_failed() -> bool:
        return any(task.status.state == TaskState.FAILED for task in world.tasks())

    for _ in range(100):
        if world.has_work() and not is_failed():
            world.run_once()
        elif world.has_work():
            world.run_once(meanwhile=take_port)
        elif not world.run_agents(may_run=lambda task: not is_bad(world, task)):
            break
    assert world.has_service("rival")
    assert state_of(world) == (
        UpdateState.PAUSED,
        "update paused: it cannot be rolled back: port '8080' is already in use by service 'rival' (rival) "
        "as an ingress port",
    )
