"""A node for tests of the agent: fake machine and network, a journal that outlives the agent, and the part
of the manager that matters to it (assignments out, statuses in).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import ParamSpec

from msgspec.structs import replace

from agent import events
from agent.core import Core
from agent.dataplane.fake import FakeBackend, FakeNetwork
from agent.driver import Driver, Node
from agent.environment import NodeContext
from agent.events import AssignmentChange, AssignmentsReceived
from agent.executor.fake import FakeExecutor, FakeMachine
from agent.journal import IN_MEMORY, Journal
from swarmpy.model.cluster_specs import NetworkSpec
from swarmpy.model.discovery import DiscoveryRecord
from swarmpy.model.file_versions import File, kind_of
from swarmpy.model.ids import (
    ID_BYTES,
    NetworkId,
    NodeId,
    RevisionId,
    ServiceId,
    SessionId,
    TaskId,
    make_id,
)
from swarmpy.model.objects import (
    Kind,
    Network,
    NetworkAttachment,
    NodeDescription,
    Revision,
    Task,
    TaskStatus,
)
from swarmpy.model.specs import ContainerSpec, EndpointSpec, PortConfig, ServiceSpec, TaskSpec
from swarmpy.model.states import PublishMode, TaskState, is_terminal
from swarmpy.runtime import Env
from swarmpy.sim.clock import SimClock
from swarmpy.sim.loop import SimLoop

NODE_ID = NodeId("node1")
NODE = NodeContext(node_id=NODE_ID, description=NodeDescription(hostname="host1"))
DEADLINE_S = 20.0

P = ParamSpec("P")


def in_virtual_time(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """A test whose delays cost nothing: it runs in the simulator's loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        loop = SimLoop()
        try:
            loop.run_until_complete(test(*args, **kwargs))
        finally:
            loop.close()

    # Else it would be taken for a coroutine function, or for one without parameters.
    del run.__wrapped__
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


def loop_env() -> Env:
    """An Env whose time is the running loop's, virtual or not."""
    return Env(clock=SimClock(asyncio.get_running_loop()))


def id_of(number: int) -> str:
    return make_id(number.to_bytes(ID_BYTES))


def make_revision(name: str = "web", *, container: ContainerSpec | None = None, port: int = 0) -> Revision:
    ports = (PortConfig(target_port=80, published_port=port, publish_mode=PublishMode.HOST),) if port else ()
    spec = ServiceSpec(
        name=name,
        task_template=TaskSpec(container_spec=container or ContainerSpec(image="host")),
        endpoint_spec=EndpointSpec(ports=ports),
    )
    return Revision(id=RevisionId(f"revision-{name}"), service_id=ServiceId(f"service-{name}"), spec=spec)


NET = Network(id=NetworkId("net1"), spec=NetworkSpec(name="net"))


def make_task(
    number: int,
    revision: Revision,
    *,
    desired: TaskState = TaskState.RUNNING,
    slot: int | None = None,
    is_networked: bool = False,
) -> Task:
    """``is_networked``: it is on the network ``NET``."""
    place = NetworkAttachment(network_id=NET.id, addresses=(f"10.0.{number // 250}.{number % 250 + 2}/16",))
    return Task(
        id=TaskId(id_of(number)),
        service_id=revision.service_id,
        revision_id=revision.id,
        node_id=NODE_ID,
        slot=number if slot is None else slot,
        desired_state=desired,
        status=TaskStatus(state=TaskState.ASSIGNED, message="scheduler assigned task to node"),
        networks=(place,) if is_networked else (),
    )


