"""What a task may use and what it reserves: ``deploy.resources``, and the service's own keys that say the
same."""

from __future__ import annotations

from typing import Final, TypeVar

from swarmpy.compose.fields import Fields
from swarmpy.model.specs import (
    DiscreteGenericResource,
    GenericResource,
    Limits,
    NamedGenericResource,
    ResourceRequirements,
    Resources,
)

_CPU_PERIOD_US: Final = 100_000
"""The kernel's, unless cpu_period says otherwise."""
_NANO: Final = 1_000_000_000
_UNLIMITED: Final = -1
T = TypeVar("T", bound=int | None)


def same(service: Fields, key: str, own: T, theirs: T, *, path: str) -> T:
    """The value of a key of the service and of its twin under deploy: either, or both if they agree."""
    if own and theirs and own != theirs:
        raise service.error(key, f"and {path} cannot differ: leave one of them out")
    return own or theirs


def resources(service: Fields, rules: Fields) -> ResourceRequirements:
    deployed = rules.fields("resources")
    limits = _limits(service, None if deployed is None else deployed.fields("limits"))
    return ResourceRequirements(
        limits=limits,
        reservations=_reservations(service, None if deployed is None else deployed.fields("reservations")),
        swap_bytes=_swap(service, limits),
        memory_swappiness=service.whole("mem_swappiness", low=-1),
    )


def _limits(service: Fields, fields: Fields | None) -> Limits | None:
    own = Limits(
        nano_cpus=service.cpus("cpus") or _quota(service),
        memory_bytes=service.size("mem_limit"),
        pids=max(0, service.whole("pids_limit", low=_UNLIMITED) or 0),
    )
    if fields is None:
        return None if own == Limits() else own
    path = "deploy.resources.limits"
    return Limits(
        nano_cpus=same(service, "cpus", own.nano_cpus, fields.cpus("cpus"), path=f"{path}.cpus"),
        memory_bytes=same(
            service, "mem_limit", own.memory_bytes, fields.size("memory"), path=f"{path}.memory"
        ),
        pids=same(service, "pids_limit", own.pids, fields.whole("pids") or 0, path=f"{path}.pids"),
    )


def _quota(service: Fields) -> int:
    """Microseconds of the processor in each period, as CPUs."""
    quota, period = service.whole("cpu_quota", low=_UNLIMITED), service.whole("cpu_period", low=1)
    if quota is None or quota <= 0:
        return 0
    return quota * _NANO // (period or _CPU_PERIOD_US)


def _swap(service: Fields, limits: Limits | None) -> int | None:
    """Beside memory; the key means both together."""
    if not service.has("memswap_limit"):
        return None
    if service.text("memswap_limit") == str(_UNLIMITED):
        return _UNLIMITED
    both, memory = service.size("memswap_limit"), 0 if limits is None else limits.memory_bytes
    if not memory or both < memory:
        raise service.error(
            "memswap_limit", "is memory and swap together: set mem_limit, too, and no more than this"
        )
    return both - memory


def _reservations(service: Fields, fields: Fields | None) -> Resources | None:
    own = service.size("mem_reservation")
    if fields is None:
        return Resources(memory_bytes=own) if own else None
    return Resources(
        nano_cpus=fields.cpus("cpus"),
        memory_bytes=same(
            service,
            "mem_reservation",
            own,
            fields.size("memory"),
            path="deploy.resources.reservations.memory",
        ),
        generic_resources=tuple(_generic(item) for item in fields.list_of_fields("generic_resources")),
    )


def _generic(fields: Fields) -> GenericResource:
    discrete, named = fields.fields("discrete_resource_spec"), fields.fields("named_resource_spec")
    if discrete is not None and named is None:
        return GenericResource(
            discrete_resource_spec=DiscreteGenericResource(
                kind=discrete.text("kind"), value=discrete.whole("value") or 0
            )
        )
    if named is not None and discrete is None:
        return GenericResource(
            named_resource_spec=NamedGenericResource(kind=named.text("kind"), value=named.text("value"))
        )
    raise fields.error(
        "discrete_resource_spec", "or named_resource_spec is needed, one of them, with kind and value"
    )
