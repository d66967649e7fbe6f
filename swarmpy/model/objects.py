"""The stored objects. The stored object is the API's object, with times as integers.

``version`` is the store-wide counter at the object's last guarded change (Docker's ``Version.Index``).
Two kinds of field: a task's ``desired_state`` and ``status``, and a node's ``status``,
``description`` and ``manager_status``, are merged by ``apply`` and do not touch ``version``; every other
field is guarded by it.
"""

from __future__ import annotations

from enum import StrEnum

from swarmpy.model.cluster_specs import (
    ClusterSpec,
    ConfigSpec,
    IPAMOptions,
    NetworkSpec,
    NodeSpec,
    SecretSpec,
    VolumeSpec,
)
from swarmpy.model.executors import EXECUTOR_PLUGIN, FIRST_EXECUTOR
from swarmpy.model.ids import (
    ClusterId,
    ConfigId,
    Duration,
    NetworkId,
    NodeId,
    RaftId,
    RevisionId,
    SecretId,
    ServiceId,
    TaskId,
    Timestamp,
    VolumeId,
)
from swarmpy.model.root_ca import RootCA
from swarmpy.model.specs import (
    Driver,
    EndpointSpec,
    GenericResource,
    NetworkAttachmentConfig,
    Platform,
    PortConfig,
    Resources,
    ServiceSpec,
)
from swarmpy.model.states import (
    HealthState,
    NodeRole,
    NodeState,
    RunState,
    TaskState,
    UpdateState,
)
from swarmpy.model.value import Value


class Kind(StrEnum):
    """The tables of the store, in the order in which snapshots write them."""

    CLUSTER = "cluster"
    NODE = "node"
    NETWORK = "network"
    SECRET = "secret"
    CONFIG = "config"
    VOLUME = "volume"
    SERVICE = "service"
    REVISION = "revision"
    TASK = "task"


# --- cluster


class RemovedNode(Value, frozen=True, kw_only=True):
    """A node that was removed: its certificate is refused until it expires."""

    node_id: NodeId = NodeId("")
    expires_at: Timestamp = Timestamp(0)


class NetworkKey(Value, frozen=True, kw_only=True):
    """A secret that keys of encrypted networks are derived from.

    Of the ring's keys the second newest is sent with: others may not have heard of the newest yet. All
    of them are received with.
    """

    tag: int = 0
    secret: bytes = b""
    created_at: Timestamp = Timestamp(0)


class Cluster(Value, frozen=True, kw_only=True):
    id: ClusterId
    version: int = 0
    created_at: Timestamp = Timestamp(0)
    updated_at: Timestamp = Timestamp(0)
    spec: ClusterSpec = ClusterSpec()
    root_ca: RootCA = RootCA()
    removed_nodes: tuple[RemovedNode, ...] = ()
    removed_members: tuple[RaftId, ...] = ()
    unlock_key: bytes = b""
    default_address_pool: tuple[str, ...] = ()
    subnet_size: int = 0
    data_path_port: int = 0
    network_keys: tuple[NetworkKey, ...] = ()
    store_format: int = 0
    """How the log is to be read: the highest format that every manager knows (``version.STORE_FORMAT``)."""


# --- nodes


class EnginePlugin(Value, frozen=True, kw_only=True):
    type: str = ""
    name: str = ""


class EngineDescription(Value, frozen=True, kw_only=True):
    engine_version: str = ""
    labels: dict[str, str] = {}
    plugins: tuple[EnginePlugin, ...] = ()

    @property
    def executor(self) -> str:
        """What runs the node's tasks."""
        return next((each.name for each in self.plugins if each.type == EXECUTOR_PLUGIN), FIRST_EXECUTOR)


class TLSInfo(Value, frozen=True, kw_only=True):
    trust_root: str = ""
    cert_issuer_subject: bytes = b""
    cert_issuer_public_key: bytes = b""


class NodeVolume(Value, frozen=True, kw_only=True):
    """A named volume on a node. ``options`` are its driver's."""

    name: str = ""
    driver: str = ""
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    created_at: Timestamp = Timestamp(0)
    mountpoint: str = ""


