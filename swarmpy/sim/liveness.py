"""Liveness: a healthy majority gets its work done, whatever the rest does for ever.

Spared by faults are a majority of the managers and half of the workers. Through the spared managers, again
and again, a service is made whose tasks may run on spared workers only; its tasks have to run, and to be gone
after its removal, within a bound. In the meantime one of the other managers may be deaf for good: it is
heard, and hears nobody, which must not keep the others busy with elections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from random import Random
from typing import Any

from swarmpy.sim.checkers.history import MARK_LABEL
from swarmpy.sim.fleet import PATIENCE_S, Fleet, Impatient
from swarmpy.sim.host import Disconnected, Host
from swarmpy.sim.loop import SimLoop
from swarmpy.sim.network import SimNetwork
from swarmpy.sim.workload import Workload

PROBE_WITHIN_S = 60.0
"""For a service to be made and to run, and again to be removed and gone; several elections fit in."""
PROBE_PERIOD_S = 5.0
POLL_S = 0.25
LABEL = "spared"
CLIENT = "prober"
GLOBAL_FAULTS = frozenset({"drop"})
"""Faults that befall everybody."""


class Liveness:
    """``prepare`` once the swarm is founded, then ``run`` until cancelled."""

    def __init__(
        self, loop: SimLoop, fleet: Fleet, workload: Workload, *, seed: int, fail: Callable[[str, str], None]
    ) -> None:
        self._loop = loop
        self._workload = workload
        self._fleet = fleet
        self._fail = fail
        self._dice = Random(f"{seed}/liveness")
        managers = fleet.founders
        workers = fleet.hosts[len(managers) :]
        self.managers = managers[: len(managers) // 2 + 1]
        self.workers = workers[: (len(workers) + 1) // 2]
        self._spared = frozenset((*self.managers, *self.workers))
        self.took_s: list[float] = []
        """How long each probe took, from create to gone."""

    def is_spared(self, host: Host) -> bool:
        return host in self._spared

    async def prepare(self, network: SimNetwork) -> None:
        """Mark the spared workers; make one of the other managers deaf in every second world."""
        for host in self.workers:
            await self._mark(host)
        others = [host for host in self._fleet.founders if host not in self.managers]
        if others and self._dice.random() < 0.5:
            deaf = self._dice.choice(others)
            network.cut_one_way([(host.ip, deaf.ip) for host in self._fleet.hosts if host is not deaf])

    async def _mark(self, host: Host) -> None:
        """Read and write until nobody else wrote in between: managers note things on nodes, too."""
        path = f"/nodes/{host.node_id}"
        deadline = self._loop.now + PATIENCE_S
        while True:
            found = (await self._fleet.call_any("GET", path)).json
            spec = {**found["Spec"], "Labels": {LABEL: "yes"}}
            query = {"version": str(found["Version"]["Index"])}
            with suppress(Disconnected):
                answer = await self._fleet.ask(self._manager(), "POST", f"{path}/update", spec, query=query)
                if answer.status == HTTPStatus.OK:
                    return
            if self._loop.now > deadline:
                raise Impatient(f"{host.name} is not marked within {PATIENCE_S:.0f} s")
            await asyncio.sleep(POLL_S)

    async def run(self) -> None:
        number = 0
        while True:
            number += 1
            began = self._loop.now
            await self._probe(f"probe-{number}")
            self.took_s.append(self._loop.now - began)
            await asyncio.sleep(PROBE_PERIOD_S)

    async def _probe(self, name: str) -> None:
        replicas = 2 * len(self.workers)
        spec = {
            "Name": name,
            "Labels": {MARK_LABEL: name},
            "TaskTemplate": {
                "ContainerSpec": {"Image": "steady:1"},
                "Placement": {"Constraints": [f"node.labels.{LABEL}==yes"]},
            },
            "Mode": {"Replicated": {"Replicas": replicas}},
        }
        clients = self._workload
        await self._within(
            f"{name} is created", lambda: clients.create(self._manager(), name, spec, client=CLIENT)
        )
        await self._within(f"{name} runs", lambda: self._runs(name, replicas))
        await self._within(f"{name} is removed", lambda: clients.remove(self._manager(), name, client=CLIENT))
        await self._within(f"{name} is gone", lambda: self._runs(name, 0))

    def _manager(self) -> Host:
        return self._dice.choice(self.managers)

    async def _within(self, what: str, condition: Callable[[], Any]) -> None:
        deadline = self._loop.now + PROBE_WITHIN_S
        while not await condition():
            if self._loop.now > deadline:
                self._fail(
                    "liveness", f"the healthy majority did not get it done in {PROBE_WITHIN_S:.0f} s: {what}"
                )
                return
            await asyncio.sleep(POLL_S)

    async def _runs(self, name: str, count: int) -> bool:
        """What really runs on the spared machines."""
        running = [
            task
            for host in self.workers
            for task in host.machine.tasks.values()
            if task.pid
            and task.exit is None
            and task.launch.labels.get("com.docker.swarm.service.name") == name
        ]
        return len(running) == count
