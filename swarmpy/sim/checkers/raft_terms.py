"""One leader per raft term, and no way back.

* A term has one leader, in one life: a member that was restarted leads again only in a new term.
* A member's term never goes back within one life; nor, across restarts, behind the last term that it led:
  that one was on disk before a vote counted. A term that it only heard of may be lost with the power.
* What a manager holds for committed and has applied never goes back within one life.

A member is its raft id: a manager that joins again is another member, and begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from manager.raft.proposer import RaftStatus
from swarmpy.sim.checkers.violations import Violations
from swarmpy.sim.limits import SIM_TERMS_KEPT

NAME: Final = "raft"


@dataclass(slots=True)
class _Life:
    number: int = 0
    raft_id: str = ""
    term: int = 0
    commit: int = 0
    applied: int = 0


class RaftTerms:
    def __init__(self, violations: Violations, *, limit: int = SIM_TERMS_KEPT) -> None:
        self._violations = violations
        self._limit = limit
        self._leaders: dict[int, tuple[str, str, int]] = {}
        """Of each term: raft id, manager and life."""
        self._led: dict[str, int] = {}
        """The last term that each member led."""
        self._lives: dict[str, _Life] = {}

    def started(self, name: str) -> None:
        """The manager of that name begins a life."""
        self._lives[name] = _Life(number=self._lives.get(name, _Life()).number + 1)

    def status(self, name: str, status: RaftStatus, *, is_late: bool = False) -> None:
        """``is_late``: it was taken some time ago, as a subscriber's is; then only who leads is judged."""
        life = self._lives.setdefault(name, _Life())
        raft_id, term = status.raft_id, status.term
        if status.is_leader:
            self._note_leader(term, (raft_id, name, life.number))
        if is_late:
            return
        if life.raft_id != raft_id:  # it has joined anew within this life
            life.raft_id, life.term, life.commit, life.applied = raft_id, 0, 0, 0
        known_term = max(life.term, self._led.get(raft_id, 0))
        if term < known_term:
            self._add(name, f"member {raft_id} went back from term {known_term} to {term}")
        life.term = max(life.term, term)
        if status.commit < life.commit:
            self._add(name, f"what is committed went back from {life.commit} to {status.commit}")
        if status.applied < life.applied:
            self._add(name, f"what is applied went back from {life.applied} to {status.applied}")
        life.commit = max(life.commit, status.commit)
        life.applied = max(life.applied, status.applied)

    def _note_leader(self, term: int, leader: tuple[str, str, int]) -> None:
        known = self._leaders.get(term)
        if leader[0] not in self._led and len(self._led) >= self._limit:
            del self._led[next(iter(self._led))]
        self._led[leader[0]] = max(term, self._led.get(leader[0], 0))
        if known is None:
            if len(self._leaders) >= self._limit:
                del self._leaders[next(iter(self._leaders))]
            self._leaders[term] = leader
        elif known != leader:
            same = known[0] == leader[0]
            what = "led again after a restart" if same else "has a second leader"
            self._add(leader[1], f"term {term} {what}", first=known[0], second=leader[0])

    def _add(self, name: str, sentence: str, **facts: object) -> None:
        self._violations.add(NAME, sentence, manager=name, **facts)
