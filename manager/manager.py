"""``Manager``: everything that makes a node a manager, put together and given one life.

A manager has a store, a raft member that feeds it, the gRPC port that other nodes call, and, while it leads,
the leader's loops. Its files are made by ``found`` (a new cluster's first) or ``prepare_entry`` (it then asks
the others to be added, by ``enter``). It decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import structlog
from msgspec.structs import replace

from manager.access import Access
from manager.ca import CertificateAuthority
from manager.history import History
from manager.leader import Leader, Term
from manager.membership import too_old
from manager.proposer import RaftProposer, require_applied
from manager.raft import state_files
from manager.raft.grpc_wire import GrpcWire, RaftServicer
from manager.raft.log import RaftConfig, SyncObjLog, create_joined, create_single
from manager.raft.members import SUFFIX_BYTES, make_raft_id, node_of
from manager.raft.proposer import Member, RaftStatus
from manager.raft.sealing import AesGcmSealer
from manager.reconcile import all_reconcilers
from manager.servicers import DispatcherServicer, StreamsServicer, leader_address
from manager.store.events import Event, Resync
from manager.store.store import Store
from swarmpy import rpc
from swarmpy.errors import AlreadyExists, Rejected, Retry, Stale, SwarmError, Unavailable
from swarmpy.limits import JOIN_TIMEOUT_S, RPC_TIMEOUT_S
from swarmpy.model.changes import Batch, Change, Create, Group, Update
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Cluster, Node
from swarmpy.model.root_ca import JoinTokens
from swarmpy.model.states import NodeRole, Owner
from swarmpy.pb import ca_pb2_grpc, dispatcher_pb2_grpc, raft_pb2, raft_pb2_grpc, streams_pb2_grpc
from swarmpy.pki import Identity
from swarmpy.rpc import Server, Trust
from swarmpy.runtime import Env
from swarmpy.version import STORE_FORMAT

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ManagerConfig:
    """``folder`` holds the raft log; ``key`` seals it. Addresses are ``host:port``."""

    folder: Path
    key: bytes
    listen_addr: str
    advertise_addr: str


class Manager:
    """One manager, from ``start`` to ``stop``.

    ``on_fatal`` is called if it must not go on, and ``on_removed`` if raft goes on without it for good.
    ``on_cluster`` is called at the start and whenever the cluster object, or the store, is another one.
    """

    def __init__(
        self,
        config: ManagerConfig,
        identity: Identity,
        env: Env,
        *,
        on_fatal: Callable[[str], None],
        on_removed: Callable[[], None] = lambda: None,
        on_cluster: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._identity = identity
        self._env = env
        self._on_fatal = on_fatal
        self._on_removed = on_removed
        self._on_cluster = on_cluster
        self._store = Store()
        self._server = Server(
            Trust(identity=identity, join_tokens=JoinTokens()),
            clock=env.clock,
            role_of=self._role_of,
            transport=env.transport,
        )
        self._wire = GrpcWire(identify=lambda context: rpc.peer_of(context).node_id, dial=self._dial)
        self._raft = SyncObjLog.open(_raft_config(config, env), self._store, self._wire, env)
        self._proposer = RaftProposer(self._raft)
        self._leader = Leader(
            self._store,
            self._proposer,
            self._raft,
            env,
            reconcilers=all_reconcilers,
            is_new=self._raft.is_newcomer,
        )
        self._registry = Registry(self._store, self._proposer, self._raft, env)
        self._history = History(self._store, env.clock)
        self.access = Access(
            self._store, self._proposer, self._raft, self._leader, dial=self._dial, history=self._history
        )
        self._tasks: list[asyncio.Task[None]] = []

    # --- life

    async def start(self) -> None:
        """Listen and take part in raft. FailedPrecondition if the port is taken."""
        ca_pb2_grpc.add_CertificateAuthorityServicer_to_server(
            CertificateAuthority(self._registry, env=self._env), self._server.grpc
        )
        dispatcher_pb2_grpc.add_DispatcherServicer_to_server(
            DispatcherServicer(self._leader, self._raft), self._server.grpc
        )
        streams_pb2_grpc.add_StreamsServicer_to_server(
            StreamsServicer(self._leader, self._raft), self._server.grpc
        )
        raft_pb2_grpc.add_RaftServicer_to_server(
            RaftServicer(
                self._wire,
                self._raft,
                identify=lambda context: rpc.peer_of(context).node_id,
                check_joiner=self._check_joiner,
                unlock_key=self._unlock_key,
            ),
            self._server.grpc,
        )
        await self._server.start(self._config.listen_addr)
        self._raft.subscribe(self._raft_changed)
        await self._raft.start()
        self._tasks = [
            asyncio.create_task(self._keep_trust()),
            asyncio.create_task(self._leader.run()),
            asyncio.create_task(self._keep_history()),
        ]
        for task in self._tasks:
            task.add_done_callback(self._loop_ended)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._raft.stop()
        await self._server.stop()

    def renewed(self, identity: Identity) -> None:
        """Go by a renewed certificate from now on."""
        self._identity = identity
        self._trust()

    async def wait_current(self) -> None:
        """Until this manager has caught up with the cluster. Bounded by the caller."""
        while True:
            try:
                await self._raft.read_barrier()
            except Retry as error:
                await asyncio.sleep(error.delay_s)
            else:
                return

    async def propose(self, changes: Iterable[Change]) -> None:
        """Commit one group on behalf of the node itself."""
        group = Group(owner=Owner.API, changes=tuple(changes))
        require_applied(await self._proposer.propose(Batch(groups=(group,), at=self._env.clock.now())))

    @property
    def backlog(self) -> dict[str, int]:
        """How much waits in each of its queues: for checkers and for diagnosis."""
        lengths = {**self._store.backlog, **self._raft.backlog}
        term = self._leader.term
        if term is not None:
            lengths |= {**term.loop.backlog, **term.dispatcher.backlog}
        return lengths

    @property
    def raft(self) -> SyncObjLog:
        return self._raft

    @property
    def store(self) -> Store:
        return self._store

    @property
    def term(self) -> Term | None:
        """What runs here while this manager leads."""
        return self._leader.term

    @property
    def raft_id(self) -> str:
        return self._raft.raft_id

    @property
    def must_enter(self) -> bool:
        """Whether this manager still has to ask the others to be added."""
        return self._raft.is_newcomer

    @property
    def is_removed(self) -> bool:
        """Whether raft goes on without this manager: as this member it can never come back."""
        return self._raft.status().is_removed

    def peers(self) -> tuple[tuple[NodeId, str], ...]:
        """The managers known here, as node id and ``host:port``."""
        status = self._raft.status()
        return tuple((NodeId(node_of(member.raft_id)), member.address) for member in status.members)

    # --- entering and leaving raft

    async def enter(self, managers: Sequence[str]) -> None:
        """Ask the managers at these addresses to add this one; started already. Repeating is harmless.

        ``Rejected`` if one refuses and no other takes us: a manager that lags behind may not know us yet.
        """
        request = raft_pb2.RaftJoinRequest(
            raft_id=self.raft_id, address=self._config.advertise_addr, store_format=STORE_FORMAT
        )
        last: SwarmError = Unavailable("no manager of the swarm is known")
        others = [address for address in managers if address != self._config.advertise_addr]
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                while others:
                    refusal: Rejected | None = None
                    for address in others:
                        try:
                            await self._ask_to_join(address, request)
                        except Rejected as error:
                            refusal = error
                        except Retry as error:
                            last = error
                            await asyncio.sleep(error.delay_s)
                        else:
                            return
                    if refusal is not None:
                        raise refusal
        except TimeoutError:
            pass
        raise last

    async def _ask_to_join(self, address: str, request: raft_pb2.RaftJoinRequest) -> None:
        for _ in range(2):  # once at the manager we know, once at the leader that it names
            with rpc.translate_errors():
                async with self._dial(address) as channel:
                    stub: raft_pb2_grpc.RaftAsyncStub = raft_pb2_grpc.RaftStub(channel)
                    response = await stub.Join(request, timeout=JOIN_TIMEOUT_S)
            if not response.leader_address:
                return
            address = response.leader_address
        raise Unavailable("the managers do not agree on a leader yet: try again")

    async def resign(self, node_id: NodeId) -> None:
        """Ask to be a worker, and wait until raft goes on without this manager. Bounded by the caller."""
        if len(self._raft.status().members) == 1:
            return
        while (node := self._store.node(node_id)) is not None and node.spec.role is not NodeRole.WORKER:
            wished = replace(node, spec=replace(node.spec, role=NodeRole.WORKER))
            try:
                await self.propose((Update(object=wished),))
            except Stale:
                # the leader gives a node that has just joined its number and its address meanwhile
                log.info("resignation_repeated", node_id=node_id)
        left = asyncio.Event()
        unsubscribe = self._raft.subscribe(lambda status: left.set() if status.is_removed else None)
        try:
            if not self._raft.status().is_removed:
                await left.wait()
        finally:
            unsubscribe()

    # --- inside

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        """Loops end with the manager only; without one of them it would lead, or trust, wrongly."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("manager_loop_failed", exc_info=error)
            self._on_fatal(f"the manager failed ({type(error).__name__}: {error}); start the daemon again")

    def _check_joiner(self, node_id: str, store_format: int) -> None:
        self._leader.membership.check_joiner(NodeId(node_id), store_format)

    def _unlock_key(self) -> bytes:
        cluster = self._store.cluster()
        return b"" if cluster is None else cluster.unlock_key

    def _role_of(self, node_id: NodeId) -> NodeRole | None:
        node = self._store.node(node_id)
        return None if node is None else node.role

    def _dial(self, address: str) -> grpc.aio.Channel:
        return self._env.transport.channel(self._identity, address)

    def _raft_changed(self, status: RaftStatus) -> None:
        if status.fatal is not None:
            self._on_fatal(status.fatal)
        elif status.is_removed:
            self._on_removed()

    async def _keep_history(self) -> None:
        """From when this manager knows all that was committed before it came: that is no news."""
        await self.wait_current()
        await self._history.run()

    async def _keep_trust(self) -> None:
        """Tokens, removed nodes and roots take effect as soon as they are committed."""
        with self._store.watch() as watch:
            self._trust()
            while True:
                await watch.wait()
                for event in watch.take():
                    match event:
                        case Event(new=Cluster()) | Resync():
                            self._trust()
                        case _:
                            pass

    def _trust(self) -> None:
        cluster = self._store.cluster()
        if cluster is not None and cluster.store_format > STORE_FORMAT:
            self._on_fatal(too_old(cluster.store_format, STORE_FORMAT))
        if cluster is None:
            self._server.trust = Trust(identity=self._identity, join_tokens=JoinTokens())
        else:
            self._server.trust = Trust.of_cluster(self._identity, cluster)
        self._on_cluster()


