"""Whether an order of the clients' operations exists that explains all that they were told.

Wing and Gong's search, per service name since names are independent, with Lowe's memory of configurations
(which operations are placed, and the state they lead to): no configuration is looked at twice. An operation
may be placed next if every operation that returned before it was called is placed. One of unknown outcome
may be placed anywhere after its call, or not at all. Equal times count as concurrent.

The model of one name: absent, or present with id, a lower bound of the version, and the mark of the spec. The
bound and not the version itself, since a client is not told the version that its write got, and managers
write to services too (numbers of ports, update status): a version may grow between two operations, while a
spec changes by the clients' writes alone. ``may_roll_back`` allows a service to return to a spec that it had
before and that may be kept, as updates that fail and users do.

The search is bounded: past ``steps`` the verdict is UNDECIDED, which is not a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from swarmpy.limits import REVISIONS_KEPT
from swarmpy.sim.checkers.history import Operation, Outcome, Refused, Verb, by_name
from swarmpy.sim.limits import SIM_SEARCH_STEPS_MAX

NAME: Final = "linearizability"

State = tuple[str | None, int, str, tuple[str, ...]]
"""Id (None: absent; empty: not known), lower bound of the version, mark, the other marks that it had."""
_MARKS_MAX: Final = 2 * REVISIONS_KEPT
"""More than a service can go back to."""
ABSENT: Final[State] = (None, 0, "", ())


class Verdict(StrEnum):
    OK = "ok"
    VIOLATED = "violated"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Result:
    """``last``: for a violation, the operations that no order could get past, of the longest one found."""

    name: str
    verdict: Verdict
    operations: int
    steps: int
    last: tuple[Operation, ...] = ()


def check_history(
    operations: Iterable[Operation], *, steps: int = SIM_SEARCH_STEPS_MAX, may_roll_back: bool = False
) -> list[Result]:
    """One result for each name, in order of names."""
    histories = by_name(operations)
    return [
        check_name(name, histories[name], steps=steps, may_roll_back=may_roll_back)
        for name in sorted(histories)
    ]


def check_name(
    name: str,
    operations: Sequence[Operation],
    *,
    steps: int = SIM_SEARCH_STEPS_MAX,
    may_roll_back: bool = False,
) -> Result:
    return _Search(name, operations, steps=steps, may_roll_back=may_roll_back).run()


def apply(state: State, operation: Operation, *, may_roll_back: bool = False) -> State | None:
    """The state after the operation, had it happened now; None if it can't have."""
    id_, version, mark, others = state
    if operation.outcome is Outcome.REFUSED:
        return _apply_refused(state, operation)
    match operation.verb:
        case Verb.CREATE:
            return (operation.id, version + 1, operation.mark, ()) if id_ is None else None
        case Verb.READ:
            return _apply_read(state, operation, may_roll_back=may_roll_back)
        case Verb.UPDATE:
            is_fitting = id_ is not None and _is_same(id_, operation.id) and operation.version >= version
            if not is_fitting:
                return None
            others = _with(others, mark, without=operation.mark)
            return (id_ or operation.id, operation.version + 1, operation.mark, others)
        case Verb.REMOVE:
            is_there = id_ is not None and _is_same(id_, operation.id)
            return (None, version + 1, "", ()) if is_there else None
        case _:
            raise ValueError(f"a {operation.verb} is split into reads before")


def _apply_refused(state: State, operation: Operation) -> State | None:
    id_ = state[0]
    match operation.refused:
        case Refused.EXISTS:
            return state if id_ is not None else None
        case Refused.MISSING:
            is_there = id_ is not None and _is_same(id_, operation.id) and (id_ or not operation.id)
            return None if is_there else state
        case _:
            return state


def _apply_read(state: State, operation: Operation, *, may_roll_back: bool) -> State | None:
    id_, version, mark, others = state
    if not operation.seen:
        return state if id_ is None else None
    (seen,) = operation.seen
    if id_ is None or not _is_same(id_, seen.id) or seen.version < version:
        return None
    if seen.mark == mark:
        return state if (id_, version) == (seen.id, seen.version) else (seen.id, seen.version, mark, others)
    if may_roll_back and seen.mark in others and seen.version > version:
        return (seen.id, seen.version, seen.mark, _with(others, mark, without=seen.mark))
    return None


def _with(others: tuple[str, ...], mark: str, *, without: str) -> tuple[str, ...]:
    """The newest first."""
    return tuple(each for each in (mark, *others) if each != without)[:_MARKS_MAX]


def _is_same(known: str, named: str) -> bool:
    return not known or not named or known == named


_NEVER: Final = float("inf")


