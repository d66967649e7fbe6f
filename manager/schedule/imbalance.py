"""The one move that makes a service's spread more even, if there is one.

The tree is that of placement: a level for each preference, its branches by label value, nodes at the end. It
is looked at from the top: the first level at which the fullest branch that can give a task has at least two
more than the emptiest that can take one gets a move between these two. So the sum of squares at that level
shrinks, those above stay as they are, and a sequence of moves must end: there is nothing to go back for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from manager.schedule.node_facts import label_of
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Node

GAIN_MIN: Final = 2
"""With one task more than there, a move would only swap the two."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A node as a move sees it. ``rank``: of several equally empty ones the least is taken."""

    node: Node
    tasks: int
    """Of the service."""
    can_give: bool
    can_take: bool
    rank: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    source: NodeId
    target: NodeId


@dataclass(frozen=True, slots=True)
class _Branch:
    spots: tuple[Spot, ...]
    tasks: int
    can_give: bool
    can_take: bool


def best_move(spots: Sequence[Spot], descriptors: Sequence[str]) -> Move | None:
    """``spots`` are sorted by node id, ``descriptors`` the service's spread preferences."""
    branches, rest = _branches(spots, descriptors)
    givers = [branch for branch in branches if branch.can_give]
    takers = [branch for branch in branches if branch.can_take]
    if givers and takers:
        fullest = max(givers, key=lambda branch: branch.tasks)
        emptiest = min(takers, key=_emptiness)
        if fullest.tasks - emptiest.tasks >= GAIN_MIN:
            return Move(_source(fullest.spots, rest).node.id, _target(emptiest.spots, rest).node.id)
    if len(branches) == len(spots):
        return None
    for branch in branches:
        found = best_move(branch.spots, rest)
        if found is not None:
            return found
    return None


def _source(spots: Sequence[Spot], descriptors: Sequence[str]) -> Spot:
    """The fullest node of the fullest branch that can give one."""
    while len(spots) > 1:
        branches, descriptors = _branches(spots, descriptors)
        spots = max((each for each in branches if each.can_give), key=lambda branch: branch.tasks).spots
    return spots[0]


def _target(spots: Sequence[Spot], descriptors: Sequence[str]) -> Spot:
    while len(spots) > 1:
        branches, descriptors = _branches(spots, descriptors)
        spots = min((each for each in branches if each.can_take), key=_emptiness).spots
    return spots[0]


def _emptiness(branch: _Branch) -> tuple[int, tuple[int, ...]]:
    return branch.tasks, branch.spots[0].rank if len(branch.spots) == 1 else ()


def _branches(spots: Sequence[Spot], descriptors: Sequence[str]) -> tuple[list[_Branch], Sequence[str]]:
    """The branches of the next level that counts, by label value, and the levels below; else every node."""
    for depth, descriptor in enumerate(descriptors):
        by_value: dict[str, list[Spot]] = {}
        for spot in spots:
            value = label_of(descriptor, spot.node)
            if value is None:
                break  # no label's descriptor: this level does not count
            by_value.setdefault(value, []).append(spot)
        if by_value:
            return [_branch(by_value[value]) for value in sorted(by_value)], descriptors[depth + 1 :]
    return [_branch([spot]) for spot in spots], ()


def _branch(spots: Sequence[Spot]) -> _Branch:
    return _Branch(
        spots=tuple(spots),
        tasks=sum(spot.tasks for spot in spots),
        can_give=any(spot.can_give for spot in spots),
        can_take=any(spot.can_take for spot in spots),
    )
