"""The write-ahead log of one raft member: entries, term and vote, in one append-only file.

Invariants:

* Nothing counts before ``sync`` returned; one sync makes everything buffered so far durable, and term and
  vote are synced before ``set_term`` returns, hence before a vote can leave.
* After the first failed write or sync the journal takes nothing more: what a failed sync left on the disk
  is unknown, so the process must stop.
* A torn tail is cut at start; damage in front of a point that was once synced raises ``Corrupt``. Which of
  the two it is, SYNCED marks tell: each batch starts by saying how much before it was synced, and a
  rewritten file ends by saying so of itself.
* The whole file is replaced atomically or not at all (compaction, snapshot install, recovery). What a
  compaction keeps is sealed, written and synced in a thread to a side file, while the log goes on in the old
  one; the event loop adds what came since, and swaps the two.

It knows nothing of elections, peers, or snapshots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from manager.raft.codec import NO_OP_COMMAND, Entry
from manager.raft.proposer import Member
from manager.raft.records import Kind, Record, find_valid, pack, scan
from manager.raft.sealing import Sealer
from swarmpy.errors import Corrupt, DiskFailed
from swarmpy.pb import raft_pb2 as pb
from swarmpy.runtime import Disk

log = structlog.get_logger(__name__)

FIRST_ENTRY: Entry = (NO_OP_COMMAND, 1, 0)
"""Every log begins with it, on every member, so that there is always a last entry to speak of."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whose log this is, and the members that it started from (a snapshot's list supersedes them)."""

    raft_id: str
    members: tuple[Member, ...]
    is_joined: bool = False
    removed: tuple[str, ...] = ()
    """Members of a former life of this cluster, which may not come back (``recover``)."""


@dataclass(eq=False)
class _Compaction:
    """``kept`` is on its way to the side file, unless it is the journal's no more: that file is another's."""

    kept: list[Entry]
    written: Future[None] | None = None


