"""The cluster as an API server sees it through a manager that does not lead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from clusters import make_node, make_service
from manager_rig import Host, Managers, managers_in, until

from manager import access as access_module
from manager.api.control import LogBatch, LogSelector
from manager.session import Session
from swarmpy.errors import Retry
from swarmpy.model.changes import Batch, Create, Group
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, SessionId, TaskId
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.states import Owner, TaskState
from swarmpy.pb import streams_pb2

NODE, TASK = NodeId("n9"), TaskId("t1")


async def add_task(cluster: Managers, host: Host) -> None:
    service, revision = make_service("web", replicas=0)
    await cluster.propose(
        host, Create(object=service), Create(object=revision), Create(object=make_node("n9"))
    )
    task = Task(
        id=TASK,
        service_id=ServiceId("web-s"),
        slot=1,
        node_id=NODE,
        revision_id=RevisionId("web-r1"),
        status=TaskStatus(state=TaskState.ASSIGNED),
    )
    group = Group(owner=Owner.ORCHESTRATOR, changes=(Create(object=task),))
    applied = await host.running.access.propose(Batch(groups=(group,), at=host.env.clock.now()))
    assert not applied.refused


async def lines_of(cluster: Managers, session: Session) -> AsyncIterator[streams_pb2.LogBatch]:
    """What the node sends once it was asked."""
    id_ = ""

    def is_asked() -> bool:
        nonlocal id_
        for message in session._notices:
            if message.WhichOneof("message") == "log_subscription":
                id_ = message.log_subscription.subscription_id
        return bool(id_)

    await until(is_asked)
    yield streams_pb2.LogBatch(subscription_id=id_)
    batch = streams_pb2.LogBatch(subscription_id=id_)
    batch.lines.add(data=b"hello\n", stream=2, task_id=TASK, node_id=NODE, timestamp=7)
    yield batch


async def read(host: Host, got: list[LogBatch]) -> None:
    async with aclosing(host.running.access.logs(LogSelector(service_id=ServiceId("web-s")))) as batches:
        got.extend([batch async for batch in batches])


async def test_logs_are_read_through_any_manager(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        await cluster.found()
        await cluster.join()
        leader = await cluster.settled()
        await add_task(cluster, leader)
        term = leader.running._leader.term
        assert term is not None
        for host in cluster.hosts:
            await host.running.access.read_barrier()
            session = Session(NODE, SessionId("s"))
            term.dispatcher._sessions[NODE] = session
            got: list[LogBatch] = []
            reading = asyncio.create_task(read(host, got))
            await term.log_hub.publish(NODE, lines_of(cluster, session))
            async with asyncio.timeout(10):
                await reading
            lines = [line for batch in got for line in batch.lines]
            assert [(line.data, line.stream, line.task_id, line.timestamp) for line in lines] == [
                (b"hello\n", 2, TASK, 7)
            ]
        del term.dispatcher._sessions[NODE]


async def test_a_reader_that_leaves_a_follower_leaves_the_leader_too(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        await cluster.found()
        await cluster.join()
        leader = await cluster.settled()
        await add_task(cluster, leader)
        follower = next(host for host in cluster.hosts if host is not leader)
        await follower.running.access.read_barrier()
        term = leader.running._leader.term
        assert term is not None
        session = Session(NODE, SessionId("s"))
        term.dispatcher._sessions[NODE] = session
        got: list[LogBatch] = []
        reading = asyncio.create_task(read(follower, got))
        await until(lambda: bool(term.log_hub._subscriptions))
        reading.cancel()
        await asyncio.wait([reading])
        await until(lambda: not term.log_hub._subscriptions)
        last = session._notices[-1]
        assert last.log_subscription.close
        del term.dispatcher._sessions[NODE]


async def test_without_a_leader_logs_end_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_module, "READ_BARRIER_TIMEOUT_S", 0.3)
    async with managers_in(tmp_path) as cluster:
        await cluster.found()
        second = await cluster.join()
        leader = await cluster.settled()
        await add_task(cluster, leader)
        await leader.stop()
        async with asyncio.timeout(10):
            with pytest.raises(Retry):
                await read(second, [])


async def test_a_leader_whose_loops_do_not_run_yet_is_waited_for(tmp_path: Path) -> None:
    async with managers_in(tmp_path) as cluster:
        host = await cluster.found()
        await cluster.settled()
        leader = host.running._leader
        term, leader.term = leader.term, None
        got: list[LogBatch] = []
        selector = LogSelector(task_id=TASK)

        async def follow() -> None:
            async with aclosing(host.running.access.logs(selector)) as batches:
                got.extend([batch async for batch in batches])

        reading = asyncio.create_task(follow())
        await asyncio.sleep(0.05)
        assert not reading.done()
        leader.term = term
        async with asyncio.timeout(10):
            await reading
        assert got == [], "an unknown task has no lines"