class _Search:
    """``needed`` must all be placed; ``optional`` (unknown outcomes) may. Both in order of their calls."""

    def __init__(
        self, name: str, operations: Sequence[Operation], *, steps: int, may_roll_back: bool
    ) -> None:
        self._name = name
        self._count = len(operations)
        self._steps_max = steps
        self._may_roll_back = may_roll_back
        ordered = sorted(operations, key=lambda each: (each.called_at, each.returned_at))
        self._needed = [each for each in ordered if _must_be_placed(each)]
        self._optional = [
            each for each in ordered if each.outcome is Outcome.UNKNOWN and each.verb is not Verb.READ
        ]
        self._deepest = -1
        self._stuck: tuple[Operation, ...] = ()

    def run(self) -> Result:
        """Depth first; ``stack`` holds configurations: first open operation, bits of those after it that
        are placed, bits of the optional ones that are, and the state."""
        steps = 0
        start = (0, 0, 0, ABSENT)
        stack = [start]
        known = {start}
        while stack:
            base, placed, used, state = stack.pop()
            steps += 1
            if steps > self._steps_max:
                return self._result(Verdict.UNDECIDED, steps)
            base, placed = _advance(base, placed)
            open_now = self._open(base, placed)
            base, placed, open_now = self._place_free(base, placed, open_now, state)
            if base == len(self._needed):
                return self._result(Verdict.OK, steps)
            self._note_depth(base, placed, open_now)
            # what is pushed last is looked at first: needed ones, the one that returned first before all
            for following in (
                *self._with_optional(base, placed, used, state, self._bound(base, placed)),
                *self._with_needed(base, placed, used, state, open_now),
            ):
                if following not in known:
                    known.add(following)
                    stack.append(following)
        return self._result(Verdict.VIOLATED, steps)

    def _result(self, verdict: Verdict, steps: int) -> Result:
        last = self._stuck if verdict is not Verdict.OK else ()
        return Result(self._name, verdict, self._count, steps, last)

    def _bound(self, base: int, placed: int) -> float:
        """The earliest return of what is not placed: nothing that was called after it comes before it."""
        bound = _NEVER
        position = base
        while position < len(self._needed) and self._needed[position].called_at <= bound:
            if not placed >> (position - base) & 1:
                bound = min(bound, self._needed[position].returned_at)
            position += 1
        return bound

    def _open(self, base: int, placed: int) -> list[int]:
        """Positions of what may be placed next."""
        bound = self._bound(base, placed)
        found = []
        position = base
        while position < len(self._needed) and self._needed[position].called_at <= bound:
            if not placed >> (position - base) & 1:
                found.append(position)
            position += 1
        return found

    def _place_free(
        self, base: int, placed: int, open_now: list[int], state: State
    ) -> tuple[int, int, list[int]]:
        """Place at once what may come now and changes nothing: to wait with it never helps."""
        while True:
            free = [position for position in open_now if self._apply(state, self._needed[position]) == state]
            if not free:
                return base, placed, open_now
            for position in free:
                placed |= 1 << (position - base)
            base, placed = _advance(base, placed)
            open_now = self._open(base, placed)

    def _with_needed(
        self, base: int, placed: int, used: int, state: State, open_now: list[int]
    ) -> list[tuple[int, int, int, State]]:
        found = []
        for position in sorted(open_now, key=lambda each: -self._needed[each].returned_at):
            after = self._apply(state, self._needed[position])
            if after is not None:
                moved, bits = _advance(base, placed | 1 << (position - base))
                found.append((moved, bits, used, after))
        return found

    def _with_optional(
        self, base: int, placed: int, used: int, state: State, bound: float
    ) -> list[tuple[int, int, int, State]]:
        found = []
        for position, operation in enumerate(self._optional):
            if operation.called_at > bound:
                break
            if used >> position & 1:
                continue
            after = self._apply(state, operation)
            if after is not None:
                found.append((base, placed, used | 1 << position, after))
        return found

    def _apply(self, state: State, operation: Operation) -> State | None:
        return apply(state, operation, may_roll_back=self._may_roll_back)

    def _note_depth(self, base: int, placed: int, open_now: list[int]) -> None:
        depth = base + placed.bit_count()
        if depth > self._deepest:
            self._deepest = depth
            self._stuck = tuple(self._needed[position] for position in open_now)


def _must_be_placed(operation: Operation) -> bool:
    """A refusal that says nothing of the object, and a read that nobody got, constrain nothing."""
    if operation.outcome is Outcome.UNKNOWN:
        return False
    return operation.outcome is Outcome.OK or operation.refused is not Refused.OTHERWISE


def _advance(base: int, placed: int) -> tuple[int, int]:
    """Move the base past all that is placed, so that equal configurations are equal values."""
    while placed & 1:
        placed >>= 1
        base += 1
    return base, placed
