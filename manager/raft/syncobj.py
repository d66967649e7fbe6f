"""PySyncObj, made safe: the only file that imports it.

The library keeps elections, vote counting, commit counting and the command queue. What is replaced here, and
asserted to exist before anything starts:

* module names, while an instance is made: ``createJournal``, ``Serializer`` (ours), and for good: ``pickle``
  (three shapes, no unpickling), ``monotonicTime`` (the Env's clock), ``PIPE_NOTIFIER_ENABLED``;
* methods: applying (in slices, an exception can't wedge the cluster), sending (batched, with flow control,
  no busy loop), installing a snapshot (errors are not swallowed), the election timeout (the Env's entropy).

Invariants: this member counts itself towards a majority only after a sync; nothing leaves after the log has
failed; the members that a snapshot names are those of its last applied entry.
Not thread-safe: everything runs in the event loop. It knows no asyncio.
"""
# ruff: noqa: N802, N803

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any

import pysyncobj.syncobj as library
import structlog
from pysyncobj.config import FAIL_REASON, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.syncobj import SyncObj

from manager.raft import codec
from manager.raft.codec import Change, Entry, change_of
from manager.raft.journal import Journal
from manager.raft.parts import Parts
from manager.raft.ports import JournalPort, SerializerPort
from manager.raft.proposer import Member
from manager.raft.read_index import ReadIndex
from manager.raft.replication import Replication
from manager.raft.snapshot import SnapshotHead
from manager.raft.transport import PeerTransport
from swarmpy import limits

log = structlog.get_logger(__name__)

VERSION = "0.3.17"
_MODULE_NAMES = ("pickle", "createJournal", "Serializer", "monotonicTime", "PIPE_NOTIFIER_ENABLED")
_METHODS = ("applyLogEntries", "sendAppendEntries", "loadDumpFile", "generateRaftTimeout")
_METHODS_USED = ("updateClusterConfiguration", "doChangeCluster", "tryLogCompaction", "onMessageReceived")
_ATTRIBUTES = (
    "otherNodes",
    "connectedNodes",
    "raftElectionDeadline",
    "raftCommitIndex",
    "raftLastApplied",
    "raftNextIndex",
    "newAppendEntriesTime",
    "needLoadDumpFile",
    "commandsWaitingCommit",
)


class Verdict(Enum):
    """What became of a proposal."""

    APPLIED = auto()
    REFUSED = auto()
    """Certainly not taken: it may be proposed again."""
    FULL = auto()
    UNKNOWN = auto()


_VERDICTS = {
    FAIL_REASON.SUCCESS: Verdict.APPLIED,
    FAIL_REASON.QUEUE_FULL: Verdict.FULL,
    FAIL_REASON.MISSING_LEADER: Verdict.REFUSED,
    FAIL_REASON.DISCARDED: Verdict.REFUSED,
    FAIL_REASON.NOT_LEADER: Verdict.REFUSED,
    FAIL_REASON.REQUEST_DENIED: Verdict.REFUSED,
}

Settled = Callable[[Verdict, object], None]


class RaftNode(Node):
    """A member as the library knows it. Hashed by CRC, so that sets are ordered alike in every process."""

    def __init__(self, id: str, address: str = "") -> None:
        super().__init__(id)
        self.address = address
        self._hash = zlib.crc32(id.encode())

    def __hash__(self) -> int:
        return self._hash


class _ShapesOnly:
    """Stands in for the module ``pickle``: only membership changes still pass through it."""

    @staticmethod
    def dumps(value: Any, protocol: int | None = None) -> bytes:
        match value:
            case ["add" | "rem" as op, str(raft_id), RaftNode() as node]:
                return codec.encode_change(Change(op == "add", raft_id, node.address))
        raise AssertionError(f"the library encodes an unknown value: {type(value)}")

    @staticmethod
    def loads(data: bytes) -> list[Any]:
        change = codec.decode_change(bytes(data))
        op = "add" if change.is_add else "rem"
        return [op, change.raft_id, RaftNode(change.raft_id, change.address)]


