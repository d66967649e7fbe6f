"""Joins: addresses for tasks that were joined to networks while they run, until their agents have let go.

A join is stored first (by the API), and gets its place among the task's networks from here. One that is
leaving keeps its place, so that its addresses are nobody else's, until the task's agent has reported that the
leg is gone: ``status.places_version`` is the version of the task whose places it has made. Then both go.
A task that has ended holds nothing; its joins stay in its record.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from manager.allocate.addresses import Addresses, NoAddress, has_released
from manager.reconcile.plan import NOTHING, Note, Plan
from manager.store.networking import Place
from manager.store.view import View
from swarmpy.limits import ADDRESSES_RETRY_S
from swarmpy.model.changes import Group, Update
from swarmpy.model.ids import SECOND_NS, TaskId, Timestamp
from swarmpy.model.objects import Network, NetworkJoin, Task
from swarmpy.model.states import Owner, TaskState

_RETRY_NS: Final = int(ADDRESSES_RETRY_S * SECOND_NS)


class Joins:
    """Its keys are task ids."""

    name = "joins"

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._waiting: dict[str, None] = {}
        """Tasks for which a network had no address: looked at again when one is released anywhere."""

    def keys(self, view: View) -> Iterable[str]:
        return sorted(task.id for task in view.joined_tasks() if _needs_work(task))

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new:
            case Task(id=task_id) if _needs_work(new):
                return (task_id, *self._waiting)
            case Network():
                return tuple(self._waiting)
        return tuple(self._waiting) if self._waiting and has_released(old, new) else ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        self._waiting.pop(key, None)
        task = view.task(TaskId(key))
        if task is None or not _needs_work(task):
            return NOTHING
        gone = {join.network_id for join in task.joins if _is_done_with(task, join)}
        networks = [place for place in task.networks if place.network_id not in gone]
        notes: list[Note] = []
        claims = self._addresses.claims(view)
        for join in task.joins:
            network = view.network(join.network_id)
            if not _is_wanting(task, join) or network is None:
                continue  # whoever waits for a network that is gone sees that himself
            try:
                networks += claims.attachments((Place(network, join.wish),))
            except NoAddress as error:
                self._waiting[key] = None
                facts = {"task_id": task.id, "network_id": network.id, "reason": str(error)}
                notes.append(Note(event="task_not_joined", facts=facts))
        joins = tuple(join for join in task.joins if join.network_id not in gone)
        groups: tuple[Group, ...] = ()
        if len(networks) != len(task.networks) or len(joins) != len(task.joins):
            changed = replace(task, networks=tuple(networks), joins=joins)
            groups = (Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=changed),)),)
        wake_at = Timestamp(now + _RETRY_NS) if notes else None
        return Plan(groups=groups, notes=tuple(notes), wake_at=wake_at)


def _needs_work(task: Task) -> bool:
    return task.status.state <= TaskState.RUNNING and any(
        _is_wanting(task, join) or _is_done_with(task, join) for join in task.joins
    )


def _is_wanting(task: Task, join: NetworkJoin) -> bool:
    return not join.is_leaving and not _has_place(task, join)


def _is_done_with(task: Task, join: NetworkJoin) -> bool:
    """Whether the agent has let go, or never heard of it."""
    if not join.is_leaving:
        return False
    status = task.status
    has_let_go = status.places_version >= task.version and not status.places_err
    return has_let_go or not _has_place(task, join)


def _has_place(task: Task, join: NetworkJoin) -> bool:
    return any(place.network_id == join.network_id for place in task.networks)
