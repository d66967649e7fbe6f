"""One node's agent: the core, its driver and journal, the session, put together.

Everything comes in as an argument, so that the daemon and the simulator build the same agent. ``run`` finds
the tasks of a former life and takes them over; when it ends, for whatever reason, tasks run on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from signal import SIGTERM
from types import MappingProxyType

import structlog
from msgspec.structs import replace

from agent import events, volume_calls
from agent.core import Core
from agent.dataplane.base import Backend, BackendCapabilities
from agent.describe import with_network
from agent.driver import Driver
from agent.driver import Node as Machine
from agent.environment import NodeContext
from agent.executor.base import Executor
from agent.inside import Inside
from agent.journal import Journal
from agent.link import Link
from agent.logs import LogPublisher
from agent.managers import Managers
from agent.session import Greeting, Listener, Session
from agent.signals import Signals
from agent.streams import Call, StreamServer, Talk
from agent.task import Run
from agent.usage import UsageMeter
from swarmpy.errors import Retry, Unavailable
from swarmpy.limits import TASK_RETRIES_MAX, TASK_STOP_GRACE_S
from swarmpy.model.ids import ID_BYTES, NodeId, ServiceId, TaskId, make_id
from swarmpy.model.objects import Node, NodeDescription, TLSInfo
from swarmpy.model.states import is_terminal
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """One agent's settings."""

    node_id: NodeId
    managers: tuple[str, ...]
    """``host:port`` of managers, as known from joining; the journal knows fresher ones."""
    describe: Callable[[], NodeDescription]
    advertise_addr: str = ""
    """Under which other nodes reach this one; empty: the address that the manager sees."""


async def ignore_node(node: Node, root_ca: bytes) -> None:
    """For who does not care how the cluster sees the node."""


def ignore_removal(reason: str) -> None:
    """For who only looks at ``error``."""


