"""Typed identifiers and the units of time.

An object id is 25 characters of lower-case base 36, drawn from 17 random bytes (about 129 bits), as in
swarm mode, so that tools which recognise swarm ids recognise ours. Timestamps and durations are plain
integers of nanoseconds everywhere; RFC 3339 exists only at the API's edge.
"""

from __future__ import annotations

from typing import NewType

NodeId = NewType("NodeId", str)
ServiceId = NewType("ServiceId", str)
RevisionId = NewType("RevisionId", str)
TaskId = NewType("TaskId", str)
NetworkId = NewType("NetworkId", str)
SecretId = NewType("SecretId", str)
ConfigId = NewType("ConfigId", str)
VolumeId = NewType("VolumeId", str)
ClusterId = NewType("ClusterId", str)
RaftId = NewType("RaftId", str)
SessionId = NewType("SessionId", str)

Timestamp = NewType("Timestamp", int)
"""Nanoseconds since the epoch; 0 means 'never'."""
Duration = NewType("Duration", int)
"""Nanoseconds."""

ID_BYTES = 17
ID_CHARS = 25
SECOND_NS = 1_000_000_000

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]


def base36(raw: bytes, width: int) -> str:
    """``raw`` as a big-endian number in base 36, padded with zeros or cut to its last ``width`` digits."""
    number = int.from_bytes(raw)
    pairs = []
    for _ in range(0, width, 2):
        number, pair = divmod(number, 36 * 36)
        pairs.append(_PAIRS[pair])
    return "".join(reversed(pairs))[-width:] if width else ""


def make_id(raw: bytes) -> str:
    """An object id from ``ID_BYTES`` bytes of entropy."""
    if len(raw) != ID_BYTES:
        raise ValueError(f"an id is made from {ID_BYTES} bytes, got {len(raw)}")
    return base36(raw, ID_CHARS)
