"""Nodes' numbers: what a node is known by where its id has no room, such as in the index of an IPsec key.

A new node gets the number after the highest in use, so that one which was just given up is not another's at
once; when the range has been used up, the lowest that is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec.structs import replace

from manager.reconcile.plan import NOTHING, Plan
from manager.store.view import View
from swarmpy.limits import NODE_NUMBER_MAX, PLAN_GROUPS_MAX
from swarmpy.model.changes import Group, Update
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Node
from swarmpy.model.states import Owner

_KEY: Final = "numbers"


class NodeNumbers:
    """It has one key: which number is free depends on all nodes."""

    name = "node numbers"

    def keys(self, view: View) -> Iterable[str]:
        return (_KEY,)

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        return (_KEY,) if isinstance(new, Node) and not new.number else ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        waiting = [node for node in view.nodes() if not node.number]
        if not waiting:
            return NOTHING
        waiting.sort(key=lambda node: (node.created_at, node.id))
        numbers = _free_numbers({node.number for node in view.nodes()})
        groups = tuple(
            Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=replace(node, number=number)),))
            for node, number in zip(waiting[:PLAN_GROUPS_MAX], numbers, strict=False)
        )
        return Plan(groups=groups, is_partial=len(waiting) > PLAN_GROUPS_MAX)


def _free_numbers(taken: set[int]) -> Iterator[int]:
    """Free numbers, in the order in which they are to be given."""
    highest = max(taken, default=0)
    yield from range(highest + 1, NODE_NUMBER_MAX + 1)
    yield from (number for number in range(1, highest) if number not in taken)
