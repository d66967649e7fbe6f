"""libnftables through ctypes: the one place that speaks nft.

A context is bound to the network namespace in which it was made and keeps that alive; ``close`` it. A text
of commands is one transaction: it is carried out whole or not at all. Blocking; not for two threads at once.

The library waits with select(2), which ends the process if its socket's descriptor is not among the first
1,024. So a context is refused rather than made beyond them; who holds many descriptors keeps those free; and
from the first context on some are held for others, since whoever else opens files, such as a manager with a
thousand connections, takes the lowest that are free.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from swarmpy.errors import Unavailable
from swarmpy.limits import NFT_DESCRIPTORS_HELD

_LIBRARY = "libnftables.so.1"
MISSING = (
    f"{_LIBRARY} is not on this node, so task networks cannot be made; install the package libnftables1 "
    '(Debian, Ubuntu: "apt-get install nftables").'
)

LOW_DESCRIPTORS = 1_024
_TERSE = 1 << 11
"""NFT_CTX_OUTPUT_TERSE."""
_SPARE_DESCRIPTORS = 16
"""Other threads may open some between the look and the making of a context."""


class NftError(Exception):
    """The kernel or the library refused the commands; its own words."""


def _open() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = (ctypes.c_uint32,)
    library.nft_ctx_free.argtypes = (ctypes.c_void_p,)
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
    for name in (
        "nft_ctx_buffer_output",
        "nft_ctx_buffer_error",
        "nft_ctx_get_error_buffer",
        "nft_ctx_get_output_buffer",
    ):
        getattr(library, name).argtypes = (ctypes.c_void_p,)
    library.nft_ctx_output_get_flags.argtypes = (ctypes.c_void_p,)
    library.nft_ctx_output_get_flags.restype = ctypes.c_uint
    library.nft_ctx_output_set_flags.argtypes = (ctypes.c_void_p, ctypes.c_uint)
    library.nft_run_cmd_from_buffer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    return library


def out_of_the_way(sock: socket.socket) -> socket.socket:
    """The same socket under a descriptor that nftables could not use, if the process may have so many.

    For sockets that are kept per task: of those there are thousands.
    """
    try:
        fd = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, LOW_DESCRIPTORS)
    except OSError:
        return sock
    sock.close()
    return socket.socket(fileno=fd)


def is_present() -> bool:
    return _open() is not None


class LowDescriptors:
    """So many of the process's first descriptors belong to contexts: those that have one, and those that may
    be made yet."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[int] = []
        self._lent = 0
        self._lock = threading.Lock()

    @contextmanager
    def lending(self) -> Iterator[None]:
        """One is free in the block, and stays with whom the block made; or Unavailable."""
        with self._lock:
            for fd in self._held[-_SPARE_DESCRIPTORS:]:
                os.close(fd)
            del self._held[-_SPARE_DESCRIPTORS:]
            try:
                if _next_descriptor() >= LOW_DESCRIPTORS - _SPARE_DESCRIPTORS:
                    raise Unavailable(
                        "the daemon has too many files open for nftables, which needs one of the first 1,024"
                    )
                yield
                self._lent += 1
            finally:
                self._hold()

    def give_back(self) -> None:
        with self._lock:
            self._lent -= 1
            self._hold()

    def _hold(self) -> None:
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= LOW_DESCRIPTORS:
            return  # there are no others: who opens files needs these
        while len(self._held) + self._lent < self._count:
            fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            if fd >= LOW_DESCRIPTORS - _SPARE_DESCRIPTORS:
                os.close(fd)
                return
            self._held.append(fd)


_descriptors = LowDescriptors(NFT_DESCRIPTORS_HELD)
"""The process's: there is one table of descriptors."""


def _next_descriptor() -> int:
    fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    return fd


class Nftables:
    """A context in the calling thread's network namespace."""

    def __init__(self) -> None:
        library = _open()
        if library is None:
            raise Unavailable(MISSING)
        self._library = library
        with _descriptors.lending():
            self._context: int | None = library.nft_ctx_new(0)
            if not self._context:
                raise Unavailable("libnftables gave no context: the kernel may lack nf_tables")
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """Carry ``commands`` out in one transaction; what they printed. NftError if refused."""
        assert self._context is not None, "this nftables context was closed"
        result = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        error = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if result:
            raise NftError(error.decode(errors="replace").strip() or "no reason given")
        return str(output.decode(errors="replace"))

    def show(self, commands: str) -> str:
        """The same without the elements of sets and maps, of which there may be many."""
        assert self._context is not None, "this nftables context was closed"
        before = self._library.nft_ctx_output_get_flags(self._context)
        self._library.nft_ctx_output_set_flags(self._context, before | _TERSE)
        try:
            return self.run(commands)
        finally:
            self._library.nft_ctx_output_set_flags(self._context, before)

    def close(self) -> None:
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None
            _descriptors.give_back()
