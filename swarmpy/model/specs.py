"""What the user asks for: the specs of services, nodes, networks, secrets, configs, volumes and the cluster.

Specs are the Engine API's, field for field, and are stored as the user gave them: nothing is filled in, so
that what is read back is what was written. ``None`` (or an enumeration's UNSPECIFIED, or an empty
collection) means that the user left a field out; ``model/defaults.py`` says what then holds.
"""

from __future__ import annotations

from swarmpy.model.ids import Duration, Timestamp
from swarmpy.model.states import (
    EndpointMode,
    FailureAction,
    MountType,
    NodeAvailability,
    NodeRole,
    PortProtocol,
    PublishMode,
    RestartCondition,
    UpdateOrder,
)
from swarmpy.model.value import Value


class Driver(Value, frozen=True, kw_only=True):
    """A named driver with options: of logs, networks, volumes, address management."""

    name: str = ""
    options: dict[str, str] = {}


class Platform(Value, frozen=True, kw_only=True):
    architecture: str = ""
    os: str = ""


# --- resources


class NamedGenericResource(Value, frozen=True, kw_only=True):
    kind: str = ""
    value: str = ""


class DiscreteGenericResource(Value, frozen=True, kw_only=True):
    kind: str = ""
    value: int = 0


class GenericResource(Value, frozen=True, kw_only=True):
    """One user-defined resource: a named item or a count. Exactly one field is set."""

    named_resource_spec: NamedGenericResource | None = None
    discrete_resource_spec: DiscreteGenericResource | None = None


class Limits(Value, frozen=True, kw_only=True):
    """What a task may use at most. CPUs in billionths, memory in bytes; 0 means no limit."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0


class Resources(Value, frozen=True, kw_only=True):
    """What a node has, or what a task reserves. CPUs in billionths, memory in bytes."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    generic_resources: tuple[GenericResource, ...] = ()


class ResourceRequirements(Value, frozen=True, kw_only=True):
    limits: Limits | None = None
    reservations: Resources | None = None


# --- containers


