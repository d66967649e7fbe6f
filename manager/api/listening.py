"""The sockets that the API is served on: whose they are, and where nobody else's is taken away.

A unix socket takes no connection before it has its group and mode: until it listens, whoever finds it is
refused. A socket that a dead daemon left behind is replaced; any other file in its place is left alone.
"""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from manager.api.connection_bounds import API_BACKLOG
from swarmpy.errors import FailedPrecondition
from swarmpy.limits import API_SHUTDOWN_TIMEOUT_S

SOCKET_GROUPS: Final = ("docker", "swarmpy")
SOCKET_MODE: Final = 0o660
SOCKET_PATH_BYTES_MAX: Final = 107
"""The kernel's."""
GROUP_NUMBER_MAX: Final = (1 << 32) - 2

Factory = Callable[[], asyncio.Protocol]


class UnixListener:
    """A server on a unix socket, which takes its file away when it closes."""

    def __init__(self, path: Path, server: asyncio.Server, file: os.stat_result) -> None:
        self._path = path
        self._server = server
        self._file = file

    def close(self) -> None:
        """The file goes only if it is still this server's."""
        self._server.close()
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return
        if (found.st_dev, found.st_ino) == (self._file.st_dev, self._file.st_ino):
            self._path.unlink()


async def listen_unix(factory: Factory, path: Path, *, group: str = "") -> UnixListener:
    """FailedPrecondition if another daemon serves that socket, or it cannot be made.

    The group is a name or a number; without one it is the first of ``SOCKET_GROUPS`` that there is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        await _make_room(path)
        bound = _bound(path, group)
        file = path.lstat()
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(factory, sock=bound, backlog=API_BACKLOG)
    except OSError as error:
        raise FailedPrecondition(
            f"The API cannot be served on {path}: {error.strerror or error}. Choose another --socket."
        ) from error
    return UnixListener(path, server, file)


async def _make_room(path: Path) -> None:
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise FailedPrecondition(
            f"The API cannot be served on {path}: a socket's path has {SOCKET_PATH_BYTES_MAX} bytes at most. "
            "Choose a shorter --socket."
        )
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FailedPrecondition(
            f"The API cannot be served on {path}: something that is no socket is there already. "
            "Remove it, or choose another --socket."
        )
    if await _is_served(path):
        raise FailedPrecondition(
            f"Another daemon already serves {path}. Stop it, or give this one another --socket."
        )
    path.unlink()


async def _is_served(path: Path) -> bool:
    """Whether somebody answers there; a file that a dead daemon left behind answers nobody."""
    try:
        async with asyncio.timeout(API_SHUTDOWN_TIMEOUT_S):
            _, writer = await asyncio.open_unix_connection(str(path))
    except TimeoutError:
        return True  # somebody listens, and is too busy to say so
    except OSError:
        return False
    writer.close()
    return True


def _bound(path: Path, group: str) -> socket.socket:
    """With its rights, and not listening yet."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.bind(str(path))
        path.chmod(SOCKET_MODE)
        if group:
            os.chown(path, -1, _number_of(group))
        for name in () if group else SOCKET_GROUPS:
            try:
                os.chown(path, -1, grp.getgrnam(name).gr_gid)
            except (KeyError, PermissionError):
                continue
            break
    except BaseException:
        made.close()
        raise
    return made


def _number_of(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if group.isascii() and group.isdigit() and int(group) <= GROUP_NUMBER_MAX:
            return int(group)
    raise FailedPrecondition(
        f"There is no group {group} to give the API's socket to: create it, or name another --group."
    )


async def listen_tcp(factory: Factory, host: str, port: int) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(
            factory,
            host,
            port,
            backlog=API_BACKLOG,
        )
    except OSError as error:
        raise FailedPrecondition(
            f"The API cannot be served on {host}:{port}: {error.strerror or error}. "
            "Choose another --api address."
        ) from error
