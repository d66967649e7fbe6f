"""What a spec may say: checks that need nothing but the spec itself.

Each function returns nothing or raises ``InvalidArgument`` (``Unimplemented`` for what swarm mode has and
SwarmPy does not yet) with swarm mode's own sentence. What needs the cluster (names taken, ports in use,
secrets that exist) is checked by the API against the store, and again by ``apply``. Constraint expressions
are parsed by the scheduler's own parser, also at the API.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from swarmpy.errors import InvalidArgument, Unimplemented
from swarmpy.limits import REPLICAS_MAX
from swarmpy.model import (
    container_rules,
    endpoint_policy,
    generic_resources,
    health_rules,
    job_rules,
    network_rules,
    placement_rules,
    standalone,
)
from swarmpy.model.cluster_specs import ClusterSpec, ConfigSpec, NetworkSpec, NodeSpec, SecretSpec
from swarmpy.model.host_ports import HostKind, kind_of
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    FileTarget,
    Mount,
    PortConfig,
    ResourceRequirements,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import EndpointMode, MountType, NodeRole, PortProtocol, PublishMode

NAME_CHARS_MAX: Final = 63
FILE_NAME_CHARS_MAX: Final = 64
SECRET_BYTES_MAX: Final = 500 * 1024
CONFIG_BYTES_MAX: Final = 1000 * 1024
NANO_CPUS_MIN: Final = 1_000_000
MEMORY_BYTES_MIN: Final = 4 << 20
PORT_MAX: Final = 65535
AUTOSCALE_PERCENT_MAX: Final = 10_000
"""Of what a task reserves, which it may well exceed."""
CERT_EXPIRY_MIN_NS: Final = 3600 * 1_000_000_000

_DNS_NAME: Final = re.compile(r"[a-zA-Z0-9](?:[-_a-zA-Z0-9]*[a-zA-Z0-9])?\Z")
_FILE_NAME: Final = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?\Z")
_IMAGE: Final = re.compile(
    r"(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[\w][\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?\Z"
)
_IMAGE_TAIL: Final = re.compile(r"(?::[\w.-]+)?(?:@.*)?\Z")
_IMAGE_CHARS_MAX: Final = 512
_IMAGE_NAME_CHARS_MAX: Final = 255
"""Of an image's name, without its tag and digest."""


def check_service(spec: ServiceSpec) -> None:
    """All rules of a service's spec, in swarm mode's order."""
    if spec.mode.standalone is None:
        check_name(spec.name)
    else:
        standalone.check(spec)
    _check_task(spec.task_template)
    _check_update(spec.update_config, what="update")
    _check_update(spec.rollback_config, what="rollback")
    for place in (*spec.task_template.networks, *spec.networks):
        network_rules.check_attachment(place)
    endpoint_policy.check_labels(spec.labels)
    _check_endpoint(spec.endpoint_spec)
    _check_mode(spec.mode, has_update_config=spec.update_config is not None)
    job_rules.check_dependencies(spec)
    placement_rules.check_rebalance(spec)
    _check_autoscale(spec)


def check_network(spec: NetworkSpec) -> None:
    check_name(spec.name)
    network_rules.check_network_flags(spec)
    network_rules.check_driver(spec.driver_configuration)
    network_rules.check_ipam(spec.ipam_options, has_ipv6=spec.ipv6_enabled)


def check_name(name: str) -> None:
    """Names of services and networks are DNS labels."""
    if not name:
        raise InvalidArgument("meta: name must be provided")
    if len(name) > NAME_CHARS_MAX:
        raise InvalidArgument("name must be 63 characters or fewer")
    if not _DNS_NAME.match(name):
        raise InvalidArgument("name must be valid as a DNS name component")


def check_secret(spec: SecretSpec) -> None:
    _check_file_name(spec.name)
    if spec.driver is None and not 0 < len(spec.data) < SECRET_BYTES_MAX:
        raise InvalidArgument("secret data must be larger than 0 and less than 512000 bytes")


