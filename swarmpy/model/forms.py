"""A service's spec as swarm mode reads it back: what is shown of it, and what is stored.

Swarm mode keeps a spec in a form in which some fields cannot be absent, so that a client that leaves them
out finds them filled in. Idempotent clients compare, so we fill in the same ones and no others: what is
beyond them stays as it was given, and ``inspect?insertDefaults`` shows it (``manager/api/fill.py``). Reading
a spec and writing it back changes nothing. Pure.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from swarmpy.model import defaults
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    Replicated,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import FailureAction, RestartCondition, UpdateOrder

CONTAINER_RUNTIME: Final = "container"
DEFAULT_ISOLATION: Final = "default"


def as_read(spec: ServiceSpec) -> ServiceSpec:
    """Filling in twice is filling in once. A container that was started by hand is no service."""
    if defaults.is_standalone(spec):
        return spec
    return replace(
        spec,
        task_template=template_as_read(spec.task_template),
        mode=_mode(spec.mode),
        update_config=_update(spec.update_config),
        rollback_config=_update(spec.rollback_config),
        endpoint_spec=_endpoint(spec.endpoint_spec),
    )


def template_as_read(template: TaskSpec) -> TaskSpec:
    return replace(
        template,
        container_spec=_container(template.container_spec),
        restart_policy=_restart(template.restart_policy),
        runtime=template.runtime or CONTAINER_RUNTIME,
    )


def _container(spec: ContainerSpec | None) -> ContainerSpec | None:
    return None if spec is None else replace(spec, isolation=spec.isolation or DEFAULT_ISOLATION)


def _restart(policy: RestartPolicy | None) -> RestartPolicy | None:
    if policy is None:
        return None
    return replace(
        policy,
        condition=policy.condition or RestartCondition.ANY,
        max_attempts=policy.max_attempts or 0,
    )


def _mode(mode: ServiceMode) -> ServiceMode:
    if mode == ServiceMode():
        return ServiceMode(replicated=Replicated(replicas=defaults.REPLICAS))
    if mode.replicated is not None and mode.replicated.replicas is None:
        return replace(mode, replicated=Replicated(replicas=defaults.REPLICAS))
    return mode


def _update(config: UpdateConfig | None) -> UpdateConfig | None:
    if config is None:
        return None
    return replace(
        config,
        failure_action=config.failure_action or FailureAction.PAUSE,
        order=config.order or UpdateOrder.STOP_FIRST,
    )


def _endpoint(spec: EndpointSpec | None) -> EndpointSpec | None:
    if spec is None:
        return None
    return replace(
        spec,
        mode=defaults.endpoint_mode(spec),
        ports=tuple(
            replace(port, protocol=defaults.port_protocol(port), publish_mode=defaults.publish_mode(port))
            for port in spec.ports
        ),
    )
