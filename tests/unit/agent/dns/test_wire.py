"""DNS messages: what is read of a query, what is refused, what counts as an answer to it."""

from __future__ import annotations

import struct

import pytest

from agent.dns import wire
from agent.dns.limits import DNS_UDP_BYTES_MAX
from agent.dns.wire import Query, Refusal


def packet(
    name: bytes = b"\3Web\7example\0",
    *,
    kind: int = wire.A,
    flags: int = 0x0100,
    counts: tuple[int, int, int, int] = (1, 0, 0, 0),
    rest: bytes = b"",
) -> bytes:
    return struct.pack("!HHHHHH", 0x1234, flags, *counts) + name + struct.pack("!HH", kind, 1) + rest


def opt(size: int, *, version: int = 0, flags: int = 0) -> bytes:
    return b"\0" + struct.pack("!HHIH", wire.OPT, size, version << 16 | flags, 0)


def parsed(raw: bytes) -> Query:
    query = wire.parse_query(raw)
    assert isinstance(query, Query)
    return query


def test_a_query_is_read() -> None:
    query = parsed(packet(kind=wire.AAAA))
    assert (query.id, query.name, query.type, query.cls) == (0x1234, "web.example", wire.AAAA, wire.CLASS_IN)
    assert query.edns is None
    assert query.question == b"\3Web\7example\0\0\x1c\0\1"  # as it came: clients compare it


def test_the_root_is_a_name() -> None:
    assert parsed(packet(b"\0")).name == ""


def test_a_dot_inside_a_label_is_no_separator() -> None:
    assert parsed(packet(b"\5a.b.c\0")).name == "a\\.b\\.c"


def test_the_opt_record_is_found_behind_others() -> None:
    other = b"\xc0\x0c" + struct.pack("!HHIH", 250, 1, 0, 3) + b"abc"
    query = parsed(packet(counts=(1, 0, 0, 2), rest=other + opt(1232, flags=0x8000)))
    assert query.edns is not None
    assert (query.edns.size, query.edns.version, query.edns.is_dnssec_ok) == (1232, 0, True)


@pytest.mark.parametrize(("size", "room"), [(0, 512), (511, 512), (1232, 1232), (65_535, DNS_UDP_BYTES_MAX)])
def test_the_client_says_what_it_takes(size: int, room: int) -> None:
    assert wire.room(parsed(packet(counts=(1, 0, 0, 1), rest=opt(size)))) == room


def test_without_edns_it_takes_512_bytes() -> None:
    assert wire.room(parsed(packet())) == 512


@pytest.mark.parametrize(
    ("raw", "rcode"),
    [
        (packet(flags=0x2900), wire.NOTIMP),  # an update
        (packet(counts=(0, 0, 0, 0)), wire.FORMERR),
        (packet(counts=(2, 0, 0, 0)), wire.FORMERR),
        (packet()[:-1], wire.FORMERR),
        (packet(b"\xc0\x0c"), wire.FORMERR),  # a pointer to itself
        (packet(b"\x40" + b"a" * 64 + b"\0"), wire.FORMERR),
        (packet((b"\x3f" + b"a" * 63) * 4 + b"\0"), wire.FORMERR),  # 257 bytes
        (packet(counts=(1, 0, 0, 1)), wire.FORMERR),  # a record that is not there
        (packet(counts=(1, 0, 0, 1), rest=opt(512)[:-1]), wire.FORMERR),
        (packet(counts=(1, 0, 0, 2), rest=opt(512) * 2), wire.FORMERR),
    ],
)
def test_damaged_queries_are_refused(raw: bytes, rcode: int) -> None:
    refusal = wire.parse_query(raw)
    assert isinstance(refusal, Refusal)
    assert refusal.message[:2] == raw[:2]
    assert refusal.message[2] & 0x80
    assert wire.rcode_of(refusal.message) == rcode
    assert refusal.message[4:] == bytes(8)


@pytest.mark.parametrize("raw", [b"", packet()[:11], packet(flags=0x8180)])
def test_what_is_no_query_has_no_answer(raw: bytes) -> None:
    assert wire.parse_query(raw) is None


def answer_to(query: Query, ident: int, *, rcode: int = 0, question: bytes | None = None) -> bytes:
    shown = query.question if question is None else question
    return struct.pack("!HHHHHH", ident, 0x8180 | rcode, 1 if shown else 0, 0, 0, 0) + shown


def test_only_an_answer_to_the_question_counts() -> None:
    query = parsed(packet())
    assert wire.is_answer_to(query, 7, answer_to(query, 7))
    assert wire.is_answer_to(query, 7, answer_to(query, 7, question=b"\3wEB\7EXAMPLE\0\0\1\0\1"))
    assert wire.is_answer_to(query, 7, answer_to(query, 7, rcode=wire.SERVFAIL, question=b""))
    assert not wire.is_answer_to(query, 7, answer_to(query, 8))
    assert not wire.is_answer_to(query, 7, answer_to(query, 7, question=b""))
    assert not wire.is_answer_to(query, 7, answer_to(query, 7, question=b"\3wex\7example\0\0\1\0\1"))
    assert not wire.is_answer_to(query, 7, answer_to(query, 7, question=b"\3web\7example\0\0\x1c\0\1"))
    assert not wire.is_answer_to(query, 7, b"\0\7" + packet()[2:])
    assert not wire.is_answer_to(query, 7, answer_to(query, 7)[:11])


@pytest.mark.parametrize("name", ["", "a..b", "a" * 64, ".".join(["a" * 60] * 5)])
def test_what_is_no_name_is_not_written(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        wire.encode_name(name)
