"""A daemon of one's own for the API: the real store, no raft, no agent.

``python tests/support/api_node.py SOCKET`` serves one in the foreground, for clients that are processes.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import cache
from pathlib import Path

from msgspec.structs import replace

from agent import volume_calls
from agent.volumes import Volumes
from manager.allocate.pools import ingress_spec
from manager.api.control import (
    InitRequest,
    JoinRequest,
    LocalNode,
    LocalState,
    LogBatch,
    LogLine,
    LogSelector,
    RecoverRequest,
    RestoreRequest,
    Streams,
    SystemInfo,
)
from manager.api.server import ApiServer
from manager.backup import backup_of
from manager.history import History
from manager.raft.proposer import Member, RaftStatus
from manager.store.store import Store
from manager.store.view import View
from manager.store.watch import Watch
from manager.streams import NodeStream
from swarmpy import codec
from swarmpy.errors import OutcomeUnknown, SwarmError, Unavailable
from swarmpy.model.changes import Applied, Batch, Change, Create, Group, NodeReport, Order, Report
from swarmpy.model.cluster_specs import NodeSpec
from swarmpy.model.ids import ClusterId, NetworkId, NodeId, RaftId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.images import Image
from swarmpy.model.objects import (
    Cluster,
    EngineDescription,
    ManagerStatus,
    Network,
    Node,
    NodeDescription,
    NodeStatus,
    Task,
    TaskStatus,
)
from swarmpy.model.root_ca import JoinTokens, RootCA
from swarmpy.model.specs import Platform, Resources
from swarmpy.model.states import NodeAvailability, NodeRole, NodeState, Owner, TaskState
from swarmpy.node.images import Images
from swarmpy.pki.authority import create_root_ca
from swarmpy.pki.keys import KEY_BYTES, SERIAL_BYTES
from swarmpy.runtime import Env, SystemClock
from swarmpy.version import STORE_FORMAT

FIRST = NodeId("n1aaaaaaaaaaaaaaaaaaaaaaa")
INGRESS = NetworkId("ingressaaaaaaaaaaaaaaaaaa")
WORKER_TOKEN = "SWMTKN-1-" + "1" * 50 + "-" + "w" * 25
MANAGER_TOKEN = "SWMTKN-1-" + "1" * 50 + "-" + "m" * 25
AT = Timestamp(1_700_000_000_123_456_789)


@cache
def _root() -> RootCA:
    secrets = (b"w" * 16, b"m" * 16)
    return create_root_ca(AT, key=b"k" * KEY_BYTES, serial=b"s" * SERIAL_BYTES, secrets=secrets)


class NoStreams:
    """No node can be reached."""

    async def call(self, node_id: NodeId, name: str, body: bytes) -> bytes:
        raise Unavailable(f"node {node_id} is not available")

    def open(self, node_id: NodeId, name: str, body: bytes) -> AbstractAsyncContextManager[NodeStream]:
        raise Unavailable(f"node {node_id} is not available")


class FakeCluster:
    """``ClusterAccess`` over a store of its own. ``fail_next`` are errors that proposals meet, in order."""

    def __init__(self) -> None:
        self.store = Store()
        self.fail_next: list[SwarmError] = []
        self.is_lost_after_commit = False
        self.barrier_error: SwarmError | None = None
        self.before_barrier: Callable[[], None] = lambda: None
        """What this manager catches up with when it waits for the leader."""
        self.before_propose: Callable[[], None] = lambda: None
        """What another manager commits before this one's next proposal."""
        self.members: tuple[Member, ...] = ()
        self.leader = ""
        self.log_lines: tuple[LogLine, ...] = ()
        self.log_warnings: tuple[str, ...] = ()
        self.streams: Streams = NoStreams()
        self._history: History | None = None

    @property
    def view(self) -> View:
        return self.store

    async def propose(self, batch: Batch) -> Applied:
        await asyncio.sleep(0)
        others, self.before_propose = self.before_propose, lambda: None
        others()
        if self.is_lost_after_commit:
            self.is_lost_after_commit = False
            self.store.apply(codec.encode(batch), 1)
            raise OutcomeUnknown("the connection broke", delay_s=0.001)
        if self.fail_next:
            raise self.fail_next.pop(0)
        return self.store.apply(codec.encode(batch), 1)

    async def read_barrier(self) -> None:
        if self.barrier_error is not None:
            raise self.barrier_error
        self.before_barrier()

    def watch(self) -> Watch:
        return self.store.watch()

    def raft_status(self) -> RaftStatus:
        return RaftStatus(
            raft_id=self.leader,
            term=1,
            leader=self.leader,
            is_leader=True,
            is_ready_leader=True,
            commit=1,
            applied=1,
            members=self.members,
        )

    @property
    def history(self) -> History:
        """Begun by who asks first: only then is there a loop."""
        if self._history is None:
            self._history = History(self.store, SystemClock())
            self._keeping = asyncio.get_running_loop().create_task(self._history.run())
        return self._history

    def slices(self) -> Iterator[bytes]:
        return self.store.encode(self.store.freeze())

    def backup(self, now: Timestamp) -> Iterator[bytes]:
        return backup_of(self.store, node_id=FIRST, now=now, term=1)

    async def logs(self, selector: LogSelector) -> AsyncGenerator[LogBatch]:
        lines = tuple(
            line
            for line in self.log_lines
            if selector.task_id in ("", line.task_id) and selector.service_id in ("", line.service_id)
        )
        yield LogBatch(lines=lines if selector.tail < 0 else lines[len(lines) - selector.tail :])
        yield LogBatch(warnings=self.log_warnings)
        while selector.is_following:
            await asyncio.sleep(0.05)

    def change(self, *changes: Change, owner: Owner = Owner.API, at: Timestamp = AT) -> None:
        applied = self.store.apply_batch(Batch(groups=(Group(owner=owner, changes=changes),), at=at))
        assert not applied.refused, applied.refused

    def add_node(
        self,
        id_: NodeId,
        hostname: str,
        *,
        role: NodeRole = NodeRole.WORKER,
        state: NodeState = NodeState.READY,
    ) -> None:
        node = Node(
            id=id_,
            spec=NodeSpec(role=role, availability=NodeAvailability.ACTIVE),
            role=role,
            description=NodeDescription(
                hostname=hostname,
                platform=Platform(architecture="x86_64", os="linux"),
                resources=Resources(nano_cpus=2_000_000_000, memory_bytes=4 << 30),
                engine=EngineDescription(engine_version="0.1.0"),
            ),
        )
        manager_status = None
        if role is NodeRole.MANAGER:
            raft_id = RaftId(f"{id_}-1")
            manager_status = ManagerStatus(raft_id=raft_id, addr="10.0.0.1:2377")
            self.members = (*self.members, Member(raft_id=raft_id, address="10.0.0.1:2377"))
            self.leader = self.leader or raft_id
        report = NodeReport(
            node_id=id_,
            status=NodeStatus(state=state, addr="10.0.0.1", since=AT),
            manager_status=manager_status,
        )
        self.change(Create(object=node))
        self.change(report, owner=Owner.DISPATCHER)

    def add_task(
        self, id_: str, service_id: str, *, state: TaskState = TaskState.RUNNING, slot: int = 1, err: str = ""
    ) -> None:
        """A task of the service's present revision on the first node, brought to ``state``."""
        service = self.store.service(ServiceId(service_id))
        task = Task(
            id=TaskId(id_),
            service_id=ServiceId(service_id),
            slot=slot,
            node_id=FIRST,
            revision_id=RevisionId("") if service is None else service.template_id,
            status=TaskStatus(state=TaskState.ASSIGNED, timestamp=AT, message="scheduled"),
        )
        self.change(Create(object=task), owner=Owner.ORCHESTRATOR)
        if state is not TaskState.ASSIGNED:
            self.report(id_, state, err=err)

    def report(self, task_id: str, state: TaskState, *, err: str = "") -> None:
        status = TaskStatus(
            state=state, timestamp=AT, message="started", err=err, report=2, addresses=("172.30.0.2",)
        )
        self.change(Report(task_id=TaskId(task_id), status=status), owner=Owner.AGENT)

    def order(self, task_id: str, state: TaskState) -> None:
        self.change(Order(task_id=TaskId(task_id), desired_state=state), owner=Owner.ORCHESTRATOR)


