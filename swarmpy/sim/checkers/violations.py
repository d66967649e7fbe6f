"""What the checkers found: when, by which of them, in one sentence, with the facts that it rests on.

The collection is bounded: the first violations are kept in full, since what follows is often their echo; all
are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from swarmpy.sim.limits import SIM_VIOLATIONS_MAX


@dataclass(frozen=True, slots=True)
class Violation:
    """``at``: virtual time in seconds."""

    at: float
    checker: str
    sentence: str
    facts: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        facts = "".join(f" {name}={value}" for name, value in self.facts)
        return f"{self.at:.3f} {self.checker}: {self.sentence}{facts}"


class Violations:
    """``now`` tells the virtual time; ``on_found`` is called with each violation as it is found."""

    def __init__(
        self,
        now: Callable[[], float] = lambda: 0.0,
        *,
        limit: int = SIM_VIOLATIONS_MAX,
        on_found: Callable[[Violation], None] = lambda violation: None,
    ) -> None:
        self.now = now
        self.counts: Counter[str] = Counter()
        """How many each checker found, also of those that are not kept."""
        self._limit = limit
        self._on_found = on_found
        self._kept: list[Violation] = []

    def add(self, checker: str, sentence: str, **facts: object) -> None:
        self.counts[checker] += 1
        violation = Violation(
            self.now(), checker, sentence, tuple((name, str(value)) for name, value in facts.items())
        )
        if len(self._kept) < self._limit:
            self._kept.append(violation)
        self._on_found(violation)

    def __len__(self) -> int:
        return self.counts.total()

    def __bool__(self) -> bool:
        return bool(self._kept)

    def __iter__(self) -> Iterator[Violation]:
        return iter(self._kept)
