"""The files of one raft member and what they must be to each other at start.

``raft.wal`` is the log, ``raft.snapshot`` the state that it continues. Refused, with the file's name: a log
that starts after its snapshot, or without one; a snapshot without a log (the member would have forgotten its
votes); damage. A snapshot newer than the log's head is normal (a crash between the two): the log is trimmed,
never thrown away, as long as it continues the snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from manager.raft import snapshot
from manager.raft.journal import FIRST_ENTRY, Identity, Journal
from manager.raft.members import members_after
from manager.raft.proposer import StateMachine
from manager.raft.sealing import Sealer
from manager.raft.snapshot import SnapshotHead
from swarmpy.errors import Corrupt, FailedPrecondition
from swarmpy.runtime import Disk

LOG_NAME = "raft.wal"
SNAPSHOT_NAME = "raft.snapshot"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    journal: Journal
    head: SnapshotHead | None
    members: dict[str, str]
    """In effect after the whole log."""


def has_state(disk: Disk, folder: Path) -> bool:
    """Whether a raft member has lived in this folder."""
    return disk.exists(folder / LOG_NAME) or disk.exists(folder / SNAPSHOT_NAME)


def create(disk: Disk, folder: Path, identity: Identity, sealer: Sealer) -> None:
    """A fresh member's log; refused where there is one already."""
    if has_state(disk, folder):
        raise FailedPrecondition(f"{folder} holds the raft log of a swarm already: leave that swarm first")
    disk.make_dirs(folder)
    Journal.create(disk, folder / LOG_NAME, identity, sealer)


def read_identity(disk: Disk, folder: Path, sealer: Sealer) -> Identity:
    """Whose log this is."""
    return _open_journal(disk, folder, sealer).identity


def load(disk: Disk, folder: Path, sealer: Sealer, *, into: StateMachine) -> Loaded:
    """Open the log, and restore the snapshot, if any, into the state machine."""
    journal = _open_journal(disk, folder, sealer)
    path = folder / SNAPSHOT_NAME
    if not disk.exists(path):
        if journal.first != FIRST_ENTRY[1]:
            raise Corrupt(f"{path} is missing, and {journal.path} starts after it")
        start = {m.raft_id: m.address for m in journal.identity.members}
        return Loaded(journal=journal, head=None, members=members_after(start, journal.entries, after=0))
    head, state = snapshot.load(disk, path, sealer, into.load)
    into.adopt(state)
    if journal.first > head.previous[1]:
        raise Corrupt(f"{journal.path} starts after its snapshot {path}: entries are missing")
    reconcile(journal, head)
    start = {m.raft_id: m.address for m in head.members}
    members = members_after(start, journal.entries, after=head.last[1])
    return Loaded(journal=journal, head=head, members=members)


def reconcile(journal: Journal, head: SnapshotHead) -> None:
    """Make the log begin with the snapshot's last two entries."""
    position = head.previous[1] - journal.first
    places = [entry[1:] for entry in journal.entries[position : position + 2]]
    if places == [head.previous[1:], head.last[1:]]:
        if position:
            journal.cut_before(position)
        return
    # The log ends before the snapshot, or holds another history there, which was never committed.
    journal.start_over([head.previous, head.last])
    journal.sync()


def _open_journal(disk: Disk, folder: Path, sealer: Sealer) -> Journal:
    path = folder / LOG_NAME
    if not disk.exists(path):
        if disk.exists(folder / SNAPSHOT_NAME):
            raise Corrupt(f"{path} is missing beside its snapshot: restore it, or join the cluster again")
        raise FailedPrecondition(f"{folder} holds no raft log: initialise a swarm or join one")
    return Journal(disk, path, sealer)
