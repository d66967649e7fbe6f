"""Slots: the tasks of a service sorted by slot, and which slots a scale-down gives up.

A slot holds one task that should run, or two while a start-first update overlaps them, and the history of
what ran there. Tasks that are being removed are in no slot: their number is free again.

A slot whose newest task was told to stop and that got no successor is *settled*: the restart policy said
that it stays as it ended. It counts as filled until an update starts it anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

from manager.store.view import View
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Task
from swarmpy.model.states import NodeAvailability, NodeState, TaskState

Slots = dict[int, list[Task]]
"""Tasks by slot number, oldest first."""


def age(task: Task) -> tuple[int, str]:
    """Sorts oldest first: the store's counter grows with every task, whatever the clocks do."""
    return (task.version, task.id)


def slots_of(tasks: Iterable[Task]) -> Slots:
    slots: Slots = {}
    for task in tasks:
        if task.desired_state == TaskState.REMOVE:
            continue
        in_slot = slots.get(task.slot)
        if in_slot is None:
            slots[task.slot] = [task]
        else:
            in_slot.append(task)
    for in_slot in slots.values():
        if len(in_slot) > 1:
            in_slot.sort(key=age)
    return slots


def is_wished(task: Task) -> bool:
    """Whether the task should run, or will be told to."""
    return task.desired_state <= TaskState.RUNNING


class NodeFitness:
    """Which nodes may keep what they run. Unknown and disconnected ones are left alone for their grace."""

    def __init__(self, view: View) -> None:
        self._keeping: set[NodeId] = set()
        self._gone: set[NodeId] = set()
        self._known: set[NodeId] = set()
        for node in view.nodes():
            self._known.add(node.id)
            if node.status.state == NodeState.DOWN:
                self._gone.add(node.id)
            elif node.spec.availability != NodeAvailability.DRAIN:
                self._keeping.add(node.id)

    def may_keep(self, node_id: NodeId) -> bool:
        """Whether a task may stay there; one without a node yet may."""
        return not node_id or node_id in self._keeping

    def is_gone(self, node_id: NodeId) -> bool:
        """Whether the node is down or removed: nothing there needs to be waited for."""
        return bool(node_id) and (node_id in self._gone or node_id not in self._known)


def surplus_slots(slots: Mapping[int, Sequence[Task]], wanted: int) -> list[int]:
    """The slots to give up, the first to go first.

    They come from the node with most copies, on it those that do not run before those that do, then the
    highest numbers; slots without a node (or between two) before all others.
    """
    if wanted <= 0:
        return sorted(slots, reverse=True)
    by_node: dict[NodeId, list[tuple[bool, int]]] = {}
    ranks: list[tuple[int, bool, int]] = []
    for number, tasks in slots.items():
        wished = [task for task in tasks if is_wished(task)] or tasks[-1:]
        is_idle = not any(task.status.state == TaskState.RUNNING for task in wished)
        if len(wished) == 1 and wished[0].node_id:
            by_node.setdefault(wished[0].node_id, []).append((is_idle, number))
        else:
            ranks.append((sys.maxsize, is_idle, number))
    for copies in by_node.values():
        for position, (is_idle, number) in enumerate(sorted(copies)):
            ranks.append((position, is_idle, number))
    ranks.sort()
    return [number for _, _, number in reversed(ranks[wanted:])]
