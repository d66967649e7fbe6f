"""What watchers of the store are told: changes of single objects, and where a batch ends."""

from __future__ import annotations

import msgspec

from swarmpy.model.objects import Kind, Object


class Event(msgspec.Struct, frozen=True, gc=False):
    """One object's change: created (``old`` is None), changed, or deleted (``new`` is None)."""

    kind: Kind
    old: Object | None
    new: Object | None


class Commit(msgspec.Struct, frozen=True, gc=False):
    """All events of a batch were delivered; the store stood at ``version`` then."""

    version: int


class Resync(msgspec.Struct, frozen=True, gc=False):
    """Events were lost, or the whole state was replaced: read everything anew."""


Notice = Event | Commit | Resync
