"""Archives that a command line names: files, folders (OCI layouts) and standard input."""

from __future__ import annotations

import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Final

_CHUNK_BYTES: Final = 1 << 20


def open_source(path: str) -> AbstractContextManager[IO[bytes]]:
    """The archive; a folder (an OCI layout) becomes one on the way."""
    if path == "-":
        return nullcontext(sys.stdin.buffer)
    if not Path(path).is_dir():
        return open(path, "rb")
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with tarfile.open(fileobj=spool, mode="w") as archive:
        archive.add(path, arcname=".")
    spool.seek(0)
    return spool


def chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