def _raft_config(config: ManagerConfig, env: Env) -> RaftConfig:
    return RaftConfig(folder=config.folder, sealer=AesGcmSealer(config.key, env.entropy))


# --- making one


def found(config: ManagerConfig, node_id: NodeId, env: Env) -> None:
    """Write the files of a new cluster's first manager."""
    member = Member(raft_id=new_raft_id(node_id, env), address=config.advertise_addr)
    create_single(env, _raft_config(config, env), member)


async def prepare_entry(
    config: ManagerConfig,
    identity: Identity,
    env: Env,
    managers: Sequence[str],
    *,
    keep_key: Callable[[bytes], None] = lambda unlock_key: None,
) -> None:
    """Write the files of a manager that is about to enter; asks the others who they are.

    ``keep_key`` is to have the config's key on disk, sealed with the cluster's unlock key if there is one.
    """
    members, unlock_key = await fetch_members(identity, managers, env)
    keep_key(unlock_key)
    member = Member(raft_id=new_raft_id(identity.node_id, env), address=config.advertise_addr)
    create_joined(env, _raft_config(config, env), member, members)


async def fetch_members(
    identity: Identity, managers: Sequence[str], env: Env
) -> tuple[tuple[Member, ...], bytes]:
    """Raft's present members and the unlock key, from the first manager that answers."""
    last: SwarmError = Unavailable("no manager of the swarm is known")
    for address in managers:
        try:
            with rpc.translate_errors():
                async with env.transport.channel(identity, address) as channel:
                    stub: raft_pb2_grpc.RaftAsyncStub = raft_pb2_grpc.RaftStub(channel)
                    response = await stub.Members(raft_pb2.RaftMembersRequest(), timeout=RPC_TIMEOUT_S)
        except (Retry, Rejected) as error:
            last = error  # one that lags behind may refuse whom it does not know as a manager yet
        else:
            members = tuple(Member(raft_id=m.raft_id, address=m.address) for m in response.members)
            return members, response.unlock_key
    raise last


