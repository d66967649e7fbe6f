"""What the library plugs into: our journal and snapshots under the method names that it calls.

No decisions here. The names are the library's (``deleteEntriesFrom`` …).
"""
# ruff: noqa: N802, N803

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

from manager.raft.codec import Entry
from manager.raft.journal import Journal
from manager.raft.snapshotter import Progress, Snapshotter

_STATES = {Progress.IDLE: 0, Progress.BUSY: 1, Progress.DONE: 2, Progress.FAILED: 3}


class JournalPort:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._journal.add((command, idx, term))

    def clear(self) -> None:
        raise AssertionError("installing a snapshot is replaced as a whole")

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        self._journal.cut_from(entryFrom)

    def deleteEntriesTo(self, entryTo: int) -> None:
        self._journal.cut_before(entryTo)

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> list[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | list[Entry]:
        return self._journal.entries[position]

    def __len__(self) -> int:
        return len(self._journal.entries)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        self._journal.set_commit(raftCommitIndex)

    def getRaftCommitIndex(self) -> int:
        return self._journal.known_commit()

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self._journal.set_term(term, votedForNodeId or "")

    def getCurrentTerm(self) -> int:
        return self._journal.term

    def getVotedForNodeId(self) -> str | None:
        return self._journal.vote or None

    def onOneSecondTimer(self) -> None:
        self._journal.note()

    def _destroy(self) -> None:
        """Closed by its owner."""


class SerializerPort:
    def __init__(
        self,
        snapshotter: Snapshotter,
        *,
        take: Callable[[Entry, Entry], None],
        accept: Callable[[bytes, int, bool], bool],
        now: Callable[[], float],
    ) -> None:
        self._snapshotter, self._take, self._accept, self._now = snapshotter, take, accept, now
        self._index: int | None = None

    def checkSerializing(self) -> tuple[int, int | None]:
        return _STATES[self._snapshotter.poll(self._now())], self._index

    def serialize(self, data: tuple[Any, Entry, Entry, Any], id_: int) -> None:
        _, last, previous, _ = data
        if self._snapshotter.may_take(self._now()):
            self._index = id_
            self._take(last, previous)

    def setTransmissionData(self, data: tuple[bytes, int, bool]) -> bool:
        return self._accept(*data)
