"""What the native executor needs of a node, looked for one by one, as sentences for the user."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_NAMESPACES = ("mnt", "pid", "uts", "ipc", "net")
_CAP_SYS_ADMIN = 21


def find_missing(data_dir: Path) -> tuple[str, ...]:
    """Empty if tasks can run here."""
    missing = []
    if sys.platform != "linux":
        return ("The native executor runs on Linux only.",)
    if os.geteuid() != 0 or not has_capability(_CAP_SYS_ADMIN):
        missing.append("The daemon must run as root with CAP_SYS_ADMIN to make namespaces.")
    missing += [
        f"The kernel has no {name} namespaces; rebuild it with CONFIG_NAMESPACES."
        for name in _NAMESPACES
        if not os.path.exists(f"/proc/self/ns/{name}")
    ]
    if not hasattr(os, "pidfd_open"):
        missing.append("This Python was built without pidfd_open; a kernel of 5.3 or newer is needed.")
    if not os.access(data_dir, os.W_OK):
        missing.append(f"The data directory {data_dir} is not writable.")
    return tuple(missing)


def has_capability(number: int) -> bool:
    return number in capabilities()


def capabilities() -> frozenset[int]:
    """The daemon's own, by number."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
            return frozenset(number for number in range(mask.bit_length()) if mask >> number & 1)
    return frozenset()
