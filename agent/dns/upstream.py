"""The servers outside that a task's other queries go to.

A task's own servers are asked from its namespace, since they may be on one of its networks; the node's are
asked from the node's, since they may be on its loopback. The node's file is read again when it changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from ipaddress import ip_address
from pathlib import Path

from agent.dns.limits import DNS_SERVERS_MAX
from agent.dns.zone import RESOLVER_ADDRESS

SERVER_PORT = 53

Inside = Callable[[], AbstractContextManager[None]]
"""The calling thread is in the task's namespace until the block ends."""


class NodeServers:
    """The node's servers, by its resolver's file. A file that is not there names none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._servers: tuple[str, ...] = ()

    def servers(self) -> tuple[str, ...]:
        try:
            found = os.stat(self._path)
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                self._servers = servers_of(self._path.read_text(errors="replace"))
                self._seen = seen
        except OSError:
            self._seen, self._servers = None, ()
        return self._servers


def servers_of(text: str) -> tuple[str, ...]:
    """The name servers of a resolv.conf."""
    return usable(re.findall(r"^[ \t]*nameserver[ \t]+(\S+)", text, re.MULTILINE))


def usable(servers: Iterable[str]) -> tuple[str, ...]:
    """Those that are addresses, as many as are asked."""
    return tuple(server for server in servers if _is_address(server))[:DNS_SERVERS_MAX]


def own_servers(servers: Iterable[str]) -> tuple[str, ...]:
    """A task's servers without its resolver itself, which would ask itself for ever."""
    return usable(server for server in servers if server != RESOLVER_ADDRESS)


def _is_address(server: str) -> bool:
    try:
        ip_address(server)
    except ValueError:
        return False
    return True
