"""Defaults: swarm mode's, where the spec leaves a field out."""

from __future__ import annotations

import pytest

from swarmpy.model import defaults
from swarmpy.model.cluster_specs import CAConfig, ClusterSpec, DispatcherConfig, NodeSpec, OrchestrationConfig
from swarmpy.model.ids import SECOND_NS, ClusterId, Duration
from swarmpy.model.objects import Cluster
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    Global,
    Healthcheck,
    PortConfig,
    Replicated,
    ReplicatedJob,
    RestartPolicy,
    ServiceMode,
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


def cluster(**fields: object) -> Cluster:
    return Cluster(id=ClusterId("c"), spec=ClusterSpec(**fields))  # type: ignore[arg-type]


def test_cluster_settings() -> None:
    assert defaults.task_history_limit(None) == defaults.task_history_limit(cluster()) == 5
    assert defaults.heartbeat_period(cluster()) == 5 * SECOND_NS
    assert defaults.node_cert_expiry(None) == 90 * 24 * 3600 * SECOND_NS
    zero = cluster(orchestration=OrchestrationConfig(task_history_retention_limit=0))
    assert defaults.task_history_limit(zero) == 0
    quick = cluster(dispatcher=DispatcherConfig(heartbeat_period=Duration(1)))
    assert defaults.heartbeat_period(quick) == 1
    short = cluster(ca_config=CAConfig(node_cert_expiry=Duration(7)))
    assert defaults.node_cert_expiry(short) == 7


@pytest.mark.parametrize(
    ("mode", "count"),
    [
        (ServiceMode(), 1),
        (ServiceMode(replicated=Replicated()), 1),
        (ServiceMode(replicated=Replicated(replicas=0)), 0),
        (ServiceMode(replicated=Replicated(replicas=7)), 7),
    ],
)
def test_replicas(mode: ServiceMode, count: int) -> None:
    spec = ServiceSpec(mode=mode)
    assert defaults.is_replicated(spec)
    assert defaults.replicas(spec) == count


def test_modes() -> None:
    everywhere = ServiceSpec(mode=ServiceMode(global_=Global()))
    assert defaults.is_global(everywhere)
    assert not defaults.is_replicated(everywhere)
    job = ServiceSpec(mode=ServiceMode(replicated_job=ReplicatedJob()))
    assert not defaults.is_global(job)
    assert not defaults.is_replicated(job)


def test_restart_policy() -> None:
    left_out = defaults.restart_policy(TaskSpec())
    assert left_out == defaults.restart_policy(TaskSpec(restart_policy=RestartPolicy()))
    assert left_out.condition == RestartCondition.ANY
    assert left_out.delay is None  # exponential backoff
    assert (left_out.max_attempts, left_out.window) == (0, 0)
    given = RestartPolicy(
        condition=RestartCondition.NONE, delay=Duration(0), max_attempts=2, window=Duration(3)
    )
    policy = defaults.restart_policy(TaskSpec(restart_policy=given))
    assert (policy.condition, policy.delay, policy.max_attempts, policy.window) == ("none", 0, 2, 3)


def test_update_and_rollback_config() -> None:
    config = defaults.update_config(ServiceSpec())
    assert (config.parallelism, config.delay, config.monitor) == (1, 0, 5 * SECOND_NS)
    assert (config.failure_action, config.order) == (FailureAction.PAUSE, UpdateOrder.STOP_FIRST)
    assert config.max_failure_ratio == 0
    assert defaults.rollback_config(ServiceSpec()) == config
    # once a user gives a config, 0 is what is meant: all at once
    spec = ServiceSpec(update_config=UpdateConfig(), rollback_config=UpdateConfig(parallelism=3))
    assert defaults.update_config(spec).parallelism == 0
    assert defaults.update_config(spec).monitor == 5 * SECOND_NS
    assert defaults.rollback_config(spec).parallelism == 3


def test_small_ones() -> None:
    assert defaults.availability(NodeSpec()) == NodeAvailability.ACTIVE
    assert defaults.availability(NodeSpec(availability=NodeAvailability.DRAIN)) == NodeAvailability.DRAIN
    assert defaults.endpoint_mode(None) == EndpointMode.VIP
    assert defaults.endpoint_mode(EndpointSpec(mode=EndpointMode.DNSRR)) == EndpointMode.DNSRR
    assert defaults.port_protocol(PortConfig()) == PortProtocol.TCP
    assert defaults.publish_mode(PortConfig()) == PublishMode.INGRESS
    assert defaults.stop_signal(ContainerSpec()) == "SIGTERM"
    assert defaults.stop_grace_period(ContainerSpec()) == 10 * SECOND_NS
    assert defaults.stop_grace_period(ContainerSpec(stop_grace_period=Duration(0))) == 0
    check = defaults.healthcheck(Healthcheck(interval=Duration(7)))
    assert (check.interval, check.timeout, check.retries) == (7, 30 * SECOND_NS, 3)
    assert check.start_interval == 5 * SECOND_NS
