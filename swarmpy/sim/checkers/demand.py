"""What a task of a revision takes of its node: reservations and host-mode ports, read off the spec.

Reckoned here once more, and not with the scheduler's own function: a checker that shares a mistake with what
it checks finds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from swarmpy.model.objects import Revision, Task
from swarmpy.model.specs import GenericResource, Resources
from swarmpy.model.states import PortProtocol, PublishMode, TaskState

CPUS: Final = "nano_cpus"
MEMORY: Final = "memory_bytes"
GENERIC: Final = "generic "
"""Before the kinds of resources of the user's own."""


@dataclass(frozen=True, slots=True)
class Demand:
    """``reservations``: amounts by the resource's name, none of them 0."""

    reservations: tuple[tuple[str, int], ...] = ()
    host_ports: tuple[tuple[str, int, str], ...] = ()
    """Protocol, number, and the address of the node to which it is bound, if any."""


NO_DEMAND: Final = Demand()


def demand_of(revision: Revision) -> Demand:
    requirements = revision.spec.task_template.resources
    wanted = requirements.reservations if requirements is not None else None
    endpoint = revision.spec.endpoint_spec
    ports = endpoint.ports if endpoint is not None else ()
    amounts = amounts_of(wanted) if wanted is not None else {}
    return Demand(
        reservations=tuple((name, amount) for name, amount in amounts.items() if amount > 0),
        host_ports=tuple(
            (port.protocol or PortProtocol.TCP, port.published_port, port.host_ip)
            for port in ports
            if port.publish_mode == PublishMode.HOST and port.published_port
        ),
    )


def amounts_of(resources: Resources) -> dict[str, int]:
    """All resources by name; a named one counts as one of its kind."""
    amounts = {CPUS: resources.nano_cpus, MEMORY: resources.memory_bytes}
    for kind, amount in _generic(resources.generic_resources):
        amounts[GENERIC + kind] = amounts.get(GENERIC + kind, 0) + amount
    return amounts


def _generic(resources: Iterable[GenericResource]) -> Iterable[tuple[str, int]]:
    for each in resources:
        if each.discrete_resource_spec is not None:
            yield each.discrete_resource_spec.kind, each.discrete_resource_spec.value
        elif each.named_resource_spec is not None:
            yield each.named_resource_spec.kind, 1


def is_held(task: Task) -> bool:
    """Whether the task takes room on its node: from its placement to its end, whatever is wished of it."""
    return TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING and bool(task.node_id)


Demands = Mapping[str, Demand]
"""By revision id; a revision that takes nothing is not in it."""
