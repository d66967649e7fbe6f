"""A service's spec with every default written out: what ``inspect?insertDefaults=true`` shows. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from swarmpy.model import defaults
from swarmpy.model.ids import Duration
from swarmpy.model.specs import (
    ContainerSpec,
    DNSConfig,
    EndpointSpec,
    Placement,
    Replicated,
    ResourceRequirements,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)


def with_defaults(spec: ServiceSpec) -> ServiceSpec:
    mode = spec.mode
    if defaults.is_replicated(spec):
        mode = ServiceMode(replicated=Replicated(replicas=defaults.replicas(spec)))
    return replace(
        spec,
        mode=mode,
        task_template=_template(spec.task_template),
        update_config=_update(spec.update_config, defaults.update_config(spec)),
        rollback_config=_update(spec.rollback_config, defaults.rollback_config(spec)),
        endpoint_spec=_endpoint(spec.endpoint_spec),
    )


def _template(spec: TaskSpec) -> TaskSpec:
    policy = defaults.restart_policy(spec)
    return replace(
        spec,
        container_spec=None if spec.container_spec is None else _container(spec.container_spec),
        resources=spec.resources or ResourceRequirements(),
        restart_policy=RestartPolicy(
            condition=policy.condition,
            delay=defaults.RESTART_DELAY if policy.delay is None else policy.delay,
            max_attempts=policy.max_attempts,
            window=policy.window,
        ),
        placement=spec.placement or Placement(),
        runtime=spec.runtime or "container",
    )


def _container(spec: ContainerSpec) -> ContainerSpec:
    return replace(
        spec,
        stop_grace_period=Duration(defaults.stop_grace_period(spec)),
        dns_config=spec.dns_config or DNSConfig(),
        isolation=spec.isolation or "default",
    )


def _update(given: UpdateConfig | None, effective: defaults.EffectiveUpdate) -> UpdateConfig:
    return replace(
        given or UpdateConfig(),
        parallelism=effective.parallelism,
        delay=effective.delay,
        failure_action=effective.failure_action,
        monitor=effective.monitor,
        max_failure_ratio=effective.max_failure_ratio,
        order=effective.order,
        progress_deadline=effective.progress_deadline,
    )


def _endpoint(spec: EndpointSpec | None) -> EndpointSpec:
    ports = () if spec is None else spec.ports
    return EndpointSpec(
        mode=defaults.endpoint_mode(spec),
        ports=tuple(
            replace(port, protocol=defaults.port_protocol(port), publish_mode=defaults.publish_mode(port))
            for port in ports
        ),
    )
