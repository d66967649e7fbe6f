"""What a host's executor needs beside the daemon: a Docker of its own; a storage of its own for Podman.

A lab's engines share nothing with the machine's or with each other's. Docker's daemon is a process of the
host, so it ends with it; Podman has no daemon, the node serves its API itself. Podman names its containers'
control groups as it likes: ``podman_groups`` finds those that a host's containers had.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Final

from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.lab import engine_http, process
from swarmpy.lab.layout import Host
from swarmpy.lab.limits import LAB_ENGINE_START_TIMEOUT_S, LAB_STATUS_TIMEOUT_S
from swarmpy.model.executors import EXECUTORS

_DOCKER_SOCKET: Final = "/run/docker.sock"
_DOCKERD: Final = (
    "dockerd", "--data-root", "{data}", "--exec-root", "/run/docker", "--host", f"unix://{_DOCKER_SOCKET}",
    "--pidfile", "/run/docker.pid",
    "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", "{group}",
    "--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
)  # fmt: skip
"""Networks are the node's own affair: docker is to touch none."""
_STORAGE: Final = """[storage]
driver = "overlay"
graphroot = "{data}"
runroot = "/run/podman-state"
"""
_PODMAN_PARENT: Final = "libpod_parent"


def parse(entries: list[str]) -> dict[str, str]:
    """``--executor``'s: NAME for all nodes, NODE=NAME for one; separated by commas. "" stands for all."""
    found = {}
    for entry in ",".join(entries).split(","):
        node, _, name = entry.strip().rpartition("=")
        if name and name not in EXECUTORS:
            raise InvalidArgument(f'There is no executor "{name}": choose from {", ".join(EXECUTORS)}.')
        if name:
            found[node] = name
    return found


def start(host: Host, init: int) -> None:
    """Have the engine of the host, if its tasks need one, answer."""
    if host.executor == "docker" and not _answers(init):
        words = {"data": str(host.data_dir / "docker"), "group": host.cgroup_parent}
        log = host.folder / "docker.log"
        running = process.launch(init, [word.format(**words) for word in _DOCKERD], log=log)

        def is_decided() -> bool:
            return process.state_letter(running) is None or _answers(init)

        process.wait_until(is_decided, timeout_s=LAB_ENGINE_START_TIMEOUT_S)
        if not _answers(init):
            raise Unavailable(
                f"The docker of {host.name} does not start; the end of its log:\n{process.tail(log)}"
            )


def environment(host: Host) -> list[str]:
    """What the daemon's command line begins with, so that its engine finds the host's own storage."""
    if host.executor != "podman":
        return []
    place = host.data_dir / "storage.conf"  # where the host sees it, too
    place.write_text(_STORAGE.format(data=_podman_root(host)))
    return ["env", f"CONTAINERS_STORAGE_CONF={place}"]


def podman_groups(host_data: Path) -> list[Path]:
    """Paths of control groups, in every hierarchy, of the containers in a host's storage of Podman."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        listed = json.loads((host_data / "podman" / "overlay-containers" / "containers.json").read_bytes())
        names = [f"{kind}-{each['id']}" for each in listed for kind in ("libpod", "libpod-conmon")]
        return [Path(_PODMAN_PARENT, name) for name in names]
    return []


def _podman_root(host: Host) -> Path:
    return host.data_dir / "podman"


def _answers(init: int) -> bool:
    place = Path(f"/proc/{init}/root{_DOCKER_SOCKET}")
    try:
        return engine_http.request(place, "GET", "/_ping", timeout_s=LAB_STATUS_TIMEOUT_S).is_ok
    except Unavailable:
        return False
