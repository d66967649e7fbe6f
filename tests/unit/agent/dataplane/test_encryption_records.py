"""Records of the user-space port: what is sealed is opened once, by whom it was sealed for, or not at all."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.linux.encryption.userspace.packets import Passage, target_of
from agent.dataplane.linux.encryption.userspace.records import (
    HEAD,
    PARTIAL_RECORDS_MAX,
    WINDOW_RECORDS,
    Assembly,
    Opener,
    Record,
    Sealer,
    Window,
)

KEY = bytes(range(36))


def datagrams(buffer: bytes, size: int) -> list[bytes]:
    return [buffer[start : start + size] for start in range(0, len(buffer), size)]


def taken(assembly: Assembly, opener: Opener, buffer: bytes, size: int) -> list[bytes]:
    """As the port does: the head says whose key it is."""
    found = [
        opener.open(record.sequence, record.sealed)
        for record in assembly.records(memoryview(buffer), size)
        if (record.number, record.tag) == (7, 1)
    ]
    return [packet for packet in found if packet is not None]


def opener() -> Opener:
    return Opener(KEY, tag=1, number=7)


@given(st.binary(min_size=1, max_size=5_000), st.integers(40, 1_400), st.randoms(use_true_random=False))
def test_what_is_cut_is_joined_in_any_order(packet: bytes, room: int, chance: random.Random) -> None:
    buffer, size = Sealer(KEY, tag=1, number=7).seal(packet, piece_bytes=room)
    pieces = datagrams(buffer, size)
    chance.shuffle(pieces)
    assembly, other = Assembly(), opener()
    found: list[bytes] = []
    for piece in pieces:
        found += taken(assembly, other, piece, size)

    assert found == [packet]


@given(st.lists(st.binary(min_size=1, max_size=900), min_size=1, max_size=5), st.integers(40, 300))
def test_datagrams_come_together_in_one_buffer(packets: list[bytes], room: int) -> None:
    sealer, assembly, other = Sealer(KEY, tag=1, number=7), Assembly(), opener()
    found: list[bytes] = []
    for packet in packets:
        buffer, size = sealer.seal(packet, piece_bytes=room)
        found += taken(assembly, other, buffer, size)

    assert found == packets


def test_nothing_of_the_packet_is_seen_outside() -> None:
    buffer, _ = Sealer(KEY, tag=1, number=7).seal(b"SECRETPATTERN" * 40, piece_bytes=100)

    assert b"SECRETPATTERN" not in buffer


def test_a_record_is_taken_once() -> None:
    buffer, size = Sealer(KEY, tag=1, number=7).seal(b"packet", piece_bytes=100)
    assembly, other = Assembly(), opener()

    assert taken(assembly, other, buffer, size) == [b"packet"]
    assert taken(assembly, other, buffer, size) == []


@given(st.integers(0, 60), st.integers(1, 255))
def test_a_changed_byte_is_noticed_and_spoils_nothing(place: int, change: int) -> None:
    buffer, size = Sealer(KEY, tag=1, number=7).seal(b"packet" * 5, piece_bytes=100)
    place %= len(buffer)
    changed = buffer[:place] + bytes([buffer[place] ^ change]) + buffer[place + 1 :]
    assembly, other = Assembly(), opener()

    assert taken(assembly, other, changed, size) == []
    assert taken(Assembly(), other, buffer, size) == [b"packet" * 5]


@pytest.mark.parametrize(
    "other",
    [
        Opener(bytes(36), tag=1, number=7),
        Opener(KEY, tag=2, number=7),
        Opener(KEY, tag=1, number=8),
        Opener(KEY[:32] + b"salt", tag=1, number=7),
    ],
)
def test_only_who_shares_all_of_it_opens(other: Opener) -> None:
    buffer, size = Sealer(KEY, tag=1, number=7).seal(b"packet", piece_bytes=100)

    assert taken(Assembly(), other, buffer, size) == []


def test_numbers_go_on_where_another_process_stopped() -> None:
    first = Sealer(KEY, tag=1, number=7)
    old, size = first.seal(b"old", piece_bytes=100)
    new, _ = Sealer(KEY, tag=1, number=7, sequence=first.sequence).seal(b"new", piece_bytes=100)
    other = Opener(KEY, tag=1, number=7, highest=1)

    assert taken(Assembly(), other, old, size) == []
    assert taken(Assembly(), other, new, size) == [b"new"]


@given(st.lists(st.integers(1, 3 * WINDOW_RECORDS), max_size=60))
def test_the_window_takes_each_number_once(numbers: list[int]) -> None:
    window, accepted = Window(), []
    for number in numbers:
        if window.is_fresh(number):
            window.take(number)
            accepted.append(number)

    assert len(set(accepted)) == len(accepted)
    newest = max(numbers, default=0)
    assert {number for number in numbers if number > newest - WINDOW_RECORDS} - set(accepted) == set()


def test_pieces_that_never_become_whole_are_forgotten() -> None:
    sealer, assembly = Sealer(KEY, tag=1, number=7), Assembly()
    firsts = []
    for _ in range(PARTIAL_RECORDS_MAX + 1):
        buffer, size = sealer.seal(bytes(200), piece_bytes=150)
        first, second = datagrams(buffer, size)
        assert list(assembly.records(memoryview(first), size)) == []
        firsts.append(second)

    assert list(assembly.records(memoryview(firsts[0]), size)) == []
    whole: list[Record] = list(assembly.records(memoryview(firsts[-1]), size))
    assert [record.sequence for record in whole] == [sealer.sequence]


@given(st.binary(max_size=300), st.integers(HEAD.size + 1, 200))
def test_anything_may_come(data: bytes, size: int) -> None:
    for record in Assembly().records(memoryview(data), size):
        assert opener().open(record.sequence, record.sealed) is None


# --- what may pass


def ipv4(source: bytes, target: bytes, *, protocol: int = 17, port: int = 4790) -> memoryview:
    head = bytes([0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0]) + source + target
    return memoryview(head + b"\x00\x01" + port.to_bytes(2, "big") + bytes(4))


ONE, TWO, THREE = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]), bytes([192, 0, 2, 3])


def test_only_vxlan_between_the_two_nodes_passes() -> None:
    passage = Passage("192.0.2.1", "192.0.2.2", 4790)

    assert passage.has(ipv4(ONE, TWO))
    assert not passage.has(ipv4(THREE, TWO))
    assert not passage.has(ipv4(ONE, THREE))
    assert not passage.has(ipv4(ONE, TWO, port=22))
    assert not passage.has(ipv4(ONE, TWO, protocol=6))
    assert not passage.has(ipv4(ONE, TWO)[:20])
    assert not passage.has(memoryview(b""))


def test_of_ipv6_too() -> None:
    one, two = bytes(15) + b"\1", bytes(15) + b"\2"
    packet = memoryview(bytes([0x60, 0, 0, 0, 0, 8, 17, 64]) + one + two + b"\0\1\x12\xb6" + bytes(4))

    assert Passage("::1", "::2", 4790).has(packet)
    assert not Passage("::2", "::1", 4790).has(packet)
    assert target_of(packet) == two


def test_what_is_no_packet_goes_nowhere() -> None:
    assert target_of(ipv4(ONE, TWO)) == TWO
    assert target_of(memoryview(b"")) == b""
    assert target_of(memoryview(b"\x45")) == b""
