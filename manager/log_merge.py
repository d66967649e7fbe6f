"""Lines of several tasks in the order of their times, as far as a bounded wait can tell.

``LogMerge`` is the decision: a line waits a moment for older ones that are still under way, and no longer;
and no more lines wait than the bounds allow. ``merged`` is the loop around it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator

from manager.api.control import LogBatch, LogLine
from swarmpy.limits import LOG_MERGE_BYTES_MAX, LOG_MERGE_LINES_MAX, LOG_MERGE_S
from swarmpy.runtime import Clock


class LogMerge:
    """Lines come in as they arrive, and go out by time. Of equal times, and of one task, the order stays."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, float, LogLine]] = []
        self._count = 0
        self._bytes = 0

    def add(self, lines: tuple[LogLine, ...], now: float) -> None:
        for line in lines:
            self._count += 1
            self._bytes += len(line.data)
            heapq.heappush(self._waiting, (line.timestamp, self._count, now, line))

    def take(self, now: float) -> tuple[LogLine, ...]:
        """The oldest, as long as they have waited long enough or too many wait."""
        taken = []
        while self._waiting and (self._is_full or self._waiting[0][2] + LOG_MERGE_S <= now):
            taken.append(self._pop())
        return tuple(taken)

    def rest(self) -> tuple[LogLine, ...]:
        """All of them: nothing more is under way."""
        return tuple(self._pop() for _ in range(len(self._waiting)))

    def wait_s(self, now: float) -> float | None:
        """How long until the oldest may go; None if none waits."""
        return max(self._waiting[0][2] + LOG_MERGE_S - now, 0.0) if self._waiting else None

    @property
    def _is_full(self) -> bool:
        return len(self._waiting) > LOG_MERGE_LINES_MAX or self._bytes > LOG_MERGE_BYTES_MAX

    def _pop(self) -> LogLine:
        line = heapq.heappop(self._waiting)[3]
        self._bytes -= len(line.data)
        return line


async def merged(batches: AsyncIterator[LogBatch], clock: Clock) -> AsyncGenerator[LogBatch]:
    """The same lines by time; warnings at once."""
    merge = LogMerge()
    iterator = aiter(batches)
    pending: asyncio.Future[LogBatch] = asyncio.ensure_future(anext(iterator))
    try:
        while True:
            await asyncio.wait([pending], timeout=merge.wait_s(clock.monotonic()))
            if pending.done():
                try:
                    batch = pending.result()
                except StopAsyncIteration:
                    break
                merge.add(batch.lines, clock.monotonic())
                if batch.warnings:
                    yield LogBatch(warnings=batch.warnings)
                pending = asyncio.ensure_future(anext(iterator))
            if lines := merge.take(clock.monotonic()):
                yield LogBatch(lines=lines)
        if lines := merge.rest():
            yield LogBatch(lines=lines)
    finally:
        if not pending.done():
            pending.cancel()
            await asyncio.wait([pending])
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()
