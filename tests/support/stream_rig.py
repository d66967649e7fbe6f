"""Streams to one node without a network: hub and access, the agent's server, an executor that pretends.

The node is cut off by ``cut``, and the term ended by ``hub.close``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import cast

from agent_rig import loop_env
from clusters import store_with

from agent.executor.base import ImageConfig, Launch, Sandbox
from agent.executor.fake import FakeExecutor, FakeMachine
from agent.inside import Inside
from agent.link import AttendedStream, Link
from agent.streams import StreamServer, Talk
from manager.dispatcher import Dispatcher
from manager.leader import Leader
from manager.raft.proposer import RaftLog
from manager.stream_access import NodeStreams
from manager.streams import StreamHub
from swarmpy.errors import OutcomeUnknown
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.specs import ContainerSpec
from swarmpy.pb import dispatcher_pb2, streams_pb2

NODE = NodeId("node-1")
TASK = TaskId("t1")


class _Attended:
    """One stream, agent to hub, with room for one part each way: who sends waits for who takes."""

    def __init__(self, hub: StreamHub, node_id: NodeId, stream_id: str) -> None:
        self._up: asyncio.Queue[streams_pb2.StreamPart | None] = asyncio.Queue(1)
        self._down: asyncio.Queue[streams_pb2.StreamPart] = asyncio.Queue(1)
        self.serving = asyncio.create_task(hub.attend(node_id, stream_id, self._parts(), self._down.put))

    async def _parts(self) -> AsyncIterator[streams_pb2.StreamPart]:
        while (part := await self._up.get()) is not None:
            yield part

    async def send(self, part: streams_pb2.StreamPart) -> None:
        sending = asyncio.create_task(self._up.put(part))
        await asyncio.wait([sending, self.serving], return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            sending.cancel()
            raise OutcomeUnknown("the manager has ended the stream")

    async def receive(self) -> streams_pb2.StreamPart | None:
        taking = asyncio.create_task(self._down.get())
        try:
            await asyncio.wait([taking, self.serving], return_when=asyncio.FIRST_COMPLETED)
            return taking.result() if taking.done() else None
        finally:
            taking.cancel()

    async def finish(self) -> None:
        await self.wait_ended()

    async def wait_ended(self) -> None:
        await asyncio.wait([self.serving])

    async def close(self) -> None:
        self.serving.cancel()
        await asyncio.wait([self.serving])


class StreamRig:
    """A node with a session, and on it the running task ``t1``, which is open for input."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        *,
        node_id: NodeId = NODE,
        talks: Mapping[str, Talk] = MappingProxyType({}),
    ) -> None:
        self._tasks = tasks
        self.node_id = node_id
        env = loop_env()
        self.has_session = True
        self.session: StreamRig | SimpleNamespace = self
        self.answers = True
        self.attended: list[_Attended] = []
        self.hub = StreamHub(store_with(nodes=1), cast("Dispatcher", self), env)
        leader = SimpleNamespace(term=SimpleNamespace(streams=self.hub))
        self.streams = NodeStreams(cast("RaftLog", None), cast("Leader", leader), dial=lambda _: None)  # type: ignore[arg-type,return-value]
        self.machine = FakeMachine(clock=env.clock)
        self.executor = FakeExecutor(self.machine)
        self.services: dict[TaskId, ServiceId] = {TASK: ServiceId("web")}
        inside = Inside(self.executor, env.clock, service_of=self.services.get)
        self.server = StreamServer(cast("Link", self), calls=inside.calls, talks={**inside.talks, **talks})

    async def start(self) -> None:
        spec = ContainerSpec(image="host", command=("sleep", "1000"), open_stdin=True)
        launch = Launch(
            task_id=TASK,
            name="web.1",
            spec=spec,
            image=ImageConfig(reference="host"),
            sandbox=Sandbox(netns=""),
        )
        await self.executor.create(launch)
        await self.executor.start(TASK)

    def session_of(self, node_id: NodeId) -> StreamRig | SimpleNamespace | None:
        return self.session if self.has_session and node_id == self.node_id else None

    def renew_session(self) -> None:
        """As a node does whose certificate is new."""
        self.has_session, self.answers = True, True
        self.session = SimpleNamespace(notify=self.notify)

    def notify(self, message: dispatcher_pb2.ManagerMessage) -> None:
        if self.answers:
            self.server.take(message.stream_request, "manager:1", self._tasks)

    async def attend(self, address: str, stream_id: str) -> AttendedStream:
        stream = _Attended(self.hub, self.node_id, stream_id)
        self.attended.append(stream)
        return stream

    def cut(self) -> None:
        """The node's connections break."""
        for stream in self.attended:
            stream.serving.cancel()

    @property
    def commands(self) -> int:
        """How many commands run in the task, and clients are attached to it."""
        return sum(not channel.has_ended for channel in self.machine.tasks[TASK].channels)
