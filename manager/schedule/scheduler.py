"""``place``: which node each task goes to, or why it has none.

Tasks of the same service and revision are one group: filters look once at every node and say how many of
the group it would take, then ``spread`` deals them out. A task that names a node already (global services, or
one that is moved) is only checked against that node. Tasks whose volumes differ from slot to slot are groups
of their own, and so are those whose slot has failed often. Equal inputs give equal placements; nothing here
is stored or awaited.

It does not choose which tasks to place, undo placements, or move what runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from manager.schedule.filters import (
    NO_LIMIT,
    Filter,
    Question,
    explain,
    filters_for,
    no_suitable_node,
    question_about,
    refusing_filter,
)
from manager.schedule.needs import has_volume_per_slot
from manager.schedule.nodes import ClusterLoad, LoadCache
from manager.schedule.spread import Candidate, spread
from manager.store.view import View
from swarmpy.limits import NODE_FAILURES_MAX
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, Timestamp
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.states import TaskState

ASSIGNED_MESSAGE: Final = "scheduler assigned task to node"
CONFIRMED_MESSAGE: Final = "scheduler confirmed task can run on preassigned node"
PENDING_MESSAGE: Final = "pending task scheduling"


def place(
    view: View, tasks: Sequence[Task], now: Timestamp, *, load: ClusterLoad | None = None
) -> tuple[Task, ...]:
    """The tasks, in their order, ASSIGNED with a node or PENDING with a reason.

    ``load`` is the caller's picture of the cluster, which learns of the placements; without one it is
    measured from the view. A task that stays pending for the same reason comes back unchanged.
    """
    if not tasks:
        return ()
    if load is None:
        load = LoadCache().picture(view)
    placed = list(tasks)
    for (service_id, revision_id, slot, is_fixed, _), positions in _groups_of(tasks, load).items():
        question = question_about(view, load, service_id, revision_id, slot=slot)
        if is_fixed:
            for position in positions:
                placed[position] = _confirm(tasks[position], question, load, now)
            continue
        if question.opens_volume:
            # where the first one goes, the volume is: the others have to follow it
            first, positions = positions[:1], positions[1:]
            _place_group(placed, first, question, load, now)
            question = question_about(view, load, service_id, revision_id, slot=slot)
        if positions:
            _place_group(placed, positions, question, load, now)
    return tuple(placed)


_Group = tuple[ServiceId, RevisionId, int, bool, bool]
"""``slot`` is 0 where it does not matter; whether they have their node already, and have failed often."""


def _groups_of(tasks: Sequence[Task], load: ClusterLoad) -> dict[_Group, list[int]]:
    """The tasks' positions by group, in the order of their first tasks."""
    groups: dict[_Group, list[int]] = {}
    by_slot: dict[RevisionId, bool] = {}
    for position, task in enumerate(tasks):
        revision_id = task.revision_id
        is_by_slot = by_slot.get(revision_id)
        if is_by_slot is None:
            is_by_slot = by_slot[revision_id] = has_volume_per_slot(load.needs(revision_id))
        slot, is_fixed = task.slot if is_by_slot else 0, bool(task.node_id)
        group = (task.service_id, revision_id, slot, is_fixed, _has_failed_often(task))
        groups.setdefault(group, []).append(position)
    return groups


def _has_failed_often(task: Task) -> bool:
    return task.restarts >= NODE_FAILURES_MAX


def _place_group(
    placed: list[Task], positions: Sequence[int], question: Question, load: ClusterLoad, now: Timestamp
) -> None:
    filters = filters_for(question)
    candidates = _candidates(filters, question, load, now)
    candidates = _weighed(candidates, question, has_failed_often=_has_failed_often(placed[positions[0]]))
    taken = spread(candidates, len(positions), service_id=question.service_id, needs=question.needs)
    assigned = TaskStatus(timestamp=now, state=TaskState.ASSIGNED, message=ASSIGNED_MESSAGE)
    has_own = bool(question.needs.generic or question.needs.volumes)
    for position, member in zip(positions, taken, strict=False):
        task = replace(placed[position], node_id=candidates[member].node.id, status=assigned)
        placed[position] = _with_own(task, question, load) if has_own else task
    for member, count in Counter(taken).items():
        load.add(candidates[member].node.id, question.service_id, question.needs, count)
    unplaced = positions[len(taken) :]
    if unplaced:
        reason = no_suitable_node(_refusals(filters, question, load))
        for position in unplaced:
            placed[position] = pending(placed[position], reason, now)


def _with_own(task: Task, question: Question, load: ClusterLoad) -> Task:
    """The task with what it alone gets of its node."""
    task = replace(task, generic_resources=load.claim(task.node_id, question.needs))
    load.settle(task)
    return task


def _candidates(
    filters: Sequence[Filter], question: Question, load: ClusterLoad, now: Timestamp
) -> list[Candidate]:
    candidates = []
    has_branches = bool(question.needs.spread)
    for node in load.nodes:
        node_load = load.of(node.id)
        room = NO_LIMIT
        for each in filters:
            room = min(room, each.room(question, node, node_load))
            if room <= 0:
                if has_branches and question.service_id in node_load.active_by_service:
                    candidates.append(Candidate(node, node_load, 0, 0))
                break
        else:
            failures = node_load.recent_failures(question.revision_id, now)
            volumes = 0
            if question.volumes:
                volumes = len(question.volumes.intersection(each.name for each in node.description.volumes))
            candidates.append(Candidate(node, node_load, room, failures, volumes))
    return candidates


def _weighed(
    candidates: Sequence[Candidate], question: Question, *, has_failed_often: bool
) -> list[Candidate]:
    """A few failures say nothing against a node, unless the slot has had many and all that is kept failed.

    What is kept may be less than would say so of one node, or be of more nodes than one.
    """
    is_told = has_failed_often and sum(each.failures for each in candidates) >= question.kept_tasks
    least = 1 if is_told else NODE_FAILURES_MAX
    return [each if each.failures >= least else each.without_failures() for each in candidates]


def _refusals(filters: Sequence[Filter], question: Question, load: ClusterLoad) -> Counter[Filter]:
    refusals: Counter[Filter] = Counter()
    for node in load.nodes:
        refusing = refusing_filter(filters, question, node, load.of(node.id))
        assert refusing is not None, "a task was left over although a node has room"
        refusals[refusing] += 1
    return refusals


def _confirm(task: Task, question: Question, load: ClusterLoad, now: Timestamp) -> Task:
    """The task's node is fixed; what may still keep it from running there is said without a wrapper."""
    node = load.node(task.node_id)
    if node is None:
        return pending(task, no_suitable_node({}), now)
    refusing = refusing_filter(filters_for(question), question, node, load.of(node.id))
    if refusing is not None:
        return pending(task, explain({refusing: 1}), now)
    load.add(node.id, question.service_id, question.needs, 1)
    status = TaskStatus(timestamp=now, state=TaskState.ASSIGNED, message=CONFIRMED_MESSAGE)
    return _with_own(replace(task, status=status), question, load)


def pending(task: Task, reason: str, now: Timestamp) -> Task:
    """The task waiting for a node, with the reason; it waits since it first did."""
    status = task.status
    if status.state == TaskState.PENDING:
        if status.err == reason:
            return task
        return replace(task, status=replace(status, err=reason, report=status.report + 1))
    waiting = TaskStatus(timestamp=now, state=TaskState.PENDING, message=PENDING_MESSAGE, err=reason)
    return replace(task, node_id=task.node_id or NodeId(""), status=waiting)
