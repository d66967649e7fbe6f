"""Linearizable reads without writing: the leader proves that it still leads (ReadIndex).

A reader remembers the commit index and a fresh heartbeat number. Once a majority has echoed that number, or a
later one, in the leader's own term, nobody else can have committed anything before the read began; as soon as
the remembered index is applied, the local state answers. Readers that arrive before the next heartbeat leaves
share its number. There are no leases, hence no dependence on clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Answer = Callable[[int], None]
"""Called with the read index, or with 0 if leadership could not be proved."""


@dataclass(frozen=True, slots=True)
class _Reader:
    heartbeat: int
    index: int
    term: int
    answer: Answer


@dataclass(slots=True)
class ReadIndex:
    heartbeat: int = 0
    """Stamped on every append that leaves."""
    is_send_due: bool = False
    _readers: list[_Reader] = field(default_factory=list)
    _echoes: dict[str, int] = field(default_factory=dict)
    _echoes_term: int = -1

    def begin(self, index: int, term: int, answer: Answer) -> None:
        """A read that found ``index`` committed while this member led in ``term``."""
        if not self.is_send_due:
            self.heartbeat += 1
            self.is_send_due = True
        self._readers.append(_Reader(self.heartbeat, index, term, answer))

    def sent(self) -> None:
        self.is_send_due = False

    def echo(self, peer: str, heartbeat: int, term: int) -> None:
        """``peer`` answered an append of ``term``."""
        if self._echoes_term != term:
            self._echoes.clear()
            self._echoes_term = term
        self._echoes[peer] = max(self._echoes.get(peer, 0), heartbeat)

    def finish(self, *, term: int | None, others: Iterable[str], applied: int) -> None:
        """Answer the readers that can be answered; ``term`` is None if this member does not lead."""
        if not self._readers:
            return
        proved = self._proved(term, list(others))
        waiting: list[_Reader] = []
        readers, self._readers = self._readers, []
        for reader in readers:
            if reader.term != term:
                reader.answer(0)
            elif reader.heartbeat <= proved and applied >= reader.index:
                reader.answer(reader.index)
            else:
                waiting.append(reader)
        self._readers = waiting + self._readers

    def _proved(self, term: int | None, others: list[str]) -> int:
        """The newest heartbeat number that a majority (this member included) has echoed."""
        needed = (len(others) + 1) // 2
        if needed == 0:
            return self.heartbeat
        if self._echoes_term != term:
            return 0
        return sorted((self._echoes.get(peer, 0) for peer in others), reverse=True)[needed - 1]