async def withdraw(config: ManagerConfig, identity: Identity, env: Env, managers: Sequence[str]) -> None:
    """Take back an entry that was asked for: the others may have added this member. It runs no more.

    A founder, or a member that never asked, has nothing to take back. Bounded by the caller.
    """
    member = state_files.read_identity(env.disk, config.folder, AesGcmSealer(config.key, env.entropy))
    if not member.is_joined:
        return
    request = raft_pb2.RaftLeaveRequest(raft_id=member.raft_id)
    last: SwarmError | None = None
    for manager in managers:
        if manager == config.advertise_addr:
            continue
        address = manager
        try:
            for _ in range(2):  # once at the manager we know, once at the leader that it names
                with rpc.translate_errors():
                    async with env.transport.channel(identity, address) as channel:
                        stub: raft_pb2_grpc.RaftAsyncStub = raft_pb2_grpc.RaftStub(channel)
                        response = await stub.Leave(request, timeout=RPC_TIMEOUT_S)
                if not response.leader_address:
                    return
                address = response.leader_address
        except (Retry, Rejected) as error:
            last = error
    if last is not None:
        raise last


def new_raft_id(node_id: NodeId, env: Env) -> str:
    return make_raft_id(node_id, env.entropy.token_bytes(SUFFIX_BYTES))


