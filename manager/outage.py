"""How long agents may have looked for a leader in vain: what a new leader has to know of the time before it.

An agent that finds no leader looks again after a part of the time that it has been without; so after a long
outage of the quorum agents come back later than after a change of leaders, and a leader that gave them no
longer would replace tasks that run.

Each manager keeps the time for itself, on its monotonic clock, from what raft says of the leader. A leader
that was there only for a moment, which many agents can't have found, has not ended the outage. A manager that
was started anew does not know how long it was without one: it takes the outage for endless. One that was
frozen does not know what it missed: for it there was no leader meanwhile.
"""

from __future__ import annotations

import math

from swarmpy.limits import OUTAGE_LONG_S, OUTAGE_SETTLED_S


class Outage:
    """No I/O, no clock: ``now`` is monotonic, in seconds. ``since``: when there was a leader last."""

    def __init__(self, *, since: float = -math.inf) -> None:
        self._since = since
        self._leader: str | None = None
        self._led_since = since
        self._looked_at = since

    def note(self, leader: str | None, *, now: float) -> None:
        """Who leads now, as far as known. To be told at every change, and every ``OUTAGE_LOOK_S``."""
        if now - self._looked_at > OUTAGE_LONG_S:
            self._change(None, at=self._looked_at)
        self._looked_at = now
        self._change(leader, at=now)

    def _change(self, leader: str | None, *, at: float) -> None:
        if leader == self._leader:
            return
        if self._leader is not None and at - self._led_since >= OUTAGE_SETTLED_S:
            self._since = at
        self._leader = leader
        self._led_since = at

    def seconds(self, *, now: float) -> float:
        """The length of the outage that lasts, or that the present leader ends; infinite if unknown."""
        if self._leader is None:
            return now - self._since
        return 0.0 if now - self._led_since >= OUTAGE_SETTLED_S else self._led_since - self._since
