"""Force a new cluster: make a stopped, surviving manager the only member of its raft log, offline.

Every entry that this member holds is kept, also those not known to be committed: that is a superset of what
was ever acknowledged here. Membership changes are taken out of the log (their places stay), the member gets a
fresh raft id and a new term, and the former members are remembered as removed, so that one that comes back
neither leads this cluster nor votes in it.
"""

from __future__ import annotations

from pathlib import Path

from manager.raft import snapshot
from manager.raft.codec import change_of, neutralise
from manager.raft.journal import Identity, Journal
from manager.raft.proposer import Member
from manager.raft.sealing import Sealer
from manager.raft.snapshot import SnapshotHead
from manager.raft.state_files import LOG_NAME, SNAPSHOT_NAME, reconcile
from swarmpy.runtime import Disk


def force_new_cluster(disk: Disk, folder: Path, sealer: Sealer, member: Member) -> None:
    """Rewrite the files in ``folder``; safe to repeat if it was interrupted."""
    journal = Journal(disk, folder / LOG_NAME, sealer)
    former = {m.raft_id for m in journal.identity.members} | {journal.identity.raft_id}
    former |= {change.raft_id for entry in journal.entries if (change := change_of(entry[0])) is not None}
    former |= set(journal.identity.removed)
    path = folder / SNAPSHOT_NAME
    if disk.exists(path):
        head = snapshot.verify(disk, path, sealer)
        reconcile(journal, head)
        former |= {m.raft_id for m in head.members} | set(head.removed)
        alone = SnapshotHead(
            last=neutralise(head.last),
            previous=neutralise(head.previous),
            members=(member,),
            removed=tuple(sorted(former - {member.raft_id})),
        )
        side = path.with_name(path.name + ".recovered")
        slices = snapshot.slices_of(disk, path, sealer)
        snapshot.write(disk, side, snapshot.frames(alone, slices), sealer)
        disk.replace(side, path)
    journal.entries = [neutralise(entry) for entry in journal.entries]
    removed = tuple(sorted(former - {member.raft_id}))
    journal.identity = Identity(raft_id=member.raft_id, members=(member,), removed=removed)
    journal.term, journal.vote = journal.term + 1, ""
    journal.rewrite()
    journal.close()
