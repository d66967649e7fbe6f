"""Two nodes that call each other over a transport: the real one on loopback, or the simulated one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc.aio
from pki_cluster import PkiCluster

from swarmpy import rpc
from swarmpy.errors import FailedPrecondition
from swarmpy.pb import (
    dispatcher_pb2,
    dispatcher_pb2_grpc,
    raft_pb2,
    raft_pb2_grpc,
    streams_pb2,
    streams_pb2_grpc,
)
from swarmpy.pki import Identity
from swarmpy.rpc_grpc import GrpcTransport
from swarmpy.runtime import Transport
from swarmpy.sim.loop import SimLoop
from swarmpy.sim.network import SimNetwork
from swarmpy.sim.process import Process

T = TypeVar("T")
DEADLINE_S = 10.0
SERVER, CLIENT = "10.0.0.1", "10.0.0.2"


class Subject(
    raft_pb2_grpc.RaftServicer, dispatcher_pb2_grpc.DispatcherServicer, streams_pb2_grpc.StreamsServicer
):
    """Every kind of call. ``error`` is raised where it is set; ``events`` tell what servicers saw."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.events: list[str] = []
        self.lines = self.echoed = 0
        self.held = asyncio.Event()
        self.batches_written = 0

    async def Ping(
        self, request: raft_pb2.RaftPingRequest, context: rpc.Context
    ) -> raft_pb2.RaftPingResponse:
        if self.error is not None:
            raise self.error
        return raft_pb2.RaftPingResponse(raft_id=rpc.peer_of(context).node_id)

    async def Members(
        self, request: raft_pb2.RaftMembersRequest, context: rpc.Context
    ) -> raft_pb2.RaftMembersResponse:
        """Answers once ``held`` is set."""
        self.events.append("asked")
        try:
            await self.held.wait()
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        return raft_pb2.RaftMembersResponse(leader="l")

    async def Stream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        """Echoes what it reads, with the context's own calls."""
        self.events.append("opened")
        try:
            while (frames := await context.read()) is not grpc.aio.EOF:
                await context.write(frames)
                self.echoed += 1
                if self.error is not None:
                    raise self.error
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        self.events.append("done")

    async def Join(
        self, request: raft_pb2.RaftJoinRequest, context: rpc.Context
    ) -> raft_pb2.RaftJoinResponse:
        raise AssertionError("not called")

    async def Leave(
        self, request: raft_pb2.RaftLeaveRequest, context: rpc.Context
    ) -> raft_pb2.RaftLeaveResponse:
        raise AssertionError("not called")

    async def Session(
        self, request_iterator: AsyncIterator[dispatcher_pb2.AgentMessage], context: rpc.Context
    ) -> AsyncIterator[dispatcher_pb2.ManagerMessage]:
        """Greets, and reads nothing until ``held`` is set; then counts."""
        try:
            yield dispatcher_pb2.ManagerMessage(welcome=dispatcher_pb2.Welcome(session_id="s"))
            await self.held.wait()
            async for _ in request_iterator:
                self.lines += 1
            yield dispatcher_pb2.ManagerMessage(status_ack=dispatcher_pb2.StatusAck(sequence=self.lines))
        finally:
            self.events.append("session over")

    async def PublishLogs(
        self, request_iterator: AsyncIterator[streams_pb2.LogBatch], context: rpc.Context
    ) -> streams_pb2.PublishLogsSummary:
        async for batch in request_iterator:
            self.lines += len(batch.lines)
            if self.error is not None:
                raise self.error
        return streams_pb2.PublishLogsSummary(lines=self.lines)

    async def SubscribeLogs(
        self, request: dispatcher_pb2.LogSelector, context: rpc.Context
    ) -> AsyncIterator[streams_pb2.LogBatch]:
        """``tail`` batches of 1 KiB."""
        for number in range(request.tail):
            yield streams_pb2.LogBatch(subscription_id=str(number), warnings=["x" * 1024])
            self.batches_written = number + 1
        if self.error is not None:
            raise self.error

    async def Attend(
        self, request_iterator: AsyncIterator[streams_pb2.StreamPart], context: rpc.Context
    ) -> AsyncIterator[streams_pb2.StreamPart]:
        async for part in request_iterator:
            yield part

    async def Open(
        self, request_iterator: AsyncIterator[streams_pb2.StreamPart], context: rpc.Context
    ) -> AsyncIterator[streams_pb2.StreamPart]:
        async for part in request_iterator:
            yield part