def has_log(config: ManagerConfig, env: Env) -> bool:
    """Whether this node has been a manager before, and not left."""
    return state_files.has_state(env.disk, config.folder)


class Registry:
    """What the certificate authority asks of the cluster."""

    def __init__(self, store: Store, proposer: RaftProposer, raft: SyncObjLog, env: Env) -> None:
        self._store = store
        self._proposer = proposer
        self._raft = raft
        self._env = env

    def cluster(self) -> Cluster | None:
        return self._store.cluster()

    def node(self, node_id: NodeId) -> Node | None:
        return self._store.node(node_id)

    def managers(self) -> list[tuple[NodeId, str]]:
        """The managers that a node may call, the leader first."""
        leader = leader_address(self._raft)
        found = [
            (node.id, node.manager_status.addr)
            for node in self._store.manager_nodes()
            if node.manager_status is not None
        ]
        return sorted(found, key=lambda manager: (manager[1] != leader, manager[0]))

    async def catch_up(self) -> None:
        await self._raft.read_barrier()

    async def register(self, node: Node) -> None:
        group = Group(owner=Owner.API, changes=(Create(object=node),))
        batch = Batch(groups=(group,), at=self._env.clock.now())
        applied = await self._proposer.propose(batch)
        if applied.refused:
            raise AlreadyExists(applied.refused[0].reason)