def check_config(spec: ConfigSpec) -> None:
    _check_file_name(spec.name)
    if not 0 < len(spec.data) < CONFIG_BYTES_MAX:
        raise InvalidArgument("config data must be larger than 0 and less than 1024000 bytes")


def check_node(spec: NodeSpec) -> None:
    if spec.role is NodeRole.UNSPECIFIED:
        raise InvalidArgument('invalid Role: ""')
    if not spec.availability:
        raise InvalidArgument('invalid Availability: ""')
    if spec.stop_after < 0:
        raise InvalidArgument("invalid StopAfter: it cannot be negative (0: tasks run on without a manager)")


def check_cluster(spec: ClusterSpec) -> None:
    if spec.name not in ("", "default"):
        raise InvalidArgument('swarm spec must be named "default"')
    expiry = spec.ca_config.node_cert_expiry
    if expiry and expiry < CERT_EXPIRY_MIN_NS:
        raise InvalidArgument("minimum certificate expiry time is: 1h0m0s")
    if spec.dispatcher.heartbeat_period < 0:
        raise InvalidArgument("heartbeat time period cannot be a negative duration")
    if spec.raft.snapshot_interval < 0:
        raise InvalidArgument("raft snapshot interval cannot be negative")


def _check_file_name(name: str) -> None:
    if not name:
        raise InvalidArgument("meta: name must be provided")
    if len(name) > FILE_NAME_CHARS_MAX or not _FILE_NAME.match(name):
        raise InvalidArgument(
            "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, "
            "and the start and end character must be [a-zA-Z0-9]"
        )


# --- mode


def _check_mode(mode: ServiceMode, *, has_update_config: bool) -> None:
    chosen = [
        m
        for m in (
            mode.replicated,
            mode.global_,
            mode.replicated_job,
            mode.global_job,
            mode.cron_job,
            mode.standalone,
        )
        if m is not None
    ]
    if len(chosen) > 1:
        raise InvalidArgument("must specify only one service mode")
    if mode.replicated is not None:
        check_replicas(mode.replicated.replicas)
    if mode.replicated_job is not None:
        check_replicas(mode.replicated_job.total_completions)
        check_replicas(mode.replicated_job.max_concurrent)
    if mode.cron_job is not None:
        check_replicas(mode.cron_job.total_completions)
        check_replicas(mode.cron_job.max_concurrent)
        job_rules.check_cron(mode.cron_job)
    is_job = mode.replicated_job is not None or mode.global_job is not None or mode.cron_job is not None
    if has_update_config and is_job:
        raise InvalidArgument("Jobs may not have an update config")


def _check_autoscale(spec: ServiceSpec) -> None:
    wish = spec.autoscale
    if wish is None:
        return
    mode = spec.mode
    if mode.global_ or mode.replicated_job or mode.global_job or mode.cron_job or mode.standalone:
        raise InvalidArgument("autoscale is for replicated services")
    if not 1 <= wish.min <= wish.max:
        raise InvalidArgument(
            f"autoscale: min {wish.min}, max {wish.max}: min must be 1 or more, and max not below it"
        )
    check_replicas(wish.max)
    for name, percent in (("cpu", wish.cpu_percent), ("memory", wish.memory_percent)):
        if not 0 <= percent <= AUTOSCALE_PERCENT_MAX:
            raise InvalidArgument(
                f"autoscale: {name} {percent}% is not between 1% and {AUTOSCALE_PERCENT_MAX}%"
            )
    if not wish.cpu_percent and not wish.memory_percent:
        raise InvalidArgument("autoscale: say what to follow: cpu=60%, memory=80%, or both")
    resources = spec.task_template.resources or ResourceRequirements()
    has_memory = any(
        part is not None and part.memory_bytes for part in (resources.limits, resources.reservations)
    )
    if wish.memory_percent and not has_memory:
        raise InvalidArgument("autoscale: memory is a part of what a task reserves or may use: set either")
    if wish.scale_down_delay < 0:
        raise InvalidArgument("autoscale: down-delay cannot be negative")


