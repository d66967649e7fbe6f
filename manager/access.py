"""``Access``: the cluster as this manager's API server sees it. Any manager serves reads and writes.

Writes go through raft from wherever they come in; logs come from the leader, since agents have their sessions
with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from manager.api.control import LogBatch, LogLine, LogSelector
from manager.backup import backup_of
from manager.history import History
from manager.leader import Leader
from manager.log_follow import LogFollower
from manager.proposer import Proposer
from manager.raft.members import node_of
from manager.raft.proposer import RaftLog, RaftStatus
from manager.servicers import leader_address
from manager.store.store import Store
from manager.store.view import View
from manager.store.watch import Watch
from manager.stream_access import Dial, NodeStreams
from swarmpy import rpc
from swarmpy.errors import NoLeader, NotLeader, Retry
from swarmpy.limits import READ_BARRIER_TIMEOUT_S
from swarmpy.model.changes import Applied, Batch
from swarmpy.model.ids import NodeId, ServiceId, TaskId, Timestamp
from swarmpy.model.states import TaskState
from swarmpy.pb import dispatcher_pb2, streams_pb2, streams_pb2_grpc


class Access:
    """``ClusterAccess`` of an active manager."""

    def __init__(
        self,
        store: Store,
        proposer: Proposer,
        raft: RaftLog,
        leader: Leader,
        *,
        dial: Dial,
        history: History,
    ) -> None:
        self._store = store
        self._proposer = proposer
        self._raft = raft
        self._leader = leader
        self._dial = dial
        self.streams = NodeStreams(raft, leader, dial=dial)
        self.history = history

    @property
    def view(self) -> View:
        return self._store

    async def propose(self, batch: Batch) -> Applied:
        return await self._proposer.propose(batch)

    async def read_barrier(self) -> None:
        await self._raft.read_barrier()

    def watch(self) -> Watch:
        return self._store.watch()

    def raft_status(self) -> RaftStatus:
        return self._raft.status()

    def slices(self) -> Iterator[bytes]:
        return self._store.encode(self._store.freeze())

    def backup(self, now: Timestamp) -> Iterator[bytes]:
        status = self._raft.status()
        node_id = NodeId(node_of(status.raft_id))
        return backup_of(self._store, node_id=node_id, now=now, term=status.term)

    async def logs(self, selector: LogSelector) -> AsyncGenerator[LogBatch]:
        """Lines of the selected service's or task's containers, as agents send them."""
        wanted = dispatcher_pb2.LogSelector(
            follow=selector.is_following,
            stdout=selector.stdout,
            stderr=selector.stderr,
            since=selector.since,
            until=selector.until,
            tail=selector.tail,
        )
        if selector.is_following and not selector.task_id:
            chosen = LogFollower(self._store, selector.service_id, self._batches).run(wanted)
        else:
            wanted.task_ids.extend(self._task_ids(selector))
            chosen = self._batches(wanted)
        async with aclosing(chosen) as batches:
            async for batch in batches:
                yield _log_batch(batch)

    def _task_ids(self, selector: LogSelector) -> list[str]:
        if selector.task_id:
            return [selector.task_id]
        tasks = self._store.tasks_of_service(selector.service_id)
        return sorted(task.id for task in tasks if task.status.state >= TaskState.ASSIGNED)

    async def _batches(self, selector: dispatcher_pb2.LogSelector) -> AsyncGenerator[streams_pb2.LogBatch]:
        """From the leader, which may be this manager, and may have to be waited for a moment."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READ_BARRIER_TIMEOUT_S
        while True:
            is_begun = False
            try:
                async with aclosing(self._of_leader(selector)) as batches:
                    async for batch in batches:
                        is_begun = True
                        yield batch
            except Retry as error:
                if is_begun or loop.time() >= deadline:
                    if isinstance(error, NotLeader):
                        raise NoLeader from error
                    raise
                await asyncio.sleep(error.delay_s)
            else:
                return

    async def _of_leader(self, selector: dispatcher_pb2.LogSelector) -> AsyncGenerator[streams_pb2.LogBatch]:
        term = self._leader.term
        if term is not None:
            async with aclosing(term.log_hub.subscribe(selector)) as local:
                async for batch in local:
                    yield batch
            return
        address = leader_address(self._raft)
        if not address:
            raise NoLeader()
        with rpc.translate_errors():
            async with self._dial(address) as channel:
                stub: streams_pb2_grpc.StreamsAsyncStub = streams_pb2_grpc.StreamsStub(channel)
                async for batch in stub.SubscribeLogs(selector):
                    yield batch


def _log_batch(batch: streams_pb2.LogBatch) -> LogBatch:
    lines = tuple(
        LogLine(
            task_id=TaskId(line.task_id),
            node_id=NodeId(line.node_id),
            service_id=ServiceId(line.service_id),
            timestamp=Timestamp(line.timestamp),
            stream=line.stream,
            data=line.data,
        )
        for line in batch.lines
    )
    return LogBatch(lines=lines, warnings=tuple(batch.warnings))
