"""Records of the user-space port: sealed packets, cut into datagrams, taken once. Pure.

A record is one packet, up to 64 KiB of many TCP segments where the kernel hands them over whole, sealed with
AES-256-GCM. Its nonce is the key's salt and a sequence number that is sent with it, never used twice with a
key. It is cut into datagrams of one size, each with this head:

    version 1 B · tag 1 B · index 1 B · count 1 B · sender's number 4 B · sequence number 8 B

The receiver joins the pieces, opens the record, and only then notes its number as taken; a number that was
taken, or is older than the window, is refused. What is not whole is forgotten when newer things need the
room.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.dataplane.linux.encryption.keys import KEY_BYTES

VERSION: Final = 1
HEAD: Final = struct.Struct(">BBBBIQ")
SEAL_BYTES: Final = 16
WINDOW_RECORDS: Final = 4096
SEQUENCE_MAX: Final = (1 << 64) - 1
PIECES_MAX: Final = 255
PARTIAL_RECORDS_MAX: Final = 256
"""Records that wait for pieces, of all senders together."""

_ASSOCIATED = struct.Struct(">BBIQ")

Buffer = bytes | bytearray | memoryview


class Sealer:
    """Seals for one receiver with one key. ``sequence``: the number used last."""

    def __init__(self, key: bytes, *, tag: int, number: int, sequence: int = 0) -> None:
        self._aead = AESGCM(key[:KEY_BYTES])
        self._salt = key[KEY_BYTES:]
        self.tag = tag
        self._number = number
        self.sequence = sequence

    def seal(self, packet: Buffer, *, piece_bytes: int) -> tuple[bytes, int]:
        """The datagrams, one after the other in one buffer, and the size of each but the last."""
        assert self.sequence < SEQUENCE_MAX, "a key has come to its end"
        self.sequence += 1
        sequence = self.sequence
        nonce = self._salt + sequence.to_bytes(8, "big")
        associated = _ASSOCIATED.pack(VERSION, self.tag, self._number, sequence)
        sealed = self._aead.encrypt(nonce, packet, associated)
        size = len(sealed)
        if size <= piece_bytes:
            return HEAD.pack(VERSION, self.tag, 0, 1, self._number, sequence) + sealed, HEAD.size + size
        count = -(-size // piece_bytes)
        assert count <= PIECES_MAX, "packets are at most 64 KiB"
        parts = []
        for index in range(count):
            parts.append(HEAD.pack(VERSION, self.tag, index, count, self._number, sequence))
            parts.append(sealed[index * piece_bytes : (index + 1) * piece_bytes])
        return b"".join(parts), HEAD.size + piece_bytes


class Window:
    """Sequence numbers that were taken: all up to ``highest - WINDOW_RECORDS``, and those remembered."""

    def __init__(self, highest: int = 0) -> None:
        """All up to ``highest`` count as taken."""
        self.highest = highest
        self._taken = (1 << WINDOW_RECORDS) - 1
        """Bit n: ``highest - n``."""

    def is_fresh(self, sequence: int) -> bool:
        if sequence > self.highest:
            return True
        age = self.highest - sequence
        return age < WINDOW_RECORDS and not self._taken >> age & 1

    def take(self, sequence: int) -> None:
        if sequence > self.highest:
            step = min(sequence - self.highest, WINDOW_RECORDS)
            self._taken = (self._taken << step | 1) & ((1 << WINDOW_RECORDS) - 1)
            self.highest = sequence
        else:
            self._taken |= 1 << (self.highest - sequence)


class Opener:
    """Opens what one sender seals for us with one key."""

    def __init__(self, key: bytes, *, tag: int, number: int, highest: int = 0) -> None:
        self._aead = AESGCM(key[:KEY_BYTES])
        self._salt = key[KEY_BYTES:]
        self.tag = tag
        self._number = number
        self.window = Window(highest)

    def open(self, sequence: int, sealed: Buffer) -> bytes | None:
        """The packet; None if it was taken before, is too old, or was not sealed with this key."""
        if not self.window.is_fresh(sequence):
            return None
        nonce = self._salt + sequence.to_bytes(8, "big")
        associated = _ASSOCIATED.pack(VERSION, self.tag, self._number, sequence)
        try:
            packet = self._aead.decrypt(nonce, sealed, associated)
        except InvalidTag:
            return None
        self.window.take(sequence)
        return packet


class Record(NamedTuple):
    number: int
    tag: int
    sequence: int
    sealed: Buffer


_Partial = dict[int, bytes]


class Assembly:
    """Joins datagrams to records."""

    def __init__(self) -> None:
        self._partial: dict[tuple[int, int, int, int], _Partial] = {}

    def records(self, buffer: memoryview, size: int) -> Iterator[Record]:
        """Of datagrams that came in one buffer, each but the last of ``size`` bytes. Views end with it."""
        offset, end = 0, len(buffer)
        while end - offset > HEAD.size:
            version, tag, index, count, number, sequence = HEAD.unpack_from(buffer, offset)
            last = min(offset + size, end)
            if version != VERSION or index >= count:
                offset = last
            elif count == 1:
                yield Record(number, tag, sequence, buffer[offset + HEAD.size : last])
                offset = last
            elif (
                index == 0
                and offset + (count - 1) * size + HEAD.size < end
                and _is_whole(buffer, offset, size)
            ):
                stop = min(offset + count * size, end)
                pieces = [buffer[at + HEAD.size : min(at + size, stop)] for at in range(offset, stop, size)]
                yield Record(number, tag, sequence, b"".join(pieces))
                offset = stop
            else:
                piece = bytes(buffer[offset + HEAD.size : last])
                sealed = self._add((number, tag, sequence, count), index, piece)
                if sealed is not None:
                    yield Record(number, tag, sequence, sealed)
                offset = last

    def _add(self, key: tuple[int, int, int, int], index: int, piece: bytes) -> bytes | None:
        partial = self._partial.get(key)
        if partial is None:
            if len(self._partial) >= PARTIAL_RECORDS_MAX:
                del self._partial[next(iter(self._partial))]
            partial = self._partial[key] = {}
        partial[index] = piece
        count = key[3]
        if len(partial) < count:
            return None
        del self._partial[key]
        return b"".join(partial[position] for position in range(count))


def _is_whole(buffer: memoryview, offset: int, size: int) -> bool:
    """Whether the record that begins here goes on to its end without a gap."""
    version, tag, _, count, number, sequence = HEAD.unpack_from(buffer, offset)
    last = offset + (count - 1) * size
    return HEAD.unpack_from(buffer, last) == (version, tag, count - 1, count, number, sequence)
