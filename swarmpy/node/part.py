"""``Part``: this node's part in a swarm while it has one: an agent, and a manager if its certificate says so.

The role follows the certificate. When the cluster's record of this node names another role than the
certificate, the certificate is renewed; a renewed one with another role starts or stops the manager. A
manager that becomes a worker has left raft before (the leader sees to that), so its log is removed. So is the
log of a member that raft has removed, or would not have: a node that is wished to be a manager again comes
back as another member. ``_align`` brings the manager to what the certificate says, whatever stood before; it
alone starts and stops managers, one call at a time.

What a manager is made of is imported when there is one: a worker does without those megabytes.

The agent starts first and never waits for the manager: whatever became of the swarm, tasks are looked after.
So they are on a manager that is locked (``keys.py``): its agent runs, and can't reach anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from agent.agent import Agent, AgentConfig, wipe
from agent.dataplane.base import Backend
from agent.describe import tls_info_of
from agent.executor.base import Executor
from agent.identity import IdentityFiles, Renewal
from agent.journal import JOURNAL_NAME, Journal
from agent.link import GrpcLink
from agent.streams import Talk
from manager.api.context import LOCKED
from swarmpy.errors import Corrupt, NodeRemoved, Rejected, Retry, SwarmError, Unavailable
from swarmpy.limits import JOIN_TIMEOUT_S, LEAVE_TIMEOUT_S, RENEW_FAILED_S, RENEW_RETRY_MIN_S
from swarmpy.model.objects import Node, NodeDescription, TLSInfo
from swarmpy.node.keys import NodeKeys
from swarmpy.node.state import NodeState
from swarmpy.pki import Identity, Role, issuer_of_identity
from swarmpy.runtime import Env

if TYPE_CHECKING:
    from manager.manager import Manager, ManagerConfig

log = structlog.get_logger(__name__)

POLL_S = 0.02


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    """What a part is made with; executor and backend are made afresh for every part."""

    data_dir: Path
    make_executor: Callable[[], Executor]
    make_backend: Callable[[], Backend]
    open_journal: Callable[[Path], Journal]
    describe: Callable[[], NodeDescription]
    on_fatal: Callable[[str], None]
    on_removed: Callable[[str], None]
    """The node was removed: its tasks run elsewhere, and it can come back only as another node."""
    talks: Mapping[str, Talk] = field(default_factory=dict)
    """What else managers may ask of this node over streams."""

    @property
    def journal(self) -> Path:
        return self.data_dir / "agent" / JOURNAL_NAME

    @property
    def raft_dir(self) -> Path:
        return self.data_dir / "raft"

    @property
    def certificates(self) -> Path:
        return self.data_dir / "certificates"


class Part:
    """``start`` brings it to life, and may be repeated after a Retry; ``stop`` or ``leave`` ends it."""

    def __init__(
        self, identity: Identity, state: NodeState, config: PartConfig, keys: NodeKeys, env: Env
    ) -> None:
        self.identity = identity
        self.state = state
        self.manager: Manager | None = None
        self._config = config
        self._keys = keys
        self._env = env
        self._files = IdentityFiles(env.disk, config.certificates, keys)
        self._tls_info: TLSInfo | None = None
        self.agent = Agent(
            AgentConfig(
                node_id=identity.node_id,
                managers=state.managers,
                describe=self._describe,
                advertise_addr=state.advertise_addr,
            ),
            env=env,
            link=GrpcLink(self._caller, env.transport),
            executor=config.make_executor(),
            backend=config.make_backend(),
            journal=config.open_journal(config.journal),
            on_node=self._node_noticed,
            on_removed=config.on_removed,
            on_retired=self._certificate_retired,
            talks=config.talks,
        )
        self._renewal = self._make_renewal()
        self._wanted_role = identity.role
        self._role_changed = asyncio.Event()
        self._cluster_changed = asyncio.Event()
        self._is_key_due = self._was_key_bare = False
        self._aligning = asyncio.Lock()
        self._agent_run: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # --- life

    async def found(self, unlock_key: bytes) -> None:
        """Write the log of a new cluster's first manager, and start that manager; the agent comes later."""
        from manager import manager as managers

        self._keys.set_unlock_key(unlock_key)
        managers.found(self.manager_config(), self.identity.node_id, self._env)
        await self._align()

    async def start(self) -> None:
        """Bring up what the role asks for. ``Retry`` or ``Rejected`` if the manager could not be started.

        The agent then runs nevertheless, and ``start`` may be called again.
        """
        if self._agent_run is None:
            self._agent_run = asyncio.create_task(self._run_agent())
        if self.is_locked:
            return
        if not self._tasks:
            self._tasks = [
                self._supervised(self._keep_certificate()),
                self._supervised(self._follow_role()),
                self._supervised(self._follow_unlock_key()),
            ]
        await self._align()

    @property
    def is_locked(self) -> bool:
        """Whether only the agent runs, unheard, until ``unlock``; then comes ``start`` again."""
        return not self.identity.key

    @property
    def node_addr(self) -> str:
        """The host that others reach this node under."""
        return self.state.advertise_addr.rpartition(":")[0].strip("[]")

    def unlock(self, text: str) -> None:
        """Be who this node is. InvalidArgument or Unauthenticated if the key is not the one, Corrupt if a
        file is damaged; it is locked then as before."""
        try:
            self._keys.unlock(text)
            identity = self._files.load()
            if identity is None:
                raise Corrupt(f"{self._config.certificates} holds no certificate any more")
            self._files.save_key(identity)  # a crash may have left it in the clear
        except BaseException:
            self._keys.load()
            raise
        self.identity = identity
        self._renewal = self._make_renewal()
        self.agent.reconnect("the node was unlocked")

    async def wait_joined(self) -> None:
        """Until the agent has its session and the manager, if any, has caught up. Bounded by the caller."""
        if self.manager is not None:
            await self.manager.wait_current()
        while not self.agent.manager_addr:
            await asyncio.sleep(POLL_S)

    async def keep_role(self) -> None:
        """From now on ask for no certificate; the manager, if any, stays until it is stopped."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self, reason: str) -> None:
        """Stop; tasks run on. The dispatcher is told, so that it waits for our return."""
        await self._stop(reason, is_returning=True)

    async def _stop(self, reason: str, *, is_returning: bool) -> None:
        await self.keep_role()
        if self._agent_run is not None:
            self.agent.stop(reason, is_returning=is_returning)
            await asyncio.wait([self._agent_run])
        await self._stop_manager()

    async def leave(self) -> None:
        """Stop, and take down every task: this node is in no swarm any more, and is not waited for."""
        await self.keep_role()  # or the resignation's own demotion would stop the manager that waits for it
        await self._quit_raft()
        await self._stop("the node leaves the swarm", is_returning=False)
        config = self._config
        await wipe(config.make_executor(), config.make_backend(), config.open_journal(config.journal))

    async def _run_agent(self) -> None:
        try:
            await self.agent.run()
        except Exception as error:  # the node's top: without its agent it would only seem to be one
            log.exception("agent_failed")
            self._config.on_fatal(sentence(error))

    def _supervised(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """A task that is not meant to end by itself: if it fails the daemon ends, and says why."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("node_failed", exc_info=error)
                self._config.on_fatal(sentence(error))

        task = asyncio.create_task(work)
        task.add_done_callback(ended)
        return task

    # --- the manager

    def manager_config(self) -> ManagerConfig:
        from manager.manager import ManagerConfig

        return ManagerConfig(
            folder=self._config.raft_dir,
            key=self._keys.raft_key(),
            listen_addr=self.state.listen_addr,
            advertise_addr=self.state.advertise_addr,
        )

    async def _align(self) -> None:
        async with self._aligning:
            manager, is_manager = self.manager, self.identity.role is Role.MANAGER
            if manager is not None and (not is_manager or manager.is_removed):
                await self._stop_manager()
                self._forget_log()
                if is_manager:
                    raise Retry("raft goes on without this manager: it comes back if it is to be one still")
            if not is_manager:
                self._forget_log()  # also what a crash has left of it
            elif self.manager is None:
                await self._start_manager()

    async def _start_manager(self) -> None:
        from manager import manager as managers

        config = self.manager_config()
        if not managers.has_log(config, self._env):
            await managers.prepare_entry(
                config, self.identity, self._env, self.agent.managers, keep_key=self._begin_with_key
            )
        manager = managers.Manager(
            config,
            self.identity,
            self._env,
            on_fatal=self._config.on_fatal,
            on_removed=self._role_changed.set,
            on_cluster=self._cluster_changed.set,
        )
        try:
            await manager.start()
            if manager.must_enter:
                await self._enter(manager)
        except BaseException:
            await manager.stop()
            raise
        self.manager = manager
        manager.renewed(self.identity)  # it may have been while this took its time
        self._cluster_changed.set()

    async def _enter(self, manager: Manager) -> None:
        try:
            await manager.enter(self.agent.managers)
        except Rejected:
            # as this member it is not wanted, or not any more; the next attempt is made as another one
            await manager.stop()
            self._forget_log()
            raise

    async def _stop_manager(self) -> None:
        if self.manager is not None:
            await self.manager.stop()
            self.manager = None

    async def _quit_raft(self) -> None:
        """Leave raft in good order, so that the others' quorum does not count on us; bounded."""
        if self.identity.role is not Role.MANAGER or self.is_locked:
            return
        from manager import manager as managers

        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                if self.manager is not None:
                    await self.manager.resign(self.identity.node_id)
                elif managers.has_log(config := self.manager_config(), self._env):
                    await managers.withdraw(config, self.identity, self._env, self.agent.managers)
        except (TimeoutError, SwarmError) as error:
            log.warning("resignation_failed", reason=str(error) or "timed out")

    # --- the keys on disk

    async def _follow_unlock_key(self) -> None:
        """Have the keys on disk sealed as the cluster has it.

        What a store that catches up says may be long over, and its key nobody's any more: so each look at it
        comes after a barrier.
        """
        while True:
            await self._cluster_changed.wait()
            self._cluster_changed.clear()
            manager = self.manager
            if manager is None:
                continue  # its start sets the event again
            try:
                async with asyncio.timeout(JOIN_TIMEOUT_S):
                    await manager.wait_current()
                cluster = manager.store.cluster()
                if cluster is None or (cluster.unlock_key == self._keys.unlock_key and not self._is_key_due):
                    continue
                self._was_key_bare |= not self._keys.unlock_key
                self._set_unlock_key(cluster.unlock_key)
            except (TimeoutError, OSError) as error:
                log.warning("keys_not_sealed_yet", reason=str(error), retry_in_s=RENEW_RETRY_MIN_S)
                await asyncio.sleep(RENEW_RETRY_MIN_S)
                self._cluster_changed.set()
            else:
                log.info("unlock_key_changed", is_locking=bool(cluster.unlock_key))
                if cluster.unlock_key and self._was_key_bare:
                    self._renewal.ask_now()  # the present key has been on disk in the clear
                self._was_key_bare = False

    def _begin_with_key(self, unlock_key: bytes) -> None:
        """The key of the cluster that this manager enters. Its own was written before that was known."""
        self._set_unlock_key(unlock_key)
        if unlock_key:
            self._renewal.ask_now()

    def _set_unlock_key(self, unlock_key: bytes) -> None:
        """May be repeated after an OSError. The key of the log comes first, see ``keys.py``."""
        self._is_key_due = True
        self._keys.set_unlock_key(unlock_key)
        self._files.save_key(self.identity)
        self._is_key_due = False

    # --- the certificate and the role

    def _make_renewal(self) -> Renewal:
        return Renewal(
            self.identity,
            files=self._files,
            managers=lambda: self.agent.managers,
            on_renewed=self._renewed,
            env=self._env,
        )

    def _caller(self) -> Identity:
        if self.is_locked:
            raise Unavailable(LOCKED)
        return self.identity

    async def _node_noticed(self, node: Node, root_ca: bytes) -> None:
        """The cluster's record of this node, as the session tells it."""
        self._wanted_role = Role.of_node(node.role)
        if self._wanted_role is not self.identity.role:
            self._renewal.ask_now()
        self._renewal.tell_roots(root_ca)
        if node.wanted_issuer == issuer_of_identity(self.identity).mark:
            self._renewal.keep_issuer()
        elif node.wanted_issuer:
            self._renewal.ask_other_issuer()

    def _certificate_retired(self, shown: TLSInfo | None) -> None:
        """The root was changed while this node was away. What was shown may have been renewed meanwhile."""
        if shown == self._tls_info:
            self._renewal.ask_other_issuer()

    def _describe(self) -> NodeDescription:
        if self._tls_info is None:
            self._tls_info = tls_info_of(self.identity)
        return replace(self._config.describe(), tls_info=self._tls_info)

    def _renewed(self, identity: Identity) -> None:
        is_new_role = identity.role is not self.identity.role
        is_same_certificate = identity.certificate == self.identity.certificate
        self.identity, self._tls_info = identity, None
        if self.manager is not None:
            self.manager.renewed(identity)
        if is_new_role:
            self._role_changed.set()
        if self._agent_run is None:
            pass
        elif is_same_certificate:
            self.agent.described_anew()  # other roots are trusted; the connections that there are go on
        else:
            self.agent.reconnect("the certificate was renewed")
        if identity.role is not self._wanted_role:
            # issued by a manager that had not heard of the change yet
            asyncio.get_running_loop().call_later(RENEW_RETRY_MIN_S, self._renewal.ask_now)

    async def _keep_certificate(self) -> None:
        while True:
            try:
                await self._renewal.run()
            except NodeRemoved as error:
                self._config.on_removed(str(error))
                return
            except (Rejected, OSError) as error:
                # refused, or the disk is full: the present certificate holds for a while yet
                log.error("certificate_not_renewed", reason=str(error), retry_in_s=RENEW_FAILED_S)
                await asyncio.sleep(RENEW_FAILED_S)
                self._renewal.ask_now()

    async def _follow_role(self) -> None:
        """Start or stop the manager whenever the certificate's role, or raft's mind, has changed."""
        while True:
            await self._role_changed.wait()
            self._role_changed.clear()
            log.info("role_changed", role=self.identity.role.value)
            try:
                await self._align()
            except (Retry, Rejected) as error:
                log.warning("role_change_waits", reason=str(error), retry_in_s=RENEW_RETRY_MIN_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(RENEW_RETRY_MIN_S):
                        await self._role_changed.wait()
                self._role_changed.set()

    def _forget_log(self) -> None:
        """Hold no state of the swarm. A manager's private key may be sealed with the key of its log."""
        self._env.disk.remove_tree(self._config.raft_dir)
        if self.identity.role is not Role.MANAGER:
            self._keys.forget()


def sentence(error: BaseException) -> str:
    """What to tell the user of an error; of a group's errors, one after the other."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(sentence(each) for each in error.exceptions)
    return str(error) if isinstance(error, SwarmError) else f"{type(error).__name__}: {error}"
