"""``History``: the last changes of this manager's store, for clients that ask what happened and what happens.

One reader of the store for all of them. Each change has a number, one more than the one before, and the time
at which this manager applied it; who asks for numbers that are no longer kept has fallen behind, and is told.
A state that was replaced whole ends what can be told of before. Nothing is stored: another manager, or this
one after a restart, begins with an empty history.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from manager.store.events import Event, Resync
from manager.store.store import Store
from swarmpy.limits import EVENTS_KEPT_MAX
from swarmpy.model.ids import ServiceId, Timestamp
from swarmpy.model.objects import Object, Service
from swarmpy.runtime import Clock


class FallenBehind(Exception):
    """What was asked for is not kept any more."""


@dataclass(frozen=True, slots=True)
class Change:
    at: Timestamp
    old: Object | None
    new: Object | None


class History:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._changes: deque[Change] = deque(maxlen=EVENTS_KEPT_MAX)
        self._grown = asyncio.Event()
        self.removed: dict[ServiceId, Service] = {}
        """The last services that were removed: what is told of their tasks may need them."""
        self.next = 0
        """The number that the next change gets."""

    async def run(self) -> None:
        """Until cancelled."""
        with self._store.watch() as watch:
            while True:
                await watch.wait()
                now = self._clock.now()
                for item in watch.take():
                    if isinstance(item, Event):
                        self._changes.append(Change(now, item.old, item.new))
                        if item.new is None and isinstance(item.old, Service):
                            self._remember(item.old)
                        self.next += 1
                    elif isinstance(item, Resync):
                        self._changes.clear()
                        self.next += 1  # a number that nobody can have: who waits for it has fallen behind
                self._grown.set()
                self._grown = asyncio.Event()

    def _remember(self, service: Service) -> None:
        self.removed[service.id] = service
        if len(self.removed) > EVENTS_KEPT_MAX:
            del self.removed[next(iter(self.removed))]

    async def wait_beyond(self, number: int) -> None:
        """Until there is a change of this number."""
        while self.next <= number:
            await self._grown.wait()

    def since(self, at: Timestamp) -> int:
        """The number of the first kept change at this time or later."""
        first = self.next - len(self._changes)
        return next((first + n for n, change in enumerate(self._changes) if change.at >= at), self.next)

    def beginning_with(self, number: int) -> tuple[Change, ...]:
        """The changes from this number on. FallenBehind if some of them are gone."""
        count = self.next - number
        if not count:
            return ()
        if count > len(self._changes):
            raise FallenBehind
        return tuple(self._changes)[len(self._changes) - count :]
