"""What is compressed, read as if it were not: gzip, bzip2, xz, zstd. Bounded: few bytes may stand for many.

What is wrong with the compression is an ``InvalidArgument``: only the disk's own errors are ``OSError``.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from typing import IO, Protocol, cast

from swarmpy.errors import InvalidArgument
from swarmpy.image_limits import (
    IMAGE_INFLATED_FLOOR_BYTES,
    IMAGE_INFLATED_RATIO_MAX,
    IMAGE_READ_BYTES,
    IMAGE_XZ_MEMORY_BYTES_MAX,
    IMAGE_ZSTD_WINDOW_BYTES_MAX,
)
from swarmpy.limits import IMAGE_BYTES_MAX

_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPED = b"\x2a\x4d\x18"
"""Behind a first byte of 0x50 to 0x5f."""
_GZIP_BITS = 31
"""zlib's word for the largest window, with gzip's head and its check sum at the end."""


class _Source(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def decompressed(file: IO[bytes]) -> IO[bytes]:
    """``file`` itself, or a reader of what is compressed in it. ``file`` must be seekable."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(len(_XZ))
    file.seek(0)
    source: _Source
    if start.startswith(_GZIP):
        source = _Gunzip(file)
    elif start.startswith(_BZIP2):
        source = bz2.BZ2File(file)
    elif start.startswith(_XZ):
        source = _Unxz(file)
    elif _is_zstd(start):
        source = _zstd(file)
    else:
        return file
    most = IMAGE_INFLATED_FLOOR_BYTES + size * IMAGE_INFLATED_RATIO_MAX
    return cast("IO[bytes]", _Bounded(source, min(most, IMAGE_BYTES_MAX)))


def _is_zstd(start: bytes) -> bool:
    """Also what begins with a frame to be skipped, as tools that compress in parallel write it."""
    is_skipped = len(start) >= 4 and start[0] >> 4 == 5 and start[1:4] == _ZSTD_SKIPPED
    return is_skipped or start.startswith(_ZSTD)


def _zstd(file: IO[bytes]) -> _Source:
    import zstandard  # few images need it

    decompressor = zstandard.ZstdDecompressor(max_window_size=IMAGE_ZSTD_WINDOW_BYTES_MAX)
    reader = decompressor.stream_reader(file, read_size=IMAGE_READ_BYTES, read_across_frames=True)
    return _Translated(reader, zstandard.ZstdError)


class _Translated:
    """A library's own kind of error as one of those that others have."""

    def __init__(self, source: _Source, kind: type[Exception]) -> None:
        self._source = source
        self._kind = kind

    def read(self, size: int = -1) -> bytes:
        try:
            return self._source.read(size)
        except self._kind as error:
            raise EOFError(str(error)) from None


class _Bounded:
    def __init__(self, source: _Source, most: int) -> None:
        self._source = source
        self._most = self._left = most

    def read(self, size: int = -1) -> bytes:
        wanted = self._left + 1 if size < 0 else min(size, self._left + 1)
        try:
            data = self._source.read(wanted)
        except (EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise InvalidArgument(f"what is compressed here cannot be read: {error}") from None
        except OSError as error:
            if error.errno is not None:
                raise  # the disk's
            raise InvalidArgument(f"what is compressed here cannot be read: {error}") from None
        self._left -= len(data)
        if self._left < 0:
            raise InvalidArgument(
                f"what is compressed here unpacks to more than {self._most} bytes, far more than its size "
                "lets expect: store it without compression"
            )
        return data


class _Gunzip:
    """The standard library's reader takes 8 KiB at a time, this one as much as is asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._stream = zlib.decompressobj(_GZIP_BITS)
        self._packed = b""
        self._is_amid = False

    def read(self, size: int = -1) -> bytes:
        """At least a byte unless it is the end; ``size`` is always given."""
        while size:
            if not self._packed:
                self._packed = self._file.read(IMAGE_READ_BYTES)
            if self._stream.eof and not self._next_member():
                return b""
            if not self._packed and self._is_amid:
                data = self._stream.flush()
                if data or self._stream.eof:
                    return data
                raise EOFError("it ends too early")
            if not self._packed:
                return b""
            data = self._stream.decompress(self._packed, size)
            self._is_amid = True
            self._packed = self._stream.unconsumed_tail or self._stream.unused_data
            if data:
                return data
        return b""

    def _next_member(self) -> bool:
        """Several may follow one another; zeros that fill up the last block are none."""
        self._packed = self._packed.lstrip(b"\0")
        while not self._packed:
            if not (more := self._file.read(IMAGE_READ_BYTES)):
                return False
            self._packed = more.lstrip(b"\0")
        self._stream, self._is_amid = zlib.decompressobj(_GZIP_BITS), False
        return True


class _Unxz:
    """The standard library's reader takes as much memory as the file says that it needs: 4 GiB, perhaps."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._stream = _unxz()
        self._packed = b""

    def read(self, size: int = -1) -> bytes:
        """At least a byte unless it is the end; ``size`` is always given."""
        while size:
            if self._stream.eof and not self._next_stream():
                return b""
            if self._stream.needs_input and not self._packed:
                self._packed = self._file.read(IMAGE_READ_BYTES)
                if not self._packed:
                    raise EOFError("it ends too early")
            data = self._stream.decompress(self._packed, size)
            self._packed = b""
            if data:
                return data
        return b""

    def _next_stream(self) -> bool:
        """Several may follow one another, with zeros between them."""
        packed = self._stream.unused_data.lstrip(b"\0")
        while not packed:
            if not (more := self._file.read(IMAGE_READ_BYTES)):
                return False
            packed = more.lstrip(b"\0")
        self._stream, self._packed = _unxz(), packed
        return True


def _unxz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=IMAGE_XZ_MEMORY_BYTES_MAX)
