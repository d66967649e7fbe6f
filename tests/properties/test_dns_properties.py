"""DNS: no bytes are too odd, and every answer is well-formed, fits, and says what the names say."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from dns_messages import AAAA, ANY, PTR, A, ask, encoded, read
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.base import Names
from agent.dns import wire
from agent.dns.wire import Query
from agent.dns.zone import Zone, reversed_address

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)
NAME = st.lists(LABEL, min_size=1, max_size=3).map(".".join)
ADDRESS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
ADDRESSES = st.lists(ADDRESS.map(str), max_size=80, unique=True).map(tuple)
NAMES = st.dictionaries(NAME, ADDRESSES, max_size=5)
SIZE = st.one_of(st.just(0), st.integers(1, 65_535))
KIND = st.sampled_from([A, AAAA, ANY, PTR, 15, 65])
ID = st.integers(0, 65_535)


def odd_case(name: str, mask: int) -> str:
    return "".join(char.upper() if mask >> place & 1 else char for place, char in enumerate(name))


@given(st.binary(max_size=600), st.booleans())
def test_no_bytes_are_too_odd(raw: bytes, is_header_sound: bool) -> None:
    packet = raw[:2] + b"\1\0\0\1" + raw[6:] if is_header_sound else raw
    zone = Zone([Names(addresses={"web": ("10.0.0.1",)})], lambda _: 0)
    for message in (zone.respond(packet), zone.respond(packet), zone.respond_stream(packet)):
        if isinstance(message, bytes):
            assert message[:2] == packet[:2]
            assert message[2] & 0x80
    wire.is_answer_to(
        Query(id=1, flags=0, name="a", type=A, cls=1, question=b"\1a\0\0\1\0\1"),
        int.from_bytes(packet[:2]),
        packet,
    )


@given(st.data(), NAMES, NAMES)
def test_answers_say_what_the_names_say(
    data: st.DataObject, first: dict[str, tuple[str, ...]], second: dict[str, tuple[str, ...]]
) -> None:
    zone = Zone([Names(addresses=first), Names(addresses=second)], lambda below: below // 2)
    name = data.draw(st.one_of(NAME, *(st.just(known) for known in (*first, *second))), "name")
    kind, size, ident = data.draw(KIND), data.draw(SIZE), data.draw(ID)
    packet = ask(odd_case(name, data.draw(st.integers(0, 2**16))), kind, ident=ident, size=size)
    known = first.get(name, second.get(name))
    message = zone.respond(packet)
    if known is None:
        assert isinstance(message, Query)
        assert message.name == name
        return
    assert isinstance(message, bytes)
    reply = read(message)
    assert len(message) <= min(max(512, size), 4096)
    assert reply.id == ident
    assert reply.rcode == wire.NOERROR
    assert bool(reply.edns_size) == bool(size)
    four = {text for text in known if ip_address(text).version == 4}
    six = set(known) - four
    wanted = {A: four, AAAA: six, ANY: four or six}.get(kind, set())
    assert set(reply.data) <= wanted
    assert len(reply.data) == len(set(reply.data))
    assert reply.is_truncated == (len(reply.data) < len(wanted))
    if reply.is_truncated:
        assert len(message) + 28 > min(max(512, size), 4096)
    firsts = {read(again).data[:1] for again in _repeated(zone, packet, len(wanted))}
    assert firsts == {(text,) for text in wanted}


def _repeated(zone: Zone, packet: bytes, count: int) -> list[bytes]:
    answers = [zone.respond(packet) for _ in range(count)]
    return [answer for answer in answers if isinstance(answer, bytes)]


@given(NAME)
def test_names_survive_the_wire(name: str) -> None:
    assert wire.encode_name(name) == encoded(name)
    query = wire.parse_query(ask(name))
    assert isinstance(query, Query)
    assert query.name == name


@given(ADDRESS)
def test_reversed_addresses_are_read(address: IPv4Address | IPv6Address) -> None:
    assert reversed_address(address.reverse_pointer) == str(address)
