"""Ports for servers of tests: free now, and taken meanwhile by nobody who only wants any port.

They are below those that the kernel gives to connections and to ``bind`` without a number, so one that was
chosen, or is let go by a server that comes again, is still free when it is bound.
"""

from __future__ import annotations

import itertools
import os
import socket
from typing import Final

_FIRST: Final = 20_000
_COUNT: Final = 10_000
_STEP: Final = 997
"""Between the first ports of processes beside each other."""

_turns = itertools.count(os.getpid() * _STEP)


def free_port() -> int:
    """Of 127.0.0.1, for streams. Each is given once, until all were."""
    for turn in itertools.islice(_turns, _COUNT):
        port = _FIRST + turn % _COUNT
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port from {_FIRST} on is free")
