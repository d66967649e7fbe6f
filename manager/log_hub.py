"""Logs on the leader: one subscription fans out to the agents concerned and their streams are merged.

A subscription is bounded in every way: batches wait in a short queue and a slow reader slows the agents
down; a node that does not open its stream in time, has no session, or goes away in the middle becomes a
warning and not a hang. A stream that is not followed ends when every node has said all it had; all end with
the term, since agents speak to the leader only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

from manager.dispatcher import Dispatcher
from manager.store.view import View
from swarmpy.errors import Unavailable
from swarmpy.limits import (
    LOG_OPEN_TIMEOUT_S,
    LOG_QUEUE_BATCHES_MAX,
    LOG_SUBSCRIPTIONS_MAX,
)
from swarmpy.model.ids import ID_BYTES, NodeId, TaskId, make_id
from swarmpy.model.states import TaskState
from swarmpy.pb import dispatcher_pb2, streams_pb2
from swarmpy.runtime import Env

TERM_OVER = "incomplete log stream: the leader of the swarm has changed, ask for the logs again"


@dataclass
class _Subscription:
    """One reader. ``asked``: nodes that may send; ``awaited``: those that have yet to open a stream;
    ``open``: streams that run; ``lost``: nodes whose stream broke, which the reader has yet to be told.
    """

    id: str
    queue: asyncio.Queue[streams_pb2.LogBatch | None] = field(
        default_factory=lambda: asyncio.Queue(maxsize=LOG_QUEUE_BATCHES_MAX)
    )
    asked: set[NodeId] = field(default_factory=set)
    awaited: set[NodeId] = field(default_factory=set)
    open: set[NodeId] = field(default_factory=set)
    lost: set[NodeId] = field(default_factory=set)
    is_over: bool = False
    """The term ended: there will be nothing more."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def put(self, batch: streams_pb2.LogBatch) -> bool:
        """Hand a batch to the reader, waiting for room; False if the reader has gone."""
        if not self.queue.full():
            self.queue.put_nowait(batch)
            return not self.closed.is_set()
        room = asyncio.create_task(self.queue.put(batch))
        gone = asyncio.create_task(self.closed.wait())
        try:
            await asyncio.wait([room, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            room.cancel()
            gone.cancel()
        return not self.closed.is_set()

    def wake(self) -> None:
        """Let the reader see that a stream has ended; one that has batches to read will see it anyway."""
        if not self.queue.full():
            self.queue.put_nowait(None)


class LogHub:
    """Connects readers of logs to the agents that have them, for one term of leadership."""

    def __init__(self, view: View, dispatcher: Dispatcher, env: Env) -> None:
        self._view = view
        self._dispatcher = dispatcher
        self._env = env
        self._subscriptions: dict[str, _Subscription] = {}
        self._is_over = False

    def close(self) -> None:
        """The term is over: every reader is told, and its stream ends."""
        self._is_over = True
        for subscription in self._subscriptions.values():
            subscription.is_over = True
            subscription.wake()

    async def subscribe(self, selector: dispatcher_pb2.LogSelector) -> AsyncGenerator[streams_pb2.LogBatch]:
        """Batches of lines of the selected tasks, warnings among them. Close it when done."""
        if self._is_over:
            raise Unavailable("the leader of the swarm is changing: try again")
        if len(self._subscriptions) >= LOG_SUBSCRIPTIONS_MAX:
            raise Unavailable("too many log streams are open on this manager; close some and try again")
        subscription = _Subscription(make_id(self._env.entropy.token_bytes(ID_BYTES)))
        self._subscriptions[subscription.id] = subscription
        nodes: list[NodeId] = []
        try:
            for node_id, task_ids in self._by_node(selector).items():
                if self._ask(subscription, node_id, task_ids, selector):
                    nodes.append(node_id)
                else:
                    yield streams_pb2.LogBatch(warnings=[self._absent(node_id, len(task_ids))])
            async for batch in self._merge(subscription):
                yield batch
        finally:
            subscription.closed.set()
            del self._subscriptions[subscription.id]
            for node_id in nodes:
                self._tell(
                    node_id, dispatcher_pb2.LogSubscription(subscription_id=subscription.id, close=True)
                )

    async def publish(self, node_id: NodeId, batches: AsyncIterator[streams_pb2.LogBatch]) -> int:
        """Take one agent's stream for a subscription; returns the lines taken."""
        first = await anext(batches, None)
        subscription = self._subscriptions.get(first.subscription_id) if first is not None else None
        if first is None or subscription is None or node_id not in subscription.asked:
            return 0  # the reader has gone, or wants nothing of this node
        subscription.awaited.discard(node_id)
        subscription.open.add(node_id)
        lines = len(first.lines)
        is_broken = True
        try:
            is_wanted = await subscription.put(first)
            while is_wanted and (batch := await anext(batches, None)) is not None:
                lines += len(batch.lines)
                is_wanted = await subscription.put(batch)
            is_broken = False
        finally:
            subscription.open.discard(node_id)
            if is_broken:
                subscription.lost.add(node_id)
            subscription.wake()
        return lines

    def _by_node(self, selector: dispatcher_pb2.LogSelector) -> dict[NodeId, list[str]]:
        nodes: dict[NodeId, list[str]] = {}
        for task_id in selector.task_ids:
            task = self._view.task(TaskId(task_id))
            if task is not None and task.node_id and task.status.state >= TaskState.ASSIGNED:
                nodes.setdefault(task.node_id, []).append(task_id)
        return nodes

    def _ask(
        self,
        subscription: _Subscription,
        node_id: NodeId,
        task_ids: list[str],
        selector: dispatcher_pb2.LogSelector,
    ) -> bool:
        if self._dispatcher.session_of(node_id) is None:
            return False
        own = dispatcher_pb2.LogSelector()
        own.CopyFrom(selector)
        del own.task_ids[:]
        own.task_ids.extend(task_ids)
        subscription.asked.add(node_id)
        subscription.awaited.add(node_id)
        self._tell(node_id, dispatcher_pb2.LogSubscription(subscription_id=subscription.id, selector=own))
        return True

    def _tell(self, node_id: NodeId, message: dispatcher_pb2.LogSubscription) -> None:
        session = self._dispatcher.session_of(node_id)
        if session is not None:
            session.notify(dispatcher_pb2.ManagerMessage(log_subscription=message))

    async def _merge(self, subscription: _Subscription) -> AsyncGenerator[streams_pb2.LogBatch]:
        deadline = self._env.clock.monotonic() + LOG_OPEN_TIMEOUT_S
        while subscription.awaited or subscription.open or not subscription.queue.empty():
            if subscription.is_over and subscription.queue.empty():
                break
            left_s = max(deadline - self._env.clock.monotonic(), 0.0) if subscription.awaited else None
            try:
                async with asyncio.timeout(left_s):
                    batch = await subscription.queue.get()
            except TimeoutError:
                batch = None
                subscription.lost |= subscription.awaited
                subscription.awaited.clear()
            if batch is not None:
                yield batch
            elif warnings := self._take_lost(subscription):
                yield streams_pb2.LogBatch(warnings=warnings)
        if subscription.is_over:
            yield streams_pb2.LogBatch(warnings=[TERM_OVER])
        elif warnings := self._take_lost(subscription):
            yield streams_pb2.LogBatch(warnings=warnings)

    def _take_lost(self, subscription: _Subscription) -> list[str]:
        lost, subscription.lost = sorted(subscription.lost), set()
        return [self._absent(node_id, 0) for node_id in lost]

    def _absent(self, node_id: NodeId, tasks: int) -> str:
        node = self._view.node(node_id)
        name = node.description.hostname if node is not None and node.description.hostname else node_id
        what = f"the logs of {tasks} of its tasks" if tasks else "its logs"
        return f"incomplete log stream: node {name} is not available, {what} are missing"
