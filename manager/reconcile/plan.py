"""``Plan``: what a reconcile wants done.

A plan names no ids and no times for new objects: a created task has the provisional id ``+1``, ``+2``, …,
and the control loop stamps real ones, so that equal inputs give equal plans.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from manager.store.view import View
from swarmpy.model.changes import Group
from swarmpy.model.ids import Timestamp
from swarmpy.model.value import Value

PROVISIONAL_PREFIX = "+"


class Note(Value, frozen=True, kw_only=True):
    """One fact for the log: an event in past tense and what it is about."""

    event: str
    facts: dict[str, str] = {}


class Plan(Value, frozen=True, kw_only=True):
    """``wake_at``: call again at this time even if nothing changes; ``is_partial``: call again at once."""

    groups: tuple[Group, ...] = ()
    wake_at: Timestamp | None = None
    notes: tuple[Note, ...] = ()
    is_partial: bool = False


NOTHING = Plan()


class Reconciler(Protocol):
    """One control loop's decision: level-triggered, pure, one key at a time."""

    name: str

    def keys(self, view: View) -> Iterable[str]:
        """All keys there are now; on gaining leadership and after a resync all of them are dirty."""
        ...

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        """The keys that an object's change (create: old is None; delete: new is None) makes dirty."""
        ...

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        """What to change so that this key's part of the world gets closer to what is wished."""
        ...
