"""``PlanBuilder``: collects what a reconcile wants, places what it creates, and keeps it within its bound.

A created task is placed and addressed before the plan leaves, over the picture that this very plan leaves
behind (tasks told to stop no longer count as active), so a scale-up is one commit from wish to ASSIGNED.
Created tasks are named ``+1``, ``+2``, … in the order in which they were asked for.

It decides nothing about which tasks should exist.
"""

from __future__ import annotations

from msgspec.structs import replace

from manager.allocate.addresses import Addresses
from manager.reconcile.placing import Placing
from manager.reconcile.plan import PROVISIONAL_PREFIX, Note, Plan
from manager.reconcile.restart import waiting_reason
from manager.schedule.nodes import LoadCache
from manager.store.view import View
from swarmpy.limits import PLAN_GROUPS_MAX
from swarmpy.model.changes import Change, Create, Group, Order, Report
from swarmpy.model.ids import TaskId, Timestamp
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.states import Owner, TaskState


class PlanBuilder:
    """One plan in the making."""

    def __init__(self, view: View, now: Timestamp, cache: LoadCache, addresses: Addresses) -> None:
        self.view = view
        self.now = now
        self.is_partial = False
        self._cache = cache
        self._addresses = addresses
        self._groups: list[tuple[Owner, tuple[Change, ...], int | None]] = []
        self._created: list[Task] = []
        self._stopped: list[Task] = []
        self._wake_at: Timestamp | None = None
        self._notes: list[Note] = []

    def has_room(self) -> bool:
        """Whether another group fits; if not, the plan is partial and the loop comes back at once."""
        if len(self._groups) < PLAN_GROUPS_MAX:
            return True
        self.is_partial = True
        return False

    def room_for(self, wanted: int) -> int:
        """How many of ``wanted`` more groups fit; the plan is partial if not all do."""
        room = max(min(wanted, PLAN_GROUPS_MAX - len(self._groups)), 0)
        self.is_partial = self.is_partial or room < wanted
        return room

    def add(self, *changes: Change, owner: Owner = Owner.ORCHESTRATOR) -> None:
        """One atomic group."""
        self._groups.append((owner, changes, None))

    def create(self, task: Task, *with_changes: Change) -> None:
        """One atomic group of the changes and the new task, whose node is found when the plan is built."""
        self._groups.append((Owner.ORCHESTRATOR, with_changes, len(self._created)))
        name = TaskId(f"{PROVISIONAL_PREFIX}{len(self._created) + 1}")
        self._created.append(replace(task, id=name))

    def stop(self, task: Task, desired: TaskState = TaskState.SHUTDOWN) -> tuple[Change, ...]:
        """The changes that end a task; put them into a group."""
        self._stopped.append(task)
        order = Order(task_id=task.id, desired_state=desired)
        if task.status.state >= TaskState.ASSIGNED or desired == TaskState.REMOVE:
            return (order,)
        # no agent knows of this task, so nobody else would ever report its end
        ended = TaskStatus(timestamp=self.now, state=TaskState.SHUTDOWN, message="shutdown")
        return (order, Report(task_id=task.id, status=ended))

    def wake(self, at: int) -> None:
        """Reconcile this key again at ``at``, or earlier."""
        if self._wake_at is None or at < self._wake_at:
            self._wake_at = Timestamp(at)

    def note(self, event: str, **facts: str) -> None:
        self._notes.append(Note(event=event, facts=facts))

    def build(self) -> Plan:
        placed = self._place()
        groups = []
        for owner, changes, created in self._groups:
            if created is not None:
                changes = (*changes, Create(object=placed[created]))
            groups.append(Group(owner=owner, changes=changes))
        return Plan(
            groups=tuple(groups),
            wake_at=self._wake_at,
            notes=tuple(self._notes),
            is_partial=self.is_partial,
        )

    def _place(self) -> list[Task]:
        if not self._created:
            return []
        placing = Placing(self.view, self.now, self._cache, self._addresses)
        for task in self._stopped:
            placing.load.lower(task)
        placed = []
        for task in placing.place(self._created):
            reason = waiting_reason(task, self.now)
            if reason and task.status.state == TaskState.ASSIGNED:
                task = replace(task, status=replace(task.status, message=reason))
            placed.append(task)
        return placed
