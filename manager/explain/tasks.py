"""Why one task is where and how it is: pending, waiting, here, failing, stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from manager.explain.nodes import node_verdicts
from manager.explain.words import (
    Explanation,
    NodeVerdict,
    Reason,
    ago,
    many,
    node_title,
    span,
    task_title,
    with_output,
)
from manager.reconcile.outdated import Outdated
from manager.reconcile.restart import declined_reason, waiting_reason
from manager.reconcile.slots import age, is_wished
from manager.store.view import View
from swarmpy.model.defaults import is_global, restart_policy
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Service, Task
from swarmpy.model.states import HealthState, NodeAvailability, NodeState, TaskState, is_terminal

HISTORY_SHOWN: Final = 5
"""Earlier tasks of the slot that are told of."""


def explain_task(view: View, task: Task, now: Timestamp) -> Explanation:
    service = view.service(task.service_id)
    slot = sorted(_slot_of(view, service, task), key=age)
    is_unplaced = task.status.state < TaskState.ASSIGNED and not is_terminal(task.status.state)
    verdicts = node_verdicts(view, task) if is_unplaced or _may_run(task) else ()
    reasons = [_state(view, task, now)]
    if is_unplaced:
        reasons.append(_pending(task, verdicts))
    else:
        reasons += _waiting(view, task, slot, now)
        if _may_run(task):
            reasons += _placement(service, task, verdicts)
        reasons += _health(task)
        reasons += _ended(view, service, task, slot)
    reasons += _history(view, task, slot, now)
    return Explanation(
        subject=f"task {task_title(service, task)} ({task.id})", reasons=tuple(reasons), nodes=verdicts
    )


def _may_run(task: Task) -> bool:
    return is_wished(task) and TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING


def _slot_of(view: View, service: Service | None, task: Task) -> Iterator[Task]:
    is_per_node = service is not None and is_global(service.spec)
    for other in view.tasks_of_service(task.service_id):
        if other.job_iteration != task.job_iteration:
            continue
        if other.node_id == task.node_id if is_per_node else other.slot == task.slot:
            yield other


def _state(view: View, task: Task, now: Timestamp) -> Reason:
    status = task.status
    where = f" on {node_title(view, task.node_id)}" if task.node_id else ""
    since = f"for {span(now - status.timestamp)}" if status.timestamp else "since an unknown time"
    when = ago(status.timestamp, now) if is_terminal(status.state) else since
    told = f": {status.err or status.message}" if status.err or status.message else ""
    return Reason(about="State", text=f"{status.state.name.lower()}{where} {when}{told}")


def _pending(task: Task, verdicts: Sequence[NodeVerdict]) -> Reason:
    fitting = [verdict.node for verdict in verdicts if not verdict.refusal]
    text = task.status.err or "it has not been looked at yet"
    if fitting:
        text += f"; {', '.join(fitting)} would take it now, so it is about to be placed"
    elif not verdicts:
        text += "; the swarm has no nodes"
    return Reason(about="Why pending", text=text)


def _waiting(view: View, task: Task, slot: Sequence[Task], now: Timestamp) -> Iterator[Reason]:
    if is_terminal(task.status.state) or task.desired_state != TaskState.READY:
        return
    if reason := waiting_reason(task, now):
        yield Reason(about="Why it waits", text=reason)
        return
    alive = [
        older
        for older in slot
        if age(older) < age(task) and TaskState.ASSIGNED <= older.status.state <= TaskState.RUNNING
    ]
    for older in alive:
        text = f"task {older.id} on {node_title(view, older.node_id)} has to stop first"
        yield Reason(about="Why it waits", text=text)


def _placement(service: Service | None, task: Task, verdicts: Sequence[NodeVerdict]) -> Iterator[Reason]:
    here = next((verdict for verdict in verdicts if verdict.is_chosen), None)
    if here is None:
        return
    if service is not None and is_global(service.spec):
        yield Reason(about="Why here", text="a global service has a task on every node that fits")
        return
    fitting = [verdict for verdict in verdicts if not verdict.refusal]
    if here.refusal:
        text = f"it was placed before; now {here.node} would refuse it: {here.refusal}"
        yield Reason(about="Why here", text=text)
        return
    others = len(fitting) - 1
    text = f"{here.node} fits, as {many(others, 'other node')} would" if others else f"only {here.node} fits"
    if fitting[0].node_id == here.node_id:
        text += "; it would be chosen again"
    elif others:
        text += f"; {fitting[0].node} carries less by now, but a task that runs is only moved by a rebalance"
    yield Reason(about="Why here", text=text)


def _health(task: Task) -> Iterator[Reason]:
    status = task.status
    if is_terminal(status.state):
        return
    output = f": {status.health_output.strip()}" if status.health_output.strip() else ""
    if status.health in (HealthState.STARTING, HealthState.UNHEALTHY):
        yield Reason(about="Health", text=f"{status.health}{output}")
    if status.is_unready:
        yield Reason(about="Readiness", text=f"it gets no requests now: its check of readiness fails{output}")


def _ended(view: View, service: Service | None, task: Task, slot: Sequence[Task]) -> Iterator[Reason]:
    """Why a task that is to stop, or has stopped, is not wished any more, or why nothing follows it."""
    if service is None:
        yield Reason(about="Why stopped", text="its service was removed")
        return
    newer = [other for other in slot if age(other) > age(task)]
    if is_wished(task):
        return
    node = view.node(task.node_id)
    by_itself = task.status.state in (TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED)
    if by_itself and not newer:
        text = declined_reason(task, restart_policy(service.spec.task_template))
        yield Reason(about="Why not restarted", text=text)
    elif newer and newer[0].revision_id != task.revision_id:
        number = getattr(view.revision(newer[0].revision_id), "number", 0)
        yield Reason(about="Why stopped", text=f"task {newer[0].id} runs revision {number} in its place")
    elif node is None or node.status.state is NodeState.DOWN:
        yield Reason(about="Why stopped", text=f"{node_title(view, task.node_id)} is gone or down")
    elif node.spec.availability is NodeAvailability.DRAIN:
        yield Reason(about="Why stopped", text=f"{node_title(view, task.node_id)} is drained")
    elif task.desired_state == TaskState.REMOVE:
        yield Reason(about="Why stopped", text="the service has fewer replicas now")
    elif newer:
        yield Reason(about="Why stopped", text=f"task {newer[0].id} stands in its place")
    if Outdated(view, service).is_outdated(task) and not newer:
        yield Reason(about="Update", text="it runs an older revision than its service")


def _history(view: View, task: Task, slot: Sequence[Task], now: Timestamp) -> Iterator[Reason]:
    older = [other for other in slot if age(other) < age(task)]
    for other in reversed(older[-HISTORY_SHOWN:]):
        state, err = other.status.state.name.lower(), with_output(other.status.err, other.status)
        where = f" on {node_title(view, other.node_id)}" if other.node_id else ""
        text = f"{other.id}{where}: {state} {ago(other.status.timestamp, now)}"
        yield Reason(about="Before it", text=f"{text}: {err}" if err else text)
    if task.restarts:
        text = f"{many(task.restarts, 'failure')} in this slot since the service was changed"
        yield Reason(about="Restarts", text=text)


def task_in_slot(view: View, service: Service, slot: int) -> Task | None:
    """The one that counts: wished to run rather than not, then the newest."""
    tasks = [task for task in view.tasks_of_service(service.id) if task.slot == slot]
    return max(tasks, key=lambda task: (is_wished(task), age(task)), default=None)
