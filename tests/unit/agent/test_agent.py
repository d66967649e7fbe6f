"""One agent put together, with its journal in a file: restart, and leaving for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from agent_rig import DEADLINE_S, make_revision, make_task
from fake_link import FakeLink

from agent.agent import Agent, AgentConfig, wipe
from agent.dataplane.fake import FakeBackend, FakeNetwork
from agent.describe import describe
from agent.executor.fake import FakeExecutor, FakeMachine
from agent.journal import JOURNAL_NAME, Journal
from swarmpy import codec
from swarmpy.errors import Unavailable
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Task
from swarmpy.model.states import TaskState
from swarmpy.pb import dispatcher_pb2 as pb
from swarmpy.runtime import Env

WEB = make_revision()
TASKS = [make_task(number, WEB) for number in (1, 2, 3)]


def make_agent(folder: Path, link: FakeLink, machine: FakeMachine, network: FakeNetwork) -> Agent:
    config = AgentConfig(node_id=NodeId("node1"), managers=("m:1",), describe=describe)
    return Agent(
        config,
        env=Env(),
        link=link,
        executor=FakeExecutor(machine),
        backend=FakeBackend(network),
        journal=Journal(folder / JOURNAL_NAME),
    )


@asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[Agent]:
    work = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        agent.stop()
        await work


async def wait(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


def assign(link: FakeLink, *tasks: Task) -> None:
    update = pb.AssignmentUpdate(type=pb.AssignmentUpdate.COMPLETE, results_in=1)
    codec.write_pb(WEB, update.changes.add().revision)
    for task in tasks:
        codec.write_pb(task, update.changes.add().task)
    link.sessions[-1].say(pb.ManagerMessage(assignments=update))


def state_of(agent: Agent, task: Task) -> TaskState:
    run = agent.core.runs.get(task.id)
    return run.status.state if run is not None else TaskState.NEW


async def test_restart_and_leave(tmp_path: Path) -> None:
    machine, network = FakeMachine(), FakeNetwork()
    link = FakeLink(["m:1"], leader="m:1", acknowledges=True)
    async with running(make_agent(tmp_path, link, machine, network)) as agent:
        await wait(lambda: bool(link.sessions))
        assign(link, *TASKS)
        await wait(lambda: all(state_of(agent, task) is TaskState.RUNNING for task in TASKS))
        assert agent.count_tasks() == 3
    assert link.sessions[-1].kinds()[-1] == "goodbye"
    machine.end(TASKS[0].id, 1)

    # No manager answers: the agent knows its tasks all the same.
    silent = FakeLink([])
    async with running(make_agent(tmp_path, silent, machine, network)) as agent:
        await wait(lambda: state_of(agent, TASKS[0]) is TaskState.FAILED)
        assert [state_of(agent, task) for task in TASKS[1:]] == [TaskState.RUNNING] * 2
        assert agent.error
    assert set(machine.starts.values()) == {1}

    await wipe(FakeExecutor(machine), FakeBackend(network), Journal(tmp_path / JOURNAL_NAME))
    assert machine.tasks == {}
    assert machine.logs == {}, "the log of a task that had ended goes too"
    assert network.sandboxes == {}
    assert list(tmp_path.iterdir()) == []


class Moody:
    """A machine on which the first operations fail."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    def script(self, verb: str, subject: str) -> float:
        if verb in ("stop", "remove") and self.left:
            self.left -= 1
            raise Unavailable(f"{verb} failed", delay_s=0.0)
        return 0.0


async def test_leaving_is_tried_again_and_says_what_it_could_not_take_down(tmp_path: Path) -> None:
    link = FakeLink(["m:1"], leader="m:1", acknowledges=True)
    machine, network = FakeMachine(), FakeNetwork()
    async with running(make_agent(tmp_path, link, machine, network)) as agent:
        await wait(lambda: bool(link.sessions))
        assign(link, *TASKS)
        await wait(lambda: all(state_of(agent, task) is TaskState.RUNNING for task in TASKS))
    machine.script = Moody(1000).script
    with pytest.raises(Unavailable, match=f"task {TASKS[0].id} could not be taken down: stop failed"):
        await wipe(FakeExecutor(machine), FakeBackend(network), Journal(tmp_path / JOURNAL_NAME))
    machine.script = Moody(4).script
    await wipe(FakeExecutor(machine), FakeBackend(network), Journal(tmp_path / JOURNAL_NAME))
    assert machine.tasks == {}


async def test_incarnations_differ(tmp_path: Path) -> None:
    link = FakeLink(["m:1"], leader="m:1")
    for _ in range(2):
        async with running(make_agent(tmp_path, link, FakeMachine(), FakeNetwork())):
            sessions = len(link.sessions)
            await wait(lambda count=sessions: len(link.sessions) > count)  # type: ignore[misc]
    first, second = (session.heard[0].hello.incarnation for session in link.sessions)
    assert first != second


async def test_the_managers_hear_how_the_node_can_encrypt(tmp_path: Path) -> None:
    network = FakeNetwork(encryption=("esp", "userspace"))
    link = FakeLink(["m:1"], leader="m:1", acknowledges=True)
    async with running(make_agent(tmp_path, link, FakeMachine(), network)):
        await wait(lambda: bool(link.sessions))
        assert link.sessions[-1].heard[0].hello.description.encryption == ["esp", "userspace"]
