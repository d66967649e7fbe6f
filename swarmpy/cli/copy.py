"""``swarmpy cp``: files out of tasks and into them, as tar archives over the API.

Where things land follows docker: into a folder that is there under their own name, else under the name that
was given; ``FOLDER/.`` means what is in the folder.
"""

from __future__ import annotations

import base64
import io
import json
import os
import posixpath
import stat
import sys
import tarfile
from collections.abc import Iterator
from typing import Any, Final, cast

from swarmpy.cli.flags import Command, Options, UsageError
from swarmpy.cli.session import Session, tell
from swarmpy.cli.target import task_path
from swarmpy.cli.unpack import Unpacking, UnsafeArchive
from swarmpy.client import Client, ErrorAnswer, Json

_CHUNK_BYTES: Final = 1 << 16
_PATH_STAT: Final = "X-Docker-Container-Path-Stat"
_GO_DIRECTORY: Final = 1 << 31
_BLOCK_BYTES: Final = 512


class CopyFailed(Exception):
    """The text is for the user."""


def cp(session: Session, arguments: list[str], options: Options) -> int:
    source, target = (_split(given) for given in arguments)
    try:
        match source, target:
            case (str(task), path), (None, local):
                _copy_out(session.client, task, path, local)
            case (None, local), (str(task), path):
                _copy_in(session.client, local, task, path)
            case (None, _), (None, _):
                raise UsageError("must specify at least one task source: TASK:PATH")
            case _:
                raise UsageError("copying between tasks is not supported: copy to a local folder first")
    except (CopyFailed, UnsafeArchive) as error:
        tell(str(error))
        return 1
    except OSError as error:
        tell(f"{error.filename or source[1]}: {error.strerror or error}")
        return 1
    return 0


def _split(given: str) -> tuple[str | None, str]:
    """``TASK:PATH``, or a local path: one that begins with a dot or a slash, or holds no colon."""
    task, colon, path = given.partition(":")
    if given == "-" or given.startswith((".", "/")) or not colon:
        return None, given
    if not task or not path:
        raise UsageError(f'"{given}" names no file of a task: give TASK:PATH')
    return task, path


# --- out of a task


def _copy_out(client: Client, task: str, path: str, local: str) -> None:
    query = {"path": path}
    with client.stream(f"{task_path(client, task)}/archive", query) as response:
        if local == "-":
            if sys.stdout.isatty():
                raise UsageError("an archive is not for a terminal: send standard output to a file")
            while chunk := response.read(_CHUNK_BYTES):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        found = _parse_stat(response.getheader(_PATH_STAT, ""))
        with (
            _unpacking(found, path, local) as unpacking,
            tarfile.open(fileobj=cast("Any", response), mode="r|", bufsize=_CHUNK_BYTES) as tar,
        ):
            try:
                for member in tar:
                    unpacking.take(member, tar)
            except tarfile.TarError as error:
                raise CopyFailed(f"the copy was broken off: {error}") from None
    for skipped in unpacking.skipped:
        tell(f"left out: {skipped}")


def _unpacking(found: Json, path: str, local: str) -> Unpacking:
    """Decide the folder that is written into, and the name that the archive's root gets there."""
    is_folder = bool(found["mode"] & _GO_DIRECTORY)
    if os.path.isdir(local):
        # the content of a folder goes where it is wanted, all else under its own name
        return Unpacking(local, "" if is_folder and path.endswith("/.") else found["name"])
    parent, name = os.path.split(local.rstrip("/") if is_folder else local)
    if not os.path.isdir(parent or "."):
        raise CopyFailed(f'invalid output path: directory "{parent}" does not exist')
    if not name:
        raise CopyFailed(f'invalid output path: directory "{local}" does not exist')
    if is_folder and os.path.lexists(local):
        raise CopyFailed("cannot copy directory: the target is a file")
    return Unpacking(parent or ".", name)


