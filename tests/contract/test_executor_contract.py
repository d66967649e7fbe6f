"""The fake executor keeps the contract that the real ones keep."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import exec_suite
import executor_suite as suite
import inside_suite
import pytest

from agent.executor.base import Command, Executor, Launch, Output, Sandbox
from agent.executor.fake import Behaviour, FakeExecutor, FakeMachine
from agent.executor.fake_exec import Reply
from swarmpy.model.ids import TaskId

_BEHAVIOURS = {
    suite.RUN_ON: Behaviour(),
    suite.IGNORE_TERM: Behaviour(stop_s=None),
    suite.EXIT_0: Behaviour(run_s=0.0),
    suite.EXIT_3: Behaviour(run_s=0.01, exit_code=3),
    suite.SPEAK: Behaviour(run_s=0.0, output=(b"one\n", b"two\n", b"three\n")),
    suite.SPEAK_AND_RUN: Behaviour(output=(b"one\n",)),
}
_REPLIES = {
    exec_suite.SAY_AND_FAIL: Reply(output=(Output(1, b"out\n"), Output(2, b"err\n")), exit_code=3),
    exec_suite.HANG: Reply(output=(Output(1, b"begun\n"),), takes_s=None),
    exec_suite.ECHO: Reply(is_echo=True),
    exec_suite.MISSING: Reply(refusal='exec: "no-such-command": executable file not found in $PATH'),
}


def _answer(task_id: TaskId, command: Command) -> Reply:
    return _REPLIES[command.argv]


def _plan(launch: Launch) -> Behaviour:
    return _BEHAVIOURS[launch.spec.command[-1]]


@pytest.fixture
def machine() -> FakeMachine:
    machine = FakeMachine(plan=_plan)
    machine.missing_images.add("no-such-image:1")
    machine.answer = _answer
    return machine


@pytest.fixture
async def executor(machine: FakeMachine) -> AsyncIterator[Executor]:
    executor = FakeExecutor(machine)
    await executor.start_up()
    yield executor
    await executor.shut_down()


@pytest.fixture
def reopen(machine: FakeMachine, executor: Executor) -> suite.Reopen:
    async def again(
        *, is_clean: bool = True, meanwhile: Callable[[], Awaitable[None]] = suite.nothing
    ) -> Executor:
        if is_clean:
            await executor.shut_down()
        await meanwhile()
        successor = FakeExecutor(machine)
        await successor.start_up()
        return successor

    return again


@pytest.fixture
def image() -> str:
    return "host"


@pytest.fixture
def sandbox() -> suite.MakeSandbox:
    async def make(task_id: TaskId) -> Sandbox:
        return Sandbox(netns=f"/fake/netns/{task_id}")

    return make


class TestFakeExecutor(suite.ExecutorContract):
    pass


class TestCommandsInFakeTasks(exec_suite.ExecContract):
    pass


class TestInsideFakeTasks(inside_suite.InsideContract):
    pass
