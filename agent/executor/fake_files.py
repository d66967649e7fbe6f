"""Files of pretended tasks: a table of paths, and tar archives made of it and unpacked into it.

The root is a folder, and so is whatever stands above a file that is there.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import AsyncIterator

from agent.executor.base import NotThere
from swarmpy.errors import TaskRejected

Files = dict[str, bytes]
_CHUNK_BYTES = 1024


def pack(files: Files, path: str) -> bytes:
    """An archive of the file or folder at ``path``, whose last part is the archive's root."""
    full = posixpath.normpath("/" + path.lstrip("/"))
    name = posixpath.basename(full) or "."
    below = {each: data for each, data in sorted(files.items()) if each.startswith(full.rstrip("/") + "/")}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w|") as tar:
        if full in files:
            _add(tar, name, files[full])
        elif below or full == "/":
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for each, data in below.items():
                _add(tar, name + "/" + each[len(full.rstrip("/")) + 1 :], data)
        else:
            raise NotThere(f"Could not find the file {path} in container")
    return archive.getvalue()


def chunks(data: bytes) -> list[bytes]:
    return [data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES)]


async def unpack(files: Files, path: str, archive: AsyncIterator[bytes]) -> None:
    full = posixpath.normpath("/" + path.lstrip("/")).rstrip("/")
    if full in files:
        raise NotThere(f"extraction point is not a directory: {path}")
    if full and not any(each.startswith(full + "/") for each in files):
        raise NotThere(f"Could not find the file {path} in container")
    data = b"".join([chunk async for chunk in archive])
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    files[f"{full}/{posixpath.normpath(member.name)}"] = file.read()
    except tarfile.TarError as error:
        raise TaskRejected(f"the archive cannot be read: {error}") from None


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
