"""One daemon per data folder: two of them would tear the log, the journal and the tasks from each other.

The kernel's lock on a file goes with the process that holds it, however that ends, so nothing is ever left.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swarmpy.errors import FailedPrecondition

_NAME = "daemon.lock"
_PID_BYTES_MAX = 32


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made if need be. FailedPrecondition if another daemon has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FailedPrecondition(f"the data folder {folder} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, _PID_BYTES_MAX).decode("ascii", "replace").strip() or "unknown"
            raise FailedPrecondition(
                f"another daemon (pid {holder}) uses the data folder {folder}: "
                "stop it, or name another folder with --data-dir"
            ) from None
        os.truncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(file)
