"""What the API server asks of the daemon that it runs in: protocols and values, no code.

Every node serves the API, in a swarm or not, manager or worker. ``NodeControl`` is the node itself and is
always there; ``ClusterAccess`` is the cluster as a manager sees it, and a node that is no active manager has
none. The composition root implements both.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

from manager.api.image_control import ImageControl
from manager.history import History
from manager.raft.proposer import RaftStatus
from manager.store.view import View
from manager.store.watch import Watch
from manager.streams import NodeStream
from swarmpy.model.changes import Applied, Batch
from swarmpy.model.cluster_specs import ClusterSpec
from swarmpy.model.ids import NodeId, ServiceId, TaskId, Timestamp
from swarmpy.model.images import Image
from swarmpy.model.specs import GenericResource
from swarmpy.model.states import NodeAvailability
from swarmpy.model.value import Value


class LocalState(StrEnum):
    """Whether this node is in a swarm, as ``docker info`` says it."""

    INACTIVE = "inactive"
    PENDING = "pending"
    ACTIVE = "active"
    ERROR = "error"
    LOCKED = "locked"


class Peer(Value, frozen=True, kw_only=True):
    node_id: NodeId = NodeId("")
    addr: str = ""


class LocalNode(Value, frozen=True, kw_only=True):
    """This node's part in the swarm at one moment."""

    state: LocalState = LocalState.INACTIVE
    node_id: NodeId = NodeId("")
    node_addr: str = ""
    error: str = ""
    is_manager: bool = False
    remote_managers: tuple[Peer, ...] = ()


class SystemInfo(Value, frozen=True, kw_only=True):
    """The machine under this node."""

    hostname: str = ""
    kernel_version: str = ""
    operating_system: str = ""
    os_version: str = ""
    os_type: str = "linux"
    architecture: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    data_dir: str = ""
    executor: str = ""
    cgroup_version: int = 0
    labels: dict[str, str] = {}
    generic_resources: tuple[GenericResource, ...] = ()
    tasks: int = 0
    tasks_running: int = 0
    warnings: tuple[str, ...] = ()
    has_other_ids: bool = False
    """Whether its tasks have other ids than the node's."""


class InitRequest(Value, frozen=True, kw_only=True):
    """The body of ``POST /swarm/init``."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    data_path_port: int = 0
    default_addr_pool: tuple[str, ...] = ()
    subnet_size: int = 0
    force_new_cluster: bool = False
    spec: ClusterSpec = ClusterSpec()
    auto_lock_managers: bool = False
    """Said by clients together with the spec, which decides, as with docker."""
    availability: NodeAvailability = NodeAvailability.UNSPECIFIED


class JoinRequest(Value, frozen=True, kw_only=True):
    """The body of ``POST /swarm/join``."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    remote_addrs: tuple[str, ...] = ()
    join_token: str = ""
    availability: NodeAvailability = NodeAvailability.UNSPECIFIED


class RecoverRequest(Value, frozen=True, kw_only=True):
    """The body of ``POST /swarmpy/recover``. Addresses that are not given stay as they are."""

    force: bool = False
    """Also while the managers have a quorum."""
    listen_addr: str = ""
    advertise_addr: str = ""


class RestoreRequest(Value, frozen=True, kw_only=True):
    """What comes with a backup to ``POST /swarmpy/restore``."""

    listen_addr: str = ""
    advertise_addr: str = ""
    availability: NodeAvailability = NodeAvailability.UNSPECIFIED


class LogSelector(Value, frozen=True, kw_only=True):
    """Which lines a client wants: those of one service or of one task. ``tail`` below 0 means all."""

    service_id: ServiceId = ServiceId("")
    task_id: TaskId = TaskId("")
    since: Timestamp = Timestamp(0)
    until: Timestamp = Timestamp(0)
    """0: no such bound."""
    tail: int = -1
    is_following: bool = False
    stdout: bool = True
    stderr: bool = True


class LogLine(Value, frozen=True, kw_only=True):
    """``stream`` is 1 for stdout, 2 for stderr; ``data`` has its line end, if it has one."""

    task_id: TaskId
    node_id: NodeId
    service_id: ServiceId = ServiceId("")
    timestamp: Timestamp = Timestamp(0)
    stream: int = 1
    data: bytes = b""


class LogBatch(Value, frozen=True, kw_only=True):
    """Some lines, and sentences for the user about what cannot be shown."""

    lines: tuple[LogLine, ...] = ()
    warnings: tuple[str, ...] = ()


class Streams(Protocol):
    """Streams and calls to nodes. A name says what is wanted of the node, the body with what particulars."""

    async def call(self, node_id: NodeId, name: str, body: bytes) -> bytes:
        """One question, one answer. The node's error, or ``Unavailable`` if it cannot be asked."""
        ...

    def open(self, node_id: NodeId, name: str, body: bytes) -> AbstractAsyncContextManager[NodeStream]:
        """A stream that the node has accepted."""
        ...


class ClusterAccess(Protocol):
    """The cluster, on a manager. Reads are of the local store; ``read_barrier`` makes them current."""

    @property
    def view(self) -> View: ...

    async def propose(self, batch: Batch) -> Applied:
        """Commit and apply. ``NoLeader``/``Retry``: not taken; ``OutcomeUnknown``: perhaps taken."""
        ...

    async def read_barrier(self) -> None:
        """After it the local store holds every write acknowledged before the call. Raises ``NoLeader``."""
        ...

    def watch(self) -> Watch: ...

    def raft_status(self) -> RaftStatus: ...

    def slices(self) -> Iterator[bytes]:
        """The whole local store as it is now, encoded slice by slice; later changes leave it alone."""
        ...

    def logs(self, selector: LogSelector) -> AsyncGenerator[LogBatch]: ...

    @property
    def history(self) -> History:
        """The last changes of the local store."""
        ...

    @property
    def streams(self) -> Streams:
        """To any node of the swarm, from any manager."""
        ...

    def backup(self, now: Timestamp) -> Iterator[bytes]:
        """A backup of the local store as it is at the call, piece by piece."""
        ...


class NodeControl(Protocol):
    """The daemon itself."""

    def local(self) -> LocalNode: ...

    def system(self) -> SystemInfo: ...

    def cluster(self) -> ClusterAccess | None:
        """None unless this node is an active manager."""
        ...

    async def init(self, request: InitRequest) -> NodeId: ...

    async def join(self, request: JoinRequest) -> None:
        """Returns when the node is part of the swarm; bounded by the daemon."""
        ...

    async def leave(self, *, force: bool) -> None:
        """The API has refused already what a manager may not do without ``force``."""
        ...

    async def recover(self, request: RecoverRequest) -> NodeId:
        """Make this manager its cluster's only one, from what it holds. Nothing is changed if it raises."""
        ...

    async def restore(self, request: RestoreRequest, chunks: AsyncIterator[bytes]) -> NodeId:
        """Make this node, which is in no swarm, the only manager of the cluster that a backup is of."""
        ...

    async def unlock(self, key: str) -> None: ...

    async def images(self) -> tuple[Image, ...]: ...

    @property
    def image_store(self) -> ImageControl:
        """The images on this node, and the registries that it can reach."""
        ...

    async def volume_call(self, name: str, body: bytes) -> bytes:
        """A call about this node's own volumes, by the names of ``model/volumes``."""
        ...
