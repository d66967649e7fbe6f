"""A lock of several processes on one folder: a file in it, held by ``flock`` until its holder is gone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def holding(path: Path, kind: int) -> Iterator[None]:
    """``kind``: ``fcntl.LOCK_SH`` or ``LOCK_EX``. Blocks until the lock is free."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, kind)
        yield
    finally:
        os.close(fd)
