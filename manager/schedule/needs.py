"""``Needs``: what the tasks of one revision ask of a node, taken from the spec once per revision.

All tasks of a revision are alike, so filters and sums look at this instead of the spec. A constraint that
does not parse (the API refuses it, but a log may hold anything) matches no node.

Named volumes: the data of a service stays on the node where it was written, so volumes are kept apart by
name. A name that is a template of the task's slot stands for one volume per slot (``volumes_of``); one that
can be told only on the node stands for none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from manager.schedule.constraint import Constraint, Equality, parse_constraints
from swarmpy.errors import InvalidArgument
from swarmpy.model.defaults import is_per_node, is_standalone, port_protocol
from swarmpy.model.host_ports import BoundPort
from swarmpy.model.image_names import is_host
from swarmpy.model.objects import Revision
from swarmpy.model.specs import GenericResource, Platform, ServiceSpec, TaskSpec
from swarmpy.model.states import MountType, PlacementStrategy, PublishMode

_NEVER: Final = (Equality("node.nothing", is_equal=True, value="nothing"),)
_LOCAL_DRIVERS: Final = frozenset({"", "local"})
_SLOT: Final = re.compile(r"{{-?\s*\.Task\.Slot\s*-?}}")
_SERVICE_NAME: Final = re.compile(r"{{-?\s*\.Service\.Name\s*-?}}")
_TEMPLATE: Final = "{{"

HostPort = tuple[str, int]
"""Protocol and number."""


@dataclass(frozen=True, slots=True)
class NamedVolume:
    """A named local volume; ``name`` may be a template of the slot. ``is_sticky``: run only where it is."""

    name: str
    is_sticky: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """Scheduling facts of a revision. Empty: anything goes anywhere."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    generic: tuple[tuple[str, int], ...] = ()
    host_ports: tuple[BoundPort, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    platforms: tuple[Platform, ...] = ()
    volume_drivers: tuple[str, ...] = ()
    log_driver: str = ""
    network_targets: tuple[str, ...] = ()
    max_replicas: int = 0
    spread: tuple[str, ...] = ()
    is_packed: bool = False
    """Nodes are filled one after the other, not evenly."""
    volumes: tuple[NamedVolume, ...] = ()
    is_global: bool = False
    is_by_hand: bool = False
    """Somebody started it on this very node, which need not take tasks of services for that."""
    is_host_image: bool = False
    """They run from the node's own root, which an engine has no way to."""
    has_reservations: bool = False
    is_light: bool = True
    """Such a task weighs nothing on its node but one more task."""


NO_NEEDS: Final = Needs()


def needs_of_revision(revision: Revision) -> Needs:
    spec = revision.spec
    template = spec.task_template
    placement = template.placement
    nano_cpus, memory_bytes, generic = _reservations(template)
    has_reservations = bool(nano_cpus or memory_bytes or generic)
    host_ports = _host_ports(spec)
    volumes = _named_volumes(spec)
    return Needs(
        nano_cpus=nano_cpus,
        memory_bytes=memory_bytes,
        generic=generic,
        host_ports=host_ports,
        constraints=parsed_or_never(placement.constraints) if placement is not None else (),
        platforms=placement.platforms if placement is not None else (),
        volume_drivers=_volume_drivers(template),
        log_driver=template.log_driver.name if template.log_driver is not None else "",
        network_targets=tuple(network.target for network in (*template.networks, *spec.networks)),
        max_replicas=placement.max_replicas if placement is not None else 0,
        spread=_spread(template),
        is_packed=placement is not None and placement.strategy == PlacementStrategy.BINPACK,
        volumes=volumes,
        is_global=is_per_node(spec),
        is_by_hand=is_standalone(spec),
        is_host_image=template.container_spec is not None and is_host(template.container_spec.image),
        has_reservations=has_reservations,
        is_light=not has_reservations and not host_ports and not any(each.is_sticky for each in volumes),
    )


def parsed_or_never(expressions: Iterable[str]) -> tuple[Constraint, ...]:
    """The parsed constraints; if one does not parse, a constraint that no node meets."""
    try:
        return parse_constraints(expressions)
    except InvalidArgument:
        return _NEVER


def generic_counts(resources: Iterable[GenericResource]) -> dict[str, int]:
    """How many of each kind: a named resource counts as one of its kind."""
    counts: dict[str, int] = {}
    for resource in resources:
        if resource.discrete_resource_spec is not None:
            discrete = resource.discrete_resource_spec
            counts[discrete.kind] = counts.get(discrete.kind, 0) + discrete.value
        elif resource.named_resource_spec is not None:
            kind = resource.named_resource_spec.kind
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def _reservations(template: TaskSpec) -> tuple[int, int, tuple[tuple[str, int], ...]]:
    wanted = template.resources.reservations if template.resources is not None else None
    if wanted is None:
        return 0, 0, ()
    generic = tuple(sorted((k, n) for k, n in generic_counts(wanted.generic_resources).items() if n > 0))
    return wanted.nano_cpus, wanted.memory_bytes, generic


def _host_ports(spec: ServiceSpec) -> tuple[BoundPort, ...]:
    ports = spec.endpoint_spec.ports if spec.endpoint_spec is not None else ()
    return tuple(
        (port_protocol(port), port.published_port, port.host_ip)
        for port in ports
        if port.publish_mode == PublishMode.HOST and port.published_port
    )


def _volume_drivers(template: TaskSpec) -> tuple[str, ...]:
    mounts = template.container_spec.mounts if template.container_spec is not None else ()
    drivers = []
    for mount in mounts:
        options = mount.volume_options
        if mount.type != MountType.VOLUME or options is None or options.driver_config is None:
            continue
        if options.driver_config.name not in _LOCAL_DRIVERS:
            drivers.append(options.driver_config.name)
    return tuple(drivers)


def _named_volumes(spec: ServiceSpec) -> tuple[NamedVolume, ...]:
    container = spec.task_template.container_spec
    found: dict[str, NamedVolume] = {}
    for mount in container.mounts if container is not None else ():
        options = mount.volume_options
        driver = options.driver_config if options is not None else None
        is_local = driver is None or driver.name in _LOCAL_DRIVERS
        if mount.type != MountType.VOLUME or not mount.source or not is_local:
            continue
        name = _SERVICE_NAME.sub(lambda match: spec.name, mount.source)
        if _TEMPLATE not in _SLOT.sub("", name):
            is_sticky = options is not None and options.sticky
            found[name] = NamedVolume(name, is_sticky or (name in found and found[name].is_sticky))
    return tuple(found.values())


def has_volume_per_slot(needs: Needs) -> bool:
    """Whether tasks of different slots mount different volumes."""
    return any(_TEMPLATE in volume.name for volume in needs.volumes)


def volumes_of(needs: Needs, slot: int | str) -> tuple[NamedVolume, ...]:
    """The volumes of the task in that slot."""
    if not has_volume_per_slot(needs):
        return needs.volumes
    return tuple(
        NamedVolume(_SLOT.sub(lambda match: str(slot), volume.name), volume.is_sticky)
        for volume in needs.volumes
    )


def _spread(template: TaskSpec) -> tuple[str, ...]:
    preferences = template.placement.preferences if template.placement is not None else ()
    return tuple(each.spread.spread_descriptor for each in preferences if each.spread is not None)
