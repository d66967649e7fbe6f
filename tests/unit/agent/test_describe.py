"""The machine's description is plausible and follows its arguments."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from agent.describe import describe


def test_describe() -> None:
    told = describe()
    assert told.hostname == socket.gethostname()
    assert told.platform.os == "linux"
    assert told.resources.nano_cpus == len(os.sched_getaffinity(0)) * 10**9
    assert told.resources.memory_bytes > 2**26
    assert told == describe()
    boot, _, stack = told.boot_id.partition(".")
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert int(stack, 16) > 0
    renamed = describe(hostname="other", labels={"a": "b"})
    assert renamed.hostname == "other"
    assert renamed.engine.labels == {"a": "b"}