class FakeNode:
    """``NodeControl``: does what it is told at once, in memory."""

    def __init__(self) -> None:
        self.unlocked: list[str] = []
        self.access = FakeCluster()
        self.state = LocalNode()
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self._images = Images(self.folder, Env(), is_offline=True)
        self._images.prepare()
        self.volume_users: dict[str, tuple[str, ...]] = {}
        self.volumes = Volumes(Path(self._folder.name, "volumes"), lambda: self.volume_users, lambda: AT)
        self.joined: list[JoinRequest] = []
        self.join_error: SwarmError | None = None
        self.recovered: list[RecoverRequest] = []
        self.restored: list[tuple[RestoreRequest, bytes]] = []

    def local(self) -> LocalNode:
        return self.state

    def system(self) -> SystemInfo:
        return SystemInfo(
            hostname="node-1",
            kernel_version="6.1.0",
            operating_system="Debian GNU/Linux 12",
            os_version="12",
            architecture="x86_64",
            cpus=2,
            memory_bytes=4 << 30,
            data_dir="/var/lib/swarmpy",
            executor="native",
            cgroup_version=2,
            labels={"rack": "r1"},
        )

    def cluster(self) -> FakeCluster | None:
        is_active = self.state.state is LocalState.ACTIVE
        return self.access if self.state.is_manager and is_active else None

    def become_manager(self) -> FakeCluster:
        self.state = LocalNode(state=LocalState.ACTIVE, node_id=FIRST, node_addr="10.0.0.1", is_manager=True)
        tokens = JoinTokens(worker=WORKER_TOKEN, manager=MANAGER_TOKEN)
        cluster = Cluster(
            store_format=STORE_FORMAT,
            id=ClusterId("clusteraaaaaaaaaaaaaaaaaa"),
            root_ca=replace(_root(), join_tokens=tokens),
            default_address_pool=("10.0.0.0/8",),
            subnet_size=24,
            data_path_port=4789,
        )
        self.access.change(Create(object=cluster))
        self.access.change(Create(object=Network(id=INGRESS, spec=ingress_spec())))
        self.access.add_node(FIRST, "node-1", role=NodeRole.MANAGER)
        return self.access

    def become_worker(self) -> None:
        self.state = LocalNode(state=LocalState.ACTIVE, node_id=FIRST, node_addr="10.0.0.1")

    async def init(self, request: InitRequest) -> NodeId:
        if not self.state.is_manager:  # else it is forced, and all stays
            self.become_manager()
        return FIRST

    async def join(self, request: JoinRequest) -> None:
        if self.join_error is not None:
            raise self.join_error
        self.joined.append(request)
        self.become_worker()

    async def leave(self, *, force: bool) -> None:
        self.access = FakeCluster()
        self.state = LocalNode()

    async def recover(self, request: RecoverRequest) -> NodeId:
        self.recovered.append(request)
        return FIRST

    async def restore(self, request: RestoreRequest, chunks: AsyncIterator[bytes]) -> NodeId:
        self.restored.append((request, b"".join([chunk async for chunk in chunks])))
        return FIRST

    async def unlock(self, key: str) -> None:
        self.unlocked.append(key)
        self.state = replace(self.state, state=LocalState.ACTIVE)

    async def images(self) -> tuple[Image, ...]:
        return await self._images.list()

    @property
    def image_store(self) -> Images:
        return self._images

    async def volume_call(self, name: str, body: bytes) -> bytes:
        self.volumes.prepare()
        return volume_calls.answer(self.volumes, name, body)


@contextmanager
def serving(node: FakeNode, socket: Path) -> Iterator[None]:
    """Serve the node's API from a thread, for clients that block."""
    loop = asyncio.new_event_loop()
    server = ApiServer(node, Env())
    thread = threading.Thread(target=loop.run_forever, name="api")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(socket), loop).result(10)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def main() -> None:
    node = FakeNode()
    server = ApiServer(node, Env())
    await server.start(Path(sys.argv[1]))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
