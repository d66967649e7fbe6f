"""``Watch``: one reader's bounded queue of what changes in the store.

The reader gets each accepted batch as its events, closed by ``Commit``. If it lags behind by more than its
limit the queue is dropped for one ``Resync``; the same stands for a state that was replaced whole. So a
reader never blocks the store and never misses that it missed something.

This is the store's one file that knows of asyncio; it decides nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from manager.store.events import Commit, Event, Notice, Resync


class Watch:
    """An async iterator of notices; a context manager that ends the subscription. One reader each."""

    def __init__(self, limit: int, unsubscribe: Callable[[Watch], None]) -> None:
        self._limit = limit
        self._unsubscribe = unsubscribe
        self._queue: deque[Notice] = deque()
        self._filled = asyncio.Event()
        self._is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notice:
        await self.wait()
        if not self._queue:
            raise StopAsyncIteration
        return self._queue.popleft()

    async def wait(self) -> None:
        """Return when something is queued, or the watch is closed."""
        while not self._queue and not self._is_closed:
            self._filled.clear()
            await self._filled.wait()

    def take(self) -> list[Notice]:
        """Everything that is queued now, without waiting."""
        taken = list(self._queue)
        self._queue.clear()
        return taken

    @property
    def backlog(self) -> int:
        """Notices that wait for the reader."""
        return len(self._queue)

    def close(self) -> None:
        """End the subscription; an iteration under way gets what is queued, then ends."""
        if not self._is_closed:
            self._is_closed = True
            self._unsubscribe(self)
            self._filled.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the store's side

    def publish(self, events: list[Event], version: int) -> None:
        """Queue a batch's events and its ``Commit``, or, if that is too much, a ``Resync``."""
        if len(self._queue) + len(events) >= self._limit:
            self._queue.clear()
            self._queue.append(Resync())
        else:
            self._queue += events
        self._queue.append(Commit(version))
        self._filled.set()

    def publish_resync(self, version: int) -> None:
        """The whole state was replaced."""
        self._queue.clear()
        self._queue += (Resync(), Commit(version))
        self._filled.set()
