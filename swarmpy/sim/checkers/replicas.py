"""Replicas are equal at equal versions, and one committed history comes out of them.

Each manager's events come in as its watch gives them. The batch that leads to a version is the same on every
manager: its digest (a checksum over the new objects, encoded with sorted maps) is compared with that of the
manager that came first. Whoever came first also carries the *mirror* forward, the committed state as seen
so far; the batches that do so are handed to ``on_batch`` and so to all checkers of the committed state, once
each and in order. Each event's old object must be what the mirror holds.

A manager that starts or installs a snapshot is compared as a whole with the mirror, at once if it stands at
the same version, else when it gets there. If it is ahead of all others (they were killed before they were
heard), the mirror takes its state, and the difference is handed on as a gap.

Cost: one encoding per event and manager; ``sample`` N computes digests of every N-th version only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

import msgspec

from manager.store.events import Commit, Event, Notice
from manager.store.view import View
from swarmpy.model.objects import KINDS, Kind, Object
from swarmpy.sim.checkers.violations import Violations
from swarmpy.sim.limits import SIM_REASONS_MAX, SIM_VERSIONS_KEPT

NAME: Final = "replicas"

_ENCODER: Final = msgspec.msgpack.Encoder(order="deterministic")


def digest_of(events: Iterable[Event]) -> int:
    """Equal for equal batches, in any process."""
    digest = 0
    for event in events:
        if event.new is not None:
            digest = crc32(_ENCODER.encode(event.new), digest)
        elif event.old is not None:
            digest = crc32(f"{event.kind} {event.old.id} deleted".encode(), digest)
    return digest


@dataclass(slots=True)
class _Replica:
    view: View
    version: int
    batch: list[Event] = field(default_factory=list)
    is_proven: bool = False
    """Whether the whole of it was equal to the mirror since it was loaded."""


class Replicas:
    def __init__(
        self,
        violations: Violations,
        on_batch: Callable[[list[Event], bool], None] = lambda events, is_gap: None,
        *,
        sample: int = 1,
        versions_kept: int = SIM_VERSIONS_KEPT,
    ) -> None:
        self.mirror: dict[Kind, dict[str, Object]] = {kind: {} for kind in Kind}
        self.version = 0
        """The highest version seen on any manager."""
        self.unseen_versions = 0
        """Versions that a manager delivered when their digest was not (or no longer) known."""
        self._violations = violations
        self._on_batch = on_batch
        self._sample = sample
        self._versions_kept = versions_kept
        self._replicas: dict[str, _Replica] = {}
        self._digests: dict[int, tuple[int, str]] = {}

    # --- what managers do

    def started(self, name: str, view: View) -> None:
        """The manager has loaded its files; its watch was opened at this very version."""
        self._replicas[name] = _Replica(view, view.version)
        self._take_whole(name)

    def resynced(self, name: str, view: View) -> None:
        """The manager's state was replaced, or its watch was too slow. Older notices may still follow."""
        replica = self._replicas.get(name)
        if replica is not None and view.version < replica.version:
            was = replica.version
            self._add(name, f"went back from version {was} to {view.version} within one life")
        self.started(name, view)

    def ended(self, name: str) -> None:
        self._replicas.pop(name, None)

    def committed(self, name: str, notice: Notice) -> None:
        """The next notice of the manager's watch. A ``Resync`` is told by ``resynced``."""
        replica = self._replicas[name]
        if isinstance(notice, Event):
            replica.batch.append(notice)
        elif isinstance(notice, Commit):
            batch, replica.batch = replica.batch, []
            if notice.version > replica.version:  # else it was in the state that was taken as a whole
                self._take_batch(name, replica, batch, notice.version)

    # --- inside

    def _take_batch(self, name: str, replica: _Replica, batch: list[Event], version: int) -> None:
        before, replica.version = replica.version, version
        if version % self._sample == 0:
            self._compare_digest(name, version, digest_of(batch))
        if version <= self.version:
            pass
        elif before != self.version:
            self._add(name, f"went from version {before} to {version} at once, past {self.version}")
            self._take_whole(name)
        else:
            self._carry(name, batch)
            self.version = version
            self._on_batch(batch, False)
        if not replica.is_proven and version == self.version:
            self._prove(name, replica)

    def _compare_digest(self, name: str, version: int, digest: int) -> None:
        known = self._digests.get(version)
        if known is None:
            if version <= self.version:
                self.unseen_versions += 1
            if len(self._digests) >= self._versions_kept:
                del self._digests[next(iter(self._digests))]
            self._digests[version] = (digest, name)
        elif known[0] != digest:
            self._add(name, f"version {version} differs from that of {known[1]}")

    def _carry(self, name: str, batch: list[Event]) -> None:
        for event in batch:
            rows = self.mirror[event.kind]
            old, new = event.old, event.new
            subject = new if new is not None else old
            if subject is None:
                continue
            known = rows.get(subject.id)
            if known is not old and known != old:
                self._add(name, f"{event.kind} {subject.id} was another one before", knew=known, had=old)
            if new is None:
                rows.pop(subject.id, None)
            else:
                rows[subject.id] = new

    def _take_whole(self, name: str) -> None:
        replica = self._replicas[name]
        version = replica.view.version
        replica.version = max(replica.version, version)
        if version > self.version:
            events = list(_differences(self.mirror, replica.view))
            for event in events:
                rows = self.mirror[event.kind]
                if event.new is None:
                    assert event.old is not None
                    del rows[event.old.id]
                else:
                    rows[event.new.id] = event.new
            self.version = version
            replica.is_proven = True
            self._on_batch(events, True)
        elif version == self.version:
            self._prove(name, replica)

    def _prove(self, name: str, replica: _Replica) -> None:
        """Compare the whole, unless the manager has gone on since and its notices are still to come."""
        if replica.view.version != self.version:
            return
        replica.is_proven = True
        for event in _differences(self.mirror, replica.view):
            subject = event.old if event.old is not None else event.new
            assert subject is not None
            self._add(name, f"has another {event.kind} {subject.id} at version {self.version}")

    def _add(self, name: str, sentence: str, **facts: object) -> None:
        self._violations.add(NAME, f"manager {name}: {sentence}", **facts)


def _differences(mirror: Mapping[Kind, Mapping[str, Object]], view: View) -> Iterable[Event]:
    for kind in Kind:
        rows = mirror[kind]
        present: dict[str, Object] = {each.id: each for each in view.all(kind)}
        for id_, new in present.items():
            old = rows.get(id_)
            if old is not new and old != new:
                yield Event(kind, old, new)
        for id_, old in list(rows.items()):
            if id_ not in present:
                yield Event(kind, old, None)


def compare_stores(views: Mapping[str, View]) -> list[str]:
    """In which ways the stores are not equal, one sentence each: versions, objects, and their order."""
    found: list[str] = []
    names = list(views)
    for name in names[1:]:
        first, other = views[names[0]], views[name]
        if first.version != other.version:
            found.append(f"{names[0]} is at version {first.version}, {name} at {other.version}")
            continue
        for kind in KINDS.values():
            here = {each.id: each for each in first.all(kind)}
            there = {each.id: each for each in other.all(kind)}
            for id_ in sorted(here.keys() | there.keys()):
                if here.get(id_) != there.get(id_) and len(found) < SIM_REASONS_MAX:
                    found.append(f"{kind} {id_} differs between {names[0]} and {name}")
            if here == there and list(here) != list(there):
                found.append(f"the table of {kind} has another order in {names[0]} than in {name}")
    return found
