"""Logs of a service: lines by time, within bounds, and tasks that come while they are followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from agent_rig import in_virtual_time, loop_env
from clusters import apply, make_service, store_with
from hypothesis import given
from hypothesis import strategies as st

from manager.api.control import LogBatch, LogLine
from manager.log_follow import LogFollower
from manager.log_hub import TERM_OVER
from manager.log_merge import LogMerge, merged
from manager.store.store import Store
from swarmpy.errors import Unavailable
from swarmpy.limits import LOG_MERGE_LINES_MAX, LOG_MERGE_S
from swarmpy.model.changes import Create, Delete, Report
from swarmpy.model.ids import NodeId, RevisionId, ServiceId, TaskId, Timestamp
from swarmpy.model.objects import Kind, Task, TaskStatus
from swarmpy.model.states import Owner, TaskState
from swarmpy.pb import dispatcher_pb2, streams_pb2

WEB = ServiceId("web-s")
DEADLINE_S = 30.0


def line(at: int, task: str = "t1") -> LogLine:
    return LogLine(task_id=TaskId(task), node_id=NodeId("n"), timestamp=Timestamp(at), data=b"%d" % at)


@given(st.lists(st.integers(0, 1000), max_size=50))
def test_what_arrives_at_once_comes_out_by_time(times: list[int]) -> None:
    merge = LogMerge()
    merge.add(tuple(line(at) for at in times), 0.0)
    assert merge.take(LOG_MERGE_S / 2) == ()
    assert [each.timestamp for each in merge.take(LOG_MERGE_S)] == sorted(times)
    assert merge.wait_s(0.0) is None


def test_a_late_line_waits_for_nobody_who_has_gone() -> None:
    merge = LogMerge()
    merge.add((line(5),), 0.0)
    assert [each.timestamp for each in merge.take(LOG_MERGE_S)] == [5]
    merge.add((line(7), line(1)), 1.0)
    assert merge.wait_s(1.0) == pytest.approx(LOG_MERGE_S)
    assert [each.timestamp for each in merge.rest()] == [1, 7]


def test_no_more_lines_wait_than_may() -> None:
    merge = LogMerge()
    merge.add(tuple(line(at) for at in range(LOG_MERGE_LINES_MAX + 10)), 0.0)
    assert [each.timestamp for each in merge.take(0.0)] == list(range(10))


@in_virtual_time
async def test_warnings_are_not_held_back() -> None:
    async def batches() -> AsyncGenerator[LogBatch]:
        yield LogBatch(lines=(line(2), line(3)))
        yield LogBatch(warnings=("a node is away",))
        yield LogBatch(lines=(line(1),))

    got = [batch async for batch in merged(batches(), loop_env().clock)]
    assert [batch.warnings for batch in got if batch.warnings] == [("a node is away",)]
    assert [each.timestamp for batch in got for each in batch.lines] == [1, 2, 3]


class Cluster:
    """A service's tasks; each that is asked for says its name once, and goes on until it is ``ended``."""

    def __init__(self) -> None:
        self.store: Store = store_with(nodes=1, services=(make_service("web"),))
        self.asked: list[tuple[list[str], int]] = []
        self.ended = asyncio.Event()
        self.is_term_over = False

    def add(self, name: str) -> None:
        task = Task(
            id=TaskId(name),
            service_id=WEB,
            slot=1,
            node_id=NodeId("node-1"),
            revision_id=RevisionId("web-r1"),
            status=TaskStatus(state=TaskState.ASSIGNED),
        )
        apply(self.store, Create(object=task), owner=Owner.ORCHESTRATOR)

    def report(self, name: str, state: TaskState) -> None:
        status = TaskStatus(state=state, report=1)
        apply(self.store, Report(task_id=TaskId(name), status=status), owner=Owner.AGENT)

    async def subscribe(self, selector: dispatcher_pb2.LogSelector) -> AsyncGenerator[streams_pb2.LogBatch]:
        self.asked.append((list(selector.task_ids), selector.tail))
        for id_ in selector.task_ids:
            yield streams_pb2.LogBatch(lines=[streams_pb2.LogLine(task_id=id_)])
        await self.ended.wait()
        if self.is_term_over:
            yield streams_pb2.LogBatch(warnings=[TERM_OVER])


async def take(batches: AsyncGenerator[streams_pb2.LogBatch], count: int) -> list[str]:
    async with asyncio.timeout(DEADLINE_S):
        return [(await anext(batches)).lines[0].task_id for _ in range(count)]


@in_virtual_time
async def test_followers_hear_of_later_tasks_until_the_service_is_gone() -> None:
    cluster = Cluster()
    cluster.add("t1")
    cluster.report("t1", TaskState.RUNNING)
    follower = LogFollower(cluster.store, WEB, cluster.subscribe)
    async with aclosing(follower.run(dispatcher_pb2.LogSelector(follow=True, tail=5))) as batches:
        assert await take(batches, 1) == ["t1"]
        for name in ("t2", "t3"):
            cluster.add(name)
            await asyncio.sleep(1)
            cluster.report(name, TaskState.RUNNING)
        assert sorted(await take(batches, 2)) == ["t2", "t3"]
        assert cluster.asked == [(["t1"], 5), (["t2"], -1), (["t3"], -1)]  # and none before it was ready
        assert all(tail == -1 for _, tail in cluster.asked[1:])
        apply(cluster.store, Delete(kind=Kind.SERVICE, id=WEB), owner=Owner.API)
        cluster.ended.set()
        async with asyncio.timeout(DEADLINE_S):
            assert [batch async for batch in batches] == []


@in_virtual_time
async def test_followers_end_with_the_term() -> None:
    cluster = Cluster()
    cluster.is_term_over = True
    cluster.add("t1")
    cluster.report("t1", TaskState.RUNNING)
    follower = LogFollower(cluster.store, WEB, cluster.subscribe)
    async with aclosing(follower.run(dispatcher_pb2.LogSelector(follow=True, tail=-1))) as batches:
        assert await take(batches, 1) == ["t1"]
        cluster.ended.set()
        with pytest.raises(Unavailable, match="the leader of the swarm has changed"):
            await take(batches, 1)
