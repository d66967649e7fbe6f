"""DNS messages on the wire: queries read, answers written (RFC 1035, 3596, 6891). Pure.

Reads any bytes without raising. A question's name is kept as it came, since the answer repeats it to the
letter; compared are names in lower case. Names in answers point back to the question, so a record of an
address has a fixed size and answers can be cut and turned without writing them anew. What a query holds
beside its question and its OPT record is stepped over, never interpreted.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from agent.dns.limits import DNS_UDP_BYTES_MAX
from swarmpy.model.value import Value

A, PTR, AAAA, OPT, ANY = 1, 12, 28, 41, 255
CLASS_IN, CLASS_ANY = 1, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16

HEADER_BYTES = 12
PLAIN_UDP_BYTES = 512
"""What every client takes over UDP."""

_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_TWO = struct.Struct("!HH")
_RESPONSE, _OPCODES, _AUTHORITATIVE, _TRUNCATED = 0x8000, 0x7800, 0x0400, 0x0200
_RECURSION_DESIRED, _RECURSION_AVAILABLE, _CHECKING_DISABLED = 0x0100, 0x0080, 0x0010
_RCODES = 0x000F
_ECHOED = _OPCODES | _RECURSION_DESIRED | _CHECKING_DISABLED
_DNSSEC_OK = 0x8000
_LABEL_BYTES_MAX, _NAME_BYTES_MAX = 63, 255
_POINTER = 0xC0
_TO_QUESTION = struct.pack("!H", _POINTER << 8 | HEADER_BYTES)


class Edns(Value, frozen=True, kw_only=True):
    """The OPT record of a query. ``size``: what the client takes over UDP."""

    size: int
    version: int
    is_dnssec_ok: bool


class Query(Value, frozen=True, kw_only=True):
    """A well-formed query with one question. ``name``: in lower case, without the last dot.

    A dot inside a label is written ``\\.``, so that such a name equals no other.
    """

    id: int
    flags: int
    name: str
    type: int
    cls: int
    question: bytes
    edns: Edns | None = None


class Refusal(Value, frozen=True, kw_only=True):
    """A message that gets this answer without being understood."""

    message: bytes


def parse_query(packet: bytes) -> Query | Refusal | None:
    """None: not to be answered at all, since it is too short to be a query, or is itself an answer."""
    if len(packet) < HEADER_BYTES:
        return None
    ident, flags, questions, *others = _HEADER.unpack_from(packet)
    if flags & _RESPONSE:
        return None
    if flags & _OPCODES:
        return _refusal(ident, flags, NOTIMP)
    end = _question_end(packet) if questions == 1 else 0
    if not end:
        return _refusal(ident, flags, FORMERR)
    found = _find_opt(packet, end, sum(others))
    if found is None:
        return _refusal(ident, flags, FORMERR)
    kind, cls = _TWO.unpack_from(packet, end - 4)
    return Query(
        id=ident,
        flags=flags,
        name=_text(packet[HEADER_BYTES : end - 4]),
        type=kind,
        cls=cls,
        question=packet[HEADER_BYTES:end],
        edns=found[0] if found else None,
    )


def _refusal(ident: int, flags: int, rcode: int) -> Refusal:
    return Refusal(message=_HEADER.pack(ident, _RESPONSE | flags & _ECHOED | rcode, 0, 0, 0, 0))


def _question_end(packet: bytes) -> int:
    """Where the first question ends; 0 if it is damaged. Its name cannot be compressed."""
    place = HEADER_BYTES
    while place < len(packet):
        length = packet[place]
        place += 1 + length
        if length > _LABEL_BYTES_MAX or place - HEADER_BYTES > _NAME_BYTES_MAX:
            return 0
        if not length:
            return place + 4 if place + 4 <= len(packet) else 0
    return 0


def _find_opt(packet: bytes, place: int, count: int) -> list[Edns] | None:
    """The OPT record among the records from ``place`` on; None if they are damaged or have two of them."""
    found: list[Edns] = []
    for _ in range(count):
        while place < len(packet) and 0 < packet[place] <= _LABEL_BYTES_MAX:
            place += 1 + packet[place]
        if place >= len(packet):
            return None
        place += 1 if packet[place] == 0 else 2
        if place + _RECORD.size > len(packet):
            return None
        kind, size, extra, length = _RECORD.unpack_from(packet, place)
        place += _RECORD.size + length
        if place > len(packet):
            return None
        if kind == OPT:
            version, is_dnssec_ok = extra >> 16 & 0xFF, bool(extra & _DNSSEC_OK)
            found.append(Edns(size=size, version=version, is_dnssec_ok=is_dnssec_ok))
    return found if len(found) <= 1 else None


def _text(name: bytes) -> str:
    labels: list[bytes] = []
    place = 0
    while name[place]:
        labels.append(name[place + 1 : place + 1 + name[place]].replace(b".", b"\\."))
        place += 1 + name[place]
    return b".".join(labels).lower().decode("latin-1")


# --- answers


def room(query: Query) -> int:
    """The largest answer that the client takes over UDP."""
    if query.edns is None:
        return PLAIN_UDP_BYTES
    return min(max(query.edns.size, PLAIN_UDP_BYTES), DNS_UDP_BYTES_MAX)


def encode_name(name: str) -> bytes:
    """``name`` without compression; ValueError if it cannot be a name."""
    out = bytearray()
    for label in name.encode("latin-1").split(b"."):
        if not 0 < len(label) <= _LABEL_BYTES_MAX:
            raise ValueError(f"{name!r} is no name: a part of it is empty or longer than 63 characters")
        out += bytes((len(label),)) + label
    if len(out) >= _NAME_BYTES_MAX:
        raise ValueError(f"{name!r} is too long for a name")
    return bytes(out) + b"\0"


def record(kind: int, ttl_s: int, data: bytes) -> bytes:
    """A record of the name that was asked for."""
    return _TO_QUESTION + _RECORD.pack(kind, CLASS_IN, ttl_s, len(data)) + data


def opening(query: Query, *, answers: int, rcode: int = NOERROR, is_truncated: bool = False) -> bytes:
    """The answer up to its records, without the two bytes of the id. ``closing`` follows the records."""
    flags = _RESPONSE | _RECURSION_AVAILABLE | query.flags & _ECHOED | rcode & _RCODES
    if rcode == NOERROR:
        flags |= _AUTHORITATIVE
    if is_truncated:
        flags |= _TRUNCATED
    additional = 0 if query.edns is None else 1
    return struct.pack("!HHHHH", flags, 1, answers, 0, additional) + query.question


def closing(query: Query, *, rcode: int = NOERROR) -> bytes:
    """The OPT record, if the query had one."""
    if query.edns is None:
        return b""
    extra = (rcode >> 4) << 24 | (_DNSSEC_OK if query.edns.is_dnssec_ok else 0)
    return b"\0" + _RECORD.pack(OPT, DNS_UDP_BYTES_MAX, extra, 0)


def failure(query: Query, rcode: int) -> bytes:
    """An answer without records."""
    return query.id.to_bytes(2) + opening(query, answers=0, rcode=rcode) + closing(query, rcode=rcode)


def fitting(query: Query, records: Sequence[bytes], size: int) -> int:
    """How many of ``records``, all of one length, fit into an answer of ``size`` bytes."""
    if not records:
        return 0
    taken = HEADER_BYTES + len(query.question) + len(closing(query))
    return min(len(records), (size - taken) // len(records[0]))


# --- answers of others


def is_answer_to(query: Query, ident: int, packet: bytes) -> bool:
    """Whether ``packet`` answers ``query`` as it was passed on under the id ``ident``.

    A server that failed may leave the question out.
    """
    if len(packet) < HEADER_BYTES:
        return False
    found, flags, questions, *_ = _HEADER.unpack_from(packet)
    if found != ident or not flags & _RESPONSE:
        return False
    if questions == 0:
        return bool(flags & _RCODES)
    if questions != 1:
        return False
    end = _question_end(packet)
    if not end or packet[end - 4 : end] != query.question[-4:]:
        return False
    return packet[HEADER_BYTES : end - 4].lower() == query.question[:-4].lower()


def rcode_of(packet: bytes) -> int:
    """Of a message whose header is whole."""
    return packet[3] & _RCODES
