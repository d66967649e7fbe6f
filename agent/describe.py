"""What this machine is: name, platform, processors, memory. Read anew at each call; nothing is kept."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping

from swarmpy.model.objects import EngineDescription, EnginePlugin, NodeDescription, TLSInfo
from swarmpy.model.specs import Platform, Resources
from swarmpy.version import VERSION

_CPU_NANOS = 1_000_000_000
_PLUGINS = (
    EnginePlugin(type="Log", name="json-file"),
    EnginePlugin(type="Network", name="overlay"),
    EnginePlugin(type="Volume", name="local"),
)


def describe(
    *, hostname: str = "", labels: Mapping[str, str] | None = None, tls_info: TLSInfo | None = None
) -> NodeDescription:
    """The node's description; ``hostname`` replaces the machine's own name if it is given."""
    return NodeDescription(
        hostname=hostname or socket.gethostname(),
        platform=Platform(architecture=platform.machine(), os=platform.system().lower()),
        resources=Resources(nano_cpus=_cpus() * _CPU_NANOS, memory_bytes=_memory_bytes()),
        engine=EngineDescription(engine_version=VERSION, labels=dict(labels or {}), plugins=_PLUGINS),
        tls_info=tls_info,
    )


def _cpus() -> int:
    """Processors that this process may run on: fewer than the machine has where it is confined."""
    return len(os.sched_getaffinity(0))


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
