"""``Recent``: the last things of a kind that happened, numbered, for any number of readers at their own pace.

Each has a number, one more than the one before. Who asks for numbers that are no longer kept has fallen
behind, and is told. Nothing is stored: after a restart it begins empty. Of one event loop, so it has no lock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from swarmpy.model.ids import Timestamp


class FallenBehind(Exception):
    """What was asked for is not kept any more."""


class Timed(Protocol):
    @property
    def at(self) -> Timestamp: ...


T = TypeVar("T", bound=Timed)


class Recent(Generic[T]):
    def __init__(self, most: int) -> None:
        self._kept: deque[T] = deque(maxlen=most)
        self._bells: set[asyncio.Event] = set()
        self.next = 0
        """The number that the next one gets."""

    def add(self, *items: T) -> None:
        """In the order in which they happened."""
        if items:
            self._kept.extend(items)
            self.next += len(items)
            self._tell()

    def break_off(self) -> None:
        """Something has happened that nobody can be told of: all readers have fallen behind."""
        self._kept.clear()
        self.next += 1  # a number that nobody can have
        self._tell()

    def _tell(self) -> None:
        for bell in self._bells:
            bell.set()

    @contextmanager
    def ringing(self, bell: asyncio.Event, number: int) -> Iterator[None]:
        """Set it as soon as there is one of this number, for who waits for several kinds at once."""
        if self.next > number:
            bell.set()
        self._bells.add(bell)
        try:
            yield
        finally:
            self._bells.discard(bell)

    async def wait_beyond(self, number: int) -> None:
        """Until there is one of this number."""
        bell = asyncio.Event()
        with self.ringing(bell, number):
            await bell.wait()

    def since(self, at: Timestamp) -> int:
        """The number of the first that is kept of this time or later."""
        first = self.next - len(self._kept)
        return next((first + n for n, item in enumerate(self._kept) if item.at >= at), self.next)

    def beginning_with(self, number: int) -> tuple[T, ...]:
        """Those from this number on. FallenBehind if some of them are gone."""
        count = self.next - number
        if not count:
            return ()
        if count > len(self._kept):
            raise FallenBehind
        return tuple(self._kept)[len(self._kept) - count :]
