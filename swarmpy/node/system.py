"""What this machine is, as ``docker info`` shows it."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path

from manager.api.control import SystemInfo
from swarmpy.config import NodeConfig


def read_system(config: NodeConfig, *, executor: str, tasks: int, has_other_ids: bool = False) -> SystemInfo:
    """Asks the kernel and ``/etc/os-release``; cheap enough for every call of ``/info``."""
    release = _os_release()
    return SystemInfo(
        hostname=config.hostname or socket.gethostname(),
        kernel_version=platform.release(),
        operating_system=release.get("PRETTY_NAME", "Linux"),
        os_version=release.get("VERSION_ID", ""),
        architecture=platform.machine(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        data_dir=str(config.data_dir),
        executor=executor,
        cgroup_version=2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
        labels=config.labels,
        generic_resources=config.generic_resources,
        tasks=tasks,
        tasks_running=tasks,
        has_other_ids=has_other_ids,
    )


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}
