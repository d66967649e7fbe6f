"""Replicas that follow load in a simulated swarm: agents tell what tasks use, the leader decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from swarmpy.model.defaults import replicas_of
from swarmpy.model.ids import SECOND_NS, ServiceId, TaskId
from swarmpy.sim.fleet import Fleet
from swarmpy.sim.host import Seams
from swarmpy.sim.loop import SimLoop
from swarmpy.sim.network import SimNetwork
from swarmpy.sim.trace import Trace

PATIENCE_S = 240.0


class Work:
    """So many CPUs' worth of work, which the running tasks of all machines share."""

    def __init__(self, fleet: Fleet) -> None:
        self.cpus = 0.0
        self._fleet = fleet
        for host in fleet.hosts:
            host.machine.load = self._load

    def running(self) -> int:
        machines = [host.machine for host in self._fleet.hosts]
        return sum(bool(task.pid) and task.exit is None for each in machines for task in each.tasks.values())

    def _load(self, task_id: TaskId) -> float:
        return self.cpus / self.running()


def simulate(scenario: Callable[[Fleet, Work, ServiceId], Awaitable[None]], *, managers: int) -> None:
    """Two workers, and a service of one to six tasks of half a CPU each."""
    loop = SimLoop()
    trace = Trace(lambda: loop.now)
    network = SimNetwork(loop, Random("load/network"))
    seams = Seams(loop=loop, network=network, trace=trace, seed=7, buggify=lambda name: False)
    fleet = Fleet(seams, managers=managers, nodes=managers + 2)
    work = Work(fleet)

    async def main() -> None:
        await fleet.found()
        spec = {
            "Name": "web",
            "TaskTemplate": {"ContainerSpec": {"Image": "host", "Args": ["sleep"]}},
            "Mode": {"Replicated": {"Replicas": 1}},
            "Autoscale": {"Min": 1, "Max": 6, "CpuPercent": 50, "ScaleDownDelay": 20 * SECOND_NS},
        }
        answer = await fleet.call(fleet.founders[0], "POST", "/services/create", spec)
        await scenario(fleet, work, ServiceId(answer.json["ID"]))

    trace.install()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main())
    finally:
        asyncio.set_event_loop(None)
        trace.is_over = True
        fleet.dispose()
        loop.close()


def wished(fleet: Fleet, service_id: ServiceId) -> int:
    """Replicas that the service should have, as its leader's store says; 0: nobody leads."""
    leader = fleet.leader()
    service = leader.manager.store.service(service_id) if leader is not None and leader.manager else None
    return replicas_of(service) if service is not None else 0


async def settles(fleet: Fleet, work: Work, service_id: ServiceId, count: int) -> None:
    def has_settled() -> bool:
        return wished(fleet, service_id) == work.running() == count

    await fleet.until(has_settled, f"{count} tasks run", patience_s=PATIENCE_S)


def test_replicas_follow_load_up_and_down() -> None:
    async def scenario(fleet: Fleet, work: Work, service_id: ServiceId) -> None:
        await settles(fleet, work, service_id, 1)
        work.cpus = 2.5
        await settles(fleet, work, service_id, 5)
        work.cpus = 40.0
        await settles(fleet, work, service_id, 6)
        work.cpus = 0.4
        await settles(fleet, work, service_id, 1)

    simulate(scenario, managers=1)


def test_a_new_leader_goes_on_from_what_was_decided() -> None:
    async def scenario(fleet: Fleet, work: Work, service_id: ServiceId) -> None:
        work.cpus = 1.9
        await settles(fleet, work, service_id, 4)
        leader = fleet.leader()
        assert leader is not None
        leader.kill()
        await fleet.until(lambda: wished(fleet, service_id) > 0, "somebody leads")
        assert wished(fleet, service_id) == 4, "nothing but figures is forgotten"
        leader.start()
        work.cpus = 3.0
        await settles(fleet, work, service_id, 6)

    simulate(scenario, managers=3)
