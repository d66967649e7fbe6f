"""``Host``: one simulated machine, and the lives of the daemon on it.

The machine is what outlives a daemon: its disk, what runs on it, its network, its clock. A life is a
``Process`` in which the production daemon runs, composed as ``swarmpy.node`` composes it, and the API that it
serves. A daemon that ends by itself (it says that it must not go on) is started again by its supervisor.

Decides nothing about faults: who calls ``kill``, ``power_off`` and the like does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from msgspec.structs import replace

from agent.dataplane.base import Backend
from agent.dataplane.fake import FakeBackend, FakeNetwork
from agent.executor.base import Exit
from agent.executor.fake import FakeExecutor, FakeMachine
from agent.journal import Journal
from manager.api.context import Api
from manager.api.control import LocalState
from manager.manager import Manager
from swarmpy.config import NodeConfig
from swarmpy.errors import SwarmError
from swarmpy.model.objects import NodeDescription
from swarmpy.node.daemon import Daemon, Machine
from swarmpy.runtime import Env
from swarmpy.sim import ailments
from swarmpy.sim.clock import SimClock, SimEntropy
from swarmpy.sim.disk import SimDisk
from swarmpy.sim.http import Answer, SharedHttp
from swarmpy.sim.journal import SimJournal
from swarmpy.sim.loop import SimLoop
from swarmpy.sim.machine import NoImages, NoVolumes, read_system
from swarmpy.sim.network import SimNetwork
from swarmpy.sim.process import Process
from swarmpy.sim.threads import SimThreads
from swarmpy.sim.trace import Trace

SUPERVISOR_DELAY_S = 1.0
"""Before a daemon that has ended by itself is started again."""
OPERATION_S = {"ensure_image": (0.0, 0.3), "create": (0.01, 0.1), "start": (0.01, 0.2), "stop": (0.0, 0.05)}
"""How long the machine takes for each, in seconds, where nothing is wrong."""
NETWORK_S = {"apply": (0.0, 0.05), "attach": (0.0, 0.02), "detach": (0.0, 0.02)}
"""The same of its network."""
DATA_DIR = Path("/var/lib/swarmpy")
POWER_LOSS_EXIT = 137


class Disconnected(Exception):
    """The daemon that was asked is not there, or went away while it was asked."""


@dataclass(frozen=True, kw_only=True)
class Seams:
    """What all hosts of one simulated world share."""

    loop: SimLoop
    network: SimNetwork
    trace: Trace
    seed: int
    buggify: Callable[[str], bool]
    http: SharedHttp = field(default_factory=SharedHttp)


class Host:
    """``start`` gives it a daemon; ``kill``, ``power_off`` and ``stop`` take it away again."""

    def __init__(self, seams: Seams, address: str, description: NodeDescription) -> None:
        self.name = description.hostname
        self.address = address
        """``host:port`` of its daemon."""
        self.ip = address.rpartition(":")[0]
        self.description = description
        self.clock = SimClock(seams.loop)
        self.machine = FakeMachine(clock=self.clock)
        self.network = FakeNetwork()
        self.process: Process | None = None
        self.daemon: Daemon | None = None
        self.lives = 0
        self.boots = 0
        self.on_disk_operation: Callable[[], None] | None = None
        """A fault's: called at each operation on the disk."""
        self._seams = seams
        self._random = Random(f"{seams.seed}/{self.name}")
        self._api: Api | None = None
        self._is_wanted = False
        self._processes: list[Process] = []
        self.make_journal: Callable[[Random], SimJournal] = SimJournal
        """How this machine comes by an empty journal; it then outlives the daemon."""
        self._journal: SimJournal | None = None
        self.make_backend: Callable[[Env], Backend] = lambda env: FakeBackend(self.network)
        """How this machine's network is programmed."""
        self.disk = SimDisk(self._random)
        self._own_disk(self.disk)
        self.reset_machine()

    # --- what others may ask

    @property
    def is_up(self) -> bool:
        return self.process is not None and not self.process.is_dead

    @property
    def manager(self) -> Manager | None:
        """The manager of the present life, while there is one."""
        part = self.daemon.part if self.daemon is not None and self.is_up else None
        return part.manager if part is not None else None

    @property
    def node_id(self) -> str:
        """Of the swarm that it is in; empty in none."""
        part = self.daemon.part if self.daemon is not None and self.is_up else None
        return part.identity.node_id if part is not None else ""

    @property
    def state(self) -> LocalState:
        return self.daemon.local().state if self.daemon is not None and self.is_up else LocalState.INACTIVE

    # --- a daemon's life

    def start(self) -> None:
        """A daemon on what is there, unless one runs."""
        self._is_wanted = True
        if self.is_up:
            return
        self._seams.network.power_on(self.ip)
        self.lives += 1
        process = Process(self._seams.loop, self.name)
        self.process, self.daemon, self._api = process, None, None
        self._processes.append(process)
        process.on_end(self._ended)
        process.spawn(self._live(process))

    async def _live(self, process: Process) -> None:
        seams = self._seams
        generator = Random(f"{seams.seed}/{self.name}/{self.lives}")
        env = Env(
            clock=self.clock,
            entropy=SimEntropy(generator),
            disk=self.disk,
            transport=seams.network.transport(process, self.ip, self.clock),
            threads=lambda name, workers: SimThreads(seams.loop, generator, workers),
            buggify=seams.buggify,
        )
        daemon = Daemon(self._config(), env, self._machine(env))
        self._api = Api(daemon, env)
        self.daemon = daemon
        try:
            await daemon.resume()
            reason = await asyncio.shield(daemon.fatal)
            await daemon.stop()
        except (SwarmError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
        seams.trace.record("daemon_ended", host=self.name, reason=reason)
        process.kill()

    def _ended(self) -> None:
        """The supervisor's part; a daemon that was taken away has been replaced or is not wanted."""
        if self._is_wanted:
            self._seams.loop.call_later(SUPERVISOR_DELAY_S, self._start_again, context=Context())

    def _start_again(self) -> None:
        if self._is_wanted:
            self.start()

    def _config(self) -> NodeConfig:
        return NodeConfig(
            data_dir=DATA_DIR,
            hostname=self.name,
            listen_address=self.address,
            advertise_address=self.address,
        )

    def _machine(self, env: Env) -> Machine:
        return Machine(
            executor_name=FakeExecutor.name,
            make_executor=lambda: FakeExecutor(self.machine),
            make_backend=lambda: self.make_backend(env),
            open_journal=self._open_journal,
            describe=lambda: replace(self.description, boot_id=f"{self.name}.{self.boots}"),
            read_system=read_system,
            images=NoImages(env.clock),
            volumes=NoVolumes(),
        )

    def _open_journal(self, path: Path) -> Journal:
        if self._journal is None:
            self._journal = self.make_journal(self._random)
        return self._journal

    def _own_disk(self, disk: SimDisk) -> None:
        self.disk = disk
        disk.on_crash = self._crashed_writing
        disk.on_operation = self._disk_used

    def _disk_used(self) -> None:
        if self.on_disk_operation is not None:
            self.on_disk_operation()

    def reset_machine(self) -> None:
        """Bringing tasks up and down works again, and takes as long as it does."""
        dice = self._random
        self.machine.answer = ailments.well
        self.machine.script = lambda verb, subject: dice.uniform(*OPERATION_S.get(verb, (0.0, 0.0)))
        self.network.script = lambda verb, task_id: dice.uniform(*NETWORK_S.get(verb, (0.0, 0.0)))

    # --- what may happen to it

    def kill(self) -> None:
        """kill -9: what was written stays written, and its tasks run on. It stays down until ``start``."""
        self._is_wanted = False
        if self.process is not None and self.is_up:
            self.process.kill()
            self._own_disk(self.disk.reopen())

    def power_off(self) -> None:
        """The machine goes down: unsynced writes may be lost, its tasks are, and nobody hears of it."""
        self._is_wanted = False
        self.boots += 1
        self._seams.network.power_off(self.ip)
        if self.process is not None:
            self.process.kill()
        self.disk.crash()
        self._own_disk(self.disk.reopen())
        if self._journal is not None:
            self._journal.lose_power()
        self._lose_tasks()

    def _crashed_writing(self) -> None:
        """Down in the middle of a disk operation; the rest of this step of its code reaches nobody."""
        self.power_off()
        self._seams.loop.call_later(SUPERVISOR_DELAY_S, self.start, context=Context())

    def _lose_tasks(self) -> None:
        """Nothing runs after a reboot; containers are found stopped."""
        now = self.clock.now()
        for task in self.machine.tasks.values():
            if task.pid and task.exit is None:
                task.exit = Exit(code=POWER_LOSS_EXIT, at=now, message="the machine went down")
                task.ended.set()
        self.machine.watchers.clear()
        self.network.forget()

    def wipe(self) -> None:
        """The machine gets a new disk: nothing of what the daemon knew is left, and its tasks are gone."""
        self.power_off()
        self._random = Random(f"{self._seams.seed}/{self.name}/wiped/{self.lives}")
        self._own_disk(SimDisk(self._random))
        self._journal = None
        self.machine.tasks.clear()

    async def stop(self) -> None:
        """As by SIGTERM: the daemon says goodbye, and its tasks run on."""
        self._is_wanted = False
        process, daemon = self.process, self.daemon
        if process is not None and daemon is not None and self.is_up:
            await self._ask(process, daemon.stop)
            process.kill()

    def heal(self) -> None:
        """Everything about the machine is as it should be, and its daemon runs."""
        self.disk.crash_after(None)
        self.disk.fill_up(None)
        self.on_disk_operation = None
        self.clock.jump_s = 0.0
        self.reset_machine()
        if self.process is not None:
            self.process.resume()
            self.process.set_rate(1.0)
        self.start()

    # --- its API

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """As a client on this machine. ``Disconnected`` if the daemon goes before it has answered."""
        process, api = self.process, self._api
        if process is None or api is None or not self.is_up:
            raise Disconnected(f"no daemon answers on {self.name}")

        async def work() -> Answer:
            return await self._seams.http.request(
                api, method, path, body=body, query=query or {}, headers=headers or {}
            )

        answer: Answer = await self._ask(process, work)
        return answer

    async def _ask(self, process: Process, work: Callable[[], Awaitable[Any]]) -> Any:
        """Have it done in the process, and wait for the outcome outside of it."""
        outcome: asyncio.Future[Any] = self._seams.loop.create_future()

        async def carry_out() -> None:
            try:
                result = await work()
            except Exception as error:  # noqa: BLE001 - passed on to who asked
                if not outcome.done():
                    outcome.set_exception(error)
            else:
                if not outcome.done():
                    outcome.set_result(result)

        def gone() -> None:
            if not outcome.done():
                outcome.set_exception(Disconnected(f"the daemon on {self.name} went away"))

        process.spawn(carry_out())
        forget = process.on_end(gone)
        try:
            return await outcome
        finally:
            forget()

    def dispose(self) -> None:
        """The world is over."""
        self._is_wanted = False
        for process in self._processes:
            process.dispose()
