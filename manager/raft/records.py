"""The frame that log, snapshot and backup files share: magic, kind, length, CRC, payload.

A frame is valid or it is not; what an invalid one means (a torn tail, damage) its reader decides. The CRC
covers kind and length too, so that a flipped length is not believed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"\xa7R"
_HEAD = struct.Struct("<2sBII")
_CHECKED = struct.Struct("<BI")
HEAD_BYTES = _HEAD.size
_KINDS_MAX = 32


class Kind(IntEnum):
    IDENTITY = 1
    ENTRY = 2
    TRUNCATE = 3
    TERM = 4
    COMMIT = 5
    SYNCED = 6
    SNAPSHOT_HEAD = 16
    SNAPSHOT_SLICE = 17
    SNAPSHOT_END = 18
    BACKUP_HEAD = 24
    BACKUP_SLICE = 25
    BACKUP_END = 26


@dataclass(frozen=True, slots=True)
class Record:
    kind: int
    payload: bytes
    end: int
    """Offset of the byte after this record."""


def pack(kind: Kind, payload: bytes) -> bytes:
    """One frame."""
    return _HEAD.pack(MAGIC, kind, len(payload), _checksum(kind, payload)) + payload


def parse(data: bytes, offset: int) -> Record | None:
    """The valid record that starts at ``offset``, or None."""
    if offset + HEAD_BYTES > len(data):
        return None
    magic, kind, length, crc = _HEAD.unpack_from(data, offset)
    end = offset + HEAD_BYTES + length
    if magic != MAGIC or kind > _KINDS_MAX or end > len(data):
        return None
    payload = bytes(data[offset + HEAD_BYTES : end])
    return Record(kind, payload, end) if _checksum(kind, payload) == crc else None


def length_at(data: bytes, offset: int) -> int | None:
    """How many bytes the record at ``offset`` claims, or None if its head is not all there.

    Raises ValueError if no record starts there.
    """
    if offset + HEAD_BYTES > len(data):
        return None
    magic, _, length, _ = _HEAD.unpack_from(data, offset)
    if magic != MAGIC:
        raise ValueError("no record starts here")
    return HEAD_BYTES + int(length)


def scan(data: bytes, offset: int = 0) -> Iterator[Record]:
    """The valid records from ``offset`` on, up to the first that is not valid."""
    while (record := parse(data, offset)) is not None:
        yield record
        offset = record.end


def find_valid(data: bytes, offset: int) -> int | None:
    """Where the next valid record at or after ``offset`` starts."""
    while (offset := data.find(MAGIC, offset)) >= 0:
        if parse(data, offset) is not None:
            return offset
        offset += 1
    return None


def _checksum(kind: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_CHECKED.pack(kind, len(payload))))
