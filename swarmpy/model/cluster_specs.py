"""What the user asks for beside services: specs of nodes, the cluster, networks, secrets, configs, volumes.

As in ``specs``: the Engine API's, field for field, stored as the user gave them.
"""

from __future__ import annotations

from swarmpy.model.ids import Duration, Timestamp
from swarmpy.model.specs import Driver
from swarmpy.model.states import NodeAvailability, NodeRole
from swarmpy.model.value import Value

# --- nodes and the cluster


class NodeSpec(Value, frozen=True, kw_only=True):
    name: str = ""
    labels: dict[str, str] = {}
    role: NodeRole = NodeRole.UNSPECIFIED
    availability: NodeAvailability = NodeAvailability.UNSPECIFIED
    stop_after: Duration = Duration(0)
    """The node stops its tasks this long after it lost all managers; 0: they run on."""


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

    def __repr__(self) -> str:
        """Errors and logs may quote any object that they are about."""
        size = len(self.data)
        return f"SecretSpec({self.name!r}, labels={self.labels!r}, {size} bytes, {self.templating!r})"


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
