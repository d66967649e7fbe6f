"""The life of snapshots on one member: taking, sending to a member that lags, receiving, installing.

Invariants:

* The file at ``path`` is always whole. A new one is written in a thread to a side file; only the event
  loop renames it, and not if a newer one was installed meanwhile.
* A transfer reads one file from its beginning to its end, even if that file is replaced meanwhile, and no
  new snapshot is begun while one is being sent, or loaded by its receiver (within bounds), so that the log
  still holds what follows it.
* A received snapshot is used only after all of it has been read back, checked and decoded, in the thread.
  Until then the next one is not listened to.

When to take one, and what its place in the log means, is decided by its caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import structlog

from manager.raft import snapshot
from manager.raft.proposer import StateMachine
from manager.raft.records import Kind, pack, scan
from manager.raft.sealing import Sealer
from manager.raft.snapshot import Frame, SnapshotHead
from swarmpy.errors import Corrupt, DiskFailed
from swarmpy.limits import (
    RAFT_SNAPSHOT_CHUNK_BYTES,
    RAFT_SNAPSHOT_RETRY_S,
    RAFT_SNAPSHOT_SEND_MAX_S,
    RAFT_SNAPSHOT_SETTLE_S,
)
from swarmpy.runtime import AppendFile, Disk

log = structlog.get_logger(__name__)


class Progress(Enum):
    IDLE = auto()
    BUSY = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of a snapshot on its way to another member."""

    data: bytes
    offset: int
    is_last: bool
    last_index: int
    """Where the snapshot being sent stands; known to the sender only."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A received snapshot, checked, with its state decoded."""

    head: SnapshotHead
    state: object


class _Sending:
    """One transfer: the frames not yet sent, read lazily."""

    def __init__(self, content: Iterator[Frame], now: float) -> None:
        first = next(content)
        self.last_index = snapshot.decode_head(first[1]).last[1]
        self.began_at = now
        self._content = content
        self._pending: Frame | None = first
        self._offset = 0

    def next_chunk(self) -> Chunk:
        parts: list[bytes] = []
        size = 0
        while self._pending is not None and size < RAFT_SNAPSHOT_CHUNK_BYTES:
            parts.append(pack(*self._pending))
            size += len(parts[-1])
            self._pending = next(self._content, None)
        offset, self._offset = self._offset, self._offset + size
        is_last = self._pending is None
        return Chunk(data=b"".join(parts), offset=offset, is_last=is_last, last_index=self.last_index)


