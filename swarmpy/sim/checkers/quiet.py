"""Whether the cluster has come to rest where it should: the reasons why not, one sentence each.

Asked when faults are over and the bound in virtual time has passed, or polled until the list is empty. Looked
at is everything at once: what the store says, what the machines do, what reconcilers still want.

* Every service has its tasks: one running in each slot, or on each eligible node. What stands in for a
  running task is one that waits with its reason: for a node, for the end of its restart delay; or the slot is
  settled, where the restart policy may end one.
* A machine that is up runs exactly what the store says is to run there, its network holds the endpoints of
  just that, its node is ready and has a session, and its agent is idle. Its networks are what the store says:
  who is reached where, behind which address and name.
* A node whose machine is down is said to be down.
* A service that asks for it is spread evenly. Its tasks are as well as it has them checked.
* No slot keeps more history than it may, and no reconciler wants anything.

Services whose tasks end by themselves for ever are never at rest. The world names them (``unsteady``): of
those only the number of slots is judged, and that no two tasks are wanted in one.

It does not say whether anything was wrong on the way here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from agent.core import Core
from agent.dataplane.fake import FakeNetwork
from agent.executor.fake import FakeMachine
from manager.reconcile import all_reconcilers
from manager.reconcile.dependencies import waits_for
from manager.reconcile.plan import Reconciler
from manager.schedule.constraint import is_match
from manager.schedule.filters import is_platform
from manager.schedule.needs import parsed_or_never
from manager.store.view import View
from swarmpy.model.changes import Group, Report
from swarmpy.model.defaults import (
    availability,
    is_global,
    is_job,
    is_replicated,
    is_standalone,
    replicas_of,
    restart_policy,
    task_history_limit,
)
from swarmpy.model.ids import NodeId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Node, Service, Task
from swarmpy.model.specs import Placement
from swarmpy.model.states import NodeAvailability, NodeState, RestartCondition, TaskState
from swarmpy.sim.checkers import discovery, files, health
from swarmpy.sim.checkers.evenness import unevenness
from swarmpy.sim.limits import SIM_REASONS_MAX

NAME: Final = "quiet"

_ENDED_BY_ITSELF: Final = (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTruth:
    """What the world knows of one node. ``is_up``: its daemon runs and may reach the managers."""

    node_id: NodeId
    is_up: bool
    machine: FakeMachine
    network: FakeNetwork
    core: Core | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """``view``: the store of a manager that has applied all that is committed; ``now`` by its clock."""

    view: View
    now: Timestamp
    nodes: tuple[NodeTruth, ...] = ()
    unsteady: frozenset[ServiceId] = frozenset()


def quiet_reasons(scene: Scene, *, limit: int = SIM_REASONS_MAX) -> list[str]:
    """Why the cluster is not at rest; empty: it is."""
    return list(islice(_reasons(scene), limit))


def _reasons(scene: Scene) -> Iterator[str]:
    for truth in scene.nodes:
        yield from _node_reasons(scene, truth)
    for service in sorted(scene.view.services(), key=lambda each: each.id):
        yield from _service_reasons(scene, service)
    for task in scene.view.tasks():
        if task.service_id in scene.unsteady:
            continue
        if task.desired_state > TaskState.COMPLETE and not _has_ended(task) and _is_ready(scene.view, task):
            yield f"task {task.id} is still {_name(task.status.state)} and should end"
    yield from wanted_changes(scene.view, scene.now, ignored=scene.unsteady)


# --- services


def _service_reasons(scene: Scene, service: Service) -> Iterator[str]:
    view = scene.view
    if waits_for(view, service):
        return  # for another service, perhaps for ever
    if is_standalone(service.spec):
        yield from _container_reasons(scene, service)
        return
    if is_job(service.spec):
        yield from _job_reasons(scene, service)
        return
    slots: dict[int | str, list[Task]] = {}
    is_per_node = is_global(service.spec)
    for task in view.tasks_of_service(service.id):
        if task.desired_state != TaskState.REMOVE:
            slots.setdefault(task.node_id if is_per_node else task.slot, []).append(task)
    for tasks in slots.values():
        tasks.sort(key=lambda task: (task.version, task.id))
    if service.id not in scene.unsteady:
        yield from _history_reasons(view, service, slots.values())
    if is_replicated(service.spec):
        if len(slots) != replicas_of(service):
            yield f"service {service.id} has {len(slots)} slots and should have {replicas_of(service)}"
        for slot in sorted(slots, key=str):
            yield from _slot_reasons(scene, service, slots[slot])
    elif is_per_node:
        for node in sorted(view.nodes(), key=lambda each: each.id):
            if node.spec.availability == NodeAvailability.PAUSE:
                continue
            tasks = slots.get(node.id, [])
            if not _is_eligible(service, node):
                if any(task.desired_state <= TaskState.RUNNING for task in tasks):
                    yield f"service {service.id} wants a task on node {node.id}, which is not eligible"
            elif tasks:
                yield from _slot_reasons(scene, service, tasks)
            else:
                yield f"service {service.id} has no task on node {node.id}"
    if service.id not in scene.unsteady:
        yield from unevenness(view, service, scene.now)
        yield from health.differences(view, service)


def _job_reasons(scene: Scene, service: Service) -> Iterator[str]:
    """Which slots are begun follows from what is done: that no reconciler wants more is judged elsewhere."""
    if service.id in scene.unsteady:
        return
    for task in sorted(scene.view.tasks_of_service(service.id), key=lambda each: each.id):
        is_wanted = task.desired_state <= TaskState.COMPLETE
        if is_wanted and not _has_ended(task) and not _is_settled(scene.view, task, scene.now):
            state, desired = _name(task.status.state), _name(task.desired_state)
            yield f"job {service.id} run {task.job_iteration}: task {task.id} is {state}, should be {desired}"


def _container_reasons(scene: Scene, service: Service) -> Iterator[str]:
    """A container started by hand runs once, as its last start wants it, or not at all."""
    tasks = scene.view.tasks_of_service(service.id)
    live = [task for task in tasks if not _has_ended(task) and _is_ready(scene.view, task)]
    mode = service.spec.mode.standalone
    assert mode is not None
    if len(live) > 1:
        yield f"container {service.id}: {len(live)} of its tasks run"
    for task in live:
        if not mode.is_wanted or task.job_iteration != mode.run:
            yield f"container {service.id}: task {task.id} is of no start that is wanted"
    if mode.is_wanted and not any(task.job_iteration == mode.run for task in tasks):
        yield f"container {service.id}: nothing has come of start {mode.run}"


def _slot_reasons(scene: Scene, service: Service, tasks: Sequence[Task]) -> Iterator[str]:
    wished = [task for task in tasks if task.desired_state <= TaskState.RUNNING]
    newest = tasks[-1]
    where = f"service {service.id} slot {newest.slot or newest.node_id}"
    # under start-first one may run on while its successor finds no node, or waits after a failure
    placed = [task for task in wished if not _is_waiting(task, scene.now)]
    if len(placed) > 1 or len(wished) > 2:
        yield f"{where}: {len(wished)} tasks are to run there"
    if service.id in scene.unsteady:
        return
    if not wished:
        policy = restart_policy(service.spec.task_template)
        if policy.condition == RestartCondition.NONE:
            return  # once ended, for whatever reason, it is not replaced
        may_settle = policy.condition != RestartCondition.ANY or policy.max_attempts
        if not may_settle or newest.status.state not in _ENDED_BY_ITSELF:
            yield f"{where}: nothing is to run there, newest is task {newest.id}"
    for task in wished:
        if not _is_settled(scene.view, task, scene.now):
            state, desired = _name(task.status.state), _name(task.desired_state)
            yield f"{where}: task {task.id} is {state}, and should be {desired}"


def _is_settled(view: View, task: Task, now: Timestamp) -> bool:
    """Whether the task runs where it may, or says what it waits for."""
    if _is_waiting(task, now):
        return True
    if task.status.state != TaskState.RUNNING:
        return False
    if task.desired_state not in (TaskState.RUNNING, TaskState.COMPLETE):
        return False
    node = view.node(task.node_id)
    is_drained = node is not None and node.spec.availability == NodeAvailability.DRAIN
    return _is_ready(view, task) and not is_drained


def _is_waiting(task: Task, now: Timestamp) -> bool:
    """Whether it waits for a node, and says why, or for the end of its restart delay."""
    if task.status.state == TaskState.PENDING:
        return bool(task.status.err)
    return task.desired_state == TaskState.READY and task.not_before > now and not _has_ended(task)


def _is_eligible(service: Service, node: Node) -> bool:
    if node.status.state != NodeState.READY or availability(node.spec) == NodeAvailability.DRAIN:
        return False
    placement = service.spec.task_template.placement or Placement()
    if not is_match(parsed_or_never(placement.constraints), node):
        return False
    return not placement.platforms or is_platform(placement.platforms, node.description.platform)


def _history_reasons(view: View, service: Service, slots: Iterable[Sequence[Task]]) -> Iterator[str]:
    limit = task_history_limit(view.cluster())
    if limit < 0:
        return
    attempts = restart_policy(service.spec.task_template).max_attempts
    kept = max(attempts + 1 if attempts else limit, 1)
    for tasks in slots:
        if len(tasks) > kept and any(_has_ended(task) for task in tasks[:-1]):
            where = tasks[-1].slot or tasks[-1].node_id
            yield f"service {service.id} slot {where} keeps {len(tasks)} tasks and may keep {kept}"


# --- nodes


def _node_reasons(scene: Scene, truth: NodeTruth) -> Iterator[str]:
    view = scene.view
    node = view.node(truth.node_id)
    if not truth.is_up:
        if node is not None and node.status.state != NodeState.DOWN:
            yield f"node {truth.node_id} has gone and is called {node.status.state}"
        return
    if node is not None and (node.status.state != NodeState.READY or not node.status.session_id):
        yield f"node {truth.node_id} is up and is called {node.status.state}"
    everything = view.tasks_of_node(truth.node_id)
    tasks = [task for task in everything if task.service_id not in scene.unsteady]
    restless = {task.id for task in everything if task.service_id in scene.unsteady}
    if truth.core is not None and not truth.core.is_idle and not restless:
        yield f"the agent of node {truth.node_id} is at work"
    wanted = {task.id for task in tasks if _should_run(task)}
    alive = {task.id for task in tasks if not _has_ended(task)}
    running = {task_id for task_id, task in truth.machine.tasks.items() if task.pid and task.exit is None}
    where = f"node {truth.node_id}"
    yield from _each(running - wanted - restless, f"{where} runs task {{}}, which should not run there")
    yield from _each(wanted - running, f"{where} does not run task {{}}")
    yield from _each(
        truth.machine.tasks.keys() - running - alive - restless, f"{where} holds what is left of task {{}}"
    )
    endpoints = truth.network.endpoints.keys()
    yield from _each(
        endpoints - alive - restless, f"{where} has an endpoint of task {{}}, which has none any more"
    )
    yield from _each(wanted - endpoints, f"{where} has no endpoint for task {{}}")
    if truth.core is not None and node is not None and not restless:
        yield from discovery.differences(view, truth.node_id, truth.core.networks, wanted)
        if truth.network.state != truth.core.networks:
            yield f"{where}: the networks are not as its agent wants them"
        yield from files.differences(view, truth.node_id, truth.machine, truth.core)


def _each(task_ids: Iterable[TaskId], sentence: str) -> Iterator[str]:
    for task_id in sorted(task_ids):
        yield sentence.format(task_id)


def _should_run(task: Task) -> bool:
    return task.status.state == TaskState.RUNNING and task.desired_state <= TaskState.COMPLETE


def _has_ended(task: Task) -> bool:
    return task.status.state > TaskState.RUNNING


def _is_ready(view: View, task: Task) -> bool:
    node = view.node(task.node_id)
    return node is not None and node.status.state == NodeState.READY


def _name(state: TaskState) -> str:
    return state.name.lower()


# --- reconcilers


def wanted_changes(
    view: View,
    now: Timestamp,
    *,
    reconcilers: Sequence[Reconciler] | None = None,
    ignored: Collection[str] = (),
) -> Iterator[str]:
    """What any reconciler, asked for everything anew, still wants to change.

    But for the words of why a task waits: what takes up room elsewhere can change which filter is the first
    to refuse a node, and does not make anybody look again. Keys in ``ignored`` are not asked for.
    """
    for reconciler in all_reconcilers() if reconcilers is None else reconcilers:
        for key in reconciler.keys(view):
            if key in ignored:
                continue
            plan = reconciler.reconcile(view, key, now)
            wanted = [group for group in plan.groups if not _is_new_reason(group)]
            if wanted:
                yield f"{reconciler.name} {key} wants {len(wanted)} changes: {wanted[:3]}"


def _is_new_reason(group: Group) -> bool:
    return all(
        isinstance(change, Report) and change.status.state == TaskState.PENDING for change in group.changes
    )
