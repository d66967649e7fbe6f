"""A service's spec with every default written out: what ``inspect?insertDefaults=true`` shows. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from swarmpy.model import defaults, forms
from swarmpy.model.ids import Duration
from swarmpy.model.specs import (
    ContainerSpec,
    DNSConfig,
    Placement,
    ResourceRequirements,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)


def with_defaults(given: ServiceSpec) -> ServiceSpec:
    spec = forms.as_read(given)
    return replace(
        spec,
        task_template=_template(spec.task_template),
        update_config=_update(spec.update_config, defaults.update_config(spec)),
        rollback_config=_update(spec.rollback_config, defaults.rollback_config(spec)),
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
            window=None if spec.restart_policy is None else spec.restart_policy.window,
        ),
        placement=spec.placement or Placement(),
    )


def _container(spec: ContainerSpec) -> ContainerSpec:
    return replace(
        spec,
        stop_grace_period=Duration(defaults.stop_grace_period(spec)),
        dns_config=spec.dns_config or DNSConfig(),
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
    )
