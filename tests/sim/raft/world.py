"""A raft cluster of production classes in virtual time, with faults and checkers, from one seed.

Real: ``SyncObjLog``, journal, snapshots, transport corrections, the library, frames. Simulated: loop,
disk, network, the snapshot thread. Checked: one leader per term; the same entry at the same index everywhere;
acknowledged writes survive; reads after a barrier see every write acknowledged before; every call ends; after
healing the members converge.
"""

from __future__ import annotations

import asyncio
import collections
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manager.raft.journal import Identity
from manager.raft.log import RaftConfig, SyncObjLog, create_joined
from manager.raft.proposer import Member
from manager.raft.sealing import NoSealer
from manager.raft.state_files import create
from swarmpy.errors import Retry, SwarmError
from swarmpy.pb import raft_pb2 as pb
from swarmpy.runtime import Env
from swarmpy.sim.clock import SimClock, SimEntropy
from swarmpy.sim.disk import Crash, SimDisk
from swarmpy.sim.loop import SimLoop
from tests.sim.raft.network import Network, SimWire

FOLDER = Path("/raft")


@dataclass(frozen=True, kw_only=True)
class Options:
    nodes: int = 3
    duration_s: float = 30.0
    mean_fault_gap_s: float = 1.5
    healing_s: float = 40.0
    has_member_changes: bool = False
    snapshot_entries: int | None = None
    batch_bytes: int | None = None


