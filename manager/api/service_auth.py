"""Who asks the registry for a service's image: kept with its spec, told to nodes, shown to nobody. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from manager.store.view import View
from swarmpy.errors import InvalidArgument
from swarmpy.image_limits import REGISTRY_AUTH_CHARS_MAX
from swarmpy.model.objects import Service
from swarmpy.model.specs import ServiceSpec

PREVIOUS_SPEC = "previous-spec"


def with_auth(spec: ServiceSpec, auth: str) -> ServiceSpec:
    """``auth``: a client's X-Registry-Auth; what the body says of it does not count."""
    container = spec.task_template.container_spec
    if container is None or container.registry_auth == auth:
        return spec
    if len(auth) > REGISTRY_AUTH_CHARS_MAX:
        raise InvalidArgument("X-Registry-Auth is too long")
    template = replace(spec.task_template, container_spec=replace(container, registry_auth=auth))
    return replace(spec, task_template=template)


def kept_auth(view: View, service: Service, *, source: str) -> str:
    """Of a service's present spec, or of the one before: for an update that brings none."""
    spec: ServiceSpec | None = service.spec
    if source == PREVIOUS_SPEC:
        previous = view.revision(service.previous_id) if service.previous_id else None
        spec = previous.spec if previous is not None else None
    container = spec.task_template.container_spec if spec is not None else None
    return container.registry_auth if container is not None else ""
