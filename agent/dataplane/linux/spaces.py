"""Network namespaces with open doors: netlink and nftables sockets that live in them. See ``part.Space``.

An nft context made anew for every call costs a hundred times what a kept one costs, so they are kept. A space
keeps its namespace alive until it is closed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.dataplane.linux import namespaces
from agent.dataplane.linux.netlink import Netlink
from agent.dataplane.linux.nftables import Nftables
from swarmpy.errors import Unavailable

OWN = Path("/proc/thread-self/ns/net")
"""The calling thread's namespace: the node's."""


class NamespaceSpace:
    """The namespace that is kept at ``path``. For one thread."""

    def __init__(self, path: Path = OWN) -> None:
        self.path = path
        self._netlink: Netlink | None = None
        self._nft: Nftables | None = None

    @property
    def netlink(self) -> Netlink:
        if self._netlink is None:
            with self.inside():
                self._netlink = Netlink()
        return self._netlink

    @property
    def nft(self) -> Nftables:
        if self._nft is None:
            with self.inside():
                self._nft = Nftables()
        return self._nft

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in the namespace until the block ends."""
        if self.path == OWN:
            yield
            return
        with namespaces.inside(self.path):
            yield

    def set(self, name: str, value: str) -> None:
        path = f"/proc/sys/net/{name}"
        try:
            with self.inside():
                fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(fd, value.encode())
                finally:
                    os.close(fd)
        except OSError as error:
            raise Unavailable(f"cannot set {path} to {value} in {self.path}: {error.strerror}") from None

    def rest(self) -> None:
        """Close the door that costs little to open again: a node has a thousand of these."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def close(self) -> None:
        """Close the doors; another call opens them again."""
        self.rest()
        if self._nft is not None:
            self._nft.close()
            self._nft = None
