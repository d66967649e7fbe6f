"""``History``: the last changes of this manager's store, for clients that ask what happened and what happens.

One reader of the store for all of them. Each change has the time at which this manager applied it. A state
that was replaced whole ends what can be told of before. Nothing is stored: another manager, or this one after
a restart, begins with an empty history.
"""

from __future__ import annotations

from dataclasses import dataclass

from manager.store.events import Event, Resync
from manager.store.store import Store
from manager.store.watch import Watch
from swarmpy.limits import EVENTS_KEPT_MAX
from swarmpy.model.ids import ServiceId, Timestamp
from swarmpy.model.objects import Object, Service
from swarmpy.recent import Recent
from swarmpy.runtime import Clock


@dataclass(frozen=True, slots=True)
class Change:
    at: Timestamp
    old: Object | None
    new: Object | None


class History:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._watch: Watch | None = None
        self.changes = Recent[Change](EVENTS_KEPT_MAX)
        self.removed: dict[ServiceId, Service] = {}
        """The last services that were removed: what is told of their tasks may need them."""

    async def run(self) -> None:
        """Until cancelled."""
        with self._store.watch() as watch:
            self._watch = watch
            try:
                while True:
                    await watch.wait()
                    self.catch_up()
            finally:
                self._watch = None

    def catch_up(self) -> None:
        """Take in what the store holds by now: what is told of a change may need what a later one removed."""
        if self._watch is None:
            return
        now = self._clock.now()
        changes: list[Change] = []
        for item in self._watch.take():
            if isinstance(item, Event):
                changes.append(Change(now, item.old, item.new))
                if item.new is None and isinstance(item.old, Service):
                    self._remember(item.old)
            elif isinstance(item, Resync):
                changes.clear()
                self.changes.break_off()
        self.changes.add(*changes)

    def _remember(self, service: Service) -> None:
        self.removed[service.id] = service
        if len(self.removed) > EVENTS_KEPT_MAX:
            del self.removed[next(iter(self.removed))]
