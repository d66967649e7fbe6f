"""``apply``: the only way in which the store changes, the same on every manager.

A batch's groups are applied one after the other; each as a whole, or not at all. What decides is the batch
and the tables alone: no clock, no chance, no order of a set. Nothing here raises towards the log. What comes
out is the list of events and an ``Applied``; its refusals name the groups and the reasons.

Merged fields: a task's ``desired_state`` and ``status``, and a node's ``status``, ``description``
and ``manager_status``, are never taken over from an update blindly, and do not touch the object's version.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import assert_never

from msgspec.structs import replace

from manager.store import rules
from manager.store.events import Event
from manager.store.rules import Editable, Refused
from manager.store.tables import Tables
from swarmpy.limits import REQUEST_IDS_MAX
from swarmpy.model.changes import (
    Applied,
    Batch,
    Change,
    Create,
    Delete,
    Group,
    NodeReport,
    Order,
    Refusal,
    Report,
    Update,
)
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import KINDS, Kind, Node, Object, Task, TaskStatus
from swarmpy.model.states import Owner

_OVERTAKEN = Refusal(index=0, reason="update out of sequence", is_stale=True)
"""Of a group that was planned on a change of the same batch, which came out otherwise."""


def apply_batch(tables: Tables, batch: Batch) -> tuple[Applied, list[Event]]:
    """Apply ``batch``; the events are those of the accepted groups, in order."""
    if batch.request_id:
        earlier = tables.requests.get(batch.request_id)
        if earlier is not None:
            return earlier, []
    if 0 < batch.epoch < tables.epoch:
        reason = f"planned under epoch {batch.epoch}, but a leader of epoch {tables.epoch} has taken over"
        return _refuse_all(tables, batch, reason), []
    tables.epoch = max(tables.epoch, batch.epoch)
    events: list[Event] = []
    refused: list[Refusal] = []
    is_overtaken = 0 < batch.base != tables.version
    for index, group in enumerate(batch.groups):
        if is_overtaken and is_predicted(group, base=batch.base):
            refused.append(replace(_OVERTAKEN, index=index))
            continue
        outcome = apply_group(tables, group, at=batch.at)
        if isinstance(outcome, Refusal):
            refused.append(replace(outcome, index=index))
        else:
            events += outcome
    applied = Applied(version=tables.version, refused=tuple(refused))
    if batch.request_id:
        tables.requests[batch.request_id] = applied
        if len(tables.requests) > REQUEST_IDS_MAX:
            del tables.requests[next(iter(tables.requests))]
    return applied, events


def is_predicted(group: Group, *, base: int) -> bool:
    """Whether the group rests on what an earlier one of its batch was to come out as.

    Once another entry has come in between, versions come out otherwise than predicted, and the number that
    the plan had in mind may by now be that of somebody else's change, which must not be overwritten.
    """
    return any(_guard(change) > base for change in group.changes)


def _guard(change: Change) -> int:
    match change:
        case Update(object=known):
            return known.version
        case Delete(version=version):
            return version
        case _:
            return 0


def apply_group(target: Editable, group: Group, *, at: Timestamp) -> list[Event] | Refusal:
    """Apply ``group`` as a whole, or leave ``target`` as it was and say why (with index 0)."""
    events: list[Event] = []
    stamp = _Stamp(owner=group.owner, at=at, version=target.version + 1)
    try:
        for change in group.changes:
            event = _decide(target, change, stamp)
            if event is not None:
                _carry_out(target, event)
                events.append(event)
        rules.check_references(target, events)
    except Refused as refused:
        _undo(target, events)
        return Refusal(index=0, reason=refused.reason, is_stale=refused.is_stale, code=refused.code)
    except MemoryError:
        raise  # this manager's trouble alone: the others may have applied the group
    except Exception as error:  # noqa: BLE001 - an entry that raised would stop every manager, for ever
        _undo(target, events)
        return Refusal(index=0, reason=f"applying the group failed: {_describe(error)}", code="INTERNAL")
    target.version += 1
    return events


@dataclass(frozen=True, kw_only=True)
class _Stamp:
    """What a group's changes are made with."""

    owner: Owner
    at: Timestamp
    version: int


