"""Every service of a simulated swarm is updated at once while nodes flap: does it hold its rules, and come to
rest?

    python -m tests.bench.sim.bench_update_storm [--services 500] [--nodes 20] [--seeds 1] [--minutes 1]

Each seed prints one line: whether any checker objected (never more tasks in a slot than the update's order
allows, among others), how long in virtual time the last update took, and how long after the last fault the
swarm was at rest. Virtual seconds do not depend on the machine. Exit code 1 if a run was bad or restless.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from random import Random
from typing import Any

from swarmpy.sim.runner import details
from swarmpy.sim.workload import Shape
from swarmpy.sim.world import Options, World

CALLERS = 16
FLAP_GAP_S = 20.0
REST_WITHIN_S = 60.0
REPLICAS = 2


def service(number: int) -> dict[str, Any]:
    """Every other one starts the new task before it stops the old one."""
    return {
        "Name": f"app-{number}",
        "TaskTemplate": {"ContainerSpec": {"Image": "app:1"}},
        "Mode": {"Replicated": {"Replicas": REPLICAS}},
        "UpdateConfig": {"Parallelism": 1, "Order": "start-first" if number % 2 else "stop-first"},
    }


class Storm(World):
    """Instead of random clients: one update of each service, patiently, while nodes flap."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.updated_in_s = 0.0
        self._dice = Random(f"{options.seed}/storm")

    async def _torment(self) -> None:
        began = self.loop.now
        faults = self.loop.create_task(self.nemesis.run())
        queue = list(self.workload.names)
        async with asyncio.TaskGroup() as callers:
            for number in range(CALLERS):
                callers.create_task(self._caller(f"u{number}", queue))
        self.updated_in_s = self.loop.now - began
        left_s = self.options.minutes * 60 - self.updated_in_s
        if left_s > 0:
            await asyncio.sleep(left_s)
        faults.cancel()
        await asyncio.wait([faults])
        self._heal()

    async def _caller(self, client: str, queue: list[str]) -> None:
        while queue:
            name = queue.pop()
            while not await self._update(name, client):
                await asyncio.sleep(0.5)

    async def _update(self, name: str, client: str) -> bool:
        managers = self.fleet.managers()
        if not managers:
            return False
        host = self._dice.choice(managers)
        found = await self.workload.inspect(host, name, client=client)
        if found is None:
            return False
        spec = found["Spec"]
        spec["TaskTemplate"]["ContainerSpec"]["Image"] = "app:2"
        return await self.workload.update(host, found, spec, client=client)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, default=500)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.0)
    asked = parser.parse_args()
    stack = tuple(service(number) for number in range(asked.services))
    is_bad = False
    for seed in range(1, asked.seeds + 1):
        options = Options(
            seed=seed,
            nodes=asked.nodes,
            minutes=asked.minutes,
            faults=("flap",),
            fault_gap_s=FLAP_GAP_S / asked.nodes,
            has_operator=False,
            shape=Shape(services=asked.services, tasks=asked.services * REPLICAS),
            stack=stack,
        )
        world = Storm(options)
        report = world.run()
        rest_s = report.converged_in_s
        is_restless = rest_s is None or rest_s > REST_WITHIN_S
        is_bad = is_bad or is_restless or not report.is_good
        rest = "never at rest" if rest_s is None else f"at rest {rest_s:.0f} s after the last fault"
        print(
            f"seed {seed}: {'ok ' if report.is_good else 'BAD'} {asked.services} services x {REPLICAS} on "
            f"{asked.nodes} nodes, {report.faults['flap']} flaps, all updates accepted after "
            f"{world.updated_in_s:.0f} s, {rest} (goal {REST_WITHIN_S:.0f} s); took {report.wall_s:.0f} s",
            flush=True,
        )
        if not report.is_good:
            print("\n".join(details(report, command="this benchmark")))
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
