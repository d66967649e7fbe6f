"""Specs as swarm mode reads them back: what is shown of it, and what is stored.

Swarm mode keeps a spec in a form in which some fields cannot be absent, so that a client that leaves them
out finds them filled in. Idempotent clients compare, so we fill in the same ones and no others: what is
beyond them stays as it was given, and ``inspect?insertDefaults`` shows it (``manager/api/fill.py``). Reading
a spec and writing it back changes nothing. Pure.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from swarmpy.model import defaults
from swarmpy.model.cluster_specs import ClusterSpec
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
DEFAULT_CONSISTENCY: Final = "default"
"""It is read back as left out."""


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


def cluster_made(spec: ClusterSpec) -> ClusterSpec:
    """The spec of a cluster that is about to be made: it has the defaults written out, which later changes of
    it need not keep."""
    raft = spec.raft
    return replace(
        cluster_as_read(spec),
        raft=replace(
            raft,
            snapshot_interval=raft.snapshot_interval or defaults.SNAPSHOT_INTERVAL,
            keep_old_snapshots=raft.keep_old_snapshots or 0,
            log_entries_for_slow_followers=(
                raft.log_entries_for_slow_followers or defaults.LOG_ENTRIES_FOR_SLOW_FOLLOWERS
            ),
            election_tick=raft.election_tick or defaults.ELECTION_TICK,
            heartbeat_tick=raft.heartbeat_tick or defaults.HEARTBEAT_TICK,
        ),
        dispatcher=replace(
            spec.dispatcher,
            heartbeat_period=spec.dispatcher.heartbeat_period or defaults.HEARTBEAT_PERIOD,
        ),
        ca_config=replace(
            spec.ca_config, node_cert_expiry=spec.ca_config.node_cert_expiry or defaults.NODE_CERT_EXPIRY
        ),
    )


def cluster_as_read(spec: ClusterSpec) -> ClusterSpec:
    limit = spec.orchestration.task_history_retention_limit
    return replace(
        spec,
        orchestration=replace(
            spec.orchestration,
            task_history_retention_limit=defaults.TASK_HISTORY_LIMIT if limit is None else limit,
        ),
        raft=replace(spec.raft, keep_old_snapshots=spec.raft.keep_old_snapshots or 0),
    )


def _container(spec: ContainerSpec | None) -> ContainerSpec | None:
    if spec is None:
        return None
    return replace(
        spec,
        isolation=spec.isolation or DEFAULT_ISOLATION,
        mounts=tuple(
            replace(mount, consistency="") if mount.consistency == DEFAULT_CONSISTENCY else mount
            for mount in spec.mounts
        ),
    )


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
