"""Sends task logs to the manager that asked for them, over streams that the agent opens.

One stream per subscription. Lines are gathered into batches; the stream's flow control slows the readers
down, so that memory is bounded by a few batches however slow the reader at the far end is. A subscription
ends when all was sent (unless it follows), when the manager wants no more, or with the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import structlog

from agent.executor.base import Executor, LogLine, LogQuery
from agent.link import Link
from swarmpy.errors import SwarmError
from swarmpy.limits import (
    LOG_BATCH_BYTES_MAX,
    LOG_BATCH_LINES_MAX,
    LOG_BATCH_S,
    LOG_SUBSCRIPTIONS_MAX,
    LOG_TASKS_PARALLEL_MAX,
)
from swarmpy.model.ids import NodeId, ServiceId, TaskId, Timestamp
from swarmpy.pb import dispatcher_pb2, streams_pb2

log = structlog.get_logger(__name__)

_Queue = asyncio.Queue[tuple[TaskId, LogLine] | None]


class LogPublisher:
    """``service_of`` says which service a task is of; None for a task that is not this node's."""

    def __init__(
        self,
        link: Link,
        executor: Executor,
        *,
        node_id: NodeId,
        service_of: Callable[[TaskId], ServiceId | None],
    ) -> None:
        self._link = link
        self._executor = executor
        self._node_id = node_id
        self._service_of = service_of
        self._open: dict[str, asyncio.Task[None]] = {}

    def take(self, request: dispatcher_pb2.LogSubscription, address: str, tasks: asyncio.TaskGroup) -> None:
        """Open or close a subscription of the manager at ``address``; its work runs in ``tasks``."""
        id_ = request.subscription_id
        if request.close:
            if (running := self._open.get(id_)) is not None:
                running.cancel()
            return
        if id_ in self._open:
            return
        if len(self._open) >= LOG_SUBSCRIPTIONS_MAX:
            log.warning("log_subscription_refused", subscription_id=id_, open=len(self._open))
            return
        running = tasks.create_task(self._serve(id_, request.selector, address))
        self._open[id_] = running
        running.add_done_callback(lambda _: self._open.pop(id_, None))

    async def _serve(self, id_: str, selector: dispatcher_pb2.LogSelector, address: str) -> None:
        try:
            await self._publish(id_, selector, address)
        except SwarmError as error:
            log.info("log_stream_ended", subscription_id=id_, reason=str(error))
        except Exception as error:  # the top of every stream: one that broke must not end the others
            log.error("log_stream_broke", subscription_id=id_, exc_info=error)

    async def _publish(self, id_: str, selector: dispatcher_pb2.LogSelector, address: str) -> None:
        queue: _Queue = asyncio.Queue(LOG_BATCH_LINES_MAX)
        reading = asyncio.create_task(self._read_all(selector, queue))
        try:
            await self._link.publish_logs(address, self._batches(id_, queue))
        finally:
            reading.cancel()
            results = await asyncio.gather(reading, return_exceptions=True)
        if isinstance(results[0], Exception):
            raise results[0]

    async def _read_all(self, selector: dispatcher_pb2.LogSelector, queue: _Queue) -> None:
        """Put all lines into the queue, and None at the end, also if reading fails."""
        query = LogQuery(
            since=Timestamp(selector.since),
            until=Timestamp(selector.until),
            tail=selector.tail,
            is_following=selector.follow,
            stdout=selector.stdout,
            stderr=selector.stderr,
        )
        # Logs that are followed never end, so a bound on them would starve the rest.
        bound = asyncio.Semaphore(len(selector.task_ids) + 1 if selector.follow else LOG_TASKS_PARALLEL_MAX)
        try:
            async with asyncio.TaskGroup() as tasks:
                for task_id in selector.task_ids:
                    tasks.create_task(self._read(TaskId(task_id), query, queue, bound))
        except ExceptionGroup:
            await queue.put(None)
            raise
        await queue.put(None)

    async def _read(self, task_id: TaskId, query: LogQuery, queue: _Queue, bound: asyncio.Semaphore) -> None:
        if self._service_of(task_id) is None:
            return
        async with bound:
            async for line in self._executor.logs(task_id, query):
                await queue.put((task_id, line))

    async def _batches(self, id_: str, queue: _Queue) -> AsyncIterator[streams_pb2.LogBatch]:
        # The first batch names the subscription, so that the manager knows that we are there.
        yield streams_pb2.LogBatch(subscription_id=id_)
        is_open = True
        while is_open:
            batch = streams_pb2.LogBatch(subscription_id=id_)
            is_open = await self._fill(batch, queue)
            if batch.lines:
                yield batch

    async def _fill(self, batch: streams_pb2.LogBatch, queue: _Queue) -> bool:
        """Wait for a line, then take what comes within moments; False at the end of all lines."""
        item = await queue.get()
        size = 0
        try:
            async with asyncio.timeout(LOG_BATCH_S):
                while item is not None:
                    size += self._add(batch, *item)
                    if len(batch.lines) >= LOG_BATCH_LINES_MAX or size >= LOG_BATCH_BYTES_MAX:
                        return True
                    item = await queue.get()
        except TimeoutError:
            return True
        return False

    def _add(self, batch: streams_pb2.LogBatch, task_id: TaskId, line: LogLine) -> int:
        batch.lines.add(
            task_id=task_id,
            node_id=self._node_id,
            service_id=self._service_of(task_id) or "",
            timestamp=line.timestamp,
            stream=line.stream,
            data=line.data,
        )
        return len(line.data)
