"""A few raft members in virtual time without random faults: for tests that say themselves what goes wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from manager.raft.journal import Identity
from manager.raft.log import RaftConfig, SyncObjLog, create_joined
from manager.raft.proposer import Member, RaftLog
from manager.raft.sealing import NoSealer, Sealer
from manager.raft.state_files import create
from swarmpy.pb import raft_pb2 as pb
from swarmpy.runtime import Env, never
from swarmpy.sim.clock import SimClock, SimEntropy
from swarmpy.sim.disk import SimDisk
from swarmpy.sim.loop import SimLoop
from tests.sim.raft.network import Network, SimWire

FOLDER = Path("/raft")
DEADLINE_S = 30.0


class ListMachine:
    """Keeps every entry; ``fail`` as an entry raises, as no state machine should."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.restores = 0

    def apply(self, entry: bytes, index: int) -> object:
        if entry == b"fail":
            raise ValueError("an entry that can't be applied")
        self.entries.append(entry)
        return (index, len(self.entries))

    def freeze(self) -> object:
        return list(self.entries)

    def encode(self, frozen: Any) -> Iterator[bytes]:
        yield from frozen

    def load(self, chunks: Iterable[bytes]) -> object:
        return list(chunks)

    def adopt(self, loaded: Any) -> None:
        self.entries = loaded
        self.restores += 1


class InlineThread(Executor):
    """Runs at once what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)
        return future


class Rig:
    """``nodes`` members named n0, n1 … on one virtual loop and network."""

    def __init__(
        self, nodes: int, *, snapshot_entries: int = 10_000, sealer: Sealer | None = None, seed: int = 0
    ) -> None:
        self.random = random.Random(seed)
        self.loop = SimLoop()
        self.observe: Callable[[str, pb.RaftFrame], None] = lambda name, frame: None
        self.make_thread: Callable[[], Executor] = InlineThread
        self.network = Network(self.loop, self.random, self._sent)
        self.config = RaftConfig(
            folder=FOLDER,
            sealer=sealer or NoSealer(),
            snapshot_entries=snapshot_entries,
            snapshot_pause_s=0,
        )
        self.fault_point: Callable[[str], bool] = never
        self.names = [f"n{i}" for i in range(nodes)]
        self.members = tuple(Member(raft_id=name, address=f"{name}:2377") for name in self.names)
        self.disks = {name: SimDisk(self.random) for name in self.names}
        self.logs: dict[str, SyncObjLog] = {}
        self.machines: dict[str, ListMachine] = {}
        for name in self.names:
            create(self.disks[name], FOLDER, Identity(raft_id=name, members=self.members), self.config.sealer)

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        """Start all members, play the scenario, stop them."""

        async def play() -> None:
            try:
                for name in self.names:
                    await self.start(name)
                await scenario()
            finally:
                for log in list(self.logs.values()):
                    await log.stop()

        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(play())
        finally:
            self.loop.close()

    def _sent(self, sender: str, frame: pb.RaftFrame) -> None:
        self.observe(sender, frame)

    def env(self, name: str) -> Env:
        return Env(
            clock=SimClock(self.loop),
            entropy=SimEntropy(self.random),
            disk=self.disks[name],
            buggify=self._fires,
        )

    def _fires(self, name: str) -> bool:
        return self.fault_point(name)

    async def start(self, name: str) -> SyncObjLog:
        self.machines[name] = ListMachine()
        wire = SimWire(self.network, name)
        log = SyncObjLog.open(
            self.config, self.machines[name], wire, self.env(name), executor=self.make_thread()
        )
        self.logs[name] = log
        await log.start()
        return log

    async def stop(self, name: str) -> None:
        await self.logs.pop(name).stop()

    async def join(self, name: str, leader: SyncObjLog | None = None) -> SyncObjLog:
        """Start a fresh member beside the others; it is not added yet."""
        leader = leader or await self.leader()
        self.disks[name] = SimDisk(self.random)
        member = Member(raft_id=name, address=f"{name}:2377")
        create_joined(self.env(name), self.config, member, leader.status().members)
        return await self.start(name)

    async def leader(self) -> SyncObjLog:
        """The one member that leads and is ready."""

        def find() -> list[SyncObjLog]:
            return [log for log in self.logs.values() if log.status().is_ready_leader]

        await self.until(lambda: len(find()) == 1)
        return find()[0]

    async def follower(self) -> SyncObjLog:
        leader = await self.leader()
        await self.until(lambda: all(log.status().leader == leader.raft_id for log in self.logs.values()))
        return next(log for name, log in sorted(self.logs.items()) if log is not leader)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.02)

    def cut_off(self, name: str) -> None:
        for other in self.logs:
            if other != name:
                self.network.cut(name, other)


def as_raft_log(log: SyncObjLog) -> RaftLog:
    """Checked by mypy: the implementation keeps the seam."""
    return log
