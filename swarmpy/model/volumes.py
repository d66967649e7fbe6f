"""What is asked of a node about its volumes, and answered: JSON between the API and the node's agent."""

from __future__ import annotations

from typing import Final

from swarmpy.model.objects import NodeVolume
from swarmpy.model.value import Value

VOLUME_LIST: Final = "volume.list"
VOLUME_INSPECT: Final = "volume.inspect"
VOLUME_CREATE: Final = "volume.create"
VOLUME_REMOVE: Final = "volume.remove"
VOLUME_PRUNE: Final = "volume.prune"

ANONYMOUS_LABEL: Final = "com.docker.volume.anonymous"
"""Of a volume that was made without a name."""


class VolumeRequest(Value, frozen=True, kw_only=True):
    """The body of ``POST /volumes/create``. An empty name: one is made up."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] = {}
    labels: dict[str, str] = {}
    cluster_volume_spec: dict[str, object] | None = None


class VolumeQuery(Value, frozen=True, kw_only=True):
    """Which volumes are meant. ``labels`` and ``no_labels``: ``name`` or ``name=value``, all required."""

    name: str = ""
    is_forced: bool = False
    is_all: bool = False
    labels: tuple[str, ...] = ()
    no_labels: tuple[str, ...] = ()
    is_measured: bool = False
    """Also tell how large each is, for which all of its files are looked at."""


class VolumeAnswer(Value, frozen=True, kw_only=True):
    """``used``: the names of those that a task on the node uses; ``counts``: by how many."""

    volumes: tuple[NodeVolume, ...] = ()
    used: tuple[str, ...] = ()
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    removed: tuple[str, ...] = ()
    size_bytes: int = 0
