"""Watches: batches in order, closed by Commit; overflow and restore yield Resync."""

from __future__ import annotations

import asyncio

import pytest
from store_values import accept, batch, creates, group, node, refusal_of, small_cluster, store_with, task

from manager.store.events import Commit, Event, Resync
from manager.store.store import Store
from swarmpy.model.changes import Delete, Order
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Kind
from swarmpy.model.states import TaskState


def test_a_batch_comes_as_its_events_and_a_commit() -> None:
    store = small_cluster(task("t1"))
    watch = store.watch()
    old = store.task(TaskId("t1"))
    order = Order(task_id=TaskId("t1"), desired_state=TaskState.SHUTDOWN)
    accept(store, group(order), creates(node("n2")), group(Delete(kind=Kind.TASK, id="t1")))
    first, second, third, commit = watch.take()
    assert isinstance(first, Event)
    assert (first.kind, first.old) == (Kind.TASK, old)
    assert second == Event(Kind.NODE, None, store.node(NodeId("n2")))
    assert third == Event(Kind.TASK, first.new, None)
    assert commit == Commit(store.version)
    assert watch.take() == []


def test_refused_groups_and_wishes_that_change_nothing_are_not_told() -> None:
    store = small_cluster(task("t1"))
    watch = store.watch()
    assert refusal_of(store, creates(node("n2"), node("n1")))
    assert watch.take() == []
    accept(store, group(Order(task_id=TaskId("t1"), desired_state=TaskState.READY)))
    assert watch.take() == [Commit(store.version)]


def test_a_slow_watcher_is_told_to_resync_and_goes_on() -> None:
    store = Store()
    slow, quick = store.watch(limit=4), store.watch(limit=100)
    for number in range(3):
        accept(store, creates(node(f"n{number}")))
    assert slow.take() == [Resync(), Commit(3)]
    assert len(quick.take()) == 6
    accept(store, creates(node("n3")))
    assert slow.take() == [Event(Kind.NODE, None, store.node(NodeId("n3"))), Commit(4)]


def test_a_watcher_that_never_reads_stays_bounded() -> None:
    store = Store()
    watch = store.watch(limit=4)
    for number in range(50):
        accept(store, creates(*(node(f"n{number}-{part}") for part in range(5))))
        assert len(watch._queue) <= 4
    assert watch.take() == [Resync(), Commit(store.version)]


def test_a_restore_is_told_and_a_failed_one_is_not() -> None:
    store, source = Store(), store_with(node())
    watch = store.watch()
    accept(store, creates(node("n7")))
    store.restore(source.encode(source.freeze()))
    assert watch.take() == [Resync(), Commit(1)]


async def test_an_iteration_waits_for_what_comes() -> None:
    store = Store()
    seen: list[object] = []

    async def read() -> None:
        with store.watch() as watch:
            ready.set()
            async for notice in watch:
                seen.append(notice)
                if isinstance(notice, Commit) and notice.version == 2:
                    return

    ready = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        await ready.wait()
        accept(store, creates(node("n1")))
        await asyncio.sleep(0)
        accept(store, creates(node("n2")))
    assert [type(notice) for notice in seen] == [Event, Commit, Event, Commit]
    assert store._watches == []


async def test_closing_ends_an_iteration() -> None:
    store = Store()
    watch = store.watch()
    accept(store, creates(node("n1")))
    waiting = asyncio.ensure_future(anext(watch))
    assert isinstance(await waiting, Event)
    watch.close()
    watch.close()
    accept(store, creates(node("n2")))
    assert [type(notice) async for notice in watch] == [Commit]
    with pytest.raises(StopAsyncIteration):
        await anext(watch)


def test_a_batch_without_groups_is_not_told() -> None:
    store = Store()
    watch = store.watch()
    store.apply_batch(batch(epoch=5))
    assert watch.take() == []
