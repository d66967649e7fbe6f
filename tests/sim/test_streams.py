"""Streams to nodes of a simulated swarm: by a manager that does not lead, over the simulated transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from agent.executor.base import Command, Output
from agent.executor.fake_exec import Reply
from manager.streams import LEADER_CHANGED, require
from swarmpy.errors import Unavailable
from swarmpy.model.container_ids import container_id
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.states import TaskState
from swarmpy.pb import streams_pb2 as pb
from swarmpy.sim.fleet import Fleet
from swarmpy.sim.host import Host, Seams
from swarmpy.sim.loop import SimLoop
from swarmpy.sim.network import SimNetwork
from swarmpy.sim.process import Process
from swarmpy.sim.trace import Trace


def simulate(scenario: Callable[[Fleet, Task], Awaitable[None]]) -> None:
    """Three managers and a worker, on which one task runs, and then ``scenario``."""
    loop = SimLoop()
    trace = Trace(lambda: loop.now)
    network = SimNetwork(loop, Random("streams/network"))
    seams = Seams(loop=loop, network=network, trace=trace, seed=7, buggify=lambda name: False)
    fleet = Fleet(seams, managers=3, nodes=4)

    async def main() -> None:
        await fleet.found()
        spec = {
            "Name": "web",
            "TaskTemplate": {
                "ContainerSpec": {"Image": "host", "Args": ["sleep"]},
                "Placement": {"Constraints": ["node.role==worker"]},
            },
            "Mode": {"Replicated": {"Replicas": 1}},
        }
        await fleet.call(fleet.founders[0], "POST", "/services/create", spec)
        await fleet.until(lambda: running(fleet) is not None, "the task runs")
        task = running(fleet)
        assert task is not None
        await scenario(fleet, task)

    trace.install()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(main())
    finally:
        asyncio.set_event_loop(None)
        trace.is_over = True
        fleet.dispose()
        loop.close()


def running(fleet: Fleet) -> Task | None:
    manager = fleet.founders[0].manager
    found = manager.store.tasks() if manager is not None else ()
    return next((task for task in found if task.status.state is TaskState.RUNNING), None)


def follower(fleet: Fleet) -> Host:
    return next(host for host in fleet.founders if host is not fleet.leader())


def commands(fleet: Fleet, task: Task) -> int:
    """How many run in the task on the worker."""
    channels = fleet.hosts[3].machine.tasks[task.id].channels
    return sum(not channel.has_ended for channel in channels)


def test_calls_and_copies_through_any_manager() -> None:
    async def scenario(fleet: Fleet, task: Task) -> None:
        for host in fleet.founders:
            top = await fleet.call(host, "GET", "/containers/web.1/top")
            assert top.json["Titles"] == ["PID", "CMD"]
            stats = await fleet.call(host, "GET", "/swarmpy/stats")
            assert [row["id"] for row in stats.json["Tasks"]] == [container_id(task.id)]

    simulate(scenario)


def test_a_killed_leader_ends_a_command_and_its_client_is_told() -> None:
    told: list[str] = []

    async def scenario(fleet: Fleet, task: Task) -> None:
        fleet.hosts[3].machine.answer = _goes_on
        host, leader = follower(fleet), fleet.leader()
        assert leader is not None
        talking = asyncio.create_task(host._ask(_process(host), lambda: _talk(host, task, told)))
        await fleet.until(lambda: told == ["begun"], "the command runs")
        assert commands(fleet, task) == 1
        leader.kill()
        with pytest.raises(Unavailable) as caught:
            await talking
        assert str(caught.value) == LEADER_CHANGED
        await fleet.until(lambda: commands(fleet, task) == 0, "the command is gone")
        await fleet.until(lambda: fleet.leader() is not None, "somebody leads")
        await fleet.call(host, "GET", "/containers/web.1/top")

    simulate(scenario)


def test_a_client_that_goes_takes_its_command_along() -> None:
    told: list[str] = []

    async def scenario(fleet: Fleet, task: Task) -> None:
        fleet.hosts[3].machine.answer = _goes_on
        host = follower(fleet)
        talking = asyncio.create_task(host._ask(_process(host), lambda: _talk(host, task, told)))
        await fleet.until(lambda: told == ["begun"], "the command runs")
        host.kill()  # the manager that the client talks to
        await asyncio.wait([talking])
        assert talking.exception() is not None
        await fleet.until(lambda: commands(fleet, task) == 0, "the command is gone")

    simulate(scenario)


def _goes_on(task_id: TaskId, command: Command) -> Reply:
    return Reply(output=(Output(1, b"begun"),), takes_s=None)


async def _talk(host: Host, task: Task, told: list[str]) -> None:
    assert host.manager is not None
    body = pb.ExecStart(task_id=task.id, argv=["sh"]).SerializeToString()
    async with host.manager.access.streams.open(NodeId(task.node_id), "task.exec", body) as stream:
        while True:
            told.append(require(await stream.receive()).data.data.decode())


def _process(host: Host) -> Process:
    assert host.process is not None
    return host.process
