"""What this version's cluster can run of a stack; what it cannot is left out, and said so.

The list below shrinks as the cluster learns: nothing else in this package knows what is still missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from msgspec.structs import replace as changed

from swarmpy.compose.stack import Stack, StackWarning
from swarmpy.model.specs import ContainerSpec, Privileges, ServiceSpec

_DEFAULT_ISOLATION: Final = ("", "default")

MISSING = {
    "isolation": "isolation is a setting of Windows nodes' tasks, which are not supported yet",
    "credential_spec": "credential specs are a setting of Windows nodes' tasks, which are not supported yet",
    "logging": "log drivers are not supported yet: logs are kept on the node, and service logs reads them",
}
"""By key of a service: why its part is not run as it was asked for."""


def runnable(stack: Stack) -> Stack:
    """The stack with specs that the API accepts now, and one more warning for each thing that is missing."""
    warnings = list(stack.warnings)
    services = []
    for service in stack.services:
        warnings += [
            StackWarning(service.at(key), f"services.{service.name}: {MISSING[key]}")
            for key in _missing(service.spec)
        ]
        services.append(replace(service, spec=_stripped(service.spec)))
    return replace(stack, services=tuple(services), warnings=tuple(warnings))


def _missing(spec: ServiceSpec) -> Iterator[str]:
    container = spec.task_template.container_spec or ContainerSpec()
    asked = {
        "isolation": container.isolation not in _DEFAULT_ISOLATION,
        "credential_spec": container.privileges is not None and container.privileges.credential_spec,
        "logging": spec.task_template.log_driver,
    }
    yield from (key for key, value in asked.items() if value)


def _stripped(spec: ServiceSpec) -> ServiceSpec:
    template = spec.task_template
    container = template.container_spec or ContainerSpec()
    rights = container.privileges
    if rights is not None:
        rights = changed(rights, credential_spec=None)
    return changed(
        spec,
        task_template=changed(
            template,
            log_driver=None,
            container_spec=changed(
                container, isolation="", privileges=None if rights == Privileges() else rights
            ),
        ),
    )


def without_files(stack: Stack) -> Stack:
    """For a cluster that has no secrets and configs: services without them, and a warning for each."""
    warnings, services = list(stack.warnings), []
    for service in stack.services:
        container = service.spec.task_template.container_spec or ContainerSpec()
        warnings += [
            StackWarning(service.at(key), f"services.{service.name}: there are no {key} here: left out")
            for key, given in (("secrets", container.secrets), ("configs", container.configs))
            if given
        ]
        template = changed(
            service.spec.task_template, container_spec=changed(container, secrets=(), configs=())
        )
        services.append(replace(service, spec=changed(service.spec, task_template=template)))
    return replace(stack, services=tuple(services), secrets=(), configs=(), warnings=tuple(warnings))
