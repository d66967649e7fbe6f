"""Containers that were started by hand: what they are called in the store, and what their clients call them.

Such a container is a service of mode ``standalone``. Its container id is the service's, so it stays from run
to run. Its name is its node's alone: the store knows it as ``container/NODE/NAME``, which no service can be
called, and which is unique for each node because names of services are.
"""

from __future__ import annotations

from typing import Final

from swarmpy.model.ids import NodeId
from swarmpy.model.specs import ServiceSpec

SHORT_ID_CHARS: Final = 12
"""What clients show of a container's id; the container answers to it in networks."""

_PREFIX: Final = "container/"


def store_name(node_id: NodeId, name: str) -> str:
    return f"{_PREFIX}{node_id}/{name}"


def container_name(spec: ServiceSpec) -> str:
    """As its user calls it; of a service, the service's name."""
    return spec.name.removeprefix(_PREFIX).partition("/")[2] if is_store_name(spec.name) else spec.name


def is_store_name(name: str) -> bool:
    return name.startswith(_PREFIX)


def names_of(service_id: str, spec: ServiceSpec) -> tuple[str, ...]:
    """What a container started by hand answers to in every network, beside its aliases: its name first."""
    return (container_name(spec), service_id[:SHORT_ID_CHARS])
