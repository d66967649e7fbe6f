"""An asyncio loop in virtual time: it never waits, it moves its clock to the next timer.

Tasks, timeouts, queues and TaskGroups work unchanged. There is no I/O and there are no threads: a loop with
nothing ready and no timer left is a deadlock of what runs in it, and is reported as one.

Rests on ``asyncio.BaseEventLoop``'s private selector protocol; a test pins it for every supported Python.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Deadlock(Exception):
    """Everything waits for something that can't happen any more."""


class SimLoop(asyncio.BaseEventLoop):
    def __init__(self, start: float = 1000.0) -> None:
        super().__init__()
        self._now = start
        self._clock_resolution = 1e-9
        self._selector = self

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Called by the base class in place of a selector's method."""
        if timeout is None:
            raise Deadlock("nothing is ready and no timer is set")
        if timeout > 0:
            self._now += timeout
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """There is nobody to wake: no other thread exists."""
