"""Tasks that wait for a node or an address: tried again whenever something changed that may help them.

They come in order of age, and all tasks of a service's revision as one group: once one of a group finds
nothing, the rest wait for the same reason. Only what changes is planned, so a cluster in which nothing helps
stays quiet. Tasks whose service is gone are left to the reaper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from manager.allocate.addresses import Addresses, has_released
from manager.reconcile.placing import Placing
from manager.reconcile.plan import NOTHING, Plan
from manager.reconcile.slots import age
from manager.schedule.needs import has_volume_per_slot
from manager.schedule.nodes import LoadCache
from manager.schedule.scheduler import pending
from manager.store.view import View
from swarmpy.limits import PLAN_GROUPS_MAX
from swarmpy.model.changes import Change, Group, Report, Update
from swarmpy.model.ids import RevisionId, ServiceId, Timestamp
from swarmpy.model.objects import Cluster, Network, Node, Service, Task
from swarmpy.model.states import Owner, TaskState, is_terminal

_KEY = "pending"


class PendingTasks:
    """The reconciler of unplaced tasks; it has one key."""

    name = "scheduler"

    def __init__(self, cache: LoadCache, addresses: Addresses) -> None:
        self._cache = cache
        self._addresses = addresses

    def keys(self, view: View) -> Iterable[str]:
        return (_KEY,)

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        return (_KEY,) if _may_help(view, old, new) else ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        groups = _groups_of(view)
        if not groups:
            return NOTHING
        placing = Placing(view, now, self._cache, self._addresses)
        changes: list[Change] = []
        is_partial = False
        for tasks in groups:
            is_partial = _place_group(placing, tasks, now, changes=changes)
            if is_partial:
                break
        return Plan(
            groups=tuple(Group(owner=Owner.SCHEDULER, changes=(change,)) for change in changes),
            is_partial=is_partial,
        )


def _groups_of(view: View) -> list[list[Task]]:
    groups: dict[tuple[ServiceId, RevisionId], list[Task]] = {}
    for task in sorted(view.unplaced_tasks(), key=age):
        groups.setdefault((task.service_id, task.revision_id), []).append(task)
    return [tasks for (service_id, _), tasks in groups.items() if view.service(service_id) is not None]


def _place_group(placing: Placing, tasks: Sequence[Task], now: Timestamp, *, changes: list[Change]) -> bool:
    """Place what fits into the plan; whether more is left to do."""
    needs = placing.load.needs(tasks[0].revision_id)
    # where each has a node or a volume of its own, what keeps one says nothing of the next
    are_alike = not needs.is_global and not tasks[0].node_id and not has_volume_per_slot(needs)
    tried = 0
    while tried < len(tasks):
        room = PLAN_GROUPS_MAX - len(changes)
        if room <= 0:
            return True
        part = tasks[tried : tried + room]
        placed = placing.place(part)
        tried += len(part)
        changes += _changes(part, placed)
        if placed[-1].status.state == TaskState.PENDING and are_alike:
            # nodes or networks have no room left for this group: the rest waits for the same reason
            return _wait(tasks[tried:], placed[-1].status.err, now, changes)
    return False


def _wait(tasks: Sequence[Task], reason: str, now: Timestamp, changes: list[Change]) -> bool:
    for task in tasks:
        waiting = pending(task, reason, now)
        if waiting is not task:
            if len(changes) >= PLAN_GROUPS_MAX:
                return True
            changes.append(Report(task_id=task.id, status=waiting.status))
    return False


def _changes(before: Sequence[Task], after: Sequence[Task]) -> list[Change]:
    changes: list[Change] = []
    for old, new in zip(before, after, strict=True):
        if new.status.state == TaskState.ASSIGNED:
            changes.append(Update(object=replace(new, desired_state=old.desired_state)))
        elif new is not old:
            changes.append(Report(task_id=new.id, status=new.status))
    return changes


def _may_help(view: View, old: object | None, new: object | None) -> bool:
    match new if new is not None else old:
        case Task():
            return _is_task_help(view, old, new)
        case Node():
            return _is_node_help(old, new)
        case Cluster() | Network():
            return True
        case Service():
            return len(view.unplaced_tasks()) > 0 and has_released(old, new)
    return False


def _is_task_help(view: View, old: object | None, new: object | None) -> bool:
    if isinstance(new, Task) and new.status.state < TaskState.ASSIGNED:
        # nodes may have changed between the decision that left it pending and its storing
        return not isinstance(old, Task)
    if not view.unplaced_tasks():
        return False
    if not isinstance(old, Task) or not isinstance(new, Task):
        return new is None
    ended = is_terminal(new.status.state) and not is_terminal(old.status.state)
    return ended or old.desired_state != new.desired_state or has_released(old, new)


def _is_node_help(old: object | None, new: object | None) -> bool:
    if not isinstance(old, Node) or not isinstance(new, Node):
        return True
    return (
        old.status.state != new.status.state
        or old.status.addr != new.status.addr
        or old.spec != new.spec
        or old.role != new.role
        or old.description != new.description
    )
