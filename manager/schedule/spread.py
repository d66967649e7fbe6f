"""Ranking: which of the nodes that fit gets the next task of a group.

Placement preferences make a tree (one level per preference, one branch per label value, nodes without the
label in the branch of ""). At each level the branch with the fewest tasks of the service is next; inside the
last branch it is the node with, in this order, fewest recent failures (once they tell), fewest tasks of
the service, most of the named volumes that they mount, fewest tasks in all, most free resources, smallest id.
A branch or node that is full leaves the division. Heaps keep every level sorted, so N tasks on M nodes cost
O((N + M) log M).

A service may ask to be packed instead: then it is a node that is in use already, with the least free of what
its tasks reserve, with most tasks; and on to the next one when that is full.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from manager.schedule.needs import Needs
from manager.schedule.node_facts import label_of
from manager.schedule.nodes import NodeLoad
from swarmpy.model.ids import ServiceId
from swarmpy.model.objects import Node

_Rank = tuple[int, int, int, int, int, int]
"""Failures, tasks of the service less volumes, tasks in all, minus free CPU, minus free memory, candidate.

Tasks of the service are counted in steps that no number of volumes reaches.
"""
_PackedRank = tuple[int, bool, int, int, int, int]
"""Failures, whether the node is empty, free CPU, free memory, minus tasks in all, candidate."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that would take ``room`` tasks of the group. One without room counts in its branches only."""

    node: Node
    load: NodeLoad
    room: int
    failures: int
    """Recent ones, as far as they say something against the node."""
    volumes: int = 0
    """How many of the volumes that the tasks mount are there."""

    def without_failures(self) -> Candidate:
        return replace(self, failures=0) if self.failures else self


class _Division(Protocol):
    tasks: int
    """Tasks of the service in this part of the tree."""

    def take(self) -> int | None:
        """The candidate for the next task, or None if this part is full."""
        ...


class _Nodes:
    """The nodes of one innermost branch."""

    def __init__(
        self, candidates: Sequence[Candidate], members: Sequence[int], *, service_id: ServiceId, needs: Needs
    ) -> None:
        self._cpu = needs.nano_cpus
        self._memory = needs.memory_bytes
        self._step = len(needs.volumes) + 1
        self._room = {member: room for member in members if (room := candidates[member].room)}
        self._heap = [self._rank(candidates[member], member, service_id) for member in self._room]
        heapq.heapify(self._heap)
        self.tasks = _tasks_of(candidates, members, service_id)

    def _rank(self, candidate: Candidate, member: int, service_id: ServiceId) -> _Rank:
        load = candidate.load
        has = candidate.node.description.resources
        return (
            candidate.failures,
            self._step * load.active_by_service.get(service_id, 0) - candidate.volumes,
            load.active,
            load.nano_cpus - has.nano_cpus,
            load.memory_bytes - has.memory_bytes,
            member,
        )

    def take(self) -> int | None:
        heap = self._heap
        if not heap:
            return None
        failures, of_service, in_all, cpu, memory, member = heap[0]
        room = self._room[member] = self._room[member] - 1
        if room:
            of_service += self._step
            rank = (failures, of_service, in_all + 1, cpu + self._cpu, memory + self._memory, member)
            heapq.heapreplace(heap, rank)
        else:
            heapq.heappop(heap)
        self.tasks += 1
        return member


class _PackedNodes:
    """The nodes of one innermost branch, to be filled one after the other."""

    def __init__(
        self, candidates: Sequence[Candidate], members: Sequence[int], *, service_id: ServiceId, needs: Needs
    ) -> None:
        self._cpu = needs.nano_cpus
        self._memory = needs.memory_bytes
        self._room = {member: room for member in members if (room := candidates[member].room)}
        self._heap = [self._rank(candidates[member], member) for member in self._room]
        heapq.heapify(self._heap)
        self.tasks = _tasks_of(candidates, members, service_id)

    def _rank(self, candidate: Candidate, member: int) -> _PackedRank:
        load = candidate.load
        has = candidate.node.description.resources
        return (
            candidate.failures,
            load.active == 0,
            has.nano_cpus - load.nano_cpus if self._cpu else 0,
            has.memory_bytes - load.memory_bytes if self._memory else 0,
            -load.active,
            member,
        )

    def take(self) -> int | None:
        heap = self._heap
        if not heap:
            return None
        failures, _, cpu, memory, active, member = heap[0]
        room = self._room[member] = self._room[member] - 1
        if room:
            heapq.heapreplace(
                heap, (failures, False, cpu - self._cpu, memory - self._memory, active - 1, member)
            )
        else:
            heapq.heappop(heap)
        self.tasks += 1
        return member


def _tasks_of(candidates: Sequence[Candidate], members: Sequence[int], service_id: ServiceId) -> int:
    return sum(candidates[member].load.active_by_service.get(service_id, 0) for member in members)


class _Branches:
    """One level of preference: parts of the tree, the emptiest first."""

    def __init__(self, parts: Sequence[_Division]) -> None:
        self._parts = parts
        self._heap = [(part.tasks, position) for position, part in enumerate(parts)]
        heapq.heapify(self._heap)
        self.tasks = sum(part.tasks for part in parts)

    def take(self) -> int | None:
        while self._heap:
            tasks, position = self._heap[0]
            member = self._parts[position].take()
            if member is None:
                heapq.heappop(self._heap)
                continue
            heapq.heapreplace(self._heap, (tasks + 1, position))
            self.tasks += 1
            return member
        return None


def spread(candidates: Sequence[Candidate], count: int, *, service_id: ServiceId, needs: Needs) -> list[int]:
    """The candidates' positions for ``count`` tasks, in order; fewer if there is no room for all.

    ``candidates`` are sorted by node id.
    """
    everyone = range(len(candidates))
    tree = _divide(candidates, everyone, needs.spread, service_id=service_id, needs=needs)
    taken: list[int] = []
    while len(taken) < count:
        member = tree.take()
        if member is None:
            break
        taken.append(member)
    return taken


def _divide(
    candidates: Sequence[Candidate],
    members: Sequence[int],
    descriptors: Sequence[str],
    *,
    service_id: ServiceId,
    needs: Needs,
) -> _Division:
    for depth, descriptor in enumerate(descriptors):
        by_value: dict[str, list[int]] = {}
        for member in members:
            value = label_of(descriptor, candidates[member].node)
            if value is None:
                break  # no label's descriptor: this level does not count
            by_value.setdefault(value, []).append(member)
        if by_value:
            rest = descriptors[depth + 1 :]
            parts = [
                _divide(candidates, by_value[value], rest, service_id=service_id, needs=needs)
                for value in sorted(by_value)
            ]
            return _Branches(parts)
    nodes = _PackedNodes if needs.is_packed else _Nodes
    return nodes(candidates, members, service_id=service_id, needs=needs)
