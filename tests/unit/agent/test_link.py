"""The real Link, over gRPC with mutual TLS on loopback."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from pki_cluster import PkiCluster
from ports import free_port

from agent import link
from agent.link import GrpcLink
from swarmpy import rpc
from swarmpy.errors import NotLeader, OutcomeUnknown, PermissionDenied, Retry
from swarmpy.model.ids import NodeId, make_id
from swarmpy.pb import dispatcher_pb2 as pb
from swarmpy.pb import dispatcher_pb2_grpc, streams_pb2, streams_pb2_grpc
from swarmpy.pki import Identity, Role
from swarmpy.rpc_grpc import GrpcTransport

HELLO = pb.AgentMessage(hello=pb.Hello(incarnation="i1"))


class Manager(dispatcher_pb2_grpc.DispatcherServicer, streams_pb2_grpc.StreamsServicer):
    """Welcomes, notes what it hears, and ends the stream when the agent has finished."""

    def __init__(self) -> None:
        self.heard: list[pb.AgentMessage] = []
        self.lines = 0
        self.lines_wanted = 10**9
        self.is_leader = True

    async def Session(
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: rpc.Context
    ) -> AsyncIterator[pb.ManagerMessage]:
        yield pb.ManagerMessage(welcome=pb.Welcome(session_id=rpc.peer_of(context).node_id))
        async for message in request_iterator:
            self.heard.append(message)

    async def PublishLogs(
        self, request_iterator: AsyncIterator[streams_pb2.LogBatch], context: rpc.Context
    ) -> streams_pb2.PublishLogsSummary:
        if not self.is_leader:
            raise NotLeader
        async for batch in request_iterator:
            self.lines += len(batch.lines)
            if self.lines >= self.lines_wanted:
                break
        return streams_pb2.PublishLogsSummary(lines=self.lines)

    async def SubscribeLogs(
        self, request: pb.LogSelector, context: rpc.Context
    ) -> AsyncIterator[streams_pb2.LogBatch]:
        yield streams_pb2.LogBatch()

    async def Attend(
        self, request_iterator: AsyncIterator[streams_pb2.StreamPart], context: rpc.Context
    ) -> AsyncIterator[streams_pb2.StreamPart]:
        async for part in request_iterator:
            yield part

    Open = Attend


@asynccontextmanager
async def serving(cluster: PkiCluster, manager: Manager) -> AsyncIterator[tuple[rpc.Server, str]]:
    server = rpc.Server(cluster.trust(), clock=cluster.clock)
    dispatcher_pb2_grpc.add_DispatcherServicer_to_server(manager, server.grpc)
    streams_pb2_grpc.add_StreamsServicer_to_server(manager, server.grpc)
    port = await server.start("127.0.0.1:0")
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.fixture
def cluster() -> PkiCluster:
    return PkiCluster()


@pytest.fixture
def worker(cluster: PkiCluster) -> Identity:
    return cluster.identity(Role.WORKER, node_id=NodeId(make_id(os.urandom(17))))


async def test_a_session_and_its_goodbye(cluster: PkiCluster, worker: Identity) -> None:
    manager = Manager()
    async with serving(cluster, manager) as (_, address):
        stream = await GrpcLink(lambda: worker, GrpcTransport()).open(address, HELLO)
        welcome = await stream.receive()
        assert welcome is not None
        assert welcome.welcome.session_id == worker.node_id
        await stream.send(pb.AgentMessage(goodbye=pb.Goodbye(reason="restarting")))
        await stream.finish()
        assert await stream.receive() is None
        await stream.close()
    assert [message.WhichOneof("message") for message in manager.heard] == ["hello", "goodbye"]


async def test_a_manager_that_goes_ends_the_session(cluster: PkiCluster, worker: Identity) -> None:
    async with serving(cluster, Manager()) as (server, address):
        stream = await GrpcLink(lambda: worker, GrpcTransport()).open(address, HELLO)
        await stream.receive()
        await server.stop(0)
        with pytest.raises(Retry):
            await stream.receive()
        with pytest.raises(Retry):
            await stream.send(HELLO)
        await stream.close()


async def test_an_address_where_nobody_listens_fails_at_once(
    worker: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "SESSION_CONNECT_TIMEOUT_S", 3600.0)
    with pytest.raises(Retry):
        await GrpcLink(lambda: worker, GrpcTransport()).open(f"127.0.0.1:{free_port()}", HELLO)


async def test_a_silent_address_is_given_up_in_time(worker: Identity) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(Retry, match="does not answer"):
            await GrpcLink(lambda: worker, GrpcTransport()).open(
                f"127.0.0.1:{listener.getsockname()[1]}", HELLO
            )


async def test_a_removed_node_is_refused(cluster: PkiCluster, worker: Identity) -> None:
    async with serving(cluster, Manager()) as (server, address):
        server.trust = rpc.Trust(
            identity=cluster.manager,
            join_tokens=cluster.cluster.root_ca.join_tokens,
            removed=frozenset({worker.node_id}),
        )
        with pytest.raises(PermissionDenied, match="removed"):
            await open_and_listen(worker, address)


async def open_and_listen(identity: Identity, address: str) -> None:
    stream = await GrpcLink(lambda: identity, GrpcTransport()).open(address, HELLO)
    try:
        await stream.receive()
    finally:
        await stream.close()


async def _batches(count: int) -> AsyncIterator[streams_pb2.LogBatch]:
    for _ in range(count):
        yield streams_pb2.LogBatch(subscription_id="s", lines=[streams_pb2.LogLine(data=b"x\n")])


async def test_logs_flow_and_end(cluster: PkiCluster, worker: Identity) -> None:
    manager = Manager()
    async with serving(cluster, manager) as (_, address):
        link = GrpcLink(lambda: worker, GrpcTransport())
        await link.publish_logs(address, _batches(50))
        assert manager.lines == 50
        manager.lines_wanted = 60
        async with asyncio.timeout(10):  # the manager has enough: it ends the call before our lines do
            with suppress(OutcomeUnknown):  # where a write was under way just then
                await link.publish_logs(address, _batches(10**6))
        assert manager.lines == 60
        manager.is_leader = False
        with pytest.raises((NotLeader, OutcomeUnknown)):
            await link.publish_logs(address, _batches(10**6))
