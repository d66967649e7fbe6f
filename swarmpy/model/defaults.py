"""What holds where a spec leaves a field out: swarm mode's defaults, and the accessors that apply them.

Specs are stored as the user wrote them (``model/specs.py``), so whoever acts on a field that may be absent
reads it through here. A default that differs from swarm mode's on purpose: a restart policy without a delay
has none here either (``None``), which stands for exponential backoff.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from swarmpy.limits import UPDATE_PROGRESS_DEADLINE_S
from swarmpy.model.cluster_specs import NetworkSpec, NodeSpec
from swarmpy.model.ids import SECOND_NS, Duration
from swarmpy.model.objects import Cluster, Service, Task
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    Healthcheck,
    PortConfig,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import (
    EndpointMode,
    FailureAction,
    NodeAvailability,
    PortProtocol,
    PublishMode,
    RestartCondition,
    UpdateOrder,
)

NO_TIME: Final = Duration(0)
CLUSTER_NAME: Final = "default"
TASK_HISTORY_LIMIT: Final = 5
HEARTBEAT_PERIOD: Final = Duration(5 * SECOND_NS)
NODE_CERT_EXPIRY: Final = Duration(90 * 24 * 3600 * SECOND_NS)
SNAPSHOT_INTERVAL: Final = 10_000
LOG_ENTRIES_FOR_SLOW_FOLLOWERS: Final = 500
ELECTION_TICK: Final = 10
HEARTBEAT_TICK: Final = 1
ADDRESS_POOL: Final = ("10.0.0.0/8",)
SUBNET_SIZE: Final = 24
DATA_PATH_PORT: Final = 4789
OVERLAY_DRIVER: Final = "overlay"
ENCRYPTED_OPTION: Final = "encrypted"

REPLICAS: Final = 1
RESTART_DELAY: Final = Duration(5 * SECOND_NS)
"""What tools show for a policy without a delay; what holds is backoff (see ``restart_policy``)."""
UPDATE_PARALLELISM: Final = 1
UPDATE_MONITOR: Final = Duration(5 * SECOND_NS)
UPDATE_PROGRESS_DEADLINE: Final = Duration(int(UPDATE_PROGRESS_DEADLINE_S * SECOND_NS))
STOP_SIGNAL: Final = "SIGTERM"
STOP_GRACE_PERIOD: Final = Duration(10 * SECOND_NS)
HEALTH_INTERVAL: Final = Duration(30 * SECOND_NS)
HEALTH_TIMEOUT: Final = Duration(30 * SECOND_NS)
HEALTH_START_INTERVAL: Final = Duration(5 * SECOND_NS)
HEALTH_RETRIES: Final = 3
READINESS_INTERVAL: Final = Duration(10 * SECOND_NS)


# --- cluster and nodes


def task_history_limit(cluster: Cluster | None) -> int:
    """Tasks kept per slot, the present one included; negative means all."""
    limit = cluster.spec.orchestration.task_history_retention_limit if cluster is not None else None
    return TASK_HISTORY_LIMIT if limit is None else limit


def heartbeat_period(cluster: Cluster | None) -> Duration:
    period = cluster.spec.dispatcher.heartbeat_period if cluster is not None else Duration(0)
    return period if period > 0 else HEARTBEAT_PERIOD


def node_cert_expiry(cluster: Cluster | None) -> Duration:
    expiry = cluster.spec.ca_config.node_cert_expiry if cluster is not None else Duration(0)
    return expiry if expiry > 0 else NODE_CERT_EXPIRY


def availability(spec: NodeSpec) -> NodeAvailability:
    return spec.availability or NodeAvailability.ACTIVE


# --- services


def is_replicated(spec: ServiceSpec) -> bool:
    """Whether the mode is replicated; a spec that names no mode is."""
    return spec.mode.global_ is None and not is_job(spec) and not is_standalone(spec)


def is_standalone(spec: ServiceSpec) -> bool:
    """Whether it is a container that somebody started by hand, and no service to anybody."""
    return spec.mode.standalone is not None


def is_global(spec: ServiceSpec) -> bool:
    return spec.mode.global_ is not None


def is_job(spec: ServiceSpec) -> bool:
    """Whether its tasks are to end: replicated, global and cron jobs."""
    mode = spec.mode
    return mode.replicated_job is not None or mode.global_job is not None or mode.cron_job is not None


def is_per_node(spec: ServiceSpec) -> bool:
    """Whether a task's place is a node, not a numbered slot: global services and global jobs."""
    return is_global(spec) or spec.mode.global_job is not None


