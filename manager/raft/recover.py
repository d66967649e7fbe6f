"""Force a new cluster: make a stopped, surviving manager the only member of its raft log, offline.

Every entry that this member holds is kept, also those not known to be committed: that is a superset of what
was ever acknowledged here. Behind them, in a new term, the log now says that every former member was removed
and this one, under a fresh raft id, was added. So one file alone changes, in one write that takes place whole
or not at all: whenever the machine goes down, what is left is the old member or the new cluster. Former
members that come back are told that they were removed; they neither lead this cluster nor vote in it.

``found_from`` makes the same sort of member out of a state that came from elsewhere, such as a backup.
What the state says of managers is for the caller to put right, by entries of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from manager.raft.codec import NO_OP_COMMAND, REGULAR, REGULAR_PREFIX, Change, Entry, membership_command
from manager.raft.journal import FIRST_ENTRY, Identity, Journal
from manager.raft.proposer import Member, StateMachine
from manager.raft.sealing import Sealer
from manager.raft.snapshot import SnapshotHead
from manager.raft.state_files import LOG_NAME, SNAPSHOT_NAME, load
from swarmpy.runtime import Disk


class Survivor:
    """A stopped member, opened with all that it holds applied to ``machine``. ``close`` it in the end."""

    def __init__(self, disk: Disk, folder: Path, sealer: Sealer, machine: StateMachine) -> None:
        loaded = load(disk, folder, sealer, into=machine)
        self._journal = loaded.journal
        self._members = loaded.members
        self._former = set(loaded.members) | {self._journal.identity.raft_id}
        self._former |= set(self._journal.identity.removed)
        start = 0
        if loaded.head is not None:
            start = loaded.head.last[1]
            self._former |= {m.raft_id for m in loaded.head.members} | set(loaded.head.removed)
        for command, index, _ in self._journal.entries:
            if index > start and command[0] == REGULAR:
                machine.apply(command[1:], index)

    @property
    def next_term(self) -> int:
        """The term in which the new cluster's first entries are written; its leader has a later one."""
        return self._journal.term + 1

    @property
    def has_state(self) -> bool:
        """False of a member that was about to join and has heard nothing from the others yet."""
        return not self._journal.identity.is_joined or self._journal.last > 1

    def stand_alone(self, member: Member, entries: Iterable[bytes] = ()) -> None:
        """Rewrite the log so that ``member``, whose raft id is fresh, is all there is, ``entries`` last."""
        journal = self._journal
        changes = [Change(False, raft_id, address) for raft_id, address in sorted(self._members.items())]
        changes.append(Change(True, member.raft_id, member.address))
        commands = [membership_command(change) for change in changes]
        commands += [REGULAR_PREFIX + entry for entry in entries]
        term, first = self.next_term, journal.last + 1
        journal.entries = [
            *journal.entries,
            *((command, index, term) for index, command in enumerate(commands, start=first)),
        ]
        journal.identity = replace(
            journal.identity,
            raft_id=member.raft_id,
            is_joined=False,
            removed=tuple(sorted(self._former - {member.raft_id})),
        )
        journal.term, journal.vote = term, ""
        journal.rewrite()

    def close(self) -> None:
        self._journal.close()


def head_of_new(member: Member, term: int) -> SnapshotHead:
    """The head of the snapshot that a cluster founded from a foreign state begins with."""
    last: Entry = (NO_OP_COMMAND, FIRST_ENTRY[1] + 1, term)
    return SnapshotHead(last=last, previous=FIRST_ENTRY, members=(member,), removed=())


def found_from(
    disk: Disk, folder: Path, sealer: Sealer, head: SnapshotHead, *, side: Path, entries: Sequence[bytes]
) -> None:
    """Make ``side``, a snapshot with this head, the state of a new cluster's only member.

    Not atomic: whoever calls it says afterwards, elsewhere, that the folder counts.
    """
    (member,) = head.members
    _, index, term = head.last
    log = [head.previous, head.last]
    log += [(REGULAR_PREFIX + entry, number, term) for number, entry in enumerate(entries, start=index + 1)]
    disk.replace(side, folder / SNAPSHOT_NAME)
    identity = Identity(raft_id=member.raft_id, members=(member,))
    Journal.create(disk, folder / LOG_NAME, identity, sealer, entries=log)
