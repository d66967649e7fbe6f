"""Following a service's logs: its tasks of now, and those that come later, until the service is gone.

One subscription for the tasks that are there, and one for each lot of later ones; a subscription ends with
its tasks. The queue between them and the reader is bounded, so a slow reader slows the nodes down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from manager.log_hub import TERM_OVER
from manager.store.store import Store
from manager.store.watch import Watch
from swarmpy.errors import SwarmError, Unavailable
from swarmpy.limits import LOG_QUEUE_BATCHES_MAX
from swarmpy.model.ids import ServiceId
from swarmpy.model.states import TaskState
from swarmpy.pb import dispatcher_pb2, streams_pb2

Subscribe = Callable[[dispatcher_pb2.LogSelector], AsyncGenerator[streams_pb2.LogBatch]]
_Item = streams_pb2.LogBatch | SwarmError | None


class LogFollower:
    """``subscribe`` gives the lines of tasks that are named, and ends with the tasks."""

    def __init__(self, store: Store, service_id: ServiceId, subscribe: Subscribe) -> None:
        self._store = store
        self._service_id = service_id
        self._subscribe = subscribe
        self._queue: asyncio.Queue[_Item] = asyncio.Queue(LOG_QUEUE_BATCHES_MAX)
        self._known: set[str] = set()

    async def run(self, selector: dispatcher_pb2.LogSelector) -> AsyncGenerator[streams_pb2.LogBatch]:
        """Close it when done. ``selector`` without tasks says the rest; its tail is of the tasks of now."""
        watch = self._store.watch()
        feeding = asyncio.create_task(self._feed(selector, watch))
        try:
            while (item := await self._queue.get()) is not None:
                if isinstance(item, SwarmError):
                    raise item
                yield item
        finally:
            watch.close()
            feeding.cancel()
            await asyncio.wait([feeding])

    async def _feed(self, selector: dispatcher_pb2.LogSelector, watch: Watch) -> None:
        """The item that says that there will be nothing more comes last, whatever went wrong."""
        try:
            async with asyncio.TaskGroup() as readers:
                wanted = selector
                while self._store.service(self._service_id) is not None:
                    if fresh := self._fresh():
                        asked = dispatcher_pb2.LogSelector()
                        asked.CopyFrom(wanted)
                        asked.task_ids.extend(fresh)
                        readers.create_task(self._read(asked))
                    wanted = _whole(selector)
                    await watch.wait()
                    watch.take()
        except* SwarmError as group:
            await self._queue.put(_first(group))
        else:
            await self._queue.put(None)

    def _fresh(self) -> list[str]:
        """The tasks that were not asked for yet. A node has a log from when the task is ready: asked
        earlier it would say that there is none, and that would be all."""
        found = [
            task.id
            for task in self._store.tasks_of_service(self._service_id)
            if task.status.state >= TaskState.READY and task.id not in self._known
        ]
        self._known.update(found)
        return sorted(found)

    async def _read(self, selector: dispatcher_pb2.LogSelector) -> None:
        async with aclosing(self._subscribe(selector)) as batches:
            async for batch in batches:
                if TERM_OVER in batch.warnings:
                    raise Unavailable(TERM_OVER)  # all subscriptions end with it, and so does this
                await self._queue.put(batch)


def _whole(selector: dispatcher_pb2.LogSelector) -> dispatcher_pb2.LogSelector:
    """Of a task that comes later, every line is new."""
    later = dispatcher_pb2.LogSelector()
    later.CopyFrom(selector)
    later.tail = -1
    return later


def _first(group: BaseExceptionGroup[SwarmError]) -> SwarmError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SwarmError)
    return error