class Snapshotter:
    """``executor`` writes snapshots, and calls ``rest`` after each record."""

    def __init__(
        self, disk: Disk, path: Path, sealer: Sealer, *, executor: Executor, rest: Callable[[], None]
    ) -> None:
        self.path = path
        self._disk, self._sealer = disk, sealer
        self._executor, self._rest = executor, rest
        self._side = path.with_name(path.name + ".new")
        self._inbox = path.with_name(path.name + ".received")
        self._taking: Future[None] | None = None
        self._is_stale = False
        self._retry_at = self._settled_at = 0.0
        self._sending: dict[str, _Sending] = {}
        self._received: AppendFile | None = None
        self._received_bytes = 0
        self._loading: Future[Loaded] | None = None

    # --- taking

    def take(self, head: SnapshotHead, slices: Iterable[bytes]) -> None:
        """Begin writing a snapshot in the thread."""
        if self._taking is not None:
            raise AssertionError("one snapshot at a time")
        self._is_stale = False
        content = self._paced(snapshot.frames(head, slices))
        self._taking = self._executor.submit(snapshot.write, self._disk, self._side, content, self._sealer)

    def may_take(self, now: float) -> bool:
        is_sending = any(now - s.began_at < RAFT_SNAPSHOT_SEND_MAX_S for s in self._sending.values())
        is_idle = self._taking is None and self._loading is None
        return is_idle and now >= max(self._retry_at, self._settled_at) and not is_sending

    def poll(self, now: float) -> Progress:
        """DONE and FAILED are reported once."""
        if self._taking is None:
            return Progress.IDLE
        if not self._taking.done():
            return Progress.BUSY
        taking, self._taking = self._taking, None
        try:
            taking.result()
            if self._is_stale:
                self._disk.remove(self._side)
                return Progress.IDLE
            self._disk.replace(self._side, self.path)
        except OSError as error:
            # The log still holds everything, so this is no reason to stop; the log failing will be.
            log.warning("raft snapshot failed", path=str(self.path), reason=str(error))
            self._retry_at = now + RAFT_SNAPSHOT_RETRY_S
            return Progress.FAILED
        return Progress.DONE

    def _paced(self, content: Iterator[Frame]) -> Iterator[Frame]:
        for frame in content:
            yield frame
            self._rest()

    # --- sending

    def next_chunk(self, peer: str, now: float) -> Chunk | None:
        """The next piece for ``peer``, or None if there is no snapshot yet."""
        sending = self._sending.get(peer)
        if sending is None:
            if not self._disk.exists(self.path):
                return None
            content = snapshot.read(self._disk, self.path, self._sealer)
            sending = self._sending[peer] = _Sending(content, now)
        chunk = sending.next_chunk()
        if chunk.is_last:
            del self._sending[peer]
            self._settled_at = now + RAFT_SNAPSHOT_SETTLE_S
        return chunk

    def is_sending(self, peer: str) -> bool:
        return peer in self._sending

    def cancel(self, peer: str) -> None:
        self._sending.pop(peer, None)

    # --- receiving

    def accept(self, data: bytes, *, offset: int, is_last: bool) -> SnapshotHead | None:
        """Take a piece in; after the last one, the head of the whole, which ``load`` has still to check."""
        try:
            return self._accept(data, offset=offset, is_last=is_last)
        except OSError as error:
            raise DiskFailed(
                f"cannot write the raft snapshot {self._inbox}: {error.strerror or error}; "
                "free or repair the disk, then start again"
            ) from error

    def _accept(self, data: bytes, *, offset: int, is_last: bool) -> SnapshotHead | None:
        if self.is_loading:
            return None
        if offset == 0:
            self.discard()
            self._received = self._disk.append(self._inbox)
        if self._received is None or offset != self._received_bytes:
            self.discard()
            return None
        self._received_bytes += len(data)
        for record in scan(data):
            self._received.write(snapshot.seal_frame((Kind(record.kind), record.payload), self._sealer))
        if not is_last:
            return None
        try:
            return snapshot.read_head(self._disk, self._inbox, self._sealer)
        except Corrupt as error:
            self._refuse(error)
            return None

    @property
    def is_loading(self) -> bool:
        """Whether a received snapshot is about to be installed."""
        return self._loading is not None

    def load(self, machine: StateMachine) -> None:
        """Begin checking and decoding the snapshot just accepted, in the thread, once it is durable."""
        file, self._received = self._received, None
        if file is None:
            raise AssertionError("no snapshot has been accepted")

        def run() -> Loaded:
            try:
                file.sync()
            finally:
                file.close()
            head, state = snapshot.load(self._disk, self._inbox, self._sealer, machine.load, rest=self._rest)
            return Loaded(head=head, state=state)

        self._loading = self._executor.submit(run)

    def loaded(self) -> Loaded | None:
        """What ``load`` has come to, once; None while it is at it, and if the snapshot is damaged."""
        if self._loading is None or not self._loading.done():
            return None
        loading, self._loading = self._loading, None
        try:
            return loading.result()
        except Corrupt as error:
            self._refuse(error)
        except OSError as error:
            raise DiskFailed(
                f"cannot write the raft snapshot {self._inbox}: {error.strerror or error}; "
                "free or repair the disk, then start again"
            ) from error
        return None

    def _refuse(self, error: Corrupt) -> None:
        log.warning("raft snapshot received damaged", path=str(self._inbox), reason=str(error))
        self.discard()

    def discard(self) -> None:
        """Forget what has been received so far."""
        if self._received is not None:
            self._received.close()
        self._received = None
        self._received_bytes = 0
        self._disk.remove(self._inbox)

    def install(self) -> None:
        """Make the snapshot just loaded the present one."""
        self._is_stale = True
        self._sending.clear()
        self._disk.replace(self._inbox, self.path)

    def close(self) -> None:
        if self._received is not None:
            self._received.close()
            self._received = None
