"""Which version of each secret and config a service's spec means, once it is accepted. Pure.

A client that names no version (docker's have no word for it) means what the service has by now, else the
newest. So a service that was rolled back does not move to newer data because its labels change.
"""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from manager.api import texts
from manager.store.file_data import pin_clash
from manager.store.view import View
from swarmpy.errors import Rejected
from swarmpy.model.file_versions import (
    NEWEST,
    Reference,
    check_places,
    check_reference,
    data_number,
    references_of,
    target_of,
)
from swarmpy.model.objects import Config, Kind, Secret
from swarmpy.model.specs import ConfigReference, SecretReference, ServiceSpec

R = TypeVar("R", SecretReference, ConfigReference)

_Present = dict[tuple[Kind, str], int]


def pinned(view: View, spec: ServiceSpec, *, of: ServiceSpec | None = None) -> ServiceSpec:
    """The spec with every version named. ``of``: the spec that it is to take the place of."""
    container = spec.task_template.container_spec
    if container is None or not (container.secrets or container.configs):
        return spec
    try:
        for reference in references_of(spec):
            check_reference(reference)
        check_places(references_of(spec))
    except Rejected as error:
        raise texts.invalid(error) from None
    present = {target_of(each): each.version for each in references_of(of)} if of is not None else {}
    container = replace(
        container,
        secrets=tuple(_pinned(view, each, present) for each in container.secrets),
        configs=tuple(_pinned(view, each, present) for each in container.configs),
    )
    spec = replace(spec, task_template=replace(spec.task_template, container_spec=container))
    if why := pin_clash(view, spec):
        raise texts.invalid(why)
    return spec


def _pinned(view: View, reference: R, present: _Present) -> R:
    if reference.version != NEWEST or reference.reload_signal or _is_for_runtime(reference):
        return reference
    key = target_of(reference)
    item = view.get(*key)
    assert isinstance(item, Secret | Config), "references were checked before"
    return replace(reference, version=present.get(key) or data_number(item))


def _is_for_runtime(reference: Reference) -> bool:
    """A credential spec is read by the runtime of a node, not put into tasks."""
    return isinstance(reference, ConfigReference) and reference.file is None
