"""Resources that only the user knows the meaning of: how nodes declare them, how a task is told of its own.

A node has a number of a kind (``slots=3``) or names of it (``gpu=UUID1 gpu=UUID2``), never both. A task asks
for a number of a kind; where the node has names it gets that many of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from swarmpy.errors import InvalidArgument
from swarmpy.model.specs import DiscreteGenericResource, GenericResource, NamedGenericResource

ENV_PREFIX: Final = "DOCKER_RESOURCE_"
_AMOUNT_MAX: Final = (1 << 63) - 1
_KIND: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62})")
"""It becomes part of a variable's name, so it has no ``=`` and no spaces."""


def parse(entries: Iterable[str]) -> tuple[GenericResource, ...]:
    """What a node declares: ``KIND=NAME`` or ``KIND=NUMBER`` each, or several with commas between them."""
    found: dict[str, list[GenericResource]] = {}
    for entry in (part.strip() for each in entries for part in each.split(",")):
        kind, _, value = entry.partition("=")
        kind, value = kind.strip(), value.strip()
        if not _KIND.fullmatch(kind) or not value:
            raise InvalidArgument(
                f"invalid generic resource '{entry}': give KIND=NAME, such as gpu=UUID1, or KIND=NUMBER, "
                "such as slots=3"
            )
        resource = _resource(kind, value)
        others = found.setdefault(kind, [])
        if resource in others:
            raise InvalidArgument(f"generic resource '{entry}' is declared twice: name each one once")
        if others and _is_counted(resource) | _is_counted(others[0]):
            raise InvalidArgument(
                f"generic resource {kind} is declared both by number and by name, or by two numbers: "
                "give one number, or names only"
            )
        others.append(resource)
    return tuple(resource for kind in found for resource in found[kind])


def _resource(kind: str, value: str) -> GenericResource:
    if not (value.isascii() and value.isdigit()):
        return GenericResource(named_resource_spec=NamedGenericResource(kind=kind, value=value))
    amount = int(value) if len(value) < len(str(_AMOUNT_MAX)) else _AMOUNT_MAX + 1
    if not 0 < amount <= _AMOUNT_MAX:
        raise InvalidArgument(f"invalid generic resource '{kind}={value[:30]}': give a number of at least 1")
    return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=amount))


def _is_counted(resource: GenericResource) -> bool:
    return resource.discrete_resource_spec is not None


def environment(resources: Iterable[GenericResource]) -> tuple[str, ...]:
    """A variable for each kind, as in swarm mode: ``DOCKER_RESOURCE_GPU=UUID1,UUID2``."""
    values: dict[str, list[str]] = {}
    for resource in resources:
        if resource.discrete_resource_spec is not None:
            counted = resource.discrete_resource_spec
            values.setdefault(counted.kind, []).append(str(counted.value))
        elif resource.named_resource_spec is not None:
            named = resource.named_resource_spec
            values.setdefault(named.kind, []).append(named.value)
    return tuple(f"{ENV_PREFIX}{kind.upper()}={','.join(values[kind])}" for kind in values)


def check_wish(resources: Iterable[GenericResource]) -> None:
    """A service asks by number only, in swarm mode's words."""
    for resource in resources:
        counted, named = resource.discrete_resource_spec, resource.named_resource_spec
        kind = counted.kind if counted is not None else named.kind if named is not None else ""
        if counted is None:
            raise InvalidArgument(
                f"invalid argument for resource {kind}: ask for a number, such as {kind or 'gpu'}=1"
            )
        if counted.value < 0 or not _KIND.fullmatch(kind):
            raise InvalidArgument(f"invalid argument for resource {kind}")
