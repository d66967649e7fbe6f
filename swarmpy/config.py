"""``NodeConfig``: the settings of one node, parsed once from the command line of ``swarmpy daemon``.

Cluster-wide settings are fields of the Cluster object instead. Nothing else in the program reads the
environment or keeps settings of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from swarmpy.image_limits import IMAGE_GC_AGE_S, IMAGE_GC_HIGH_PERCENT, IMAGE_GC_LOW_PERCENT
from swarmpy.model.ids import SECOND_NS, Duration
from swarmpy.model.specs import GenericResource

DATA_DIR: Final = Path("/var/lib/swarmpy")
RUN_DIR: Final = Path("/run/swarmpy")
SOCKET: Final = RUN_DIR / "swarmpy.sock"
SWARM_PORT: Final = 2377
LISTEN_ADDRESS: Final = f"0.0.0.0:{SWARM_PORT}"
CGROUP_PARENT: Final = "/swarmpy"
_IMAGE_GC_AGE: Final = Duration(IMAGE_GC_AGE_S * SECOND_NS)


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """One node's settings.

    ``listen_address`` and ``advertise_address`` are defaults for init and join requests that name none;
    the advertise address is an address or an interface, with or without a port, empty to find it.
    ``executor``: empty for the first that can run tasks here. ``engine_socket``: empty for the engine's own.
    ``userns_remap``: the node's ids that native's tasks have as theirs; empty: the same.
    ``insecure_registries``: hosts or subnets whose certificates are not checked, or that have none.
    ``registry_mirrors``: URLs that are asked for docker.io's images before docker.io is.
    ``image_gc_age``: images that no task has used for so long go; 0: none. ``image_gc_disk``: above the first
    percentage of the disk, until the second, those unused for longest go; 0: whatever it holds.
    ``api_addresses`` are ``host:port`` on which the API is also served over TCP; with TLS if the three files
    are given, of which ``api_ca`` is whose clients are let in. ``api_group`` owns the API's unix socket.
    """

    data_dir: Path = DATA_DIR
    run_dir: Path = RUN_DIR
    socket: Path = SOCKET
    api_addresses: tuple[str, ...] = ()
    api_ca: Path | None = None
    api_cert: Path | None = None
    api_key: Path | None = None
    api_group: str = ""
    hostname: str = ""
    listen_address: str = LISTEN_ADDRESS
    advertise_address: str = ""
    data_path_address: str = ""
    executor: str = ""
    engine_socket: str = ""
    userns_remap: str = ""
    cgroup_parent: str = CGROUP_PARENT
    labels: dict[str, str] = field(default_factory=dict)
    generic_resources: tuple[GenericResource, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    image_gc_age: Duration = _IMAGE_GC_AGE
    image_gc_disk: tuple[int, int] = (IMAGE_GC_HIGH_PERCENT, IMAGE_GC_LOW_PERCENT)
    log_level: str = "info"
    log_format: str = "text"