class Journal:
    """Indexable by position like a list of ``Entry``; positions start at ``first``."""

    def __init__(self, disk: Disk, path: Path, sealer: Sealer) -> None:
        self._disk, self.path, self._sealer = disk, path, sealer
        self.identity: Identity
        self.entries: list[Entry] = []
        self.entry_bytes = 0
        self.term, self.vote = 0, ""
        self.commit = 1
        self.is_dirty = False
        self.syncs = 0
        self._buffer: list[bytes] = []
        self._is_rewrite_due = False
        self._is_failed = False
        self._written_commit = 0
        self._side = path.with_name(path.name + ".new")
        self._executor: Executor | None = None
        self._compaction: _Compaction | None = None
        self._load()
        self._file = disk.append(path)
        self._synced = self._file.size()
        self._marked = self._synced

    @staticmethod
    def create(
        disk: Disk,
        path: Path,
        identity: Identity,
        sealer: Sealer,
        *,
        entries: Sequence[Entry] = (FIRST_ENTRY,),
    ) -> None:
        """Write a log; it exists whole or not at all. Its term is that of the last entry."""
        term = entries[-1][2]
        with _translated(path):
            disk.write_atomic(path, _image(identity, (term, ""), entries[0][1], entries, sealer))

    def compact_in(self, executor: Executor) -> None:
        """From now on compactions are written in this thread; they held the caller until then."""
        self._executor = executor

    # --- reading

    @property
    def first(self) -> int:
        return self.entries[0][1]

    @property
    def last(self) -> int:
        return self.entries[-1][1]

    def term_at(self, index: int) -> int:
        return self.entries[index - self.entries[0][1]][2]

    def has(self, index: int) -> bool:
        return self.first <= index <= self.last

    def batch(self, index: int, max_bytes: int) -> list[Entry]:
        """Entries from ``index`` on: at least one, and about ``max_bytes`` of them at most."""
        start = index - self.first
        taken = 0
        for position in range(start, len(self.entries)):
            taken += len(self.entries[position][0])
            if taken >= max_bytes:
                return self.entries[start : position + 1]
        return self.entries[start:]

    # --- writing

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.entry_bytes += len(entry[0])
        self._put(_entry_record(entry, self._sealer))

    def cut_from(self, position: int) -> None:
        """Drop the entries from ``position`` on."""
        if position < len(self.entries):
            index = self.entries[position][1]
            del self.entries[position:]
            self._count_bytes()
            self._put(pack(Kind.TRUNCATE, pb.RaftIndexRecord(index=index).SerializeToString()))

    def cut_before(self, position: int) -> None:
        """Drop the entries before ``position``: they are in a snapshot that is durable."""
        self.entries = self.entries[position:]
        self._count_bytes()
        if self._executor is None:
            self.rewrite()
        elif self._compaction is None:
            # a file that begins too early does no harm, so one at a time will do
            self._compact(self._executor)

    def start_over(self, entries: list[Entry]) -> None:
        """The entries of a snapshot just installed. The old log stays on disk until the next sync."""
        self.entries = list(entries)
        self._count_bytes()
        self._buffer.clear()
        self._is_rewrite_due = self.is_dirty = True

    def set_term(self, term: int, vote: str) -> None:
        if (term, vote) != (self.term, self.vote):
            self.term, self.vote = term, vote
            self._put(_term_record(term, vote))
            self.sync()

    def set_commit(self, index: int) -> None:
        """A lower bound is enough, so it is written lazily: see ``note``."""
        self.commit = index

    def known_commit(self) -> int:
        return min(self.commit, self.last)

    def sync(self) -> None:
        """Make everything so far durable."""
        self._finish_compaction()
        if self._is_rewrite_due:
            self.rewrite()
        if not self.is_dirty:
            return
        with self._failing_for_good():
            self._write_buffer()
            self._file.sync()
        self.syncs += 1
        self.is_dirty = False
        self._synced = self._file.size()

    def note(self) -> None:
        """Once a second: write down commit index and what is synced, without a sync of its own."""
        self._finish_compaction()
        if self.commit != self._written_commit:
            self._written_commit = self.commit
            self._buffer.append(_commit_record(self.commit))
        if not self.is_dirty and (self._buffer or self._marked != self._synced):
            with self._failing_for_good():
                self._write_buffer()

    def rewrite(self) -> None:
        """Replace the file by one that holds the present state and no history."""
        image = _image(self.identity, (self.term, self.vote), self.commit, self.entries, self._sealer)
        with self._failing_for_good():
            self._disk.write_atomic(self.path, image)
            self._file.close()
            self._file = self._disk.append(self.path)
        self.give_up_compaction()
        self._buffer.clear()
        self.is_dirty = self._is_rewrite_due = False
        self._synced = self._marked = len(image)

    def close(self) -> None:
        """Sync what is left, unless the disk has failed before. A compaction under way is given up."""
        self.give_up_compaction()
        if not self._is_failed:
            self.sync()
            self.note()
        self._file.close()

    # --- compaction

    def _compact(self, executor: Executor) -> None:
        self._compaction = _Compaction(list(self.entries))
        self._compaction.written = executor.submit(self._write_side, self._compaction)

    def _write_side(self, compaction: _Compaction) -> None:
        """In the thread: the identity and what is kept, durable."""
        if self._compaction is not compaction:
            return
        self._disk.remove(self._side)
        file = self._disk.append(self._side)
        try:
            file.write(_identity_record(self.identity))
            for entry in compaction.kept:
                if self._compaction is not compaction:
                    return
                file.write(_entry_record(entry, self._sealer))
            file.sync()
        finally:
            file.close()

    def _finish_compaction(self) -> None:
        """Swap the files once the side file holds what was kept."""
        compaction = self._compaction
        if compaction is None or self._is_rewrite_due:
            return
        if compaction.written is None or not compaction.written.done():
            return
        self._compaction = None
        try:
            compaction.written.result()
        except OSError as error:
            log.warning("raft log not compacted", path=str(self.path), reason=str(error))
            return
        if self.first > compaction.kept[-1][1] + 1 and self._executor is not None:
            self._compact(self._executor)  # all that was kept has been cut since
            return
        with self._failing_for_good():
            file = self._disk.append(self._side)
            file.write(self._since(compaction.kept))
            file.write(pack(Kind.SYNCED, pb.RaftIndexRecord(index=file.size()).SerializeToString()))
            file.sync()
            size = file.size()
            file.close()
            self._disk.replace(self._side, self.path)
            self._file.close()
            self._file = self._disk.append(self.path)
        self._buffer.clear()
        self.is_dirty = False
        self._synced = self._marked = size

    def give_up_compaction(self) -> None:
        """The old file serves on. What the thread still does touches no file that anybody else reads."""
        self._compaction = None

    def _since(self, kept: list[Entry]) -> bytes:
        """What must follow these entries so that they come to the present state."""
        shift = self.first - kept[0][1]
        agreed = 0
        for old, new in zip(kept[shift:], self.entries, strict=False):
            if old is not new:
                break
            agreed += 1
        parts = []
        if shift + agreed < len(kept):
            index = kept[shift + agreed][1]
            parts.append(pack(Kind.TRUNCATE, pb.RaftIndexRecord(index=index).SerializeToString()))
        parts += [_entry_record(entry, self._sealer) for entry in self.entries[agreed:]]
        return b"".join((*parts, _term_record(self.term, self.vote), _commit_record(self.commit)))

    # --- inside

    def _put(self, record: bytes) -> None:
        self._buffer.append(record)
        self.is_dirty = True

    def _write_buffer(self) -> None:
        if self._marked != self._synced:
            mark = pb.RaftIndexRecord(index=self._synced).SerializeToString()
            self._buffer.insert(0, pack(Kind.SYNCED, mark))
            self._marked = self._synced
        if self._buffer:
            data = b"".join(self._buffer)
            self._buffer.clear()
            self._file.write(data)

    def _count_bytes(self) -> None:
        self.entry_bytes = sum(len(entry[0]) for entry in self.entries)

    @contextmanager
    def _failing_for_good(self) -> Iterator[None]:
        if self._is_failed:
            raise DiskFailed(f"the raft log {self.path} failed before and takes nothing more")
        try:
            with _translated(self.path):
                yield
        except DiskFailed:
            self._is_failed = True
            raise

    # --- loading

    def _load(self) -> None:
        data = self._disk.read(self.path)
        end = 0
        for record in scan(data):
            self._replay(record, end)
            end = record.end
        if not self.entries:
            raise Corrupt(f"{self.path} is not a raft log, or is damaged at byte {end}: {_RESTORE}")
        if end < len(data):
            self._cut_tail(data, end)

    def _cut_tail(self, data: bytes, end: int) -> None:
        offset = find_valid(data, end + 1)
        while offset is not None:
            for record in scan(data, offset):
                offset = record.end
                if record.kind == Kind.SYNCED and pb.RaftIndexRecord.FromString(record.payload).index > end:
                    raise Corrupt(f"{self.path} is damaged at byte {end}: {_RESTORE}")
            offset = find_valid(data, offset)
        file = self._disk.append(self.path)
        with _translated(self.path):
            file.truncate(end)
        file.close()

    def _replay(self, record: Record, offset: int) -> None:
        match record.kind:
            case Kind.IDENTITY:
                self.identity = _identity(pb.RaftIdentity.FromString(record.payload))
            case Kind.ENTRY:
                self._replay_entry(record.payload, offset)
            case Kind.TRUNCATE:
                index = pb.RaftIndexRecord.FromString(record.payload).index
                while self.entries and self.entries[-1][1] >= index:
                    self.entry_bytes -= len(self.entries.pop()[0])
            case Kind.TERM:
                message = pb.RaftTermRecord.FromString(record.payload)
                self.term, self.vote = message.term, message.vote
            case Kind.COMMIT:
                self.commit = pb.RaftIndexRecord.FromString(record.payload).index
            case Kind.SYNCED:
                pass
            case _:
                raise Corrupt(
                    f"{self.path} holds a record of kind {record.kind} at byte {offset}: {_RESTORE}"
                )

    def _replay_entry(self, sealed: bytes, offset: int) -> None:
        try:
            payload = self._sealer.open(sealed)
        except Corrupt as error:
            raise Corrupt(f"{self.path} can't be opened at byte {offset}: {error}") from error
        message = pb.RaftEntry.FromString(payload)
        if self.entries and message.index != self.last + 1:
            raise Corrupt(f"{self.path} lacks entries before index {message.index}: {_RESTORE}")
        self.entries.append((message.command, message.index, message.term))
        self.entry_bytes += len(message.command)


