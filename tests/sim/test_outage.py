"""Outages of the quorum: whatever their length, tasks whose nodes were alive all the time are left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from swarmpy.limits import OUTAGE_DIALS_S, OUTAGE_LONG_S, SESSION_BACKOFF_MAX_S, UNKNOWN_GRACE_S
from swarmpy.model.objects import Task
from swarmpy.model.states import NodeState, TaskState
from swarmpy.sim.fleet import Fleet
from swarmpy.sim.host import Host, Seams
from swarmpy.sim.loop import SimLoop
from swarmpy.sim.network import SimNetwork
from swarmpy.sim.trace import Trace

MANAGERS = 3
REPLICAS = 20


def simulate(scenario: Callable[[Fleet], Awaitable[None]], *, seed: int, nodes: int = 8) -> None:
    """A swarm in which ``REPLICAS`` tasks run, and then ``scenario``."""
    loop = SimLoop()
    trace = Trace(lambda: loop.now)
    network = SimNetwork(loop, Random(f"{seed}/network"))
    seams = Seams(loop=loop, network=network, trace=trace, seed=seed, buggify=lambda name: False)
    fleet = Fleet(seams, managers=MANAGERS, nodes=nodes)

    async def main() -> None:
        await fleet.found()
        spec = {
            "Name": "web",
            "TaskTemplate": {"ContainerSpec": {"Image": "host", "Args": ["sleep", "1"]}},
            "Mode": {"Replicated": {"Replicas": REPLICAS}},
        }
        await fleet.call(fleet.founders[0], "POST", "/services/create", spec)
        await fleet.until(lambda: len(running(fleet)) == REPLICAS, "all tasks run")
        await asyncio.sleep(30.0)
        await scenario(fleet)

    trace.install()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main())
    finally:
        asyncio.set_event_loop(None)
        trace.is_over = True
        fleet.dispose()
        loop.close()


def running(fleet: Fleet) -> set[str]:
    return {task.id for task in tasks(fleet) if is_running(task)}


def is_running(task: Task) -> bool:
    return task.status.state == TaskState.RUNNING and task.desired_state == TaskState.RUNNING


def tasks(fleet: Fleet) -> list[Task]:
    leader = fleet.leader()
    return list(leader.manager.store.tasks()) if leader is not None and leader.manager is not None else []


def is_whole(fleet: Fleet) -> bool:
    """Somebody leads, and has a session with every node."""
    leader = fleet.leader()
    if leader is None or leader.manager is None:
        return False
    nodes = leader.manager.store.nodes()
    return len(nodes) == len(fleet.hosts) and all(node.status.state is NodeState.READY for node in nodes)


def others(fleet: Fleet) -> list[Host]:
    """The managers but the leader."""
    leader = fleet.leader()
    return [host for host in fleet.founders if host is not leader]


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize("outage_s", [5.0, 20.0, 60.0])
def test_no_task_is_replaced_when_a_quorum_comes_back(outage_s: float, seed: int) -> None:
    async def scenario(fleet: Fleet) -> None:
        before = running(fleet)
        # whether the leader is one of the two that go depends on the seed
        gone = others(fleet) if seed % 2 else fleet.founders[:2]
        gone_ids = {host.node_id for host in gone}
        elsewhere = {task.id for task in tasks(fleet) if task.node_id not in gone_ids}
        for host in gone:
            host.kill()
        await asyncio.sleep(outage_s)
        for host in gone:
            host.start()
        await fleet.until(lambda: is_whole(fleet), "every node has a session", patience_s=60.0)
        await asyncio.sleep(30.0)
        assert elsewhere <= running(fleet)
        if outage_s > OUTAGE_LONG_S:
            # a leader that stayed had said of the two that they were gone; that does not count any more
            assert {task.id for task in tasks(fleet)} == running(fleet) == before

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_task_is_replaced_when_managers_were_frozen(seed: int) -> None:
    """They know nothing of the time that has passed, and one of them may lead next."""

    async def scenario(fleet: Fleet) -> None:
        before = running(fleet)
        which = {1: others(fleet), 2: fleet.founders[:2], 3: fleet.founders}[seed]
        frozen = [host.process for host in which]
        for process in frozen:
            assert process is not None
            process.stall(60.0)
        await asyncio.sleep(60.0)
        await fleet.until(lambda: is_whole(fleet), "every node has a session", patience_s=60.0)
        await asyncio.sleep(30.0)
        assert {task.id for task in tasks(fleet)} == running(fleet) == before

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_task_is_replaced_when_the_whole_swarm_was_down(seed: int) -> None:
    async def scenario(fleet: Fleet) -> None:
        before = running(fleet)
        for host in fleet.founders:
            host.kill()
        await asyncio.sleep(90.0)
        for host in fleet.founders:
            host.start()
        await fleet.until(lambda: is_whole(fleet), "every node has a session", patience_s=60.0)
        await asyncio.sleep(30.0)
        assert {task.id for task in tasks(fleet)} == running(fleet) == before

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_worker_that_dies_with_the_leader_is_given_up_soon(seed: int) -> None:
    async def scenario(fleet: Fleet) -> None:
        leader = fleet.leader()
        assert leader is not None
        await assert_given_up(fleet, [leader], outage_s=0.0, within_s=4.0)

    simulate(scenario, seed=seed)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_worker_that_dies_in_a_long_outage_is_given_up_too(seed: int) -> None:
    async def scenario(fleet: Fleet) -> None:
        bound = UNKNOWN_GRACE_S + SESSION_BACKOFF_MAX_S + OUTAGE_DIALS_S + 1.0
        await assert_given_up(fleet, fleet.founders[:2], outage_s=60.0, within_s=bound)

    simulate(scenario, seed=seed)


async def assert_given_up(fleet: Fleet, managers: list[Host], *, outage_s: float, within_s: float) -> None:
    """The managers and a worker go; the worker's tasks run elsewhere this long after somebody leads again."""
    worker = fleet.hosts[-1]
    lost = {task.id for task in tasks(fleet) if task.node_id == worker.node_id}
    assert lost
    worker.power_off()
    for host in managers:
        host.kill()
    if outage_s:
        await asyncio.sleep(outage_s)
        for host in managers:
            host.start()
    await fleet.until(lambda: has_leader(fleet), "somebody leads", patience_s=10.0)
    await fleet.until(
        lambda: len(running(fleet) - lost) >= REPLICAS, "the tasks run elsewhere", patience_s=within_s
    )


def has_leader(fleet: Fleet) -> bool:
    leader = fleet.leader()
    return leader is not None and leader.manager is not None and leader.manager.term is not None