class Agent:
    """``run`` once; ``stop`` ends it."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        env: Env,
        link: Link,
        executor: Executor,
        backend: Backend,
        journal: Journal,
        on_node: Callable[[Node, bytes], Awaitable[None]] = ignore_node,
        on_removed: Callable[[str], None] = ignore_removal,
        on_retired: Callable[[TLSInfo | None], None] = lambda shown: None,
        talks: Mapping[str, Talk] = MappingProxyType({}),
    ) -> None:
        self._executor = executor
        self._backend = backend
        self._on_node = on_node
        self._journal = journal
        self._content = self._journal.load()
        self._describe = config.describe
        self._network = BackendCapabilities(name=backend.name, is_usable=True)
        self._managers = Managers((*self._content.managers, *config.managers))
        self._core = Core(NodeContext(node_id=config.node_id, description=config.describe()))
        inside = self._inside = Inside(executor, env.clock, service_of=self._service_of)
        calls: dict[str, Call] = {name: partial(executor.volume_call, name) for name in volume_calls.NAMES}
        self.streams = StreamServer(link, calls={**inside.calls, **calls}, talks={**inside.talks, **talks})
        self.streams.add_calls(Signals(executor, run_of=self._run_of).calls)
        self._session = Session(
            link,
            self._managers,
            greeting=Greeting(
                describe=self._description,
                incarnation=make_id(env.entropy.token_bytes(ID_BYTES)),
                advertise_addr=config.advertise_addr,
            ),
            listener=Listener(
                post=self._post,
                on_node=self._note_node,
                on_managers=self._remember_managers,
                on_removed=on_removed,
                on_retired=on_retired,
            ),
            streams=self.streams,
            logs=LogPublisher(link, executor, node_id=config.node_id, service_of=self._service_of),
            usage=UsageMeter(executor, env, tasks_of=self._running_tasks_of),
            env=env,
        )
        machine = Machine(executor=executor, backend=backend, journal=self._journal)
        self._driver = Driver(self._core, machine, self._session, env)
        self._stopping = asyncio.Event()
        self._stop_reason = ""
        self._is_returning = True

    # --- what others may ask

    @property
    def manager_addr(self) -> str:
        """The manager of the present session; empty without one."""
        return self._session.manager_addr

    @property
    def error(self) -> str:
        """Why there is no session; empty while there is one."""
        return self._session.error

    @property
    def managers(self) -> tuple[str, ...]:
        """Addresses of managers, the best known first."""
        return self._managers.addresses

    @property
    def core(self) -> Core:
        """The tasks, to be read only: for the simulator's checkers and for diagnosis."""
        return self._core

    @property
    def backlog(self) -> dict[str, int]:
        """How much waits in each of its queues: for checkers and for diagnosis."""
        return {**self._driver.backlog, **self._session.backlog}

    def count_tasks(self) -> int:
        """Tasks of this node that have not ended."""
        return sum(not is_terminal(run.status.state) for run in self._core.runs.values())

    def reconnect(self, reason: str) -> None:
        """Leave the session for a new one, as after the identity was renewed; or try again now."""
        self._session.end(reason)
        self._session.nudge()

    def described_anew(self) -> None:
        """What ``describe`` says has changed: tell the manager."""
        self._session.describe()

    # --- running

    async def run(self) -> None:
        """Until ``stop`` or cancelled. Raises what keeps the node from being used at all."""
        try:
            await self._driver.restore(self._content)
            self._network = await self._backend.probe()
            for sentence in self._network.lacking:
                log.warning("network_lacking", what=sentence)
            async with asyncio.TaskGroup() as tasks:
                work = [tasks.create_task(self._driver.run()), tasks.create_task(self._session.run())]
                await self._stopping.wait()
                if self._is_returning:
                    await self._session.goodbye(self._stop_reason)
                for task in work:
                    task.cancel()
        finally:
            await self._inside.close()
            await self._executor.shut_down()
            await self._backend.shut_down()
            self._journal.close()

    def stop(self, reason: str = "the daemon is being stopped", *, is_returning: bool = True) -> None:
        """End ``run``; tasks run on. The manager is told, and waits, only if we are to return."""
        self._stop_reason = reason
        self._is_returning = is_returning
        self._stopping.set()

    def _description(self) -> NodeDescription:
        description = with_network(self._describe(), self._network, epoch=self._backend.epoch)
        return replace(description, volumes=self._executor.reported_volumes())

    async def _post(self, event: events.Event) -> None:
        await self._driver.post(event)

    async def _note_node(self, node: Node, root_ca: bytes) -> None:
        await self._driver.post(events.NodeNoticed(node.spec.stop_after))
        await self._on_node(node, root_ca)

    def _remember_managers(self, addresses: tuple[str, ...]) -> None:
        try:
            self._journal.save_managers(addresses)
        except Unavailable as error:
            log.warning("managers_not_saved", error=str(error))

    def _running_tasks_of(self, services: frozenset[ServiceId]) -> list[TaskId]:
        runs = self._core.runs.items()
        return [id_ for id_, run in runs if run.is_live and run.task.service_id in services]

    def _run_of(self, task_id: TaskId) -> Run | None:
        run = self._core.runs.get(task_id)
        return run if run is not None and not run.is_released else None

    def _service_of(self, task_id: TaskId) -> ServiceId | None:
        run = self._run_of(task_id)
        return run.task.service_id if run is not None else None


async def wipe(executor: Executor, backend: Backend, journal: Journal) -> None:
    """Take down every task and forget them all: the node leaves its swarm. Only while no agent runs.

    ``Unavailable`` if something could not be taken down within a few tries; it may be called again.
    """
    known = {stored.task.id for stored in journal.load().tasks}  # of ended ones the log is left
    await backend.start_up()
    await executor.start_up()
    try:
        known.update(found.task_id for found in await executor.list())
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(_take_down(executor, task_id)) for task_id in sorted(known)]
        if failures := [failure for task in running if (failure := task.result())]:
            raise Unavailable("; ".join(failures))
        await backend.destroy()
    finally:
        await executor.shut_down()
        await backend.shut_down()
    journal.destroy()


async def _take_down(executor: Executor, task_id: TaskId) -> str:
    """What was wrong in the end; empty if the task is gone."""
    reason = ""
    for _ in range(TASK_RETRIES_MAX):
        try:
            await executor.stop(task_id, signal=SIGTERM, grace_s=TASK_STOP_GRACE_S)
            await executor.remove(task_id)
        except Retry as error:
            reason = f"task {task_id} could not be taken down: {error}"
            await asyncio.sleep(error.delay_s)
        else:
            return ""
    return reason
