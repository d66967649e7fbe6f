"""Connections to unix sockets in folders whose paths may be longer than a socket's address can be."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def connect_in(
    folder: Path, name: str, kind: socket.SocketKind, *, timeout_s: float | None = None
) -> socket.socket:
    """To the socket ``name`` in ``folder``; ``timeout_s`` stays with it. OSError if nobody listens there."""
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.settimeout(timeout_s)
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # by way of /proc, since a socket's path may have 107 bytes only
            sock.connect(f"/proc/self/fd/{fd}/{name}")
        finally:
            os.close(fd)
    except OSError:
        sock.close()
        raise
    return sock