class BindOptions(Value, frozen=True, kw_only=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeOptions(Value, frozen=True, kw_only=True):
    no_copy: bool = False
    labels: dict[str, str] = {}
    driver_config: Driver | None = None
    subpath: str = ""


class TmpfsOptions(Value, frozen=True, kw_only=True):
    size_bytes: int = 0
    mode: int = 0


class Mount(Value, frozen=True, kw_only=True):
    type: MountType = MountType.UNSPECIFIED
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class Healthcheck(Value, frozen=True, kw_only=True):
    """Docker's health check; durations in nanoseconds, 0 means the default."""

    test: tuple[str, ...] = ()
    interval: Duration = Duration(0)
    timeout: Duration = Duration(0)
    start_period: Duration = Duration(0)
    start_interval: Duration = Duration(0)
    retries: int = 0


class DNSConfig(Value, frozen=True, kw_only=True):
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class FileTarget(Value, frozen=True, kw_only=True):
    """Where a secret or config appears in a container. ``mode`` is a file mode, such as 0o444."""

    name: str = ""
    uid: str = ""
    gid: str = ""
    mode: int = 0


class SecretReference(Value, frozen=True, kw_only=True):
    file: FileTarget | None = None
    secret_id: str = ""
    secret_name: str = ""


class RuntimeTarget(Value, frozen=True, kw_only=True):
    """The config is for the runtime, not mounted (credential specs)."""


class ConfigReference(Value, frozen=True, kw_only=True):
    file: FileTarget | None = None
    runtime: RuntimeTarget | None = None
    config_id: str = ""
    config_name: str = ""


class Ulimit(Value, frozen=True, kw_only=True):
    name: str = ""
    soft: int = 0
    hard: int = 0


class CredentialSpec(Value, frozen=True, kw_only=True):
    config: str = ""
    file: str = ""
    registry: str = ""


class SELinuxContext(Value, frozen=True, kw_only=True):
    disable: bool = False
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class SeccompOptions(Value, frozen=True, kw_only=True):
    mode: str = ""
    profile: bytes = b""


class AppArmorOptions(Value, frozen=True, kw_only=True):
    mode: str = ""


class Privileges(Value, frozen=True, kw_only=True):
    credential_spec: CredentialSpec | None = None
    selinux_context: SELinuxContext | None = None
    seccomp: SeccompOptions | None = None
    app_armor: AppArmorOptions | None = None
    no_new_privileges: bool = False


class ContainerSpec(Value, frozen=True, kw_only=True):
    image: str = ""
    labels: dict[str, str] = {}
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    hostname: str = ""
    env: tuple[str, ...] = ()
    dir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    privileges: Privileges | None = None
    init: bool | None = None
    stop_signal: str = ""
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    mounts: tuple[Mount, ...] = ()
    stop_grace_period: Duration | None = None
    healthcheck: Healthcheck | None = None
    hosts: tuple[str, ...] = ()
    dns_config: DNSConfig | None = None
    secrets: tuple[SecretReference, ...] = ()
    configs: tuple[ConfigReference, ...] = ()
    isolation: str = ""
    sysctls: dict[str, str] = {}
    capability_add: tuple[str, ...] = ()
    capability_drop: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0


# --- services


class RestartPolicy(Value, frozen=True, kw_only=True):
    """``delay`` and ``window`` in nanoseconds; an absent delay means exponential backoff."""

    condition: RestartCondition = RestartCondition.UNSPECIFIED
    delay: Duration | None = None
    max_attempts: int | None = None
    window: Duration | None = None


class SpreadOver(Value, frozen=True, kw_only=True):
    spread_descriptor: str = ""


class PlacementPreference(Value, frozen=True, kw_only=True):
    spread: SpreadOver | None = None


class Placement(Value, frozen=True, kw_only=True):
    constraints: tuple[str, ...] = ()
    preferences: tuple[PlacementPreference, ...] = ()
    max_replicas: int = 0
    platforms: tuple[Platform, ...] = ()


class NetworkAttachmentConfig(Value, frozen=True, kw_only=True):
    target: str = ""
    aliases: tuple[str, ...] = ()
    driver_opts: dict[str, str] = {}


class TaskSpec(Value, frozen=True, kw_only=True):
    container_spec: ContainerSpec | None = None
    resources: ResourceRequirements | None = None
    restart_policy: RestartPolicy | None = None
    placement: Placement | None = None
    networks: tuple[NetworkAttachmentConfig, ...] = ()
    log_driver: Driver | None = None
    force_update: int = 0
    runtime: str = ""


class Replicated(Value, frozen=True, kw_only=True):
    replicas: int | None = None


class Global(Value, frozen=True, kw_only=True):
    pass


class ReplicatedJob(Value, frozen=True, kw_only=True):
    max_concurrent: int | None = None
    total_completions: int | None = None


class GlobalJob(Value, frozen=True, kw_only=True):
    pass


class ServiceMode(Value, frozen=True, kw_only=True):
    """Exactly one field is set; none means one replica."""

    replicated: Replicated | None = None
    global_: Global | None = None
    replicated_job: ReplicatedJob | None = None
    global_job: GlobalJob | None = None


class UpdateConfig(Value, frozen=True, kw_only=True):
    """How an update or a rollback proceeds. ``parallelism`` 0 means all at once."""

    parallelism: int = 0
    delay: Duration = Duration(0)
    failure_action: FailureAction = FailureAction.UNSPECIFIED
    monitor: Duration = Duration(0)
    max_failure_ratio: float = 0.0
    order: UpdateOrder = UpdateOrder.UNSPECIFIED


class PortConfig(Value, frozen=True, kw_only=True):
    name: str = ""
    protocol: PortProtocol = PortProtocol.UNSPECIFIED
    target_port: int = 0
    published_port: int = 0
    publish_mode: PublishMode = PublishMode.UNSPECIFIED
    host_ip: str = ""
    """An address or an interface of each node on which alone the port answers; empty: on all."""
    source_nat: bool = False
    """In ingress mode: tasks see the node's ingress address instead of the client's."""


class EndpointSpec(Value, frozen=True, kw_only=True):
    mode: EndpointMode = EndpointMode.UNSPECIFIED
    ports: tuple[PortConfig, ...] = ()


class ServiceSpec(Value, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    task_template: TaskSpec = TaskSpec()
    mode: ServiceMode = ServiceMode()
    update_config: UpdateConfig | None = None
    rollback_config: UpdateConfig | None = None
    networks: tuple[NetworkAttachmentConfig, ...] = ()
    endpoint_spec: EndpointSpec | None = None


# --- nodes and the cluster


class NodeSpec(Value, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    role: NodeRole = NodeRole.UNSPECIFIED
    availability: NodeAvailability = NodeAvailability.UNSPECIFIED


class OrchestrationConfig(Value, frozen=True, kw_only=True):
    task_history_retention_limit: int | None = None


class RaftSettings(Value, frozen=True, kw_only=True):
    snapshot_interval: int = 0
    keep_old_snapshots: int | None = None
    log_entries_for_slow_followers: int = 0
    election_tick: int = 0
    heartbeat_tick: int = 0


class DispatcherConfig(Value, frozen=True, kw_only=True):
    heartbeat_period: Duration = Duration(0)


class ExternalCA(Value, frozen=True, kw_only=True):
    protocol: str = ""
    url: str = ""
    options: dict[str, str] = {}
    ca_cert: str = ""


class CAConfig(Value, frozen=True, kw_only=True):
    node_cert_expiry: Duration = Duration(0)
    external_cas: tuple[ExternalCA, ...] = ()
    signing_ca_cert: str = ""
    signing_ca_key: str = ""
    force_rotate: int = 0


class TaskDefaults(Value, frozen=True, kw_only=True):
    log_driver: Driver | None = None


class EncryptionConfig(Value, frozen=True, kw_only=True):
    auto_lock_managers: bool = False


class ClusterSpec(Value, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    orchestration: OrchestrationConfig = OrchestrationConfig()
    raft: RaftSettings = RaftSettings()
    dispatcher: DispatcherConfig = DispatcherConfig()
    ca_config: CAConfig = CAConfig()
    task_defaults: TaskDefaults = TaskDefaults()
    encryption_config: EncryptionConfig = EncryptionConfig()


# --- networks, secrets, configs, volumes


class IPAMConfig(Value, frozen=True, kw_only=True):
    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = {}


class IPAMOptions(Value, frozen=True, kw_only=True):
    driver: Driver = Driver()
    configs: tuple[IPAMConfig, ...] = ()


class NetworkSpec(Value, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    driver_configuration: Driver | None = None
    ipv6_enabled: bool = False
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    ipam_options: IPAMOptions | None = None
    scope: str = ""
    config_only: bool = False
    """No network, but settings for others to be made from; its scope is local."""
    config_from: str = ""
    """The network whose settings this one was made from. They are copied: it does not follow them."""


class SecretSpec(Value, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    data: bytes = b""
    driver: Driver | None = None
    templating: Driver | None = None


class ConfigSpec(Value, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    data: bytes = b""
    templating: Driver | None = None


class VolumeSpec(Value, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    driver: Driver | None = None
    node_id: str = ""
    created_at: Timestamp = Timestamp(0)