def _parse_stat(header: str) -> Json:
    try:
        found: Json = json.loads(base64.b64decode(header, validate=True))
        found["mode"], found["name"] = int(found["mode"]), str(found["name"])
    except (ValueError, KeyError, TypeError):
        raise CopyFailed("the daemon does not say what is at the path: it is of another version") from None
    if found["name"] in ("", "..") or "/" in found["name"]:
        raise CopyFailed(f"the daemon sends a name that cannot be used: {found['name']!r}")
    return found


# --- into a task


def _copy_in(client: Client, local: str, task: str, path: str) -> None:
    container = task_path(client, task)
    if local == "-":
        chunks, folder = iter(lambda: sys.stdin.buffer.read(_CHUNK_BYTES), b""), path
    else:
        folder, name = _place(client, container, local, path)
        chunks = pack(local, name)
    with client.stream(f"{container}/archive", {"path": folder}, upload=chunks, method="PUT") as response:
        response.read()


def _place(client: Client, container: str, local: str, path: str) -> tuple[str, str]:
    """The folder of the task to unpack in, and the copy's name there ("" for a folder's content)."""
    is_folder = stat.S_ISDIR(os.stat(local).st_mode)
    is_content = local.endswith("/.") and is_folder
    own_name = "" if is_content else os.path.basename(os.path.abspath(local))
    found = _look(client, container, path)
    if found is not None and found["mode"] & _GO_DIRECTORY:
        return path, own_name
    if found is not None and is_folder:
        raise CopyFailed(f"cannot copy directory: {path} is a file")
    if found is None and path.endswith("/") and not is_folder:
        raise CopyFailed(f'no such directory in the task: "{path}"')
    parent, name = posixpath.split(path.rstrip("/"))
    return parent or "/", name


def _look(client: Client, container: str, path: str) -> Json | None:
    """What is there, followed if it is a link; None if nothing is."""
    for candidate in (posixpath.join(path, "."), path):
        try:
            with client.stream(f"{container}/archive", {"path": candidate}, method="HEAD") as response:
                return _parse_stat(response.getheader(_PATH_STAT, "").strip() or "-") | {"path": candidate}
        except ErrorAnswer as error:
            if error.status not in (400, 404):
                raise
    return None


def pack(local: str, name: str) -> Iterator[bytes]:
    """A tar archive of a local file or folder. In the task all of it is root's, as docker has it."""
    waiting = [(local, name)]
    with tarfile.open(fileobj=io.BytesIO(), mode="w") as tar:
        while waiting:
            path, own = waiting.pop()
            member = _member(tar, path, own or ".")
            if member is None:
                continue  # a socket: no archive holds one
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            if member.islnk():
                member.type, member.linkname, member.size = tarfile.REGTYPE, "", os.lstat(path).st_size
            if own or not member.isdir():
                yield member.tobuf(tarfile.PAX_FORMAT)
            if member.isreg():
                yield from _content(path, member.size)
            elif member.isdir():
                below = sorted(os.listdir(path), reverse=True)
                waiting += [(f"{path}/{entry}", f"{own}/{entry}" if own else entry) for entry in below]
    yield bytes(2 * _BLOCK_BYTES)


def _member(tar: tarfile.TarFile, path: str, name: str) -> tarfile.TarInfo | None:
    return tar.gettarinfo(path, name)


def _content(path: str, size: int) -> Iterator[bytes]:
    """As many bytes as the head promises, of a file that may change meanwhile; then up to the block's end."""
    left = size
    with open(path, "rb") as file:
        while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
            yield chunk
            left -= len(chunk)
    yield bytes(left + (-size % _BLOCK_BYTES))


COMMANDS = {
    "cp": Command(
        cp,
        "Copy files out of a task or into it: - is a tar archive on standard input or output",
        "TASK|SERVICE[.SLOT]:PATH LOCAL|-  (or LOCAL|- TASK|SERVICE[.SLOT]:PATH)",
        2,
        2,
    )
}
