"""Containers that were started by hand: what they are called in the store, and what their clients call them.

Such a container is a service of mode ``standalone``. Its id is made of the service's, so it stays from run
to run. Its name is its node's alone: the store knows it as ``container/NODE/NAME``, which no service can be
called, and which is unique for each node because names of services are.
"""

from __future__ import annotations

import re
from typing import Final

from swarmpy.errors import InvalidArgument
from swarmpy.model.container_ids import short_container_id
from swarmpy.model.ids import NodeId
from swarmpy.model.specs import EndpointSpec, ServiceSpec, Standalone
from swarmpy.model.states import EndpointMode, PublishMode

START_FAILED: Final = "starting container failed"
"""How the error of a task begins whose process could not be started."""

_PREFIX: Final = "container/"
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_NAME_CHARS_MAX: Final = 255


def mode_of(spec: ServiceSpec) -> Standalone:
    """Of a container that was started by hand only."""
    assert spec.mode.standalone is not None
    return spec.mode.standalone


def store_name(node_id: NodeId, name: str) -> str:
    return f"{_PREFIX}{node_id}/{name}"


def container_name(spec: ServiceSpec) -> str:
    """As its user calls it; of a service, the service's name."""
    return spec.name.removeprefix(_PREFIX).partition("/")[2] if is_store_name(spec.name) else spec.name


def is_store_name(name: str) -> bool:
    return name.startswith(_PREFIX)


def names_of(service_id: str, spec: ServiceSpec) -> tuple[str, ...]:
    """What a container started by hand answers to in every network, beside its aliases: its name first."""
    return (container_name(spec), short_container_id(service_id))


def check_name(name: str) -> None:
    """Docker's rule, and its sentence."""
    if not _NAME.match(name) or len(name) > _NAME_CHARS_MAX:
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")


def check(spec: ServiceSpec) -> None:
    """What only a container started by hand has to keep to: nothing of it is spread, balanced or updated."""
    mode = spec.mode.standalone
    assert mode is not None
    if not mode.node_id or spec.name != store_name(mode.node_id, container_name(spec)):
        raise InvalidArgument("a container started by hand belongs to a node, and its name to that node")
    check_name(container_name(spec))
    endpoint = spec.endpoint_spec or EndpointSpec(mode=EndpointMode.DNSRR)
    if endpoint.mode is not EndpointMode.DNSRR:
        raise InvalidArgument("a container started by hand has no virtual address")
    if any(port.publish_mode is not PublishMode.HOST for port in endpoint.ports):
        raise InvalidArgument("a container started by hand publishes ports on its own node only")
    if spec.depends_on or spec.rebalance or spec.update_config or spec.rollback_config:
        raise InvalidArgument("a container started by hand is one task: it is never updated or moved")
