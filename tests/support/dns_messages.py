"""DNS messages as a client sees them: queries written and answers read, apart from the code under test."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import NamedTuple

A, PTR, MX, TXT, AAAA, OPT, ANY = 1, 12, 15, 16, 28, 41, 255


def encoded(name: str) -> bytes:
    parts = [part.encode() for part in name.split(".") if part]
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


def ask(name: str, kind: int = A, *, ident: int = 4711, size: int = 0, version: int = 0) -> bytes:
    """A query; with a ``size``, one that has an OPT record."""
    raw = struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 1 if size else 0)
    raw += encoded(name) + struct.pack("!HH", kind, 1)
    return raw + (b"\0" + struct.pack("!HHIH", OPT, size, version << 16, 0) if size else b"")


class Record(NamedTuple):
    name: str
    type: int
    ttl_s: int
    data: str


class Reply(NamedTuple):
    id: int
    flags: int
    rcode: int
    question: tuple[str, int]
    records: tuple[Record, ...]
    edns_size: int

    @property
    def is_truncated(self) -> bool:
        return bool(self.flags & 0x0200)

    @property
    def data(self) -> tuple[str, ...]:
        return tuple(record.data for record in self.records)


def read(packet: bytes) -> Reply:
    """The whole message; AssertionError or IndexError unless it is well-formed to the last byte."""
    ident, flags, questions, answers, authority, additional = struct.unpack_from("!HHHHHH", packet)
    assert flags & 0x8000
    assert (questions, authority) == (1, 0)
    place, name = _name(packet, 12)
    (kind, _) = struct.unpack_from("!HH", packet, place)
    place += 4
    records, edns_size, extended = [], 0, 0
    for number in range(answers + additional):
        place, owner = _name(packet, place)
        found, cls, ttl, length = struct.unpack_from("!HHIH", packet, place)
        place += 10
        data = packet[place : place + length]
        assert len(data) == length
        if found == OPT:
            assert number == answers
            assert owner == ""
            edns_size, extended = cls, ttl >> 24
        else:
            text = _name(packet, place)[1] if found == PTR else str(ip_address(data))
            records.append(Record(owner, found, ttl, text))
        place += length
    assert place == len(packet)
    assert len(records) == answers
    return Reply(ident, flags, extended << 4 | flags & 15, (name, kind), tuple(records), edns_size)


def _name(packet: bytes, place: int) -> tuple[int, str]:
    labels: list[str] = []
    end = 0
    while packet[place]:
        if packet[place] >= 0xC0:
            end = end or place + 2
            target = (packet[place] & 0x3F) << 8 | packet[place + 1]
            assert target < place
            place = target
            continue
        labels.append(packet[place + 1 : place + 1 + packet[place]].decode())
        place += 1 + packet[place]
    return end or place + 1, ".".join(labels)
