"""What a daemon is not loaded with, and what it gives back: it runs on every node, so its megabytes count."""

from __future__ import annotations

import asyncio
import ctypes
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from swarmpy.limits import MEMORY_RETURN_FIRST_S, MEMORY_RETURN_PERIOD_S

_UNUSED = ("rich",)
"""structlog would draw tracebacks with it, which our log does not want: 3 MB, a fifth of the start."""


@contextmanager
def lean_imports() -> Iterator[None]:
    """Import the daemon inside of this: libraries then do without what they would load for terminals and
    for browsing. It changes nothing for whoever imported those parts before, and nothing afterwards.
    """
    held_back = [name for name in _UNUSED if name not in sys.modules]
    make_context = ssl.create_default_context
    for name in held_back:
        sys.modules[name] = None  # type: ignore[assignment]  # so the import system says "no such module"
    # aiohttp reads the system's authorities for a client that the daemon does not use
    ssl.create_default_context = _trust_nobody
    try:
        yield
    finally:
        ssl.create_default_context = make_context
        for name in held_back:
            del sys.modules[name]


def _trust_nobody(*arguments: Any, **options: Any) -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def return_memory() -> None:
    """Until cancelled: give the system back what the C library has free, now and then."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return  # not every C library can
    await asyncio.sleep(MEMORY_RETURN_FIRST_S)
    while True:
        trim(0)  # takes less than a millisecond
        await asyncio.sleep(MEMORY_RETURN_PERIOD_S)
