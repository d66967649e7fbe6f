"""``Daemon``: one node. It serves the API always, and has a Part while it is in a swarm.

``init``, ``join`` and ``leave`` change that, one at a time; each succeeds or leaves the node as it was. After
a crash at any point the identity's certificate decides whether the node is in a swarm. A founder writes it
last: nobody else knows of its cluster before. A joiner writes it first: the cluster knows of it already.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
from msgspec.structs import replace

from agent import identity as identities
from agent.dataplane.base import Backend
from agent.executor.base import Executor
from agent.identity import IdentityFiles
from agent.journal import Journal
from agent.streams import Talk
from manager.api.context import LOCKED, NO_SWARM, SWARM_EXISTS, USE_INIT
from manager.api.control import (
    ClusterAccess,
    InitRequest,
    JoinRequest,
    LocalNode,
    LocalState,
    Peer,
    RecoverRequest,
    RestoreRequest,
    SystemInfo,
)
from manager.api.image_control import ImageControl
from swarmpy.config import NodeConfig
from swarmpy.errors import (
    AlreadyExists,
    Corrupt,
    FailedPrecondition,
    NotInSwarm,
    Rejected,
    Retry,
    Unavailable,
)
from swarmpy.limits import JOIN_TIMEOUT_S, SESSION_BACKOFF_MAX_S, START_RETRY_MIN_S, UNLOCK_WAIT_S
from swarmpy.model.ids import NodeId
from swarmpy.model.images import Image
from swarmpy.model.objects import NodeDescription
from swarmpy.model.states import NodeAvailability
from swarmpy.node import founding
from swarmpy.node.addresses import resolve_advertise, resolve_data_path, resolve_listen, with_port
from swarmpy.node.keys import NodeKeys
from swarmpy.node.part import Part, PartConfig, sentence
from swarmpy.node.state import NodeState, StateFile
from swarmpy.pki import Identity, Role
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)


class Images(ImageControl, Protocol):
    """The images on this machine; they are there whether the node is in a swarm or not."""

    def prepare(self) -> None:
        """Called once, before the others."""
        ...

    @property
    def talks(self) -> Mapping[str, Talk]:
        """What managers may ask of them over streams, while the node is in a swarm."""
        ...


class Volumes(Protocol):
    """The volumes on this node's disk, also while it is in no swarm."""

    def prepare(self) -> None: ...

    async def call(self, name: str, body: bytes) -> bytes:
        """One of the calls of ``agent/volume_calls``."""
        ...


class ReadSystem(Protocol):
    """What this machine is, as ``docker info`` shows it; cheap enough for every call of it."""

    def __call__(self, config: NodeConfig, *, executor: str, tasks: int) -> SystemInfo: ...


@dataclass(frozen=True, kw_only=True)
class Machine:
    """All that this machine is to a daemon. With an Env, nothing else of the world is touched.

    Executor, backend and journal live as long as a node's part in a swarm; each part makes them anew.
    """

    executor_name: str
    make_executor: Callable[[], Executor]
    make_backend: Callable[[], Backend]
    open_journal: Callable[[Path], Journal]
    """The agent's journal at this path, empty if there was none. What it holds outlives the daemon."""
    describe: Callable[[], NodeDescription]
    """What the node says of itself to the managers; read anew at each call."""
    read_system: ReadSystem
    images: Images
    volumes: Volumes


