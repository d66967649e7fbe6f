"""Merging agents' log streams for readers: ends, absences, and bounds on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import cast

import pytest
from agent_rig import in_virtual_time, loop_env
from clusters import apply, make_service, store_with

from manager.dispatcher import Dispatcher
from manager.log_hub import LogHub
from swarmpy.errors import Unavailable
from swarmpy.limits import LOG_OPEN_TIMEOUT_S, LOG_QUEUE_BATCHES_MAX, LOG_SUBSCRIPTIONS_MAX
from swarmpy.model.changes import Create
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.states import Owner, TaskState
from swarmpy.pb import dispatcher_pb2, streams_pb2

DEADLINE_S = 60.0
N1, N2 = NodeId("node-1"), NodeId("node-2")


class FakeSession:
    def __init__(self) -> None:
        self.told: list[dispatcher_pb2.LogSubscription] = []

    def notify(self, message: dispatcher_pb2.ManagerMessage) -> None:
        self.told.append(message.log_subscription)


class Rig:
    """Tasks ``t1`` and ``t2`` on two nodes, both with a session."""

    def __init__(self) -> None:
        store = store_with(nodes=2, services=(make_service("web"),))
        for number, node_id in ((1, N1), (2, N2)):
            task = Task(
                id=TaskId(f"t{number}"),
                service_id=ServiceId("web-s"),
                slot=number,
                node_id=node_id,
                revision_id=RevisionId("web-r1"),
                status=TaskStatus(state=TaskState.ASSIGNED),
            )
            apply(store, Create(object=task), owner=Owner.ORCHESTRATOR)
        self.sessions = {N1: FakeSession(), N2: FakeSession()}
        self.hub = LogHub(store, cast("Dispatcher", self), loop_env())
        self.got: list[streams_pb2.LogBatch] = []

    def session_of(self, node_id: NodeId) -> FakeSession | None:
        return self.sessions.get(node_id)

    async def read(self) -> None:
        selector = dispatcher_pb2.LogSelector(task_ids=["t1", "t2", "none"])
        async with aclosing(self.hub.subscribe(selector)) as batches:
            async for batch in batches:
                self.got.append(batch)

    async def asked(self) -> str:
        """The id of the subscription, once the nodes have been asked."""
        async with asyncio.timeout(DEADLINE_S):
            while not any(session.told for session in self.sessions.values()):
                await asyncio.sleep(0.01)
        return next(session.told[0].subscription_id for session in self.sessions.values() if session.told)

    def lines(self) -> list[bytes]:
        return sorted(line.data for batch in self.got for line in batch.lines)

    def warnings(self) -> list[str]:
        return [warning for batch in self.got for warning in batch.warnings]


async def batches(
    id_: str, *lines: bytes, then: asyncio.Event | None = None
) -> AsyncIterator[streams_pb2.LogBatch]:
    """What an agent sends: first its name for the subscription, then a line each."""
    yield streams_pb2.LogBatch(subscription_id=id_)
    for line in lines:
        batch = streams_pb2.LogBatch(subscription_id=id_)
        batch.lines.add(data=line, stream=1)
        yield batch
    if then is not None:
        await then.wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@in_virtual_time
async def test_streams_of_all_nodes_are_merged_and_end_with_the_last() -> None:
    rig = Rig()
    reading = asyncio.create_task(rig.read())
    id_ = await rig.asked()
    assert [list(session.told[0].selector.task_ids) for session in rig.sessions.values()] == [["t1"], ["t2"]]
    assert await rig.hub.publish(N1, batches(id_, b"a", b"b")) == 2
    assert not reading.done()
    assert await rig.hub.publish(N2, batches(id_, b"c")) == 1
    await reading
    assert (rig.lines(), rig.warnings()) == ([b"a", b"b", b"c"], [])
    assert all(session.told[-1].close for session in rig.sessions.values())


@in_virtual_time
async def test_a_node_without_a_session_is_named_and_the_others_are_read() -> None:
    rig = Rig()
    del rig.sessions[N2]
    reading = asyncio.create_task(rig.read())
    id_ = await rig.asked()
    await rig.hub.publish(N1, batches(id_, b"a"))
    await reading
    assert rig.lines() == [b"a"]
    assert len(rig.warnings()) == 1
    assert "node-2 is not available" in rig.warnings()[0]


@in_virtual_time
async def test_a_node_that_opens_no_stream_is_named_after_a_while() -> None:
    rig = Rig()
    began = asyncio.get_running_loop().time()
    reading = asyncio.create_task(rig.read())
    id_ = await rig.asked()
    await rig.hub.publish(N1, batches(id_, b"a"))
    await reading
    assert asyncio.get_running_loop().time() - began == pytest.approx(LOG_OPEN_TIMEOUT_S, abs=0.1)
    assert ["node-2" in warning for warning in rig.warnings()] == [True]


@in_virtual_time
async def test_a_node_that_vanishes_in_the_middle_is_named() -> None:
    rig = Rig()
    reading = asyncio.create_task(rig.read())
    id_ = await rig.asked()
    stays = asyncio.create_task(rig.hub.publish(N1, batches(id_, b"a", then=asyncio.Event())))
    goes = asyncio.create_task(rig.hub.publish(N2, batches(id_, b"b", then=asyncio.Event())))
    await until(lambda: rig.lines() == [b"a", b"b"])
    goes.cancel()
    await until(lambda: bool(rig.warnings()))
    assert "node-2" in rig.warnings()[0]
    assert not reading.done()
    reading.cancel()
    stays.cancel()
    await asyncio.wait([reading, stays])


@in_virtual_time
async def test_a_reader_that_leaves_frees_the_agent_that_waits_for_it() -> None:
    rig = Rig()
    selector = dispatcher_pb2.LogSelector(task_ids=["t1"])
    reader = rig.hub.subscribe(selector)
    first = asyncio.create_task(anext(reader))
    id_ = await rig.asked()
    lines = [b"x"] * (LOG_QUEUE_BATCHES_MAX * 3)
    publishing = asyncio.create_task(rig.hub.publish(N1, batches(id_, *lines)))
    await first
    await asyncio.sleep(1.0)
    assert not publishing.done(), "the slow reader slows the agent down"
    await reader.aclose()
    taken = await publishing
    assert taken <= LOG_QUEUE_BATCHES_MAX + 2
    assert rig.sessions[N1].told[-1].close


@in_virtual_time
async def test_a_slow_reader_gets_everything_in_the_end() -> None:
    rig = Rig()
    selector = dispatcher_pb2.LogSelector(task_ids=["t1"])
    count = LOG_QUEUE_BATCHES_MAX * 3

    async def read_slowly() -> int:
        lines = 0
        async with aclosing(rig.hub.subscribe(selector)) as found:
            async for batch in found:
                lines += len(batch.lines)
                await asyncio.sleep(0.01)
        return lines

    reading = asyncio.create_task(read_slowly())
    id_ = await rig.asked()
    assert await rig.hub.publish(N1, batches(id_, *[b"x"] * count)) == count
    assert await reading == count


@in_virtual_time
async def test_a_node_that_was_not_asked_cannot_put_lines_into_others_logs() -> None:
    rig = Rig()
    del rig.sessions[N2]
    reading = asyncio.create_task(rig.read())
    id_ = await rig.asked()
    assert await rig.hub.publish(N2, batches(id_, b"forged")) == 0
    await rig.hub.publish(N1, batches(id_, b"a"))
    await reading
    assert rig.lines() == [b"a"]


@in_virtual_time
async def test_an_unknown_subscription_takes_nothing() -> None:
    assert await Rig().hub.publish(N1, batches("nobody", b"a")) == 0


@in_virtual_time
async def test_the_end_of_the_term_ends_every_reader_and_says_why() -> None:
    rig = Rig()
    reading = asyncio.create_task(rig.read())
    id_ = await rig.asked()
    publishing = asyncio.create_task(rig.hub.publish(N1, batches(id_, b"a", then=asyncio.Event())))
    await until(lambda: rig.lines() == [b"a"])
    rig.hub.close()
    await reading
    assert "leader of the swarm has changed" in rig.warnings()[-1]
    with pytest.raises(Unavailable):
        await anext(rig.hub.subscribe(dispatcher_pb2.LogSelector(task_ids=["t1"])))
    publishing.cancel()
    await asyncio.wait([publishing])


@in_virtual_time
async def test_readers_are_bounded() -> None:
    rig = Rig()
    readers = [asyncio.create_task(rig.read()) for _ in range(LOG_SUBSCRIPTIONS_MAX)]
    await asyncio.sleep(0.01)
    with pytest.raises(Unavailable, match="too many log streams"):
        await rig.read()
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    assert rig.hub._subscriptions == {}
