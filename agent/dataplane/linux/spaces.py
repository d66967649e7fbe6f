"""Network namespaces with open doors: netlink and nftables sockets that live in them. See ``part.Space``.

An nft context made anew for every call costs several times what a kept one costs, so they are kept: those of
the spaces that were used last, since a node may have a thousand and nftables can do with so many descriptors
only. A space keeps its namespace alive until it is closed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.dataplane.linux import namespaces
from agent.dataplane.linux.balancing.wire import NETFILTER, Wire
from agent.dataplane.linux.netlink import Netlink
from agent.dataplane.linux.nftables import Nftables
from swarmpy.errors import Unavailable
from swarmpy.limits import NFT_CONTEXTS_MAX

OWN = Path("/proc/thread-self/ns/net")
"""The calling thread's namespace: the node's."""


class OpenContexts:
    """Spaces with an nft context, the one that was used longest ago first. For one thread."""

    def __init__(self) -> None:
        self._spaces: dict[NamespaceSpace, None] = {}

    def use(self, space: NamespaceSpace) -> None:
        """Of too many, the one that was used longest ago is closed; its space opens it again when asked."""
        self._spaces.pop(space, None)
        self._spaces[space] = None
        if len(self._spaces) > NFT_CONTEXTS_MAX:
            next(iter(self._spaces)).close_nft()

    def forget(self, space: NamespaceSpace) -> None:
        self._spaces.pop(space, None)


class NamespaceSpace:
    """The namespace that is kept at ``path``. For one thread. ``contexts``: shared by many spaces."""

    def __init__(self, path: Path = OWN, *, contexts: OpenContexts | None = None) -> None:
        self.path = path
        self._contexts = contexts
        self._netlink: Netlink | None = None
        self._nft: Nftables | None = None
        self._wire: Wire | None = None

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
        if self._contexts is not None:
            self._contexts.use(self)
        return self._nft

    @property
    def wire(self) -> Wire:
        if self._wire is None:
            with self.inside():
                self._wire = Wire(NETFILTER)
        return self._wire

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
        self.close_nft()
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def close_nft(self) -> None:
        if self._contexts is not None:
            self._contexts.forget(self)
        if self._nft is not None:
            self._nft.close()
            self._nft = None