class NodeDescription(Value, frozen=True, kw_only=True):
    """What the agent says of its machine."""

    hostname: str = ""
    platform: Platform = Platform()
    resources: Resources = Resources()
    engine: EngineDescription = EngineDescription()
    tls_info: TLSInfo | None = None
    data_path_addr: str = ""
    """Where the node takes traffic of overlay networks; empty: the address that it is reached under."""
    boot_id: str = ""
    """Fresh for every boot of the machine: keys of encrypted networks are derived anew with it."""
    encryption: tuple[str, ...] = ()
    """The ways in which the node can encrypt networks, the best first."""
    wireguard_key: bytes = b""
    """The public key of its WireGuard device, if it can have one."""
    volumes: tuple[NodeVolume, ...] = ()
    """Its named volumes, by name: where data is, a task that needs it is best placed."""
    store_format: int = 0
    """The highest format of the store that the node's program knows."""


class NodeStatus(Value, frozen=True, kw_only=True):
    """``since`` is when the state was entered; ``epoch`` the raft term of the leader that saw it."""

    state: NodeState = NodeState.UNKNOWN
    message: str = ""
    addr: str = ""
    since: Timestamp = Timestamp(0)
    epoch: int = 0
    session_id: str = ""


class ManagerStatus(Value, frozen=True, kw_only=True):
    """A manager's membership in raft. Leader and reachability are observed, not stored."""

    raft_id: RaftId = RaftId("")
    addr: str = ""


class NetworkAttachment(Value, frozen=True, kw_only=True):
    network_id: NetworkId = NetworkId("")
    addresses: tuple[str, ...] = ()
    """With prefix, IPv4 before IPv6."""
    aliases: tuple[str, ...] = ()
    mac: str = ""
    """Empty: derived from the first address."""


class Node(Value, frozen=True, kw_only=True):
    """``spec.role`` is the role that is wished for, ``role`` the one that certificates are issued for."""

    id: NodeId
    version: int = 0
    created_at: Timestamp = Timestamp(0)
    updated_at: Timestamp = Timestamp(0)
    spec: NodeSpec = NodeSpec()
    role: NodeRole = NodeRole.WORKER
    description: NodeDescription = NodeDescription()
    status: NodeStatus = NodeStatus()
    manager_status: ManagerStatus | None = None
    attachments: tuple[NetworkAttachment, ...] = ()
    """The node's own places in networks: its address in the ingress network."""
    number: int = 0
    """From 1; no other node's. What a node is known by where an id has no room."""
    wanted_issuer: bytes = b""
    """A digest of the authority whose certificate the node is to have; empty: any will do."""


# --- services and tasks


class UpdateStatus(Value, frozen=True, kw_only=True):
    state: UpdateState = UpdateState.UNSPECIFIED
    started_at: Timestamp = Timestamp(0)
    completed_at: Timestamp = Timestamp(0)
    message: str = ""
    resumed_at: Timestamp = Timestamp(0)
    """When the user let a paused update go on: failures and pauses before do not count. 0: never paused."""
    since_version: int = 0
    """The service's version that it was begun on: tasks of a higher one are the update's, whatever the clocks
    of leaders say. 0: not known, so ``started_at`` tells them apart."""


class VirtualIP(Value, frozen=True, kw_only=True):
    network_id: NetworkId = NetworkId("")
    addr: str = ""


class Endpoint(Value, frozen=True, kw_only=True):
    spec: EndpointSpec = EndpointSpec()
    ports: tuple[PortConfig, ...] = ()
    virtual_ips: tuple[VirtualIP, ...] = ()


class JobStatus(Value, frozen=True, kw_only=True):
    iteration: int = 0
    last_execution: Timestamp = Timestamp(0)


class AutoscaleStatus(Value, frozen=True, kw_only=True):
    """What the load has made of the number of replicas. ``low_since`` 0: no fewer would do."""

    replicas: int = 0
    scaled_at: Timestamp = Timestamp(0)
    low_since: Timestamp = Timestamp(0)
    message: str = ""


class CronRun(Value, frozen=True, kw_only=True):
    """One run of a cron job. ``tick``: the time on the schedule that it is for."""

    iteration: int = 0
    tick: Timestamp = Timestamp(0)
    started_at: Timestamp = Timestamp(0)
    ended_at: Timestamp = Timestamp(0)
    state: RunState = RunState.UNSPECIFIED


