"""The revisions that a node's tasks run: kept while one of them is assigned, or is still being taken down."""

from __future__ import annotations

from collections.abc import Iterable

from agent.events import DropRevision, SaveRevision
from agent.task import Run
from swarmpy.model.ids import RevisionId
from swarmpy.model.objects import Revision


class Revisions:
    def __init__(self) -> None:
        self._held: dict[RevisionId, Revision] = {}
        self._released: set[RevisionId] = set()

    def get(self, revision_id: RevisionId) -> Revision | None:
        return self._held.get(revision_id)

    def restore(self, revisions: Iterable[Revision]) -> None:
        self._held = {revision.id: revision for revision in revisions}

    def save(self, revision: Revision) -> SaveRevision | None:
        """What to keep of it; None if it is known."""
        self._released.discard(revision.id)
        if self._held.get(revision.id) == revision:
            return None
        self._held[revision.id] = revision
        return SaveRevision(revision)

    def release(self, revision_id: RevisionId) -> None:
        """It is not assigned any more."""
        self._released.add(revision_id)

    def keep_only(self, revision_ids: Iterable[RevisionId]) -> None:
        """All others are not assigned any more."""
        self._released = set(self._held) - set(revision_ids)

    def collect(self, runs: Iterable[Run]) -> list[DropRevision]:
        """Drop those that are not assigned any more and that no task here needs."""
        if not self._released:
            return []
        unneeded = sorted(self._released - {run.task.revision_id for run in runs})
        self._released.difference_update(unneeded)
        return [DropRevision(each) for each in unneeded if self._held.pop(each, None) is not None]
