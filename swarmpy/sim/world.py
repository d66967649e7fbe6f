"""``World``: a whole swarm in virtual time, from one seed: founded, used, tormented, healed and judged.

Everything in it is production code but the shells under it: loop, network, disks, clocks, machines. The same
options and the same seed make the same run, to the last step, whatever Python's version and hash seed.

A run has phases: the swarm is founded and given services; faults and clients go on together for some virtual
minutes; then faults end and the swarm must come to rest where it should within a bound. In ``liveness`` mode
the faults never end: they spare a majority of managers and some workers, which must get their work done.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from random import Random
from typing import Any, TextIO

from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import NodeId
from swarmpy.sim import scaling, workload
from swarmpy.sim.checkers import Checkers, Operation, Scene, Summary, Violation
from swarmpy.sim.checkers import Options as CheckerOptions
from swarmpy.sim.checkers.quiet import NodeTruth
from swarmpy.sim.collector import rare_collections
from swarmpy.sim.faults import FAULTS, Nemesis
from swarmpy.sim.faults import Scene as FaultScene
from swarmpy.sim.fleet import Fleet, Impatient
from swarmpy.sim.host import Host, Seams
from swarmpy.sim.liveness import GLOBAL_FAULTS, Liveness
from swarmpy.sim.loop import SimLoop
from swarmpy.sim.network import SimNetwork
from swarmpy.sim.observe import Observer
from swarmpy.sim.operator import Operator
from swarmpy.sim.trace import Trace
from swarmpy.sim.workload import Shape, Workload

QUIET_WITHIN_S = 240.0
"""After the last fault everything must be at rest within this many virtual seconds."""
QUIET_PERIOD_S = 2.0
FAULT_GAP_S = 3.0
"""Between two faults, on the average."""
FAULT_POINT_CHANCE = 0.01
COSTLY_POINTS = frozenset({"raft.snapshot_early"})
"""What grows with the swarm: with more than ``COSTLY_NODES`` nodes such a fault point is as much rarer."""
COSTLY_NODES = 100
OPERATOR_PAUSE_S = 8.0
"""Between two things that an operator does to nodes, on the average."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to simulate. ``minutes`` of virtual time with faults and clients."""

    seed: int = 1
    managers: int = 3
    nodes: int = 10
    """All of them, managers included."""
    minutes: float = 2.0
    faults: tuple[str, ...] = tuple(FAULTS)
    has_operator: bool = True
    """Whether nodes are drained, promoted, demoted, removed and replaced meanwhile."""
    is_liveness: bool = False
    shape: Shape = field(default_factory=Shape)
    fault_gap_s: float = FAULT_GAP_S
    stack: tuple[dict[str, Any], ...] = ()
    """Service specs, as the API takes them, instead of random services."""
    networks: tuple[dict[str, Any], ...] = ()
    """What the stack's services are on, as the API takes it."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of one run."""

    options: Options
    violations: tuple[Violation, ...]
    summary: Summary | None
    digest: str
    virtual_s: float
    wall_s: float
    converged_in_s: float | None
    """Virtual seconds from the end of all faults to rest; None: it never came to rest."""
    faults: Counter[str]
    stats: Counter[str]
    last_lines: tuple[str, ...]
    errors: tuple[str, ...] = ()
    """What production code logged as errors."""

    @property
    def is_good(self) -> bool:
        return not self.violations and self.summary is not None and self.summary.is_clean