class CronStatus(Value, frozen=True, kw_only=True):
    """``last_tick``: the schedule is dealt with up to here, so no tick is ever run twice. ``missed``: how
    many could not be run; ``runs``: those of history, oldest first."""

    last_tick: Timestamp = Timestamp(0)
    runs: tuple[CronRun, ...] = ()
    missed: int = 0
    last_missed: Timestamp = Timestamp(0)
    message: str = ""


class Service(Value, frozen=True, kw_only=True):
    """``revision_id`` is the revision of ``spec``; ``template_id`` the revision that tasks should run.

    They differ after a change that restarts no task, such as scaling. ``previous_id`` is what a rollback
    returns to.
    """

    id: ServiceId
    version: int = 0
    created_at: Timestamp = Timestamp(0)
    updated_at: Timestamp = Timestamp(0)
    spec: ServiceSpec = ServiceSpec()
    revision_id: RevisionId = RevisionId("")
    template_id: RevisionId = RevisionId("")
    previous_id: RevisionId = RevisionId("")
    endpoint: Endpoint = Endpoint()
    update_status: UpdateStatus | None = None
    job_status: JobStatus | None = None
    autoscale_status: AutoscaleStatus | None = None
    cron_status: CronStatus | None = None
    rebalance_asked_at: Timestamp = Timestamp(0)
    rebalanced_at: Timestamp = Timestamp(0)
    """When the user asked for the tasks to be spread anew, and when one was last moved for that."""


class Revision(Value, frozen=True, kw_only=True):
    """One version of a service's spec. Never changed; kept while a task or the history needs it."""

    id: RevisionId
    version: int = 0
    created_at: Timestamp = Timestamp(0)
    updated_at: Timestamp = Timestamp(0)
    service_id: ServiceId
    number: int = 0
    spec: ServiceSpec = ServiceSpec()


class ContainerStatus(Value, frozen=True, kw_only=True):
    container_id: str = ""
    pid: int = 0
    exit_code: int = 0


class PortStatus(Value, frozen=True, kw_only=True):
    ports: tuple[PortConfig, ...] = ()


class TaskStatus(Value, frozen=True, kw_only=True):
    """What is known of a task. Of two statuses the one with the larger (state, report) holds."""

    timestamp: Timestamp = Timestamp(0)
    state: TaskState = TaskState.NEW
    message: str = ""
    err: str = ""
    report: int = 0
    container_status: ContainerStatus | None = None
    port_status: PortStatus | None = None
    addresses: tuple[str, ...] = ()
    places_version: int = 0
    """The task's version whose places the agent has made, or cannot make: then ``places_err`` says why."""
    places_err: str = ""
    health: HealthState = HealthState.UNSPECIFIED
    health_output: str = ""
    """What the last check of health or readiness printed, cut short."""
    is_unready: bool = False
    """It lives, but wants no requests now: it is in no name and behind no virtual address."""
    running_since: Timestamp = Timestamp(0)
    """When the leader heard that it runs, by the leader's clock; it stays when the task ends. 0: not yet, or
    not known, since the leader of that time did not keep it."""


class NetworkJoin(Value, frozen=True, kw_only=True):
    """A network that one task was joined to while it ran. ``wish.target`` is the network's id.

    Its place is among the task's ``networks`` once it has addresses. ``number``: from 1, no other join's of
    the task; its link is named by it. ``is_leaving``: the task is to let go; its addresses are held until its
    agent has said that it did.
    """

    wish: NetworkAttachmentConfig = NetworkAttachmentConfig()
    number: int = 0
    is_leaving: bool = False

    @property
    def network_id(self) -> NetworkId:
        return NetworkId(self.wish.target)


class StopWish(Value, frozen=True, kw_only=True):
    """How a container started by hand is to end, where its user said so when stopping it. Empty, None: as its
    spec says; a timeout below 0: it is never killed."""

    signal: str = ""
    timeout: Duration | None = None


