"""Why a service is as it is: what is missing, what its update waits for, what its load asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from manager.explain.jobs import explain_job
from manager.explain.nodes import node_verdicts
from manager.explain.words import (
    Explanation,
    NodeVerdict,
    Reason,
    ago,
    many,
    node_title,
    span,
    with_output,
)
from manager.reconcile.dependencies import waits_for
from manager.reconcile.outdated import Outdated
from manager.reconcile.restart import waiting_reason
from manager.reconcile.slots import age, is_wished
from manager.reconcile.update import config_of, is_going
from manager.store.view import View
from swarmpy.model.defaults import is_replicated, replicas, replicas_of
from swarmpy.model.ids import SECOND_NS, Timestamp
from swarmpy.model.objects import Service, Task
from swarmpy.model.states import NodeState, TaskState, UpdateState, is_terminal

CAUSES_SHOWN: Final = 5
"""Different reasons of waiting, or of failing, that are told of; the most frequent ones."""
_FAILED: Final = (TaskState.FAILED, TaskState.REJECTED)


def explain_service(view: View, service: Service, now: Timestamp) -> Explanation:
    tasks = sorted(view.tasks_of_service(service.id), key=age)
    wished = [task for task in tasks if is_wished(task) or _is_job_task(task)]
    unplaced = [task for task in wished if task.status.state < TaskState.ASSIGNED]
    reasons = [
        _count(service, wished),
        *_dependencies(view, service),
        *explain_job(view, service, now),
        *_autoscaled(service, now),
        *_unplaced(unplaced),
        *_on_the_way(wished, now),
        *_lost_nodes(view, wished),
        *_failures(tasks, now),
        *_update(view, service, tasks, now),
    ]
    verdicts: tuple[NodeVerdict, ...] = node_verdicts(view, unplaced[0]) if unplaced else ()
    return Explanation(
        subject=f"service {service.spec.name} ({service.id})", reasons=tuple(reasons), nodes=verdicts
    )


def _is_job_task(task: Task) -> bool:
    return task.desired_state == TaskState.COMPLETE


def _count(service: Service, wished: Sequence[Task]) -> Reason:
    running = sum(task.status.state == TaskState.RUNNING for task in wished)
    if is_replicated(service.spec):
        return Reason(about="Replicas", text=f"{running} of {replicas_of(service)} run")
    return Reason(about="Tasks", text=f"{running} of {len(wished)} run")


def _dependencies(view: View, service: Service) -> Iterator[Reason]:
    if waiting := waits_for(view, service):
        yield Reason(about="Depends on", text=waiting)


def _autoscaled(service: Service, now: Timestamp) -> Iterator[Reason]:
    wish, status = service.spec.autoscale, service.autoscale_status
    if wish is None:
        return
    text = f"between {wish.min} and {wish.max}, {replicas_of(service)} now"
    if status is not None and status.message:
        text += f"; {ago(status.scaled_at, now)}: {status.message}"
    if status is not None and status.low_since:
        text += f"; fewer would do since {span(now - status.low_since)}"
    if replicas(service.spec) != replicas_of(service):
        text += f"; that the service itself asks for {replicas(service.spec)} does not count"
    yield Reason(about="Autoscale", text=text)


def _unplaced(tasks: Sequence[Task]) -> Iterator[Reason]:
    for reason, count in _most(task.status.err or "not looked at yet" for task in tasks):
        yield Reason(about="Pending", text=f"{many(count, 'task')}: {reason}")


def _on_the_way(wished: Sequence[Task], now: Timestamp) -> Iterator[Reason]:
    told = []
    for task in wished:
        if TaskState.ASSIGNED <= task.status.state < TaskState.RUNNING:
            state, why = task.status.state.name.lower(), task.status.err or task.status.message
            told.append(waiting_reason(task, now) or f"{state}: {why}")
    for text, count in _most(told):
        yield Reason(about="On the way", text=f"{many(count, 'task')} {text}")
    unready = [task for task in wished if task.status.is_unready and not is_terminal(task.status.state)]
    if unready:
        yield Reason(about="Readiness", text=f"{many(len(unready), 'task')} get no requests now")


def _lost_nodes(view: View, wished: Iterable[Task]) -> Iterator[Reason]:
    """Tasks that count as running, on nodes that nobody hears of now."""
    counts: Counter[str] = Counter()
    for task in wished:
        node = view.node(task.node_id) if task.node_id else None
        if node is not None and node.status.state in (NodeState.DISCONNECTED, NodeState.UNKNOWN):
            counts[f"{node_title(view, node.id)} is {node.status.state}"] += 1
    for text, count in counts.most_common(CAUSES_SHOWN):
        yield Reason(about="Nodes", text=f"{text}: what became of {many(count, 'task')} there is not known")


def _failures(tasks: Sequence[Task], now: Timestamp) -> Iterator[Reason]:
    failed = [task for task in tasks if task.status.state in _FAILED]
    for err, count in _most(_why_failed(task) for task in failed):
        last = max(task.status.timestamp for task in failed if _why_failed(task) == err)
        yield Reason(about="Failures", text=f"{many(count, 'time')}, last {ago(last, now)}: {err}")


def _why_failed(task: Task) -> str:
    """With what its last check has printed, if that is why."""
    status = task.status
    return with_output(status.err or status.state.name.lower(), status)


def _most(texts: Iterable[str]) -> list[tuple[str, int]]:
    return Counter(texts).most_common(CAUSES_SHOWN)


# --- updates


def _update(view: View, service: Service, tasks: Sequence[Task], now: Timestamp) -> Iterator[Reason]:
    status = service.update_status
    if status is None or status.state in (UpdateState.UNSPECIFIED, UpdateState.COMPLETED):
        return
    yield Reason(about="Update", text=f"{status.state}: {status.message}")
    if not is_going(service):
        return
    outdated = Outdated(view, service)
    wished = [task for task in tasks if is_wished(task)]
    left = [task for task in wished if outdated.is_outdated(task)]
    config = config_of(service)
    if left:
        pace = f"{config.parallelism} at a time" if config.parallelism > 0 else "all at once"
        delay = f", {config.delay / SECOND_NS:g} s between them" if config.delay else ""
        yield Reason(about="Update", text=f"{many(len(left), 'task')} still to be replaced, {pace}{delay}")
    current = [task for task in wished if task not in left and task.created_at >= status.started_at]
    waited_for = [task for task in current if task.status.state < TaskState.RUNNING]
    for task in waited_for[:CAUSES_SHOWN]:
        why = task.status.err or task.status.message
        state = task.status.state.name.lower()
        text = f"it waits for task {task.id}, {state} for {span(now - task.created_at)}"
        yield Reason(about="Update", text=f"{text}: {why}" if why else text)
    if not left and not waited_for:
        text = f"all tasks are new; they are watched for {config.monitor / SECOND_NS:g} s"
        yield Reason(about="Update", text=text)
