"""What this version's cluster can run of a stack; what it cannot is left out, and said so.

The list below shrinks as the cluster learns: nothing else in this package knows what is still missing.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from swarmpy.compose.stack import NamedSpec, Stack, StackWarning
from swarmpy.model.defaults import publish_mode
from swarmpy.model.specs import ContainerSpec, ServiceSpec
from swarmpy.model.states import PublishMode

MISSING = {
    "networks": "overlay networks are not built yet: services reach each other by address only",
    "secrets": "secrets are not put into tasks yet: the service starts without them",
    "configs": "configs are not put into tasks yet: the service starts without them",
    "deploy.mode": "job-mode services are not supported yet: the service is left out",
    "ports": "ports in ingress mode are not served yet: publish with mode: host to reach the tasks",
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
        if "networks" not in service.places:
            missing.remove("networks")  # the default network: one warning for all, below
        warnings += [
            StackWarning(service.at(key), f"services.{service.name}: {MISSING[key]}") for key in missing
        ]
        if "deploy.mode" not in missing:
            services.append(NamedSpec(service.name, _stripped(service.spec), service.place, service.places))
    on_default = [service for service in stack.services if "networks" not in service.places]
    if len(stack.services) > 1 and on_default:
        warnings.append(
            StackWarning(on_default[0].place, f"the stack's default network: {MISSING['networks']}")
        )
    return Stack(name=stack.name, services=tuple(services), warnings=tuple(warnings))


def _missing(spec: ServiceSpec) -> Iterator[str]:
    container = spec.task_template.container_spec or ContainerSpec()
    check = container.healthcheck
    ports = () if spec.endpoint_spec is None else spec.endpoint_spec.ports
    asked = {
        "networks": spec.task_template.networks,
        "secrets": container.secrets,
        "configs": container.configs,
        "deploy.mode": spec.mode.replicated_job is not None or spec.mode.global_job is not None,
        "ports": any(publish_mode(port) is PublishMode.INGRESS for port in ports),
        "healthcheck": check is not None and check.test and check.test[0] != "NONE",
        "stdin_open": container.open_stdin,
        "isolation": container.isolation,
        "credential_spec": container.privileges,
        "logging": spec.task_template.log_driver,
    }
    yield from (key for key, value in asked.items() if value)


def _stripped(spec: ServiceSpec) -> ServiceSpec:
    """A health check, ingress ports and standard input stay: the API takes them with the same warnings."""
    template = spec.task_template
    container = template.container_spec or ContainerSpec()
    return replace(
        spec,
        task_template=replace(
            template,
            networks=(),
            log_driver=None,
            container_spec=replace(container, secrets=(), configs=(), isolation="", privileges=None),
        ),
    )