class _Base:
    def __init__(self) -> None:
        self.cluster = PkiCluster()

    def prepare(self) -> None:
        self.subject = Subject()

    def make_server(self, transport: Transport) -> rpc.Server:
        server = rpc.Server(self.cluster.trust(), clock=self.cluster.clock, transport=transport)
        raft_pb2_grpc.add_RaftServicer_to_server(self.subject, server.grpc)
        dispatcher_pb2_grpc.add_DispatcherServicer_to_server(self.subject, server.grpc)
        streams_pb2_grpc.add_StreamsServicer_to_server(self.subject, server.grpc)
        return server


class RealRig(_Base):
    def __init__(self) -> None:
        super().__init__()
        self.transport: Transport = GrpcTransport()

    def run(self, scenario: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            self.prepare()
            await scenario(self)

        asyncio.run(main())

    async def at_server(self, work: Coroutine[Any, Any, T]) -> T:
        return await work

    async def start(self, address: str | None = None) -> tuple[rpc.Server, str]:
        server = self.make_server(GrpcTransport())
        try:
            return server, f"127.0.0.1:{await server.start(address or '127.0.0.1:0')}"
        except FailedPrecondition:
            await server.stop(0)
            raise

    @asynccontextmanager
    async def breakable(self, address: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
        """An address that leads there, and what breaks the connections that were made over it."""
        host, _, port = address.rpartition(":")
        writers: list[asyncio.StreamWriter] = []

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1 << 16):
                writer.write(data)

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection(host, int(port))
            writers.extend((writer, there[1]))
            await asyncio.gather(carry(reader, there[1]), carry(there[0], writer), return_exceptions=True)

        def break_all() -> None:
            for writer in writers:
                writer.transport.abort()

        proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}", break_all
        finally:
            proxy.close()
            break_all()


class SimRig(_Base):
    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.loop = SimLoop()
        self.network = SimNetwork(self.loop, random.Random(seed))
        self.server_process, self.client_process = Process(self.loop, "server"), Process(self.loop, "client")
        self.server_transport: Transport = self.network.transport(
            self.server_process, SERVER, self.cluster.clock
        )
        self.transport: Transport = self.network.transport(self.client_process, CLIENT, self.cluster.clock)

    def run(self, scenario: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            self.prepare()
            await self.client_process.spawn(scenario(self))

        try:
            self.loop.run_until_complete(main())
        finally:
            self.server_process.dispose()
            self.client_process.dispose()
            self.loop.close()

    async def at_server(self, work: Coroutine[Any, Any, T]) -> T:
        return await self.server_process.spawn(work)

    async def start(self, address: str | None = None) -> tuple[rpc.Server, str]:
        async def begin() -> tuple[rpc.Server, int]:
            server = self.make_server(self.server_transport)
            return server, await server.start(address or f"{SERVER}:0")

        server, port = await self.at_server(begin())
        return server, f"{SERVER}:{port}"

    @asynccontextmanager
    async def breakable(self, address: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
        def break_all() -> None:
            self.network.lose_connections()

        yield address, break_all


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def within(work: Awaitable[T], seconds: float = DEADLINE_S) -> T:
    async with asyncio.timeout(seconds):
        return await work


AnyRig = RealRig | SimRig
both_rigs = (RealRig, SimRig)


def raft(channel: grpc.aio.Channel) -> Any:
    return raft_pb2_grpc.RaftStub(channel)


def bare(channel: Any) -> Any:
    """The channel, for calls in bytes."""
    return channel


async def ping(rig: AnyRig, address: str, identity: Identity | None = None, **options: Any) -> str:
    with rpc.translate_errors():
        async with rig.transport.channel(identity or rig.cluster.manager, address, **options) as channel:
            answer = await raft(channel).Ping(raft_pb2.RaftPingRequest(), timeout=5)
            return str(answer.raft_id)