class World:
    """``run`` once."""

    def __init__(
        self,
        options: Options,
        *,
        on_progress: Callable[[str], None] = lambda line: None,
        log: TextIO | None = None,
    ) -> None:
        self.options = options
        self.loop = SimLoop(start=0.0)
        self.trace = Trace(lambda: self.loop.now, out=log)
        self.network = SimNetwork(self.loop, Random(f"{options.seed}/network"))
        self.checkers = Checkers(lambda: self.loop.now, options=CheckerOptions(may_roll_back=True))
        self.stats: Counter[str] = Counter()
        self.failures: list[Violation] = []
        self._fault_points = Random(f"{options.seed}/fault points")
        self._on_progress = on_progress
        seams = Seams(
            loop=self.loop,
            network=self.network,
            trace=self.trace,
            seed=options.seed,
            buggify=self._buggify,
        )
        self.fleet = Fleet(seams, managers=options.managers, nodes=options.nodes)
        for host in self.fleet.hosts:
            host.machine.plan = workload.plan
            host.machine.load = scaling.load_of
        self.observer = Observer(self.fleet, self.checkers)
        self.workload = Workload(
            self.loop,
            self.fleet,
            options.shape,
            seed=options.seed,
            note=self._note,
            stack=options.stack,
        )
        self.liveness = Liveness(self.loop, self.fleet, self.workload, seed=options.seed, fail=self.fail)
        faults = [name for name in options.faults if not (options.is_liveness and name in GLOBAL_FAULTS)]
        self.nemesis = Nemesis(self._scene(), faults, gap_s=options.fault_gap_s)
        self.operator = Operator(
            self.loop,
            self.fleet,
            self.trace,
            seed=options.seed,
            pause_s=OPERATOR_PAUSE_S,
            may_touch=lambda host: not (options.is_liveness and self.liveness.is_spared(host)),
        )
        self._is_tormenting = False
        self._converged_in_s: float | None = None

    # --- running

    def run(self) -> Report:
        """The whole life. What goes wrong is in the report; only a defect of the simulator itself raises."""
        began = time.perf_counter()
        self.trace.install()
        self.loop.set_exception_handler(self._escaped)
        summary = None
        asyncio.set_event_loop(self.loop)
        try:
            with rare_collections():
                summary = self.loop.run_until_complete(self._main())
        finally:
            asyncio.set_event_loop(None)
            for host in self.fleet.hosts:
                self.trace.note_random(host.lives)
            self.trace.note_random(self.network.generator.getstate())
            virtual_s = self.loop.now
            self.trace.is_over = True
            self.fleet.dispose()
            self.loop.close()
        return Report(
            options=self.options,
            violations=(*self.failures, *self.checkers.violations),
            summary=summary,
            digest=self.trace.digest,
            virtual_s=virtual_s,
            wall_s=time.perf_counter() - began,
            converged_in_s=self._converged_in_s,
            faults=self.nemesis.counts + self.operator.counts,
            stats=self.stats + self.network.stats,
            last_lines=tuple(self.trace.lines),
            errors=tuple(self.trace.errors),
        )

    async def _main(self) -> Summary | None:
        watching = self.loop.create_task(self.observer.run())
        try:
            await self._found()
            await self._torment()
            await self._settle()
            return self._judge()
        except Impatient as error:
            self.fail("patience", str(error))
            return None
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching  # raises what it failed with, if it did

    async def _found(self) -> None:
        self._say("founding")
        await self.fleet.found()
        for body in self.options.networks:
            answer = await self.fleet.call(self.fleet.founders[0], "POST", "/networks/create", body)
            if answer.status != HTTPStatus.CREATED:
                raise InvalidArgument(f"the network {body['Name']} cannot be made: {answer.message}")
        await self.workload.deploy(self.fleet.founders[0])

    async def _torment(self) -> None:
        """Faults and clients together."""
        self._say("faults and clients")
        self._is_tormenting = not self.options.is_liveness
        clients = self.loop.create_task(self.workload.run())
        others = [self.loop.create_task(self.nemesis.run())]
        if self.options.is_liveness:
            await self.liveness.prepare(self.network)
            others.append(self.loop.create_task(self.liveness.run()))
        elif self.options.has_operator:
            others.append(self.loop.create_task(self.operator.run()))
        running = [clients, *others]
        await asyncio.wait(running, timeout=self.options.minutes * 60, return_when=asyncio.FIRST_EXCEPTION)
        self._is_tormenting = False
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        self.workload.stop()
        self._say("healing")
        self._heal()
        await asyncio.wait([clients])
        for task in running:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _heal(self) -> None:
        self.nemesis.undo_all()
        for host in self.fleet.hosts:
            host.heal()

    async def _settle(self) -> None:
        """All faults are over: have every service be one that can run, and wait for rest."""
        healed_at = self.loop.now
        await self.fleet.until(lambda: self.fleet.leader() is not None, "a leader after all faults")
        await self.operator.tidy()
        await self._calm_services()
        deadline = self.loop.now + QUIET_WITHIN_S
        reasons = self.unrest()
        while reasons and self.loop.now < deadline:
            await asyncio.sleep(QUIET_PERIOD_S)
            reasons = self.unrest()
        for reason in reasons:
            self.fail("quiet", reason)
        if not reasons:
            self._converged_in_s = self.loop.now - healed_at

    async def _calm_services(self) -> None:
        """Crashing services keep the swarm busy by right: give them an image that runs."""
        for name in () if self.options.stack else self.workload.names:
            await self.workload.calm(name)

    def _judge(self) -> Summary:
        self._say("judging")
        self.observer.check_agents()
        for method, error in self.network.unexpected:
            self.fail("unforeseen", f"a call of {method} ended with an error: {error!r}")
        for text in self.trace.errors:
            if "Traceback" in text:
                self.fail("unforeseen", text)
        views = {host.name: host.manager.store for host in self.fleet.managers() if host.manager is not None}
        return self.checkers.final(views)

    # --- looking

    def unrest(self) -> list[str]:
        """Why the swarm is not at rest; empty if it is."""
        leader = self.fleet.leader()
        if leader is None or leader.manager is None:
            return ["there is not one leader"]
        behind = [
            host.name
            for host in self.fleet.managers()
            if host.manager is not None and host.manager.store.version != leader.manager.store.version
        ]
        reasons = [f"manager {name} is behind the leader" for name in behind]
        reasons += [f"{host.name} is not in the swarm" for host in self.fleet.hosts if not host.node_id]
        truths = tuple(
            NodeTruth(
                node_id=NodeId(host.node_id),
                is_up=host.is_up,
                machine=host.machine,
                network=host.network,
                core=host.daemon.part.agent.core,
            )
            for host in self.fleet.hosts
            if host.daemon is not None and host.daemon.part is not None
        )
        scene = Scene(view=leader.manager.store, now=leader.clock.now(), nodes=truths)
        return reasons + self.checkers.quiet_reasons(scene)

    def fail(self, checker: str, sentence: str) -> None:
        self.failures.append(Violation(self.loop.now, checker, sentence))

    # --- inside

    def _note(self, operation: Operation) -> None:
        """What a client was told."""
        self.checkers.operation(operation)
        self.trace.record(
            f"client {operation.verb} {operation.outcome}",
            client=operation.client,
            name=operation.name,
            called_at=round(operation.called_at, 4),
            service_id=operation.id,
            version=operation.version,
            mark=operation.mark,
            seen=",".join(f"{seen.name}@{seen.version}:{seen.mark}" for seen in operation.seen),
        )

    def _scene(self) -> FaultScene:
        return FaultScene(
            loop=self.loop,
            network=self.network,
            fleet=self.fleet,
            trace=self.trace,
            dice=Random(f"{self.options.seed}/faults"),
            victims=self._victims,
        )

    def _victims(self) -> Sequence[Host]:
        if self.options.is_liveness:
            return [host for host in self.fleet.hosts if not self.liveness.is_spared(host)]
        return self.fleet.hosts

    def _buggify(self, name: str) -> bool:
        if not self._is_tormenting or self._fault_points.random() > FAULT_POINT_CHANCE:
            return False
        if name in COSTLY_POINTS and self._fault_points.random() * self.options.nodes > COSTLY_NODES:
            return False
        self.stats[f"fault point {name}"] += 1
        return True

    def _escaped(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody took: production code must not let any go."""
        error = context.get("exception")
        if type(error).__name__ == "Crash":
            return  # the machine is down already
        self.fail("escaped", f"{context.get('message')}: {error!r}")

    def _say(self, phase: str) -> None:
        self.trace.record(f"phase {phase}")
        self._on_progress(f"{self.loop.now:8.1f} s  {phase}")