class Machine:
    """Applied entries by index; an entry is a number in decimal."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name
        self.applied: dict[int, bytes] = {}
        self.numbers: set[int] = set()

    def apply(self, entry: bytes, index: int) -> object:
        self._world.check_applied(self._name, index, entry)
        self.applied[index] = entry
        self.numbers.add(int(entry))
        return len(self.applied)

    def freeze(self) -> object:
        return dict(self.applied)

    def encode(self, frozen: Any) -> Iterator[bytes]:
        items = sorted(frozen.items())
        for start in range(0, len(items), 7):
            yield b"\n".join(b"%d %b" % item for item in items[start : start + 7])

    def load(self, chunks: Iterable[bytes]) -> object:
        lines = [line.split() for chunk in chunks for line in chunk.split(b"\n")]
        return {int(index): entry for index, entry in lines}

    def adopt(self, loaded: Any) -> None:
        self.applied = loaded
        self.numbers = {int(entry) for entry in self.applied.values()}
        for index, entry in self.applied.items():
            self._world.check_applied(self._name, index, entry)


class SimThread(Executor):
    """Runs what it is given in one go, a little later."""

    def __init__(self, world: World, node: SimNode) -> None:
        self._world, self._node = world, node

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        delay = self._world.random.uniform(0.001, 0.5)
        self._world.loop.call_later(delay, self._run, future, fn, args, kwargs)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing runs by itself."""

    def _run(self, future: Future[Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as an executor does
            future.set_exception(error)


@dataclass
class SimNode:
    name: str
    disk: SimDisk
    log: SyncObjLog | None = None
    machine: Machine | None = None
    wire: SimWire | None = None
    is_gone: bool = False


class World:
    def __init__(self, seed: int, options: Options) -> None:
        self.options = options
        self.random = random.Random(seed)
        self.loop = SimLoop()
        self.loop.set_exception_handler(self._on_exception)
        self.network = Network(self.loop, self.random, self._observe)
        self.stats: collections.Counter[str] = collections.Counter()
        self.violations: list[str] = []
        self.acked: set[int] = set()
        self._history: dict[int, bytes] = {}
        self._leaders: dict[int, str] = {}
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends_at = 0.0
        self.trace: list[tuple[float, str]] = []
        self.config = RaftConfig(
            folder=FOLDER,
            sealer=NoSealer(),
            snapshot_entries=options.snapshot_entries or self.random.choice([15, 40, 10**9]),
            batch_bytes=options.batch_bytes or self.random.choice([60, 400, 1 << 16]),
            snapshot_pause_s=0.0,
        )
        names = [f"n{i}" for i in range(options.nodes)]
        members = tuple(Member(raft_id=name, address=name) for name in names)
        self.nodes: dict[str, SimNode] = {}
        for name in names:
            disk = SimDisk(self.random)
            create(disk, FOLDER, Identity(raft_id=name, members=members), self.config.sealer)
            self.nodes[name] = SimNode(name, disk)

    # --- running

    def run(self) -> None:
        """One life of the cluster; ``violations`` says what went wrong."""
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._main())
        finally:
            self.loop.close()

    async def _main(self) -> None:
        self._ends_at = self.loop.time() + self.options.duration_s
        for name in sorted(self.nodes):
            self.start(name)
        self.loop.call_later(1.0, self._client)
        self.loop.call_later(2.0, self._fault)
        if self.options.has_member_changes:
            self.loop.call_later(2.0, lambda: self._spawn(self._change_members()))
        await asyncio.sleep(self.options.duration_s + 2.0)
        self._heal_all()
        healed_at = self.loop.time()
        while self.loop.time() < healed_at + self.options.healing_s and self._unconverged():
            await asyncio.sleep(0.5)
        self._judge()
        for node in self.nodes.values():
            if node.log is not None:
                self._take_down(node)
        await asyncio.sleep(0)

    def _spawn(self, coroutine: Any) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note(self, what: str) -> None:
        self.trace.append((self.loop.time(), what))

    # --- nodes

    def start(self, name: str) -> None:
        node = self.nodes[name]
        if node.log is not None or node.is_gone:
            return
        self._spawn(self._start(node))

    async def _start(self, node: SimNode) -> None:
        env = Env(clock=SimClock(self.loop), entropy=SimEntropy(self.random), disk=node.disk)
        node.machine, node.wire = Machine(self, node.name), SimWire(self.network, node.name)
        try:
            log = SyncObjLog.open(self.config, node.machine, node.wire, env, executor=SimThread(self, node))
            node.log = log
            log.subscribe(lambda status: self._check_status(node, status))
            await log.start()
            self._note(f"start {node.name}")
        except Crash:
            self.crash(node)
        except SwarmError as error:
            self.violate(f"{node.name} can't start: {error}")

    def _check_status(self, node: SimNode, status: Any) -> None:
        if status.fatal is not None and node.log is not None and node.log.status().fatal == status.fatal:
            self.violate(f"{node.name} stopped: {status.fatal}")

    def _take_down(self, node: SimNode) -> None:
        log, node.log = node.log, None
        if node.wire is not None:
            self.network.detach(node.wire)
        if log is not None:
            log._fail("down")

    def crash(self, node: SimNode, *, is_final: bool = False) -> None:
        node.is_gone = node.is_gone or is_final
        self._note(f"crash {node.name}")
        self.stats["crashes"] += 1
        self._take_down(node)
        node.disk.crash()
        self.stats["torn"] += node.disk.torn
        node.disk = node.disk.reopen()
        node.disk.torn = 0
        self.loop.call_later(self.random.uniform(0.05, 5.0), self.start, node.name)

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        down = [node for node in self.nodes.values() if node.disk.is_down]
        if isinstance(error, Crash):
            for node in down:
                self.stats["crashes mid-write"] += 1
                self.crash(node)
        else:
            self.violate(f"exception in the loop: {context.get('message')} {error!r}")

    # --- checkers

    def violate(self, text: str) -> None:
        self.violations.append(f"{self.loop.time():.3f} {text}")

    def check_applied(self, name: str, index: int, entry: bytes) -> None:
        if self._history.setdefault(index, entry) != entry:
            self.violate(f"divergence at index {index}: {name} has {entry!r}")

    def _observe(self, name: str, frame: pb.RaftFrame) -> None:
        match frame.WhichOneof("body"):
            case "append":
                term = frame.append.term
            case "snapshot_chunk":
                self.stats["chunks"] += 1
                term = frame.snapshot_chunk.term
            case _:
                return
        if self._leaders.setdefault(term, name) != name:
            self.violate(f"two leaders in term {term}: {self._leaders[term]} and {name}")

    def _unconverged(self) -> str:
        """Why the cluster is not quiet and equal yet; empty if it is."""
        if self._tasks:
            return f"{len(self._tasks)} calls have not ended"
        leaders = [n for n in self.nodes.values() if n.log is not None and n.log.status().is_ready_leader]
        if len(leaders) != 1:
            return f"{len(leaders)} leaders"
        lead = leaders[0].log
        assert lead is not None
        status = lead.status()
        for member in status.members:
            node = self.nodes[member.raft_id]
            if node.log is None:
                return f"{node.name} is down"
            if node.log.status().applied != status.applied or status.applied != status.commit:
                return f"{node.name} is at {node.log.status().applied} of {status.commit}"
        return ""

    def _judge(self) -> None:
        if reason := self._unconverged():
            self.violate(f"stuck after healing: {reason}")
            return
        (lead,) = [n for n in self.nodes.values() if n.log is not None and n.log.status().is_ready_leader]
        assert lead.machine is not None
        assert lead.log is not None
        if lost := self.acked - lead.machine.numbers:
            self.violate(f"{len(lost)} of {len(self.acked)} acknowledged writes lost: {sorted(lost)[:5]}")
        if len(lead.machine.numbers) != len(lead.machine.applied):
            self.violate("an entry was applied twice")
        for member in lead.log.status().members:
            machine = self.nodes[member.raft_id].machine
            assert machine is not None
            if machine.applied != lead.machine.applied:
                self.violate(f"{member.raft_id} and {lead.name} differ at the end")
        self.stats["acked"] = len(self.acked)
        self.stats["terms"] = len(self._leaders)

    # --- load

    def _client(self) -> None:
        alive = [name for name in sorted(self.nodes) if self.nodes[name].log is not None]
        if alive:
            self._number += 1
            self._spawn(self._write(self.nodes[self.random.choice(alive)], self._number))
            if self.random.random() < 0.3:
                self._spawn(self._read(self.nodes[self.random.choice(alive)]))
        if self.loop.time() < self._ends_at + 1:
            self.loop.call_later(self.random.expovariate(20), self._client)

    async def _write(self, node: SimNode, number: int) -> None:
        log, machine = node.log, node.machine
        assert log is not None
        assert machine is not None
        try:
            await log.propose(b"%d" % number)
        except Retry as error:
            self.stats[type(error).__name__] += 1
            return
        self.acked.add(number)
        if node.log is log and number not in machine.numbers:
            self.violate(f"{node.name} does not read its own write {number}")

    async def _read(self, node: SimNode) -> None:
        log, machine, before = node.log, node.machine, frozenset(self.acked)
        assert log is not None
        assert machine is not None
        try:
            await log.read_barrier()
        except Retry:
            self.stats["reads failed"] += 1
            return
        self.stats["reads"] += 1
        if missing := before - machine.numbers:
            self.violate(f"stale read on {node.name}: {sorted(missing)[:5]}")

    # --- faults

    def _fault(self) -> None:
        names = sorted(name for name, node in self.nodes.items() if not node.is_gone)
        dice = self.random.random()
        if dice < 0.25:
            self._crash_some([self.random.choice(names)])
        elif dice < 0.30:
            self._crash_some(names)
        elif dice < 0.55:
            self.nodes[self.random.choice(names)].disk.crash_after(self.random.randint(1, 40))
        elif dice < 0.75:
            name = self.random.choice(names)
            for other in names:
                if other != name:
                    self.network.cut(name, other)
            self.loop.call_later(self.random.uniform(0.3, 6.0), self.network.heal)
        elif dice < 0.85:
            self.network.cut(*self.random.sample(names, 2))
            self.loop.call_later(self.random.uniform(0.1, 4.0), self.network.heal)
        else:
            one, other = self.random.sample(names, 2)
            self.network.slow[(one, other)] = self.random.uniform(0.2, 4.0)
            self.loop.call_later(self.random.uniform(1, 8), self.network.slow.pop, (one, other), None)
        if self.loop.time() < self._ends_at:
            self.loop.call_later(self.random.expovariate(1 / self.options.mean_fault_gap_s), self._fault)

    def _crash_some(self, names: list[str]) -> None:
        for name in names:
            if self.nodes[name].log is not None:
                self.crash(self.nodes[name])

    def _heal_all(self) -> None:
        self.network.slow.clear()
        self.network.heal()
        for name in sorted(self.nodes):
            self.nodes[name].disk.crash_after(None)
            self.start(name)

    async def _change_members(self) -> None:
        """Add a fresh member or remove one, through whoever believes to lead."""
        while self.loop.time() < self._ends_at:
            await asyncio.sleep(self.random.uniform(0.2, 4.0))
            leaders = [n for _, n in sorted(self.nodes.items()) if n.log and n.log.status().is_leader]
            if not leaders:
                continue
            log = self.random.choice(leaders).log
            assert log is not None
            members = log.status().members
            try:
                if len(members) <= 3 or (len(members) < 5 and self.random.random() < 0.5):
                    await self._add(log, members)
                else:
                    await self._remove(log, members)
            except SwarmError as error:
                self.stats[f"members: {type(error).__name__}"] += 1

    async def _add(self, log: SyncObjLog, members: tuple[Member, ...]) -> None:
        name = f"n{len(self.nodes)}"
        node = self.nodes[name] = SimNode(name, SimDisk(self.random))
        member = Member(raft_id=name, address=name)
        env = Env(clock=SimClock(self.loop), entropy=SimEntropy(self.random), disk=node.disk)
        create_joined(env, self.config, member, members)
        self.start(name)
        await asyncio.sleep(0.05)
        await log.add_member(member)
        self.stats["members added"] += 1

    async def _remove(self, log: SyncObjLog, members: tuple[Member, ...]) -> None:
        others = [m.raft_id for m in members if m.raft_id != log.raft_id]
        name = self.random.choice(others)
        await log.remove_member(name)
        self.stats["members removed"] += 1
        if self.random.random() < 0.7:
            self.crash(self.nodes[name], is_final=True)
