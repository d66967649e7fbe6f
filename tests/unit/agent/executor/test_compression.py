"""Reading what is compressed: every kind, in any pieces; what is cut off, damaged or far too much."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent.executor.images import compression
from agent.executor.images.compression import decompressed
from swarmpy.errors import InvalidArgument

KINDS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
DATA = b"".join(f"line {number}\n".encode() for number in range(3_000)) + os.urandom(3_000)


def read(data: bytes, size: int = 10_240) -> bytes:
    reader = decompressed(io.BytesIO(data))
    return b"".join(iter(lambda: reader.read(size), b""))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "IMAGE_READ_BYTES", 100)
    packed = KINDS[kind](DATA)
    assert read(packed) == DATA
    assert read(packed + KINDS[kind](b"more")) == DATA + b"more"
    for end in (len(packed) - 1, len(packed) // 2):
        if kind == "zstd":
            continue  # its library takes that for the end: digests tell
        with pytest.raises(InvalidArgument, match="what is compressed here cannot be read"):
            read(packed[:end])
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    with pytest.raises(InvalidArgument, match="what is compressed here cannot be read"):
        read(bytes(damaged))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_let_off_in_part_only(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "IMAGE_INFLATED_FLOOR_BYTES", 10_000)
    monkeypatch.setattr(compression, "IMAGE_INFLATED_RATIO_MAX", 2)
    packed = KINDS[kind](bytes(1_000_000))
    reader, got = decompressed(io.BytesIO(packed)), []

    def exhaust() -> None:
        while data := reader.read(1 << 12):
            got.append(len(data))

    with pytest.raises(InvalidArgument, match="far more than its size lets expect"):
        exhaust()
    assert sum(got) <= 10_000 + 2 * len(packed)
    assert len(read(KINDS[kind](bytes(9_000)))) == 9_000


def test_the_disks_errors_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "IMAGE_READ_BYTES", 1_000)

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().read(size)

    for kind in ("gzip", "bzip2", "xz", "zstd"):
        reader = decompressed(Broken(KINDS[kind](os.urandom(50_000))))
        with pytest.raises(OSError, match="Input/output error"):
            all(iter(lambda reader=reader: reader.read(1 << 16), b""))  # type: ignore[misc]


@given(st.lists(st.binary(max_size=300), max_size=4), st.integers(1, 50), st.integers(0, 40))
def test_members_in_a_row(parts: list[bytes], size: int, zeros: int) -> None:
    packed = gzip.compress(b"") + b"".join(gzip.compress(part) for part in parts) + bytes(zeros)
    assert read(packed, size) == b"".join(parts)
    stream = zlib.decompressobj(31)
    assert stream.decompress(packed) == b""


def test_memory_for_xz_is_bounded() -> None:
    """A file says itself how much its reader needs: here 4 GiB, as soon as there is so much in it."""
    packed = bytearray(lzma.compress(DATA))
    size = (packed[12] + 1) * 4
    place = packed.index(b"\x21\x01", 14, 12 + size) + 2
    packed[place] = 40
    packed[12 + size - 4 : 12 + size] = zlib.crc32(packed[12 : 12 + size - 4]).to_bytes(4, "little")
    with pytest.raises(InvalidArgument, match="Memory usage limit"):
        read(bytes(packed))
    strongest = lzma.compress(DATA, preset=9 | lzma.PRESET_EXTREME)
    assert read(strongest + bytes(8) + strongest) == 2 * DATA


def test_frames_of_zstd_that_are_to_be_skipped() -> None:
    """Before, between and behind the others."""
    packed = KINDS["zstd"]
    for number in (0x50, 0x5F):
        skipped = bytes((number, 0x2A, 0x4D, 0x18)) + (5).to_bytes(4, "little") + b"hello"
        assert read(skipped + packed(DATA) + skipped + packed(b"more") + skipped) == DATA + b"more"