class Daemon:
    """``NodeControl`` of the daemon. ``resume``, then serve, then ``stop``."""

    def __init__(self, config: NodeConfig, env: Env, machine: Machine) -> None:
        self._config = config
        self._env = env
        self._machine = machine
        self._keys = NodeKeys(env, config.data_dir / "certificates")
        self._identity_files = IdentityFiles(env.disk, config.data_dir / "certificates", self._keys)
        self._state_file = StateFile(env.disk, config.data_dir)
        self._changing = asyncio.Lock()
        self._state = LocalState.INACTIVE
        self._error = ""
        self._part: Part | None = None
        self._retrying: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None
        self.fatal: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Resolves with a sentence when the process must end."""

    # --- life

    async def resume(self) -> None:
        """Take up the place in a swarm that is on disk, if any. ``Corrupt`` if it can't be trusted."""
        self._machine.images.prepare()
        self._machine.volumes.prepare()
        self._keys.load()
        try:
            identity = self._identity_files.load()
        except Unavailable:
            identity = self._identity_files.load_public()
        if identity is None:
            self._forget()  # what a crash in the middle of init, join or leave has left
            return
        state = self._state_file.load()
        if state is None:
            raise Corrupt(f"{self._config.data_dir} has an identity but no state.json: restore it, or leave")
        if self._keys.is_locked and identity.role is Role.MANAGER:
            identity = self._identity_files.load_public()
        await self._take_up(self._make_part(identity, state))

    async def _take_up(self, part: Part) -> None:
        """Be the part from now on, also if it can't be started just now."""
        self._part, self._state, self._error = part, LocalState.PENDING, ""
        try:
            await part.start()
        except (Retry, Rejected) as error:
            # the others may be away, or the port in use for a moment: keep trying, and say so meanwhile
            log.warning("start_failed", reason=str(error))
            self._error = str(error)
            self._retrying = asyncio.create_task(self._start_again(part))
        else:
            self._state = LocalState.LOCKED if part.is_locked else LocalState.ACTIVE

    async def stop(self) -> None:
        for task in (self._retrying, self._retiring):  # the next start finds out anew
            await _cancel(task)
        if self._part is not None:
            await self._part.stop("the daemon stops")

    async def _start_again(self, part: Part) -> None:
        delay_s = START_RETRY_MIN_S
        while True:
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, SESSION_BACKOFF_MAX_S)
            try:
                await part.start()
            except (Retry, Rejected) as error:
                self._error = str(error)
                log.warning("start_failed", reason=str(error), retry_in_s=delay_s)
            except Exception as error:  # the top of this task: nobody else would hear of it
                log.exception("start_failed")
                self._end(sentence(error))
                return
            else:
                self._state, self._error = LocalState.ACTIVE, ""
                return

    # --- what the API asks

    @property
    def part(self) -> Part | None:
        """To be read only, by the simulation."""
        return self._part

    def local(self) -> LocalNode:
        part = self._part
        if part is None:
            return LocalNode(state=self._state, error=self._error)
        if part.is_locked:
            return LocalNode(state=self._state, node_addr=part.node_addr, error=LOCKED)
        manager = part.manager
        peers = manager.peers() if manager else tuple((NodeId(""), addr) for addr in part.agent.managers)
        return LocalNode(
            state=self._state,
            node_id=part.identity.node_id,
            node_addr=part.node_addr,
            error=self._error,
            is_manager=part.identity.role is Role.MANAGER,
            remote_managers=tuple(Peer(node_id=node_id, addr=addr) for node_id, addr in peers),
        )

    def system(self) -> SystemInfo:
        tasks = self._part.agent.count_tasks() if self._part is not None else 0
        return self._machine.read_system(self._config, executor=self._machine.executor_name, tasks=tasks)

    def cluster(self) -> ClusterAccess | None:
        manager = self._part.manager if self._part is not None else None
        return manager.access if manager is not None and self._state is LocalState.ACTIVE else None

    async def init(self, request: InitRequest) -> NodeId:
        if request.force_new_cluster and self._part is not None:
            return await self.recover(
                RecoverRequest(
                    force=True, listen_addr=request.listen_addr, advertise_addr=request.advertise_addr
                )
            )
        async with self._alone():
            listen = resolve_listen(request.listen_addr or self._config.listen_address)
            advertise = resolve_advertise(request.advertise_addr or self._config.advertise_address, listen)
            wish = founding.Wish(request=request, hostname=self._config.hostname, advertise_addr=advertise)
            cluster, node, identity = founding.make_cluster(wish, self._env)
            state = NodeState(
                listen_addr=listen,
                advertise_addr=advertise,
                data_path_addr=self._data_path(request.data_path_addr),
                managers=(advertise,),
            )
            part = self._make_part(identity, state)

            self._part, self._state = part, LocalState.PENDING
            try:
                await part.found(cluster.unlock_key)
                assert part.manager is not None
                await founding.record(part.manager, cluster, node, advertise_addr=advertise)
                self._state_file.save(state)
                self._identity_files.save(identity)
                await part.start()
            except BaseException:
                await self._undo(part)
                raise
            self._state = LocalState.ACTIVE
            log.info("swarm_initialized", node_id=identity.node_id, cluster_id=identity.cluster_id)
            return identity.node_id

    async def join(self, request: JoinRequest) -> None:
        async with self._alone():
            listen = resolve_listen(request.listen_addr or self._config.listen_address)
            wanted = request.advertise_addr or self._config.advertise_address
            advertise = resolve_advertise(wanted, listen) if wanted else ""
            data_path = self._data_path(request.data_path_addr)
            admission = await identities.join(
                identities.JoinRequest(
                    addresses=tuple(with_port(address) for address in request.remote_addrs),
                    token=request.join_token,
                    availability=request.availability or NodeAvailability.ACTIVE,
                    advertise_addr=advertise,
                    hostname=self._config.hostname,
                ),
                env=self._env,
            )
            known = tuple(addr for _, addr in admission.managers) or request.remote_addrs
            advertise = advertise or with_port(admission.observed_host, int(listen.rpartition(":")[2]))
            state = NodeState(
                listen_addr=listen, advertise_addr=advertise, data_path_addr=data_path, managers=known
            )
            part = self._make_part(admission.identity, state)

            self._part, self._state = part, LocalState.PENDING
            try:
                self._state_file.save(state)
                self._identity_files.save(admission.identity)
                async with asyncio.timeout(JOIN_TIMEOUT_S):
                    await part.start()
                    await part.wait_joined()
            except TimeoutError as error:
                await self._undo(part)
                raise FailedPrecondition(
                    "Timeout was reached before node joined. The attempt was undone: see that the "
                    "managers can be reached on their port and this node on its own, then join again."
                ) from error
            except BaseException:
                await self._undo(part)
                raise
            self._state = LocalState.ACTIVE
            log.info("swarm_joined", node_id=admission.identity.node_id, role=admission.identity.role.value)

    async def leave(self, *, force: bool) -> None:
        async with self._changing:
            part = self._part
            if part is None:
                raise NotInSwarm(NO_SWARM)
            await _cancel(self._retrying)
            await self._undo(part)
            log.info("swarm_left", node_id=part.identity.node_id)

    async def recover(self, request: RecoverRequest) -> NodeId:
        from swarmpy.node import recovery

        async with self._changing:
            part = self._part
            if part is None:
                raise NotInSwarm(NO_SWARM)
            recovery.check_survivor(part, self._state, self._error, self._env)
            if not request.force:
                await recovery.check_lost(self.cluster())
            state = self._addresses(request, part.state)
            await _cancel(self._retrying)
            await part.stop("this manager becomes its cluster's only one")
            alone = self._make_part(part.identity, state)
            try:
                if state != part.state:
                    self._state_file.save(state)
                config = alone.manager_config()
                await recovery.stand_alone(config, part.identity.node_id, self._config.hostname, self._env)
            finally:
                await self._take_up(alone)
            await recovery.wait_leading(alone.manager)
            log.info("swarm_recovered", node_id=part.identity.node_id)
            return part.identity.node_id

    async def restore(self, request: RestoreRequest, chunks: AsyncIterator[bytes]) -> NodeId:
        from swarmpy.node import recovery  # what a manager is made of: most nodes do without

        async with self._alone():
            state = self._addresses(request, None)
            try:
                incoming = recovery.Incoming(request=request, chunks=chunks, hostname=self._config.hostname)
                files = recovery.files_of(self._config.data_dir, state, self._keys)
                restored = await recovery.receive(incoming, files, state, self._keys, self._env)
                self._state_file.save(state)
                self._identity_files.save(restored.identity)
            except BaseException:
                self._forget()
                raise
            part = self._make_part(restored.identity, state)
            self._part, self._state = part, LocalState.PENDING
            try:
                await part.start()
                await recovery.wait_leading(part.manager)
            except BaseException:
                await self._undo(part)
                raise
            self._state = LocalState.ACTIVE
            log.info("swarm_restored", node_id=restored.identity.node_id)
            return restored.identity.node_id

    async def unlock(self, key: str) -> None:
        async with self._changing:
            part = self._part
            if part is None:
                raise NotInSwarm(USE_INIT)
            if not part.is_locked:
                raise AlreadyExists("swarm is not locked")
            part.unlock(key)
            log.info("swarm_unlocked", node_id=part.identity.node_id)
            await self._take_up(part)
            with suppress(TimeoutError):  # the others may be locked still
                async with asyncio.timeout(UNLOCK_WAIT_S):
                    if part.manager is not None:
                        await part.manager.wait_current()

    async def images(self) -> tuple[Image, ...]:
        return await self._machine.images.list()

    @property
    def image_store(self) -> ImageControl:
        return self._machine.images

    async def volume_call(self, name: str, body: bytes) -> bytes:
        return await self._machine.volumes.call(name, body)

    # --- inside

    def _alone(self) -> _Alone:
        return _Alone(self)

    def _addresses(self, request: RecoverRequest | RestoreRequest, known: NodeState | None) -> NodeState:
        """The addresses that were asked for, else those known, else those of the settings."""
        listen = request.listen_addr or (known.listen_addr if known else self._config.listen_address)
        listen = resolve_listen(listen)
        advertise = request.advertise_addr
        advertise = advertise or (known.advertise_addr if known else self._config.advertise_address)
        advertise = resolve_advertise(advertise, listen)
        managers = known.managers if known else (advertise,)
        data_path = known.data_path_addr if known else self._data_path("")
        return NodeState(
            listen_addr=listen, advertise_addr=advertise, data_path_addr=data_path, managers=managers
        )

    def _data_path(self, wanted: str) -> str:
        return resolve_data_path(wanted or self._config.data_path_address)

    def _make_part(self, identity: Identity, state: NodeState) -> Part:
        config = PartConfig(
            data_dir=self._config.data_dir,
            make_executor=self._machine.make_executor,
            make_backend=self._machine.make_backend,
            open_journal=self._machine.open_journal,
            describe=lambda: replace(self._machine.describe(), data_path_addr=state.data_path_addr),
            on_fatal=self._end,
            on_removed=self._removed,
            talks=self._machine.images.talks,
        )
        return Part(identity, state, config, self._keys, self._env)

    async def _undo(self, part: Part) -> None:
        """The node as it was before it was in the swarm. Failing, it may be called again (by leave)."""
        try:
            await part.leave()
        except Exception as error:
            self._state = LocalState.ERROR
            self._error = f"not all tasks could be taken down ({sentence(error)}): leave the swarm again"
            raise
        self._part, self._state, self._error = None, LocalState.INACTIVE, ""
        self._retrying = self._retiring = None
        self._forget()

    def _forget(self) -> None:
        """Remove what belongs to the swarm; images stay."""
        self._identity_files.remove()
        self._keys.forget()
        self._state_file.remove()
        for name in ("raft", "agent", "certificates"):
            try:
                self._env.disk.remove_tree(self._config.data_dir / name)
            except OSError as error:
                # without the identity it is rubbish, which the next start tries to remove again
                log.warning("folder_not_removed", name=name, reason=str(error))

    def _end(self, reason: str) -> None:
        if not self.fatal.done():
            self.fatal.set_result(reason)

    def _removed(self, reason: str) -> None:
        """The cluster runs our tasks elsewhere, so here they end; the rest goes when the user says so."""
        if self._retiring is None and self._part is not None:
            log.error("node_removed", reason=reason)
            self._retiring = asyncio.create_task(self._retire(self._part, reason))

    async def _retire(self, part: Part, reason: str) -> None:
        async with self._changing:
            if self._part is not part:
                return  # it has left meanwhile
            await _cancel(self._retrying)
            self._state, self._error = LocalState.ERROR, reason
            try:
                await part.leave()
            except Exception as error:  # the top of this task: nobody else would hear of it
                log.exception("tasks_of_removed_node_remain")
                self._error = f"{reason}; not all of its tasks could be taken down: {sentence(error)}"


async def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


class _Alone:
    """One change of the node's place at a time, and only from outside of a swarm."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def __aenter__(self) -> None:
        await self._daemon._changing.acquire()
        if self._daemon._part is not None:
            self._daemon._changing.release()
            raise NotInSwarm(SWARM_EXISTS)

    async def __aexit__(self, *exception: object) -> None:
        self._daemon._changing.release()
