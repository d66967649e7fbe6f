"""What a tar says of its members, with bounds: the standard library keeps in memory as much as it is told.

An archive may announce names and attributes of gigabytes, attributes for all members again and again, and
sizes below zero, at which a reader goes back and never ends.
"""

from __future__ import annotations

import itertools
import tarfile
from typing import IO, Protocol, cast

from swarmpy.errors import InvalidArgument
from swarmpy.image_limits import IMAGE_HEADER_BYTES_MAX, IMAGE_HEADERS_GLOBAL_MAX

READ_AHEAD_BYTES = 1 << 18
"""The buffer of a tar that is not seekable. The standard library's own, of 10 KiB, makes many calls."""


class ByteSource(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Heads:
    """A source that a tar is read from, which gives out no more than one head may have. ``renew`` it then."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._left = 0
        self.renew()

    def renew(self, data_bytes: int = 0) -> None:
        """A member's head has been read; before the next one so many bytes of content will be."""
        self._left = IMAGE_HEADER_BYTES_MAX + READ_AHEAD_BYTES + data_bytes

    def read(self, size: int = -1, /) -> bytes:
        if 0 <= size <= self._left:
            data = self._source.read(size)
            self._left -= len(data)
            return data
        raise InvalidArgument(
            f"the archive has a head of more than {IMAGE_HEADER_BYTES_MAX >> 20} MiB for one of its files"
        )


class SeekableHeads(Heads):
    """Of a file. Once ``is_listed``, what is read is content, by who bounds it."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._file = file
        self.is_listed = False

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size) if self.is_listed else super().read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def check(archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    if member.size < 0 or archive.offset < member.offset_data:
        raise InvalidArgument("the archive says of one of its files that its size is below zero")
    if len(archive.pax_headers) > IMAGE_HEADERS_GLOBAL_MAX:
        raise InvalidArgument(
            f"the archive gives more than {IMAGE_HEADERS_GLOBAL_MAX} attributes to all of its files"
        )


def listed(file: IO[bytes], files_max: int) -> tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]:
    """A plain tar and its members by name; none if there are more than that."""
    heads = SeekableHeads(file)
    archive = tarfile.open(fileobj=cast("IO[bytes]", heads), mode="r:")  # noqa: SIM115 - the caller's
    members: dict[str, tarfile.TarInfo] = {}
    for number in itertools.count():
        heads.renew()
        member = archive.next()
        if member is None:
            break
        if number == files_max:
            members.clear()
            break
        check(archive, member)
        members[member.name.removeprefix("./")] = member
    heads.is_listed = True
    return archive, members


def printable(text: str) -> str:
    """Names out of an archive end on somebody's terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