@dataclass
class FakeManager:
    """The manager's side: what is assigned, and what was reported. Statuses merge as in the store."""

    tasks: dict[TaskId, Task] = field(default_factory=dict)
    revisions: dict[RevisionId, Revision] = field(default_factory=dict)
    networks: dict[NetworkId, Network] = field(default_factory=dict)
    records: dict[str, DiscoveryRecord] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    history: dict[TaskId, list[TaskState]] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    chain: int = 0

    def complete(self) -> AssignmentsReceived:
        return AssignmentsReceived(
            is_complete=True,
            applies_to=0,
            results_in=self.chain,
            changes=(
                *self.networks.values(),
                *self.records.values(),
                *self.revisions.values(),
                *self.files.values(),
                *self.tasks.values(),
            ),
        )

    def assign(self, *tasks: Task, revision: Revision | None = None) -> AssignmentsReceived:
        changes: list[AssignmentChange] = []
        if revision is not None:
            self.revisions[revision.id] = revision
            changes.append(revision)
        self.tasks.update({task.id: task for task in tasks})
        return self._incremental(*changes, *tasks)

    def tell(self, *known: Network | DiscoveryRecord) -> AssignmentsReceived:
        """Of networks."""
        for each in known:
            if isinstance(each, Network):
                self.networks[each.id] = each
            else:
                self.records[f"{type(each).__name__} {each.record_id}"] = each
        return self._incremental(*known)

    def put(self, *files: File) -> AssignmentsReceived:
        """Secrets and configs."""
        self.files.update({each.id: each for each in files})
        return self._incremental(*files)

    def take_back(self, file: File) -> AssignmentsReceived:
        del self.files[file.id]
        return self._incremental(events.Removal(kind_of(file), file.id))

    def order(self, task_id: TaskId, desired: TaskState) -> AssignmentsReceived:
        task = self.tasks[task_id]
        self.tasks[task_id] = replace(task, desired_state=max(task.desired_state, desired))
        return self._incremental(self.tasks[task_id])

    def release(self, task_id: TaskId) -> AssignmentsReceived:
        del self.tasks[task_id]
        return self._incremental(events.Removal(Kind.TASK, task_id))

    def _incremental(self, *changes: AssignmentChange) -> AssignmentsReceived:
        self.chain += 1
        return AssignmentsReceived(
            is_complete=False, applies_to=self.chain - 1, results_in=self.chain, changes=changes
        )

    # --- the driver's Reports

    def report(self, task_id: TaskId, status: TaskStatus) -> None:
        task = self.tasks.get(task_id)
        if task is None:
            return
        before = task.status
        if (status.state, status.report) > (before.state, before.report):
            self.tasks[task_id] = replace(task, status=status)
            if status.state != before.state:
                self.history.setdefault(task_id, []).append(status.state)

    def drop(self, task_id: TaskId) -> None:
        pass

    def end(self, reason: str) -> None:
        self.ended.append(reason)

    def state(self, task_id: TaskId) -> TaskState:
        return self.tasks[task_id].status.state


@dataclass
class Rig:
    """One node. ``start`` gives it an agent; ``crash`` takes it away without a word."""

    env: Env = field(default_factory=loop_env)
    machine: FakeMachine = field(default_factory=FakeMachine)
    network: FakeNetwork = field(default_factory=FakeNetwork)
    manager: FakeManager = field(default_factory=FakeManager)
    journal: Journal = field(default_factory=lambda: Journal(IN_MEMORY))
    wrap: Callable[[Node], Node] = lambda node: node
    core: Core = field(default_factory=lambda: Core(NODE))
    driver: Driver | None = None
    running: asyncio.Task[None] | None = None

    async def start(self, *, has_session: bool = True) -> None:
        self.core = Core(NODE)
        node = self.wrap(
            Node(
                executor=FakeExecutor(self.machine),
                backend=FakeBackend(self.network),
                journal=self.journal,
            )
        )
        self.driver = Driver(self.core, node, self.manager, self.env)
        await self.driver.restore(self.journal.load())
        self.running = asyncio.create_task(self.driver.run())
        if has_session:
            await self.connect()

    async def connect(self) -> None:
        await self.post(events.SessionUp(SessionId("session")))
        await self.post(self.manager.complete())

    async def crash(self) -> None:
        assert self.running is not None
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.machine.watchers.clear()

    async def post(self, event: events.Event) -> None:
        assert self.driver is not None
        await self.driver.post(event)

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Until ``condition`` holds; fails at once if the agent has died."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                assert self.running is not None
                if self.running.done():
                    await self.running
                await asyncio.sleep(0.001)

    async def wait_state(self, state: TaskState, *task_ids: TaskId) -> None:
        await self.wait(lambda: all(self.manager.state(task_id) == state for task_id in task_ids))

    async def wait_quiet(self) -> None:
        """Until what stands on the machine is what is assigned, and nothing is under way."""
        try:
            await self.wait(lambda: self.core.is_idle and self.is_converged())
        except TimeoutError as error:
            raise AssertionError(f"not quiet: {self.differences()}; {self.core.runs}") from error
        self.core.check()

    def is_converged(self) -> bool:
        return not self.differences()

    def differences(self) -> list[str]:
        """Where the world differs from the assignments; empty when all is as it should be."""
        wanted = {id_ for id_, task in self.manager.tasks.items() if not is_terminal(task.status.state)}
        found = [
            *(f"process of {id_} is left" for id_ in set(self.machine.tasks) - wanted),
            *(f"sandbox of {id_} is left" for id_ in set(self.network.sandboxes) - wanted),
            *(f"log of {id_} is left" for id_ in set(self.machine.logs) - set(self.manager.tasks)),
            *(f"{id_} started {n} times" for id_, n in self.machine.starts.items() if n > 1),
        ]
        if self.network.state != self.core.networks:
            found.append("the networks are not as the core wants them")
        for id_ in wanted:
            task = self.manager.tasks[id_]
            if task.desired_state >= TaskState.SHUTDOWN:
                found.append(f"{id_} should have ended")
            elif task.desired_state >= TaskState.RUNNING and task.status.state != TaskState.RUNNING:
                found.append(f"{id_} should be running and is {task.status.state.name}")
            elif task.desired_state == TaskState.READY and task.status.state != TaskState.READY:
                found.append(f"{id_} should be ready and is {task.status.state.name}")
        return found
