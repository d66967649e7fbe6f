"""The snapshot file: a head (last two entries, members), the state's slices, an end that counts them.

A snapshot is written to a file of its own and renamed over the present one when it is durable and known to be
whole. Slices are sealed one by one; the head is not, since it holds nothing of the state.
On the wire the same frames travel in the clear, because every manager seals with its own key.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from manager.raft.codec import Entry
from manager.raft.proposer import Member
from manager.raft.records import Kind, length_at, pack, parse
from manager.raft.sealing import Sealer
from swarmpy.errors import Corrupt
from swarmpy.limits import RAFT_SNAPSHOT_CHUNK_BYTES
from swarmpy.pb import raft_pb2 as pb
from swarmpy.runtime import Disk, ReadFile

T = TypeVar("T")

Frame = tuple[Kind, bytes]
"""A record in the clear."""


@dataclass(frozen=True, kw_only=True)
class SnapshotHead:
    """Where in the log the state stands, and who the members were there."""

    last: Entry
    previous: Entry
    members: tuple[Member, ...]
    removed: tuple[str, ...]


def frames(head: SnapshotHead, slices: Iterable[bytes]) -> Iterator[Frame]:
    """All records of a snapshot."""
    yield head_frame(head)
    count = 0
    for part in slices:
        count += 1
        yield Kind.SNAPSHOT_SLICE, part
    yield end_frame(count)


def head_frame(head: SnapshotHead) -> Frame:
    return Kind.SNAPSHOT_HEAD, _encode_head(head)


def end_frame(slices: int) -> Frame:
    return Kind.SNAPSHOT_END, pb.RaftSnapshotEnd(slices=slices).SerializeToString()


def seal_frame(frame: Frame, sealer: Sealer) -> bytes:
    """The frame as it stands in the file."""
    kind, payload = frame
    return pack(kind, sealer.seal(payload) if kind == Kind.SNAPSHOT_SLICE else payload)


def write(disk: Disk, path: Path, content: Iterable[Frame], sealer: Sealer) -> None:
    """Write durably to ``path``, which nobody reads yet. May run in a thread; raises OSError."""
    disk.remove(path)
    file = disk.append(path)
    try:
        for frame in content:
            file.write(seal_frame(frame, sealer))
        file.sync()
    except OSError:
        file.close()
        disk.remove(path)
        raise
    file.close()


def read(disk: Disk, path: Path, sealer: Sealer) -> Generator[Frame]:
    """The records of a snapshot in the clear, up to its end; raises ``Corrupt`` where it is damaged."""
    file = disk.open(path)
    try:
        yield from _read(file, path, sealer)
    finally:
        file.close()


def read_head(disk: Disk, path: Path, sealer: Sealer) -> SnapshotHead:
    for kind, payload in read(disk, path, sealer):
        if kind == Kind.SNAPSHOT_HEAD:
            return decode_head(payload)
        break
    raise Corrupt(f"{path} is not a raft snapshot")


def verify(disk: Disk, path: Path, sealer: Sealer) -> SnapshotHead:
    """Read the whole file; raises ``Corrupt`` unless it is complete and undamaged."""
    head: SnapshotHead | None = None
    slices = 0
    for kind, payload in read(disk, path, sealer):
        if kind == Kind.SNAPSHOT_HEAD:
            head = decode_head(payload)
        elif kind == Kind.SNAPSHOT_SLICE:
            slices += 1
        elif pb.RaftSnapshotEnd.FromString(payload).slices != slices:
            raise Corrupt(f"{path} lacks some of its slices")
    if head is None:
        raise Corrupt(f"{path} is not a raft snapshot")
    return head


def load(
    disk: Disk,
    path: Path,
    sealer: Sealer,
    decode: Callable[[Iterable[bytes]], T],
    *,
    rest: Callable[[], None] = lambda: None,
) -> tuple[SnapshotHead, T]:
    """Head and decoded state, read once; ``Corrupt`` unless all of it is there and undamaged.

    May run in a thread: ``rest`` is called after each slice.
    """
    content = read(disk, path, sealer)
    with closing(content):
        kind, payload = next(content)
        if kind != Kind.SNAPSHOT_HEAD:
            raise Corrupt(f"{path} is not a raft snapshot")
        slices = _counted(content, path, rest)
        state = decode(slices)
        for _ in slices:
            raise Corrupt(f"{path} holds more than its state")
        return decode_head(payload), state


def _counted(content: Iterator[Frame], path: Path, rest: Callable[[], None]) -> Iterator[bytes]:
    count = 0
    for kind, payload in content:
        if kind == Kind.SNAPSHOT_SLICE:
            count += 1
            yield payload
            rest()
        elif kind == Kind.SNAPSHOT_HEAD or pb.RaftSnapshotEnd.FromString(payload).slices != count:
            raise Corrupt(f"{path} lacks some of its slices")


def slices_of(disk: Disk, path: Path, sealer: Sealer) -> Iterator[bytes]:
    """The state's slices."""
    return (payload for kind, payload in read(disk, path, sealer) if kind == Kind.SNAPSHOT_SLICE)


def decode_head(payload: bytes) -> SnapshotHead:
    message = pb.RaftSnapshotHead.FromString(payload)
    return SnapshotHead(
        last=(message.last.command, message.last.index, message.last.term),
        previous=(message.previous.command, message.previous.index, message.previous.term),
        members=tuple(Member(raft_id=m.raft_id, address=m.address) for m in message.members),
        removed=tuple(message.removed),
    )


def _encode_head(head: SnapshotHead) -> bytes:
    def entry(value: Entry) -> pb.RaftEntry:
        return pb.RaftEntry(command=value[0], index=value[1], term=value[2])

    return pb.RaftSnapshotHead(
        last=entry(head.last),
        previous=entry(head.previous),
        members=[pb.RaftMember(raft_id=m.raft_id, address=m.address) for m in head.members],
        removed=head.removed,
    ).SerializeToString()


def _read(file: ReadFile, path: Path, sealer: Sealer) -> Iterator[Frame]:
    data, start, offset = b"", 0, 0
    while True:
        while (record := parse(data, start)) is None:
            data, start = data[start:], 0
            more = file.read(_missing_bytes(data, path, offset))
            if not more:
                raise Corrupt(f"{path} is damaged or ends early at byte {offset}")
            data += more
        offset += record.end - start
        start = record.end
        payload = record.payload
        if record.kind == Kind.SNAPSHOT_SLICE:
            try:
                payload = sealer.open(payload)
            except Corrupt as error:
                raise Corrupt(f"{path} can't be opened before byte {offset}: {error}") from error
        yield Kind(record.kind), payload
        if record.kind == Kind.SNAPSHOT_END:
            if start < len(data) or file.read(1):
                raise Corrupt(f"{path} goes on after its end at byte {offset}")
            return


def _missing_bytes(data: bytes, path: Path, offset: int) -> int:
    """How much to read to complete the record that ``data`` begins with."""
    try:
        length = length_at(data, 0)
    except ValueError as error:
        raise Corrupt(f"{path} is damaged at byte {offset}") from error
    if length is None:
        return RAFT_SNAPSHOT_CHUNK_BYTES
    if length <= len(data):
        raise Corrupt(f"{path} is damaged at byte {offset}")
    return max(length - len(data), RAFT_SNAPSHOT_CHUNK_BYTES)
