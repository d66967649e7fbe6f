"""Clock and entropy of the simulation: the loop's virtual time, one seeded generator."""

from __future__ import annotations

import asyncio
import random

from swarmpy.model.ids import SECOND_NS, Timestamp

EPOCH_S = 1_700_000_000


class SimClock:
    """Wall-clock time is the loop's time plus a fixed epoch, plus ``jump_s``.

    The loop's time is that of the process which asks, so a process whose clock runs fast sees both run fast.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.jump_s = 0.0

    def now(self) -> Timestamp:
        # apart, since a float that holds the epoch has a grain of 200 ns
        return Timestamp(EPOCH_S * SECOND_NS + round((self._loop.time() + self.jump_s) * SECOND_NS))

    def monotonic(self) -> float:
        return self._loop.time()

    def rest(self, seconds: float) -> None:
        """Work of a thread takes no virtual time."""


class SimEntropy:
    def __init__(self, generator: random.Random) -> None:
        self._generator = generator

    def token_bytes(self, n: int) -> bytes:
        return self._generator.randbytes(n)

    def uniform(self, low: float, high: float) -> float:
        return self._generator.uniform(low, high)
