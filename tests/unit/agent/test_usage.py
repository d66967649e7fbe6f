"""What an agent tells of what its tasks use: nothing before it is asked, then differences of readings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
from agent_rig import loop_env

from agent.executor.base import Stats
from agent.executor.fake import FakeExecutor, FakeMachine
from agent.usage import UsageMeter
from swarmpy.errors import Unavailable
from swarmpy.limits import USAGE_PERIOD_MIN_S
from swarmpy.model.ids import SECOND_NS, ServiceId, TaskId
from swarmpy.pb import dispatcher_pb2 as pb


class Scripted(FakeExecutor):
    """Each reading of a task's CPU time is one second more than the last; ``broken`` ones cannot be read."""

    def __init__(self) -> None:
        super().__init__(FakeMachine())
        self.cpu_ns: dict[TaskId, int] = {}
        self.broken: set[TaskId] = set()

    async def stats(self, task_id: TaskId, *, is_full: bool = False) -> Stats:
        if task_id in self.broken:
            raise Unavailable("no such cgroup")
        self.cpu_ns[task_id] = self.cpu_ns.get(task_id, 0) + SECOND_NS
        return Stats(cpu_ns=self.cpu_ns[task_id], memory_bytes=1 << 20, pids=1)


class Rig:
    def __init__(self) -> None:
        self.executor = Scripted()
        self.tasks = {TaskId("t1"): ServiceId("s1"), TaskId("t2"): ServiceId("s2")}
        self.sent: asyncio.Queue[pb.AgentMessage] = asyncio.Queue()
        self.meter = UsageMeter(self.executor, loop_env(), tasks_of=self._tasks_of)

    def _tasks_of(self, services: frozenset[ServiceId]) -> Iterable[TaskId]:
        return [task_id for task_id, service_id in self.tasks.items() if service_id in services]

    def order(self, *services: str) -> None:
        self.meter.take(pb.UsageOrder(service_ids=services, period=1))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    running = asyncio.create_task(rig.meter.run(rig.sent.put))
    yield rig
    running.cancel()
    await asyncio.wait([running])


async def next_usage(rig: Rig) -> pb.Usage:
    async with asyncio.timeout(USAGE_PERIOD_MIN_S * 10):
        message = await rig.sent.get()
    return message.usage


async def test_only_the_services_that_were_asked_about(rig: Rig) -> None:
    rig.order("s1")
    usage = await next_usage(rig)
    assert [task.task_id for task in usage.tasks] == ["t1"]
    assert "t2" not in rig.executor.cpu_ns
    assert 0 < usage.tasks[0].nano_cpus <= SECOND_NS * 1.01, "one second of CPU in at least one second"


async def test_what_cannot_be_read_is_left_out(rig: Rig) -> None:
    rig.executor.broken.add(TaskId("t1"))
    rig.order("s1", "s2")
    assert [task.task_id for task in (await next_usage(rig)).tasks] == ["t2"]


async def test_an_empty_order_ends_it(rig: Rig) -> None:
    rig.order("s1")
    await next_usage(rig)
    rig.order()
    rig.order("s2")  # asked again: the first reading of a task tells nothing yet
    assert [task.task_id for task in (await next_usage(rig)).tasks] == ["t2"]
