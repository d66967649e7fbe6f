"""What a simulated swarm costs: founded, brought to rest with all its tasks, left alone, and tormented.

Each run has a process of its own, so that its peak memory is its own. Processor time stands beside wall time,
since others may use the machine too. All checkers are on. ``rate`` is virtual seconds per wall second, and in
brackets per processor second. With ``--repeats`` each size is run that many times and medians are shown.

python -m tests.bench.sim.bench_sim [--sizes 50:100,1000:4000,5000:20000] [--quiet 60] [--mix 60]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import resource
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from swarmpy.sim.checkers import Summary
from swarmpy.sim.checkers.history import MARK_LABEL
from swarmpy.sim.faults import FAULTS
from swarmpy.sim.workload import Shape
from swarmpy.sim.world import Options, World

REPLICAS_PER_SERVICE = 200
SERVICES_MIN = 4
REST_WITHIN_S = 600.0
REST_PERIOD_S = 1.0
CLIENTS_SHARE = 20
"""One in so many tasks belongs to services that the clients of the mix change."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What one phase took."""

    name: str
    virtual_s: float
    wall_s: float
    cpu_s: float
    steps: int
    messages: int
    commits: int

    def line(self) -> str:
        rates = f"{self.virtual_s / self.wall_s:8.1f} ({self.virtual_s / self.cpu_s:.1f})"
        return (
            f"  {self.name:<10} {self.virtual_s:8.1f} {self.wall_s:8.2f} {self.cpu_s:8.2f}  {rates:<18}"
            f" {self.steps:>10,} {self.messages:>10,} {self.commits:>8,}"
        )


HEADER = (
    f"  {'phase':<10} {'virtual s':>8} {'wall s':>8} {'cpu s':>8}  {'    rate':<18}"
    f" {'steps':>10} {'messages':>10} {'commits':>8}"
)


class Measured(World):
    """A world that is taken through the phases of this bench instead of its own."""

    def __init__(self, options: Options, *, quiet_s: float, tasks: int) -> None:
        super().__init__(options)
        self._quiet_s = quiet_s
        self._tasks = tasks
        self._began = (0.0, 0.0, 0.0, 0, 0, 0)
        self.phases: list[Phase] = []

    async def _main(self) -> Summary | None:
        watching = self.loop.create_task(self.observer.run())
        try:
            self._begin()
            await self._found()
            self._end("found")
            await self._deploy()
            self._end("tasks")
            await asyncio.sleep(self._quiet_s)
            self._end("quiet")
            if self.options.minutes:
                await self._torment()
                self._end("mix")
                await self._settle()
                self._end("settle")
            summary = self._judge()
            self._end("judge")
            return summary
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _deploy(self) -> None:
        """Everything is to run, with nothing left to do."""
        services = max(SERVICES_MIN, self._tasks // REPLICAS_PER_SERVICE)
        for number in range(services):
            replicas = self._tasks // services + (number < self._tasks % services)
            spec = {
                "Name": f"bench-{number}",
                "Labels": {MARK_LABEL: f"b{number}"},
                "TaskTemplate": {"ContainerSpec": {"Image": "steady:1"}},
                "Mode": {"Replicated": {"Replicas": replicas}},
            }
            await self.workload.create(self.fleet.founders[0], f"bench-{number}", spec, client="bench")
        deadline = self.loop.now + REST_WITHIN_S
        while reasons := self.unrest():
            if self.loop.now > deadline:
                raise AssertionError(f"no rest: {reasons[:5]}")
            await asyncio.sleep(REST_PERIOD_S)

    def _counts(self) -> tuple[float, float, float, int, int, int]:
        versions = [host.manager.store.version for host in self.fleet.managers() if host.manager is not None]
        return (
            self.loop.now,
            time.perf_counter(),
            time.process_time(),
            self.loop.steps,
            self.network.messages,
            max(versions, default=0),
        )

    def _begin(self) -> None:
        self._began = self._counts()

    def _end(self, name: str) -> None:
        values = [after - before for before, after in zip(self._began, self._counts(), strict=True)]
        virtual_s, wall_s, cpu_s, steps, messages, commits = values
        phase = Phase(
            name=name,
            virtual_s=virtual_s,
            wall_s=wall_s,
            cpu_s=cpu_s,
            steps=int(steps),
            messages=int(messages),
            commits=int(commits),
        )
        self.phases.append(phase)
        sys.stderr.write(phase.line() + "\n")
        self._begin()


def run_one(arguments: argparse.Namespace) -> dict[str, Any]:
    nodes, tasks = sizes(arguments.one)[0]
    options = Options(
        seed=arguments.seed,
        managers=3,
        nodes=nodes,
        minutes=arguments.mix / 60,
        faults=tuple(FAULTS),
        shape=Shape(tasks=max(20, tasks // CLIENTS_SHARE)),
    )
    began = time.perf_counter()
    world = Measured(options, quiet_s=arguments.quiet, tasks=tasks)
    made_s = time.perf_counter() - began
    profile = cProfile.Profile() if arguments.profile else None
    if profile is not None:
        report = profile.runcall(world.run)
        profile.dump_stats(arguments.profile)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(60)
    else:
        report = world.run()
    return {
        "made_s": made_s,
        "wall_s": made_s + report.wall_s,
        "digest": report.digest,
        "violations": [str(violation) for violation in report.violations],
        "phases": [asdict(phase) for phase in world.phases],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "collections": sum(generation["collections"] for generation in gc.get_stats()),
    }


def run_apart(size: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.sim.bench_sim", "--one", size]
    for name in ("quiet", "mix", "seed"):
        command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def middle(runs: list[dict[str, Any]]) -> list[Phase]:
    """The median of what each phase took; the rest is the same in every run of a seed."""
    phases = []
    for same in zip(*(run["phases"] for run in runs), strict=True):
        times = {name: statistics.median(phase[name] for phase in same) for name in ("wall_s", "cpu_s")}
        phases.append(Phase(**(same[0] | times)))
    return phases


def show(size: str, runs: list[dict[str, Any]]) -> None:
    (nodes, tasks) = sizes(size)[0]
    phases = middle(runs)
    converged_s = statistics.median(run["made_s"] for run in runs) + sum(phase.wall_s for phase in phases[:2])
    print(f"3 managers, {nodes:,} nodes, {tasks:,} tasks ({len(runs)} runs)")
    print(HEADER)
    for phase in phases:
        print(phase.line())
    print(f"  from nothing to all tasks at rest: {converged_s:.1f} s of wall time")
    print(f"  whole run: {statistics.median(run['wall_s'] for run in runs):.1f} s of wall time,", end=" ")
    print(f"peak {max(run['peak_mib'] for run in runs):,.0f} MiB, digest {runs[0]['digest']}")
    for violation in runs[0]["violations"]:
        print(f"  VIOLATION {violation}")


def sizes(text: str) -> list[tuple[int, int]]:
    """``nodes:tasks``, with commas between."""
    pairs = [each.split(":") for each in text.split(",")]
    return [(int(nodes), int(tasks)) for nodes, tasks in pairs]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="50:100,1000:4000,5000:20000")
    parser.add_argument("--quiet", type=float, default=60.0, help="virtual seconds of quiet")
    parser.add_argument("--mix", type=float, default=60.0, help="virtual seconds of faults and clients")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--one", help="run this size here, and print what came of it as JSON")
    parser.add_argument("--profile", help="with --one: write a profile to this file")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments)))
        return
    for size in arguments.sizes.split(","):
        show(size, [run_apart(size, arguments) for _ in range(arguments.repeats)])


if __name__ == "__main__":
    main()
