"""Slots: the tasks of a service sorted by slot, and which slots a scale-down gives up.

A slot holds one task that should run, or two while a start-first update overlaps them, and the history of
what ran there. Tasks that are being removed are in no slot: their number is free again.

A slot whose newest task was told to stop and that got no successor is *settled*: the restart policy said
that it stays as it ended. It counts as filled until an update starts it anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Generic, TypeVar

from manager.store.view import View
from swarmpy.model.ids import NodeId, RevisionId
from swarmpy.model.objects import Task
from swarmpy.model.states import NodeAvailability, NodeState, TaskState

K = TypeVar("K", int, str)
"""What names a slot: its number, or its node."""

_RUNNING: Final = TaskState.RUNNING
_REMOVE: Final = TaskState.REMOVE
_DOWN: Final = NodeState.DOWN
_DRAIN: Final = NodeAvailability.DRAIN


def age(task: Task) -> tuple[int, str]:
    """Sorts oldest first: the store's counter grows with every task, whatever the clocks do."""
    return (task.version, task.id)


def is_wished(task: Task) -> bool:
    """Whether the task should run, or will be told to; a job's task: to its end."""
    return task.desired_state <= TaskState.COMPLETE


class NodeFitness:
    """Which nodes may keep what they run. Unknown and disconnected ones are left alone for their grace.

    Asked of the view node by node: a service with a few tasks costs the same in a cluster of thousands.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self.keeping = _Keeping(view)
        """By node: whether it is neither down nor drained. A task without a node yet may stay so."""

    def may_keep(self, node_id: NodeId) -> bool:
        """Whether a task may stay there; one without a node yet may."""
        return self.keeping[node_id]

    def is_draining(self, node_id: NodeId) -> bool:
        """Whether the node is drained, and may well run what it has."""
        node = self._view.node(node_id)
        return node is not None and node.spec.availability is _DRAIN and node.status.state is not _DOWN

    def is_gone(self, node_id: NodeId) -> bool:
        """Whether the node is down or removed: nothing there needs to be waited for."""
        if not node_id:
            return False
        node = self._view.node(node_id)
        return node is None or node.status.state is _DOWN


class _Keeping(dict[NodeId, bool]):
    """Filled as it is asked: it is read once for every task of a service."""

    def __init__(self, view: View) -> None:
        super().__init__({NodeId(""): True})
        self._node = view.node

    def __missing__(self, node_id: NodeId) -> bool:
        node = self._node(node_id)
        found = node is not None and node.status.state is not _DOWN and node.spec.availability is not _DRAIN
        self[node_id] = found
        return found


class Slots(Generic[K]):
    """The slots of one service, from pairs of slot and task.

    Built in one pass, since this is done for every task of a service at every reconcile. ``attention`` are
    the slots that are not just one task of the wanted revision, which runs or is about to, where it may.
    """

    def __init__(
        self, tasks: Iterable[tuple[K, Task]], *, template_id: RevisionId, fitness: NodeFitness
    ) -> None:
        only: dict[K, Task] = {}
        several: dict[K, list[Task]] = {}
        plain: set[K] = set()
        odd: set[K] = set()
        keeping = fitness.keeping
        for slot, task in tasks:
            desired = task.desired_state
            if desired == _REMOVE:
                continue
            if slot not in only:
                only[slot] = task
            elif slot in several:
                several[slot].append(task)
            else:
                several[slot] = [only[slot], task]
            if desired > _RUNNING:
                continue
            is_plain = (
                desired == _RUNNING
                and task.revision_id == template_id
                and task.status.state <= _RUNNING
                and keeping[task.node_id]
                and slot not in plain
            )
            if is_plain:
                plain.add(slot)
            else:
                odd.add(slot)
        for in_slot in several.values():
            in_slot.sort(key=age)
        self._only: dict[K, Task] = only
        self._several: dict[K, list[Task]] = several
        self.attention: list[K] = sorted(odd | (only.keys() - plain))

    def __len__(self) -> int:
        return len(self._only)

    def __contains__(self, number: int) -> bool:
        return number in self._only

    def __iter__(self) -> Iterator[K]:
        return iter(self._only)

    def tasks(self, number: K) -> Sequence[Task]:
        """Oldest first; never empty."""
        return self._several.get(number) or (self._only[number],)

    def all_tasks(self) -> Iterator[Sequence[Task]]:
        for number in self._only:
            yield self.tasks(number)

    def drop(self, number: K) -> None:
        del self._only[number]
        self._several.pop(number, None)


def surplus_slots(slots: Slots[int], wanted: int) -> list[int]:
    """The slots to give up, the first to go first.

    They come from the node with most copies, on it those that do not run before those that do, then the
    highest numbers; slots without a node (or between two) before all others.
    """
    if wanted <= 0:
        return sorted(slots, reverse=True)
    by_node: dict[NodeId, list[tuple[bool, int]]] = {}
    ranks: list[tuple[int, bool, int]] = []
    for number in slots:
        tasks = slots.tasks(number)
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
