"""What one raft member is made of, handed to its core in one piece. No decisions here."""

from __future__ import annotations

from dataclasses import dataclass

from manager.raft.journal import Journal
from manager.raft.proposer import StateMachine
from manager.raft.snapshot import SnapshotHead
from manager.raft.snapshotter import Snapshotter
from manager.raft.wire import Wire
from swarmpy import limits
from swarmpy.runtime import Env


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What one member is made of."""

    journal: Journal
    snapshotter: Snapshotter
    machine: StateMachine
    wire: Wire
    env: Env
    members: dict[str, str]
    """In effect, by raft id: after the whole log."""
    head: SnapshotHead | None
    """Of the snapshot already restored into ``machine``."""
    snapshot_entries: int = limits.RAFT_SNAPSHOT_ENTRIES
    batch_bytes: int = limits.RAFT_BATCH_BYTES_MAX