def check_replicas(count: int | None) -> None:
    """A typing error of five more digits must not become a hundred million tasks."""
    if count is None:
        return
    if count < 0:
        raise InvalidArgument("Number of replicas must be non-negative")
    if count > REPLICAS_MAX:
        raise InvalidArgument(
            f"Number of replicas must be at most {REPLICAS_MAX}; {count} were asked for. "
            "Split the work over several services if you do need more."
        )


# --- task template


def _check_task(spec: TaskSpec) -> None:
    _check_resources(spec.resources)
    _check_restart(spec.restart_policy)
    if spec.placement is not None and spec.placement.max_replicas < 0:
        raise InvalidArgument("max replicas per node cannot be negative")
    if spec.runtime not in ("", "container"):
        raise Unimplemented("RuntimeSpec: unimplemented runtime in service spec")
    if spec.container_spec is None:
        raise InvalidArgument("TaskSpec: missing runtime")
    _check_container(spec.container_spec)


def _check_resources(spec: ResourceRequirements | None) -> None:
    if spec is None:
        return
    for part in (spec.limits, spec.reservations):
        if part is None:
            continue
        if part.nano_cpus and part.nano_cpus < NANO_CPUS_MIN:
            raise InvalidArgument(f"invalid cpu value {part.nano_cpus / 1e9:g}: Must be at least 0.001")
        if part.memory_bytes and part.memory_bytes < MEMORY_BYTES_MIN:
            raise InvalidArgument(f"invalid memory value {part.memory_bytes}: Must be at least 4MiB")
    if spec.reservations is not None:
        generic_resources.check_wish(spec.reservations.generic_resources)
    if spec.limits is not None and spec.limits.pids < 0:
        raise InvalidArgument("invalid pids limit: it cannot be negative")
    container_rules.check_memory(spec)


def _check_restart(policy: RestartPolicy | None) -> None:
    if policy is None:
        return
    if policy.delay is not None and policy.delay < 0:
        raise InvalidArgument("TaskSpec: restart-delay cannot be negative")
    if policy.window is not None and policy.window < 0:
        raise InvalidArgument("TaskSpec: restart-window cannot be negative")
    if policy.max_attempts is not None and policy.max_attempts < 0:
        raise InvalidArgument("TaskSpec: restart-max-attempts cannot be negative")


def _check_update(config: UpdateConfig | None, *, what: str) -> None:
    if config is None:
        return
    if config.delay < 0:
        raise InvalidArgument(f"TaskSpec: {what}-delay cannot be negative")
    if config.monitor < 0:
        raise InvalidArgument(f"TaskSpec: {what}-monitor cannot be negative")
    if config.parallelism < 0:
        raise InvalidArgument(f"TaskSpec: {what}-parallelism cannot be negative")
    if not 0 <= config.max_failure_ratio <= 1:
        raise InvalidArgument(f"TaskSpec: {what}-maxfailureratio cannot be less than 0 or bigger than 1")
    if config.progress_deadline < 0:
        raise InvalidArgument(f"TaskSpec: {what}-progress-deadline cannot be negative")
    if config.pause_after < 0:
        raise InvalidArgument(f"TaskSpec: {what}-pause-after cannot be negative")
    if config.pause_after and what == "rollback":
        raise InvalidArgument("TaskSpec: a rollback does not pause: pause-after is for updates")


# --- container


def _check_container(spec: ContainerSpec) -> None:
    if not spec.image:
        raise InvalidArgument("ContainerSpec: image reference must be provided")
    if (
        len(spec.image) > _IMAGE_CHARS_MAX
        or not _IMAGE.match(spec.image)
        or len(_IMAGE_TAIL.sub("", spec.image)) > _IMAGE_NAME_CHARS_MAX
    ):
        raise InvalidArgument(f'ContainerSpec: "{spec.image}" is not a valid repository/tag')
    for entry in spec.env:
        if not entry or entry.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {entry}")
    if spec.stop_grace_period is not None and spec.stop_grace_period < 0:
        raise InvalidArgument("ContainerSpec: stop-grace-period cannot be negative")
    _check_mounts(spec.mounts)
    container_rules.check_options(spec)
    health_rules.check_health(spec)
    _check_targets("secret", [(ref.secret_name, ref.file) for ref in spec.secrets if ref.file is not None])
    _check_targets("config", [(ref.config_name, ref.file) for ref in spec.configs if ref.file is not None])
    for secret in spec.secrets:
        if not secret.secret_id or not secret.secret_name:
            raise InvalidArgument("malformed secret reference")
        if secret.file is None:
            raise InvalidArgument("malformed secret reference, no target provided")
        if not secret.file.name:
            raise InvalidArgument("malformed file secret reference, no target file name provided")
    for config in spec.configs:
        if not config.config_id or not config.config_name:
            raise InvalidArgument("malformed config reference")
        if config.file is None and config.runtime is None:
            raise InvalidArgument("malformed config reference: either a file or a runtime target is needed")