def place_text(spec: ServiceSpec | None, task: Task) -> str:
    """What of a task's name follows its service's: the slot, which of jobs begins at 0, or its node's id."""
    is_numbered = spec is not None and is_job(spec) and not is_per_node(spec)
    return str(task.slot) if task.slot or is_numbered else task.node_id


def replicas(spec: ServiceSpec) -> int:
    """Replicas wished for of a replicated service."""
    replicated = spec.mode.replicated
    if replicated is None or replicated.replicas is None:
        return REPLICAS
    return replicated.replicas


def replicas_of(service: Service) -> int:
    """Replicas that a replicated service should have now: what was wished for, or what its load asks for."""
    wished, autoscale = replicas(service.spec), service.spec.autoscale
    if autoscale is None:
        return wished
    status = service.autoscale_status
    return max(autoscale.min, min(autoscale.max, wished if status is None else status.replicas))


@dataclass(frozen=True, slots=True)
class EffectiveRestart:
    """A restart policy with nothing left out. ``delay`` None: exponential backoff; 0 attempts: no limit;
    window 0: since ever."""

    condition: RestartCondition = RestartCondition.ANY
    delay: Duration | None = None
    max_attempts: int = 0
    window: Duration = NO_TIME


def restart_policy(template: TaskSpec) -> EffectiveRestart:
    policy = template.restart_policy
    if policy is None:
        return EffectiveRestart()
    return EffectiveRestart(
        condition=policy.condition or RestartCondition.ANY,
        delay=policy.delay,
        max_attempts=policy.max_attempts or 0,
        window=policy.window or Duration(0),
    )


@dataclass(frozen=True, slots=True)
class EffectiveUpdate:
    """How an update or rollback proceeds, with nothing left out. ``parallelism`` 0: all at once;
    ``pause_after`` 0: no pause."""

    parallelism: int = UPDATE_PARALLELISM
    delay: Duration = NO_TIME
    failure_action: FailureAction = FailureAction.PAUSE
    monitor: Duration = UPDATE_MONITOR
    max_failure_ratio: float = 0.0
    order: UpdateOrder = UpdateOrder.STOP_FIRST
    progress_deadline: Duration = UPDATE_PROGRESS_DEADLINE
    pause_after: int = 0


def update_config(spec: ServiceSpec) -> EffectiveUpdate:
    return _effective_update(spec.update_config)


def rollback_config(spec: ServiceSpec) -> EffectiveUpdate:
    return _effective_update(spec.rollback_config)


def _effective_update(config: UpdateConfig | None) -> EffectiveUpdate:
    if config is None:
        return EffectiveUpdate()
    return EffectiveUpdate(
        parallelism=config.parallelism,
        delay=config.delay,
        failure_action=config.failure_action or FailureAction.PAUSE,
        monitor=config.monitor or UPDATE_MONITOR,
        max_failure_ratio=config.max_failure_ratio,
        order=config.order or UpdateOrder.STOP_FIRST,
        progress_deadline=config.progress_deadline or UPDATE_PROGRESS_DEADLINE,
        pause_after=config.pause_after,
    )


def endpoint_mode(spec: EndpointSpec | None) -> EndpointMode:
    return (spec.mode if spec is not None else None) or EndpointMode.VIP


def port_protocol(port: PortConfig) -> PortProtocol:
    return port.protocol or PortProtocol.TCP


def publish_mode(port: PortConfig) -> PublishMode:
    return port.publish_mode or PublishMode.INGRESS


# --- networks


def network_driver(spec: NetworkSpec) -> str:
    driver = spec.driver_configuration
    return (driver.name if driver else "") or OVERLAY_DRIVER


def is_encrypted(spec: NetworkSpec) -> bool:
    """The driver option counts by being there: ``--opt encrypted`` has an empty value."""
    driver = spec.driver_configuration
    return driver is not None and driver.options.get(ENCRYPTED_OPTION, "false").lower() != "false"


# --- containers


def stop_signal(spec: ContainerSpec) -> str:
    return spec.stop_signal or STOP_SIGNAL


def stop_grace_period(spec: ContainerSpec) -> Duration:
    return STOP_GRACE_PERIOD if spec.stop_grace_period is None else spec.stop_grace_period


@dataclass(frozen=True, slots=True)
class EffectiveHealthcheck:
    """A health check with nothing left out."""

    interval: Duration
    timeout: Duration
    start_period: Duration
    start_interval: Duration
    retries: int


def healthcheck(check: Healthcheck) -> EffectiveHealthcheck:
    return EffectiveHealthcheck(
        interval=check.interval or HEALTH_INTERVAL,
        timeout=check.timeout or HEALTH_TIMEOUT,
        start_period=check.start_period,
        start_interval=check.start_interval or HEALTH_START_INTERVAL,
        retries=check.retries or HEALTH_RETRIES,
    )
