"""What this version's cluster can run of a stack; what it cannot is left out, and said so.

The list below shrinks as the cluster learns: nothing else in this package knows what is still missing.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from swarmpy.compose.stack import NamedSpec, Stack, StackWarning
from swarmpy.model.specs import ContainerSpec, ServiceSpec

MISSING = {
    "secrets": "secrets are not put into tasks yet: the service starts without them",
    "configs": "configs are not put into tasks yet: the service starts without them",
    "deploy.mode": "job-mode services are not supported yet: the service is left out",
    "healthcheck": "health checks are not run yet: a task counts as healthy as soon as it runs",
    "stdin_open": "standard input is not kept open yet: tasks read an empty one",
    "isolation": "isolation is a setting of Windows nodes, which are not supported yet",
    "credential_spec": "credential specs are a setting of Windows nodes, which are not supported yet",
    "logging": "log drivers are not supported yet: logs are kept on the node, and service logs reads them",
}
"""By key of a service: why its part is not run as it was asked for."""


def runnable(stack: Stack) -> Stack:
    """The stack with specs that the API accepts now, and one more warning for each thing that is missing."""
    warnings = list(stack.warnings)
    services = []
    for service in stack.services:
        missing = list(_missing(service.spec))
        warnings += [
            StackWarning(service.at(key), f"services.{service.name}: {MISSING[key]}") for key in missing
        ]
        if "deploy.mode" not in missing:
            services.append(NamedSpec(service.name, _stripped(service.spec), service.place, service.places))
    return Stack(name=stack.name, services=tuple(services), networks=stack.networks, warnings=tuple(warnings))


def _missing(spec: ServiceSpec) -> Iterator[str]:
    container = spec.task_template.container_spec or ContainerSpec()
    check = container.healthcheck
    asked = {
        "secrets": container.secrets,
        "configs": container.configs,
        "deploy.mode": spec.mode.replicated_job is not None or spec.mode.global_job is not None,
        "healthcheck": check is not None and check.test and check.test[0] != "NONE",
        "stdin_open": container.open_stdin,
        "isolation": container.isolation,
        "credential_spec": container.privileges,
        "logging": spec.task_template.log_driver,
    }
    yield from (key for key, value in asked.items() if value)


def _stripped(spec: ServiceSpec) -> ServiceSpec:
    """A health check and standard input stay: the API takes them with the same warnings."""
    template = spec.task_template
    container = template.container_spec or ContainerSpec()
    return replace(
        spec,
        task_template=replace(
            template,
            log_driver=None,
            container_spec=replace(container, secrets=(), configs=(), isolation="", privileges=None),
        ),
    )