def _check_mounts(mounts: Sequence[Mount]) -> None:
    seen: set[str] = set()
    for mount in mounts:
        if mount.type is MountType.UNSPECIFIED:
            raise InvalidArgument("invalid mount config: type must be specified")
        if not mount.target.startswith("/"):
            raise InvalidArgument(f"invalid mount target, must be an absolute path: {mount.target}")
        if mount.type is MountType.BIND and not mount.source.startswith("/"):
            raise InvalidArgument(f"invalid bind mount source, must be an absolute path: {mount.source}")
        if mount.type is MountType.TMPFS and mount.source:
            raise InvalidArgument("invalid tmpfs source, source must be empty")
        if mount.target in seen:
            raise InvalidArgument(f"ContainerSpec: duplicate mount point: {mount.target}")
        seen.add(mount.target)


def _check_targets(kind: str, references: Iterable[tuple[str, FileTarget]]) -> None:
    owner: dict[str, str] = {}
    for name, target in references:
        if target.name in owner:
            raise InvalidArgument(
                f"{kind} references '{owner[target.name]}' and '{name}' "
                f"have a conflicting target: '{target.name}'"
            )
        owner[target.name] = name


# --- endpoint


def _check_endpoint(spec: EndpointSpec | None) -> None:
    if spec is None:
        return
    published: dict[tuple[int, PortProtocol], set[str]] = {}
    pairs: set[tuple[int, int, PortProtocol]] = set()
    for port in spec.ports:
        _check_port(port)
        protocol = port.protocol or PortProtocol.TCP
        is_ingress = port.publish_mode is not PublishMode.HOST
        if is_ingress and spec.mode is EndpointMode.DNSRR:
            raise InvalidArgument(
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"
            )
        if port.published_port:
            hosts = published.setdefault((port.published_port, protocol), set())
            is_duplicate = not _take_host("" if is_ingress else port.host_ip, hosts)
        else:
            pair = (port.target_port, port.published_port, protocol)
            is_duplicate = pair in pairs
            pairs.add(pair)
        if is_duplicate:
            raise InvalidArgument("EndpointSpec: duplicate published ports provided")


def _take_host(host_ip: str, hosts: set[str]) -> bool:
    """Whether one more port of the same number can be on that address, beside those that are."""
    kind = kind_of(host_ip)
    # those that are there do not clash with each other, so they are of one kind
    if hosts and (host_ip in hosts or kind is HostKind.ALL or kind is not kind_of(next(iter(hosts)))):
        return False
    hosts.add(host_ip)
    return True


def _check_port(port: PortConfig) -> None:
    for name, value in (("target", port.target_port), ("published", port.published_port)):
        if not 0 <= value <= PORT_MAX:
            raise InvalidArgument(f"EndpointSpec: {name} port {value} is not between 0 and {PORT_MAX}")
    if port.host_ip and not network_rules.is_host_ip(port.host_ip):
        raise InvalidArgument(
            f"EndpointSpec: invalid host IP {port.host_ip}: give an address or the name of an interface"
        )
    if port.source_nat and port.publish_mode is PublishMode.HOST:
        raise InvalidArgument("EndpointSpec: source NAT is for ports published with ingress mode")
    if port.target_port == 0:
        raise InvalidArgument("EndpointSpec: a published port needs a target port between 1 and 65535")
