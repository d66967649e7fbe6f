"""A test module's own network namespace, so that the machine's is never touched.

Only the calling thread moves; threads that it starts from then on are born into the new namespace.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from agent.executor.native.shim import kernel


@contextmanager
def scratch_network() -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    kernel.unshare(kernel.CLONE_NEWNET)
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        kernel.setns(home, kernel.CLONE_NEWNET)
        os.close(home)