_RESTORE = "move this manager's raft folder away and join the cluster again, or restore a backup"


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DiskFailed(
            f"cannot write the raft log {path}: {reason}; free or repair the disk, then start again"
        ) from error


def _image(
    identity: Identity, term: tuple[int, str], commit: int, entries: Sequence[Entry], sealer: Sealer
) -> bytes:
    parts = [_identity_record(identity), _term_record(*term), _commit_record(commit)]
    parts += [_entry_record(entry, sealer) for entry in entries]
    body = b"".join(parts)
    return body + pack(Kind.SYNCED, pb.RaftIndexRecord(index=len(body)).SerializeToString())


def _entry_record(entry: Entry, sealer: Sealer) -> bytes:
    command, index, term = entry
    return pack(
        Kind.ENTRY,
        sealer.seal(pb.RaftEntry(index=index, term=term, command=command).SerializeToString()),
    )


def _term_record(term: int, vote: str) -> bytes:
    return pack(Kind.TERM, pb.RaftTermRecord(term=term, vote=vote).SerializeToString())


def _commit_record(index: int) -> bytes:
    return pack(Kind.COMMIT, pb.RaftIndexRecord(index=index).SerializeToString())


def _identity_record(identity: Identity) -> bytes:
    members = [pb.RaftMember(raft_id=m.raft_id, address=m.address) for m in identity.members]
    message = pb.RaftIdentity(
        raft_id=identity.raft_id,
        members=members,
        is_joined=identity.is_joined,
        removed=identity.removed,
    )
    return pack(Kind.IDENTITY, message.SerializeToString())


def _identity(message: pb.RaftIdentity) -> Identity:
    members = tuple(Member(raft_id=m.raft_id, address=m.address) for m in message.members)
    return Identity(
        raft_id=message.raft_id,
        members=members,
        is_joined=message.is_joined,
        removed=tuple(message.removed),
    )
