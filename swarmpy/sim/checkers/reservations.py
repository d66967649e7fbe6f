"""Reservations fit where the scheduler put them.

Of every node the sum of what its tasks reserve is kept, from a task's placement to its end. At the moment in
which a task is stored as placed, the sum of each resource that it asks for must not exceed what the node has.
What it asks for of resources of the user's own, it was given. A node
that shrinks later is the enforcer's affair. A placement may have been decided on a description that
was replaced while the proposal was under way, so for that long the former one counts too.
"""

from __future__ import annotations

from typing import Final

from swarmpy.limits import PROPOSE_TIMEOUT_S
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Node, Task
from swarmpy.model.specs import Resources
from swarmpy.sim.checkers.demand import GENERIC, Demand, Demands, amounts_of, is_held
from swarmpy.sim.checkers.violations import Violations

NAME: Final = "reservations"


class Reservations:
    """``demands`` is kept up to date by the caller, ahead of the tasks that need it."""

    def __init__(self, violations: Violations, demands: Demands) -> None:
        self._violations = violations
        self._demands = demands
        self._sums: dict[NodeId, dict[str, int]] = {}
        self._holding: dict[str, Demand] = {}
        """What was added for each task that reserves something."""
        self._capacity: dict[NodeId, dict[str, int]] = {}
        self._former: dict[NodeId, tuple[dict[str, int], float]] = {}
        """The larger capacity of before, and until when it counts."""

    def node_event(self, old: Node | None, new: Node | None) -> None:
        if new is None:
            if old is not None:
                self._capacity.pop(old.id, None)
                self._former.pop(old.id, None)
            return
        if old is not None and old.description is new.description:
            return
        now = self._violations.now()
        capacity = amounts_of(new.description.resources)
        before = self._capacity.get(new.id)
        self._capacity[new.id] = capacity
        if before is None or before == capacity:
            return
        former, until = self._former.get(new.id, ({}, 0.0))
        if until >= now:
            before = {name: max(amount, former.get(name, 0)) for name, amount in before.items()}
        self._former[new.id] = (before, now + PROPOSE_TIMEOUT_S)

    def task_event(self, old: Task | None, new: Task | None, *, is_gap: bool = False) -> None:
        subject = new if new is not None else old
        assert subject is not None
        demand = self._demands.get(subject.revision_id) if new is not None and is_held(new) else None
        known = self._holding.get(subject.id)
        if known is None:
            if demand is None or not demand.reservations:
                return
            self._holding[subject.id] = demand
            self._count(subject.node_id, demand, 1)
            if not is_gap:
                self._check(subject, demand)
        elif demand is None:
            del self._holding[subject.id]
            self._count(subject.node_id, known, -1)

    def _count(self, node_id: NodeId, demand: Demand, sign: int) -> None:
        sums = self._sums.setdefault(node_id, {})
        for name, amount in demand.reservations:
            total = sums.get(name, 0) + sign * amount
            if total:
                sums[name] = total
            else:
                del sums[name]
        if not sums:
            del self._sums[node_id]

    def _check(self, task: Task, demand: Demand) -> None:
        sums = self._sums[task.node_id]
        capacity = self._capacity.get(task.node_id, {})
        former, until = self._former.get(task.node_id, ({}, 0.0))
        is_former_valid = until >= self._violations.now()
        given = amounts_of(Resources(generic_resources=task.generic_resources))
        for name, amount in demand.reservations:
            if name.startswith(GENERIC) and given.get(name, 0) != amount:
                self._violations.add(
                    NAME, f"task {task.id} asks for {amount} of {name} and was given {given.get(name, 0)}"
                )
            has = capacity.get(name, 0)
            if is_former_valid:
                has = max(has, former.get(name, 0))
            if sums[name] > has:
                self._violations.add(
                    NAME,
                    f"node {task.node_id} has {has} of {name}, and {sums[name]} are reserved",
                    task=task.id,
                )