class _NoPoller:
    """The library polls no sockets here."""

    def poll(self, timeout: float) -> None:
        return


def check_library() -> None:
    """Raises AssertionError if the library is not the one that this file was written against."""
    problems = [] if library.VERSION == VERSION else [f"version is {library.VERSION}, not {VERSION}"]
    problems += [f"{name} is gone" for name in _MODULE_NAMES if not hasattr(library, name)]
    problems += [
        f"{n} is gone" for n in (*_METHODS, *_METHODS_USED) if not hasattr(SyncObj, f"_SyncObj__{n}")
    ]
    if problems:
        raise AssertionError(f"pysyncobj can't be made safe: {', '.join(problems)}")


class SyncObjCore(SyncObj):
    """One raft member without I/O of its own: ``tick`` it, feed its transport, read its properties."""

    def __init__(self, parts: Parts) -> None:
        check_library()
        self.journal, self.snapshotter, self.machine = parts.journal, parts.snapshotter, parts.machine
        self._env = parts.env
        self.raft_id = parts.journal.identity.raft_id
        self.reads = ReadIndex()
        self.transport = PeerTransport(parts.wire, RaftNode, self.reads)
        self.transport.attach(self)
        self.is_removed = self.raft_id not in parts.members
        self.on_read_answer: Callable[[int, int], None] = lambda request_id, index: None
        self.on_install: Callable[[], None] = lambda: None
        self.replication = Replication(
            self.journal, self.snapshotter, self.transport, batch_bytes=parts.batch_bytes
        )
        self._ticked_at = self._leads_since = self.now()
        self._was_leader = False
        me = RaftNode(self.raft_id, parts.members.get(self.raft_id, ""))
        others = [RaftNode(i, a) for i, a in sorted(parts.members.items()) if i != self.raft_id]
        with self._library_made_ours():
            super().__init__(me, others, _settings(parts), nodeClass=RaftNode, transport=self.transport)
        missing = [name for name in _ATTRIBUTES if f"_SyncObj__{name}" not in self.__dict__]
        if missing:
            raise AssertionError(f"pysyncobj can't be made safe: {', '.join(missing)} is gone")
        for node in others:
            self.transport.addNode(node)
        self._poller = _NoPoller()
        self._SyncObj__needLoadDumpFile = False
        self._applied_members = {m.raft_id: m.address for m in parts.journal.identity.members}
        for raft_id in parts.journal.identity.removed:
            self._remember_removed(raft_id)
        if parts.head is not None:
            self._stand_at(parts.head)
        self._set_first_election()

    # --- what is seen from outside

    @property
    def log(self) -> Journal:
        return self.journal

    @property
    def term(self) -> int:
        return self.raftCurrentTerm

    @property
    def commit_index(self) -> int:
        return self.raftCommitIndex

    @property
    def applied_index(self) -> int:
        return self.raftLastApplied

    @property
    def is_leader(self) -> bool:
        return self._isLeader()

    @property
    def is_ready_leader(self) -> bool:
        """Leads, and has applied an entry of its own term."""
        return self._isLeader() and self.journal.term_at(self.raftLastApplied) == self.raftCurrentTerm

    @property
    def leader(self) -> str | None:
        node = self._getLeader()
        return None if node is None else node.id

    @property
    def is_newcomer(self) -> bool:
        """Joins, and has heard nothing from the others yet: it may have to ask (again) to be added."""
        return self.journal.identity.is_joined and self.journal.last == 1

    @property
    def has_work(self) -> bool:
        """Whether another tick would get on without waiting for anything."""
        return self.raftCommitIndex > self.raftLastApplied or (self._isLeader() and self._has_news())

    @property
    def is_installing(self) -> bool:
        return self.snapshotter.is_loading

    def members(self) -> dict[str, str]:
        """Addresses by raft id of the members in effect."""
        found = {node.id: getattr(node, "address", "") for node in self._SyncObj__otherNodes}
        if not self.is_removed:
            found[self.raft_id] = self._my_address()
        return dict(sorted(found.items()))

    def is_reachable(self, raft_id: str) -> bool:
        """Connected, and, seen from the leader, answering."""
        if raft_id == self.raft_id:
            return True
        if raft_id not in self.transport.connected:
            return False
        answered_at = max(self.transport.answered_at.get(raft_id, -math.inf), self._leads_since)
        return not self.is_leader or self.now() - answered_at < limits.RAFT_LEADER_FALLBACK_S

    def has_open_change(self) -> bool:
        """Whether a membership change stands in the log that is not applied yet."""
        start = self.raftLastApplied + 1 - self.journal.first
        return any(change_of(entry[0]) is not None for entry in self.journal.entries[max(start, 0) :])

    def now(self) -> float:
        return self._env.clock.monotonic()

    # --- what is asked from outside

    def tick(self) -> None:
        """Everything that is due: answers, elections, commits, applying, sending, snapshots."""
        self._forgive_lag()
        self._finish_loading()
        self.transport.flush()
        is_alone = not self._SyncObj__otherNodes
        if self.transport.has_new_answers or is_alone:
            self.journal.sync()
        self.transport.has_new_answers = False
        if self.is_removed:
            self._SyncObj__raftElectionDeadline = math.inf
        self._onTick()
        if is_alone and self.raftCommitIndex < self.journal.last:
            self.journal.sync()
            self._onTick()
        if self._isLeader():
            self._send_news()
        if self._isLeader() and not self._was_leader:
            self._leads_since = self.now()
        self._was_leader = self._isLeader()
        term = self.raftCurrentTerm if self._isLeader() else None
        self.reads.finish(term=term, others=self._other_ids(), applied=self.raftLastApplied)
        is_large = self.journal.entry_bytes > limits.RAFT_LOG_BYTES_MAX
        if is_large or self._env.buggify("raft.snapshot_early"):
            self.forceLogCompaction()

    def submit(self, entry: bytes, settled: Settled) -> None:
        """Propose an entry of the state machine; ``settled`` is called from a later tick."""
        is_lost = self._env.buggify("raft.answer_lost")
        told: Settled = (lambda *_: settled(Verdict.UNKNOWN, None)) if is_lost else settled
        self._applyCommand(entry, _adapted(told), codec.REGULAR)

    def submit_change(self, change: Change, settled: Settled) -> None:
        node = RaftNode(change.raft_id, change.address)
        submit = self.addNodeToCluster if change.is_add else self.removeNodeFromCluster
        submit(node, _adapted(settled))

    def hand_over(self) -> bool:
        """Ask the member that is furthest along to stand for election; False if none is up to date."""
        results: list[int] = []
        self.transferLeadership(callback=lambda _, error: results.append(error))
        return results == [FAIL_REASON.SUCCESS]

    def read_index(self, answer: Callable[[int], None]) -> None:
        """Leader only, else ``answer(0)``: see ``ReadIndex``."""
        commit = self.raftCommitIndex
        has_own_commit = self.journal.has(commit) and self.journal.term_at(commit) == self.raftCurrentTerm
        if not self._isLeader() or not has_own_commit:
            answer(0)
            return
        self.reads.begin(commit, self.raftCurrentTerm, answer)

    def read_answered(self, request_id: int, index: int) -> None:
        self.on_read_answer(request_id, index)

    def removed_here(self) -> None:
        self.is_removed = True

    def sync(self) -> None:
        self.journal.sync()

    # --- replaced in the library

    def _SyncObj__generateRaftTimeout(self) -> float:
        return self._env.entropy.uniform(limits.RAFT_ELECTION_MIN_S, limits.RAFT_ELECTION_MAX_S)

    def _SyncObj__applyLogEntries(self) -> bool:
        """Apply what is committed, for a slice of time; whether to send is answered too."""
        deadline = self.now() + limits.RAFT_APPLY_SLICE_S
        while (index := self.raftLastApplied + 1) <= self.raftCommitIndex:
            command, _, term = self.journal.entries[index - self.journal.first]
            result = self._apply(command, index)
            self._SyncObj__raftLastApplied = index
            for waiting_term, callback in self._SyncObj__commandsWaitingCommit.pop(index, ()):
                if waiting_term == term:
                    callback(result, FAIL_REASON.SUCCESS)
                else:
                    callback(None, FAIL_REASON.DISCARDED)
            if self.now() >= deadline:
                break
        return self._isLeader() and self._has_news()

    def _SyncObj__sendAppendEntries(self) -> None:
        self._SyncObj__newAppendEntriesTime = self.now() + limits.RAFT_APPEND_PERIOD_S
        self.replication.begin_round(self.raftCommitIndex, self.now())
        for node in sorted(self._SyncObj__otherNodes, key=lambda node: node.id):
            self._send_to(node)
        self.reads.sent()

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:
        raise AssertionError("a snapshot is installed by the tick")

    # --- inside

    def _install(self, head: SnapshotHead, state: object) -> None:
        """Go on from a snapshot that was loaded. The answer to the leader waits for the next sync."""
        self.snapshotter.install()
        self.machine.adopt(state)
        self.journal.start_over([head.previous, head.last])
        self._stand_at(head)
        others = [RaftNode(m.raft_id, m.address) for m in head.members if m.raft_id != self.raft_id]
        self._SyncObj__updateClusterConfiguration(others)
        waiting = self._SyncObj__commandsWaitingCommit
        for index in sorted(index for index in waiting if index <= self.raftLastApplied):
            for _, callback in waiting.pop(index):
                callback(None, FAIL_REASON.UNKNOWN_OUTCOME)
        self.on_install()

    @contextmanager
    def _library_made_ours(self) -> Iterator[None]:
        """The library builds its journal and serializer itself, through module names."""
        library.pickle = _ShapesOnly
        library.PIPE_NOTIFIER_ENABLED = False
        library.monotonicTime = self._env.clock.monotonic
        before = library.createJournal, library.Serializer
        serializer = SerializerPort(
            self.snapshotter, take=self._take_snapshot, accept=self._accept_snapshot, now=self.now
        )
        library.createJournal = lambda path: JournalPort(self.journal)
        library.Serializer = lambda *arguments: serializer
        try:
            yield
        finally:
            library.createJournal, library.Serializer = before

    def _apply(self, command: bytes, index: int) -> object:
        if command[0] == codec.REGULAR:
            try:
                return self.machine.apply(command[1:], index)
            except Exception as error:  # a defect of the machine is every member's alike
                log.error("raft entry failed", index=index, exc_info=error)
                return error
        change = change_of(command)
        if change is not None:
            self._apply_change(change)
        return None

    def _apply_change(self, change: Change) -> None:
        if change.is_add:
            self._applied_members[change.raft_id] = change.address
            return
        self._applied_members.pop(change.raft_id, None)
        self._remember_removed(change.raft_id)
        if change.raft_id == self.raft_id:
            self.is_removed = True

    def _remember_removed(self, raft_id: str) -> None:
        removed = self.transport.removed
        removed[raft_id] = None
        while len(removed) > limits.RAFT_REMOVED_MAX:
            del removed[next(iter(removed))]

    def _stand_at(self, head: SnapshotHead) -> None:
        """The state machine now stands where the snapshot does."""
        self._SyncObj__raftLastApplied = head.last[1]
        self._SyncObj__raftCommitIndex = max(min(self.raftCommitIndex, self.journal.last), head.last[1])
        self.journal.set_commit(self.raftCommitIndex)
        self._applied_members = {m.raft_id: m.address for m in head.members}
        for raft_id in head.removed:
            self._remember_removed(raft_id)

    def _set_first_election(self) -> None:
        if self.is_newcomer or self.is_removed:
            self._SyncObj__raftElectionDeadline = math.inf
        elif not self._SyncObj__otherNodes:
            self._SyncObj__raftElectionDeadline = -math.inf

    def _forgive_lag(self) -> None:
        """A loop that was held hears the leader's messages before it may stand for election."""
        now = self.now()
        if now - self._ticked_at > limits.RAFT_LAG_S:
            self._SyncObj__raftElectionDeadline += now - self._ticked_at
        self._ticked_at = now

    def _has_news(self) -> bool:
        return self.reads.is_send_due or self.replication.has_news(self.raftCommitIndex, self.now())

    def _send_news(self) -> None:
        """What came up since the last sending; else go on with members whose queue was too long for it."""
        if self._has_news():
            self._SyncObj__sendAppendEntries()
            return
        for node in sorted(self._SyncObj__otherNodes, key=lambda node: node.id):
            if self.replication.may_resume(node.id):
                self._send_to(node)

    def _send_to(self, node: Node) -> None:
        if node not in self._SyncObj__connectedNodes:
            self.snapshotter.cancel(node.id)
            return
        head = {
            "type": "append_entries",
            "term": self.raftCurrentTerm,
            "commit_index": self.raftCommitIndex,
        }
        next_indexes = self._SyncObj__raftNextIndex
        next_indexes[node] = self.replication.send(node, next_indexes[node], head, self.now())

    def _take_snapshot(self, last: Entry, previous: Entry) -> None:
        members = tuple(Member(raft_id=i, address=a) for i, a in sorted(self._applied_members.items()))
        head = SnapshotHead(
            last=last, previous=previous, members=members, removed=tuple(self.transport.removed)
        )
        self.snapshotter.take(head, self.machine.encode(self.machine.freeze()))

    def _accept_snapshot(self, data: bytes, offset: int, is_last: bool) -> bool:
        """Take in a piece; the whole is loaded in the thread, and installed by a later tick."""
        head = self.snapshotter.accept(data, offset=offset, is_last=is_last)
        if head is not None and self._has_all_of(head):
            self.snapshotter.discard()
            self.transport.agree_up_to(head.last[1])
        elif head is not None:
            self.snapshotter.load(self.machine)
        return False

    def _finish_loading(self) -> None:
        loaded = self.snapshotter.loaded()
        if loaded is None:
            return
        if self._has_all_of(loaded.head):
            self.snapshotter.discard()
        else:
            self._install(loaded.head, loaded.state)
        if self.leader not in (None, self.raft_id):
            self.transport.agree_up_to(loaded.head.last[1], peer=self.leader)

    def _has_all_of(self, head: SnapshotHead) -> bool:
        _, index, term = head.last
        is_known = self.journal.has(index) and self.journal.term_at(index) == term
        return index <= self.raftLastApplied or is_known

    def _other_ids(self) -> list[str]:
        return [node.id for node in self._SyncObj__otherNodes]

    def _my_address(self) -> str:
        return self._applied_members.get(self.raft_id, "")


def _settings(parts: Parts) -> SyncObjConf:
    return SyncObjConf(
        autoTick=False,
        dynamicMembershipChange=True,
        commandsWaitLeader=False,
        commandsQueueSize=8 * limits.RAFT_PROPOSALS_MAX,
        appendEntriesUseBatch=True,
        appendEntriesPeriod=limits.RAFT_APPEND_PERIOD_S,
        appendEntriesBatchSizeBytes=parts.batch_bytes,
        raftMinTimeout=limits.RAFT_ELECTION_MIN_S,
        raftMaxTimeout=limits.RAFT_ELECTION_MAX_S,
        leaderFallbackTimeout=limits.RAFT_LEADER_FALLBACK_S,
        logCompactionMinEntries=parts.snapshot_entries,
        logCompactionMinTime=math.inf,
        useFork=False,
    )


def _adapted(settled: Settled) -> Callable[[Any, int], None]:
    return lambda result, error: settled(_VERDICTS.get(error, Verdict.UNKNOWN), result)