def _decide(view: Editable, change: Change, stamp: _Stamp) -> Event | None:
    """The event that ``change`` comes to, None if it changes nothing, or ``Refused``."""
    match change:
        case Create():
            return _create(view, change.object, stamp)
        case Update():
            return _update(view, change.object, stamp)
        case Delete():
            return _delete(view, change)
        case Order():
            return _order(view, change)
        case Report():
            return _report(view, change, stamp.owner)
        case NodeReport():
            return _node_report(view, change)
        case _:
            assert_never(change)


def _create(view: Editable, new: Object, stamp: _Stamp) -> Event:
    kind = KINDS[type(new)]
    rules.check_create(view, stamp.owner, kind, new)
    return Event(kind, None, replace(new, version=stamp.version, created_at=stamp.at, updated_at=stamp.at))


def _update(view: Editable, new: Object, stamp: _Stamp) -> Event:
    kind = KINDS[type(new)]
    old = view.get(kind, new.id)
    if old is None:
        raise rules.not_found(kind, new.id)
    rules.check_update(view, kind, old, new)
    if isinstance(new, Task) and isinstance(old, Task):
        new = _merge_task(old, new, stamp.owner)
    elif isinstance(new, Node) and isinstance(old, Node):
        new = replace(new, status=old.status, description=old.description, manager_status=old.manager_status)
    return Event(
        kind, old, replace(new, version=stamp.version, created_at=old.created_at, updated_at=stamp.at)
    )


def _merge_task(old: Task, new: Task, owner: Owner) -> Task:
    desired = old.desired_state
    if new.desired_state > desired:
        rules.check_desired(new.id, new.desired_state)
        desired = new.desired_state
    status = old.status
    if _is_ahead(new.status, status):
        rules.check_transition(old, new.status.state, owner)
        status = new.status
    return replace(new, desired_state=desired, status=status)


def _is_ahead(new: TaskStatus, old: TaskStatus) -> bool:
    return (new.state, new.report) > (old.state, old.report)


def _delete(view: Editable, change: Delete) -> Event:
    old = view.get(change.kind, change.id)
    if old is None:
        raise rules.not_found(change.kind, change.id)
    if change.version and change.version != old.version:
        raise rules.stale()
    rules.check_delete(change.kind, old)
    return Event(change.kind, old, None)


def _order(view: Editable, change: Order) -> Event | None:
    task = view.task(change.task_id)
    if task is None:
        raise rules.not_found(Kind.TASK, change.task_id)
    rules.check_desired(change.task_id, change.desired_state)
    if change.desired_state <= task.desired_state:
        return None
    return Event(Kind.TASK, task, replace(task, desired_state=change.desired_state))


def _report(view: Editable, change: Report, owner: Owner) -> Event | None:
    task = view.task(change.task_id)
    if task is None:
        raise rules.not_found(Kind.TASK, change.task_id)
    if not _is_ahead(change.status, task.status):
        return None
    rules.check_transition(task, change.status.state, owner)
    return Event(Kind.TASK, task, replace(task, status=change.status))


def _node_report(view: Editable, change: NodeReport) -> Event | None:
    node = view.node(change.node_id)
    if node is None:
        raise rules.not_found(Kind.NODE, change.node_id)
    status = change.status or node.status
    if status.epoch < node.status.epoch:
        raise Refused(f"node {node.id} was seen by a leader of epoch {node.status.epoch} already")
    manager_status = change.manager_status or node.manager_status
    new = replace(
        node,
        status=status,
        description=change.description or node.description,
        manager_status=None if change.is_manager_removed else manager_status,
    )
    return Event(Kind.NODE, node, new) if new != node else None


def _carry_out(target: Editable, event: Event) -> None:
    if event.new is not None:
        target.put(event.kind, event.new)
    elif event.old is not None:
        target.remove(event.kind, event.old.id)


def _undo(target: Editable, events: list[Event]) -> None:
    for event in reversed(events):
        if event.old is not None:
            target.put(event.kind, event.old)
        elif event.new is not None:
            target.remove(event.kind, event.new.id)


def _describe(error: Exception) -> str:
    """What and where, for whoever mends it: nothing else tells of it, since nothing here logs."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{error!r} in {place.name}, line {place.lineno}"


def _refuse_all(tables: Tables, batch: Batch, reason: str) -> Applied:
    refused = tuple(
        Refusal(index=index, reason=reason, code="FAILED_PRECONDITION") for index in range(len(batch.groups))
    )
    return Applied(version=tables.version, refused=refused)
