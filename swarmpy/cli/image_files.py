"""Archives that a command line names: files, folders (OCI layouts) and standard input.

Nothing of them lies on a disk a second time: a folder is packed while it is sent.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Final, NoReturn

from swarmpy.errors import FailedPrecondition

_CHUNK_BYTES: Final = 1 << 20
_END: Final = bytes(2 * tarfile.BLOCKSIZE)


def open_source(path: str) -> AbstractContextManager[Iterator[bytes]]:
    """The archive, piece by piece. OSError if it is not there; FailedPrecondition, later, for what cannot be
    read in a folder: then it has no end, so that nobody takes it for whole."""
    if path == "-":
        return nullcontext(chunks(sys.stdin.buffer))
    if not Path(path).is_dir():
        return _reading(open(path, "rb"))
    os.listdir(path)
    return nullcontext(_packed(path))


@contextmanager
def _reading(file: IO[bytes]) -> Iterator[Iterator[bytes]]:
    with file:
        yield chunks(file)


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _packed(folder: str) -> Iterator[bytes]:
    with tarfile.open(fileobj=io.BytesIO(), mode="w") as heads:  # knows which files are one
        for path in _below(folder):
            try:
                yield from _member(heads, path, os.path.relpath(path, folder))
            except OSError as error:
                raise FailedPrecondition(f"{path} cannot be read: {error.strerror or error}") from None
    yield _END


def _below(folder: str) -> Iterator[str]:
    """The folder and all in it; what a link leads to is not."""
    yield folder
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders.sort()
        for name in (*folders, *sorted(files)):
            yield os.path.join(parent, name)


def _refuse(error: OSError) -> NoReturn:
    raise FailedPrecondition(f"{error.filename} cannot be read: {error.strerror or error}")


def _member(heads: tarfile.TarFile, path: str, name: str) -> Iterator[bytes]:
    if stat.S_ISSOCK(os.lstat(path).st_mode):
        return  # no archive holds one
    info = heads.gettarinfo(path, name if name == "." else f"./{name}")
    yield info.tobuf(tarfile.PAX_FORMAT)
    if not info.isreg():
        return
    left = info.size
    with open(path, "rb") as file:
        while left:
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise FailedPrecondition(f"{path} has become shorter while it was read")
            left -= len(chunk)
            yield chunk
    yield bytes(-info.size % tarfile.BLOCKSIZE)
