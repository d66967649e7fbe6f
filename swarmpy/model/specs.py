"""What the user asks for: the specs of services. Those of all else are in ``cluster_specs``.

Specs are the Engine API's, field for field, and are stored as the user gave them: nothing is filled in, so
that what is read back is what was written. ``None`` (or an enumeration's UNSPECIFIED, or an empty
collection) means that the user left a field out; ``model/defaults.py`` says what then holds.
"""

from __future__ import annotations

from swarmpy.model.ids import Duration, NodeId
from swarmpy.model.states import (
    ConcurrencyPolicy,
    DependencyCondition,
    EndpointMode,
    FailureAction,
    MountType,
    PlacementStrategy,
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
    """``swap_bytes``: beside the memory limit, -1 for unlimited. ``memory_swappiness``: 0 to 100, -1 for the
    node's own."""

    limits: Limits | None = None
    reservations: Resources | None = None
    swap_bytes: int | None = None
    memory_swappiness: int | None = None


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
    sticky: bool = False
    """Tasks run only where the volume is, once it is anywhere."""


class TmpfsOptions(Value, frozen=True, kw_only=True):
    size_bytes: int = 0
    mode: int = 0


class ImageOptions(Value, frozen=True, kw_only=True):
    subpath: str = ""


class Mount(Value, frozen=True, kw_only=True):
    type: MountType = MountType.UNSPECIFIED
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    image_options: ImageOptions | None = None


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
    version: int = 0
    """Which of the secret's data, by number; 0: always the newest, put in place while the task runs."""
    reload_signal: str = ""
    """Sent to the task when newer data is in place; ``version`` is 0 then."""


class RuntimeTarget(Value, frozen=True, kw_only=True):
    """The config is for the runtime, not mounted (credential specs)."""


class ConfigReference(Value, frozen=True, kw_only=True):
    file: FileTarget | None = None
    runtime: RuntimeTarget | None = None
    config_id: str = ""
    config_name: str = ""
    version: int = 0
    reload_signal: str = ""
    """Both as in ``SecretReference``."""


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


class Device(Value, frozen=True, kw_only=True):
    """A device file of the node; the permissions are letters of "rwm"."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Value, frozen=True, kw_only=True):
    """Devices by what they can do, such as "gpu"; ``count`` -1 asks for all of them."""

    driver: str = ""
    count: int = 0
    device_ids: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    options: dict[str, str] = {}


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
    readiness: Healthcheck | None = None
    """Whether the task should get requests now, apart from whether it lives."""
    devices: tuple[Device, ...] = ()
    device_requests: tuple[DeviceRequest, ...] = ()
    privileged: bool = False
    shm_size: int = 0
    """Bytes of /dev/shm; 0: the default."""
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    registry_auth: str = ""
    """Who asks the registry for the image: a client's X-Registry-Auth. Secret, so no API shows it."""
    userns_mode: str = ""
    """``host``: the node's own ids, on a node whose tasks have others."""


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
    strategy: PlacementStrategy = PlacementStrategy.UNSPECIFIED


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


class CronJob(Value, frozen=True, kw_only=True):
    """A replicated job that runs by the clock. ``None`` for a history means the default number of runs."""

    schedule: str = ""
    """Five fields (minute, hour, day of month, month, day of week), or a name such as ``@hourly``."""
    timezone: str = ""
    """A name of the time zone database; empty: UTC."""
    concurrency_policy: ConcurrencyPolicy = ConcurrencyPolicy.UNSPECIFIED
    total_completions: int | None = None
    max_concurrent: int | None = None
    successful_history: int | None = None
    failed_history: int | None = None
    starting_deadline: Duration | None = None
    """A run that could not begin within this time of its tick is missed."""
    suspended: bool = False


class Standalone(Value, frozen=True, kw_only=True):
    """A container that somebody started by hand: one task on one node, which no scheduler moves.

    Such a service is shown as a container and never as a service. That it is started or stopped changes
    these fields alone and makes no revision: they are read off the service, and off no revision.
    """

    node_id: NodeId = NodeId("")
    run: int = 0
    """How often it was started; the tasks of a start have its number. 0: it was made only."""
    is_wanted: bool = False
    """Whether the user wants it to run now."""
    auto_remove: bool = False
    request: bytes = b""
    """What the client asked for (JSON), as it is shown again."""
    stop_signal: str = ""
    stop_timeout: Duration | None = None
    """How the user last asked for it to be stopped; empty, None: as its spec says."""


class ServiceMode(Value, frozen=True, kw_only=True):
    """Exactly one field is set; none means one replica."""

    replicated: Replicated | None = None
    global_: Global | None = None
    replicated_job: ReplicatedJob | None = None
    global_job: GlobalJob | None = None
    cron_job: CronJob | None = None
    standalone: Standalone | None = None


class UpdateConfig(Value, frozen=True, kw_only=True):
    """How an update or a rollback proceeds. ``parallelism`` 0 means all at once."""

    parallelism: int = 0
    delay: Duration = Duration(0)
    failure_action: FailureAction = FailureAction.UNSPECIFIED
    monitor: Duration = Duration(0)
    max_failure_ratio: float = 0.0
    order: UpdateOrder = UpdateOrder.UNSPECIFIED
    progress_deadline: Duration = Duration(0)
    """The longest time without a slot that came up before the update counts as failed; 0: the default."""
    pause_after: int = 0
    """Pause after this many slots and wait for the user (a canary); 0: go through."""


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


class Dependency(Value, frozen=True, kw_only=True):
    """The service's first tasks wait for another service, named by name. ``optional_``: it may be absent."""

    service: str = ""
    condition: DependencyCondition = DependencyCondition.UNSPECIFIED
    optional_: bool = False


class Autoscale(Value, frozen=True, kw_only=True):
    """Replicas follow load. Percents are of what a task reserves, else of its limit, else of one CPU; 0: not
    looked at."""

    min: int = 0
    max: int = 0
    cpu_percent: int = 0
    memory_percent: int = 0
    scale_down_delay: Duration = Duration(0)
    """How long load must have been low before replicas are taken away; 0: the default."""


class ServiceSpec(Value, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    task_template: TaskSpec = TaskSpec()
    mode: ServiceMode = ServiceMode()
    update_config: UpdateConfig | None = None
    rollback_config: UpdateConfig | None = None
    networks: tuple[NetworkAttachmentConfig, ...] = ()
    endpoint_spec: EndpointSpec | None = None
    depends_on: tuple[Dependency, ...] = ()
    autoscale: Autoscale | None = None
    rebalance: bool = False
    """Move tasks, a few at a time, when nodes join or return."""