class Task(Value, frozen=True, kw_only=True):
    """One run of a service's container on one node. Superseded, never edited.

    ``not_before`` is the end of the restart delay: until then ``desired_state`` stays READY.
    ``restarts`` counts the restarts of this slot under this revision, for backoff and max-attempts.
    ``job_iteration``: which run of a job it is of; of a container started by hand, which start.
    ``networks`` are those of its service, and those of ``joins`` that have addresses.
    """

    id: TaskId
    version: int = 0
    created_at: Timestamp = Timestamp(0)
    updated_at: Timestamp = Timestamp(0)
    service_id: ServiceId = ServiceId("")
    slot: int = 0
    node_id: NodeId = NodeId("")
    revision_id: RevisionId = RevisionId("")
    desired_state: TaskState = TaskState.RUNNING
    status: TaskStatus = TaskStatus()
    networks: tuple[NetworkAttachment, ...] = ()
    not_before: Timestamp = Timestamp(0)
    restarts: int = 0
    job_iteration: int = 0
    joins: tuple[NetworkJoin, ...] = ()
    generic_resources: tuple[GenericResource, ...] = ()
    """What it got of its node's named and counted resources."""
    stop: StopWish | None = None

    def join_of(self, network_id: NetworkId) -> NetworkJoin | None:
        """None: the network is its service's, or none of its own."""
        return next((join for join in self.joins if join.network_id == network_id), None)

    @property
    def has_joined(self) -> bool:
        """Whether it has a place by a join, if only to leave it."""
        return bool(self.joins) and any(self.join_of(place.network_id) for place in self.networks)

    @property
    def places(self) -> tuple[NetworkAttachment, ...]:
        """Where it is to be: its ``networks`` without those that it is leaving."""
        leaving = {join.network_id for join in self.joins if join.is_leaving}
        if not leaving:
            return self.networks
        return tuple(place for place in self.networks if place.network_id not in leaving)


# --- networks, secrets, configs, volumes


class Network(Value, frozen=True, kw_only=True):
    id: NetworkId
    version: int = 0
    created_at: Timestamp = Timestamp(0)
    updated_at: Timestamp = Timestamp(0)
    spec: NetworkSpec = NetworkSpec()
    driver_state: Driver | None = None
    ipam_options: IPAMOptions | None = None


class FileVersion(Value, frozen=True, kw_only=True):
    """Former data of a secret or config; kept while a service's history may go back to it."""

    number: int = 0
    data: bytes = b""
    created_at: Timestamp = Timestamp(0)

    def __repr__(self) -> str:
        return f"FileVersion({self.number}, {len(self.data)} bytes)"  # they may be those of a secret


class Secret(Value, frozen=True, kw_only=True):
    id: SecretId
    version: int = 0
    created_at: Timestamp = Timestamp(0)
    updated_at: Timestamp = Timestamp(0)
    spec: SecretSpec = SecretSpec()
    number: int = 0
    """Of the data in ``spec``: from 1, one more with each new data. 0: of before there were numbers."""
    older: tuple[FileVersion, ...] = ()
    data_at: Timestamp = Timestamp(0)
    """When the data in ``spec`` was put; 0: with the object."""


class Config(Value, frozen=True, kw_only=True):
    id: ConfigId
    version: int = 0
    created_at: Timestamp = Timestamp(0)
    updated_at: Timestamp = Timestamp(0)
    spec: ConfigSpec = ConfigSpec()
    number: int = 0
    older: tuple[FileVersion, ...] = ()
    data_at: Timestamp = Timestamp(0)
    """All three as in ``Secret``."""


class Volume(Value, frozen=True, kw_only=True):
    id: VolumeId
    version: int = 0
    created_at: Timestamp = Timestamp(0)
    updated_at: Timestamp = Timestamp(0)
    spec: VolumeSpec = VolumeSpec()


Object = Cluster | Node | Network | Secret | Config | Volume | Service | Revision | Task

TYPES: dict[Kind, type[Object]] = {
    Kind.CLUSTER: Cluster,
    Kind.NODE: Node,
    Kind.NETWORK: Network,
    Kind.SECRET: Secret,
    Kind.CONFIG: Config,
    Kind.VOLUME: Volume,
    Kind.SERVICE: Service,
    Kind.REVISION: Revision,
    Kind.TASK: Task,
}

KINDS: dict[type[Object], Kind] = {type_: kind for kind, type_ in TYPES.items()}
