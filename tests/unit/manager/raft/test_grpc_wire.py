"""Raft over real mTLS streams on loopback: three members in one process."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from pki_cluster import PkiCluster
from ports import free_port
from raft_rig import ListMachine

from manager.raft.grpc_connection import Connection
from manager.raft.grpc_wire import GrpcWire, RaftServicer
from manager.raft.log import RaftConfig, SyncObjLog, create_joined, create_single
from manager.raft.members import SUFFIX_BYTES, make_raft_id
from manager.raft.proposer import Member
from manager.raft.sealing import NoSealer
from swarmpy import limits, rpc
from swarmpy.errors import FailedPrecondition, PermissionDenied, Unavailable
from swarmpy.pb import raft_pb2 as pb
from swarmpy.pb import raft_pb2_grpc
from swarmpy.pki import Identity, Role
from swarmpy.runtime import Env

DEADLINE_S = 20.0


def identify(context: rpc.Context) -> str:
    return rpc.peer_of(context).node_id


@dataclass
class Node:
    identity: Identity
    me: Member
    log: SyncObjLog
    machine: ListMachine
    server: rpc.Server

    async def stop(self) -> None:
        await self.log.stop()
        await self.server.stop(0)


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.pki = PkiCluster()
        self.folder = folder
        self.nodes: list[Node] = []

    async def add(self) -> Node:
        """The first founds the cluster, the others join it as a manager does."""
        identity = self.pki.identity(Role.MANAGER)
        me = Member(
            raft_id=make_raft_id(identity.node_id, os.urandom(SUFFIX_BYTES)),
            address=f"127.0.0.1:{free_port()}",
        )
        config = RaftConfig(folder=self.folder / me.raft_id, sealer=NoSealer(), snapshot_entries=50)
        if not self.nodes:
            create_single(Env(), config, me)
        else:
            answer = await self.call(identity, self.nodes[0].me.address).Members(pb.RaftMembersRequest())
            members = tuple(Member(raft_id=m.raft_id, address=m.address) for m in answer.members)
            create_joined(Env(), config, me, members)
        node = await self.open(identity, me, config)
        if len(self.nodes) > 1:
            request = pb.RaftJoinRequest(raft_id=me.raft_id, address=me.address, store_format=1)
            response = await self.call(identity, self.nodes[-2].me.address).Join(request)
            if response.leader_address:
                response = await self.call(identity, response.leader_address).Join(request)
            assert me.raft_id in [member.raft_id for member in response.members]
        return node

    async def open(self, identity: Identity, me: Member, config: RaftConfig) -> Node:
        wire = GrpcWire(identify=identify, dial=lambda address: rpc.dial(identity, address))
        machine = ListMachine()
        log = SyncObjLog.open(config, machine, wire, Env())
        server = rpc.Server(
            rpc.Trust(identity=identity, join_tokens=self.pki.cluster.root_ca.join_tokens), clock=Env().clock
        )
        raft_pb2_grpc.add_RaftServicer_to_server(RaftServicer(wire, log, identify=identify), server.grpc)
        await server.start(me.address)
        await log.start()
        node = Node(identity, me, log, machine, server)
        self.nodes.append(node)
        return node

    def call(self, identity: Identity, address: str) -> raft_pb2_grpc.RaftAsyncStub:
        stub: raft_pb2_grpc.RaftAsyncStub = raft_pb2_grpc.RaftStub(rpc.dial(identity, address))
        return stub

    async def leader(self) -> Node:
        await until(lambda: sum(node.log.status().is_ready_leader for node in self.nodes) == 1)
        return next(node for node in self.nodes if node.log.status().is_ready_leader)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def cluster_of(size: int, folder: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(folder)
    try:
        for _ in range(size):
            await cluster.add()
        yield cluster
    finally:
        for node in cluster.nodes:
            await node.stop()


async def test_three_members_join_by_call_and_agree(tmp_path: Path) -> None:
    async with cluster_of(3, tmp_path) as cluster:
        for number, node in enumerate(cluster.nodes):
            await node.log.propose(b"%d" % number)
            await node.log.read_barrier()
        await until(lambda: all(node.machine.entries == [b"0", b"1", b"2"] for node in cluster.nodes))
        assert all(len(node.log.status().members) == 3 for node in cluster.nodes)


async def test_many_large_entries_at_once_and_a_member_that_catches_up(tmp_path: Path) -> None:
    async with cluster_of(2, tmp_path) as cluster:
        leader = await cluster.leader()
        entries = [os.urandom(200_000) for _ in range(60)]
        await asyncio.gather(*(leader.log.propose(entry) for entry in entries))
        await cluster.add()
        await until(lambda: sorted(cluster.nodes[2].machine.entries) == sorted(entries))


async def test_the_leader_stops_and_another_takes_writes(tmp_path: Path) -> None:
    async with cluster_of(3, tmp_path) as cluster:
        await until(lambda: all(m.is_reachable for n in cluster.nodes for m in n.log.status().members))
        leader = await cluster.leader()
        cluster.nodes.remove(leader)
        await leader.stop()
        other = cluster.nodes[0]
        await cluster.leader()
        await other.log.propose(b"after")
        await until(lambda: all(node.machine.entries == [b"after"] for node in cluster.nodes))


async def test_a_manager_leaves_by_call(tmp_path: Path) -> None:
    async with cluster_of(3, tmp_path) as cluster:
        await until(lambda: all(m.is_reachable for n in cluster.nodes for m in n.log.status().members))
        leader = await cluster.leader()
        gone = next(node for node in cluster.nodes if node is not leader)
        request = pb.RaftLeaveRequest(raft_id=gone.me.raft_id)
        response = await cluster.call(gone.identity, leader.me.address).Leave(request)
        assert response.leader_address == ""
        await until(lambda: gone.log.status().is_removed)
        assert len(leader.log.status().members) == 2


async def test_a_follower_names_the_leader(tmp_path: Path) -> None:
    async with cluster_of(2, tmp_path) as cluster:
        leader = await cluster.leader()
        follower = next(node for node in cluster.nodes if node is not leader)
        await until(lambda: follower.log.status().leader == leader.me.raft_id)
        request = pb.RaftLeaveRequest(raft_id=leader.me.raft_id)
        response = await cluster.call(leader.identity, follower.me.address).Leave(request)
        assert response.leader_address == leader.me.address


async def test_an_address_that_does_not_answer_is_refused_and_named(tmp_path: Path) -> None:
    async with cluster_of(1, tmp_path) as cluster:
        identity = cluster.pki.identity(Role.MANAGER)
        address = f"127.0.0.1:{free_port()}"
        request = pb.RaftJoinRequest(raft_id=f"{identity.node_id}.x", address=address)
        with (
            pytest.raises(FailedPrecondition, match=rf"advertised address: {address}"),
            rpc.translate_errors(),
        ):
            await cluster.call(identity, cluster.nodes[0].me.address).Join(request)
        taken = cluster.nodes[0].me.address
        request = pb.RaftJoinRequest(raft_id=f"{identity.node_id}.x", address=taken)
        with pytest.raises(FailedPrecondition, match="another manager answers"), rpc.translate_errors():
            await cluster.call(identity, taken).Join(request)
        assert len(cluster.nodes[0].log.status().members) == 1


@pytest.mark.parametrize("call", ["Join", "Leave"])
async def test_a_manager_speaks_for_itself_only(tmp_path: Path, call: str) -> None:
    async with cluster_of(1, tmp_path) as cluster:
        identity = cluster.pki.identity(Role.MANAGER)
        stub = cluster.call(identity, cluster.nodes[0].me.address)
        request = {"Join": pb.RaftJoinRequest, "Leave": pb.RaftLeaveRequest}[call](raft_id="another.x")
        with pytest.raises(PermissionDenied, match="itself only"), rpc.translate_errors():
            await getattr(stub, call)(request)


async def greeting(cluster: Cluster, identity: Identity, frames: pb.RaftFrames) -> Any:
    """What the first member answers to the first message on a stream."""
    with rpc.translate_errors():
        stream = cluster.call(identity, cluster.nodes[0].me.address).Stream()
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stream.write(frames)  # a refused caller may be answered before it has written
        return await stream.read()


async def test_a_stream_must_begin_with_a_hello_of_the_caller_itself(tmp_path: Path) -> None:
    def hello(raft_id: str, peer: str = "") -> pb.RaftFrames:
        return pb.RaftFrames(frames=[pb.RaftFrame(hello=pb.RaftHello(raft_id=raft_id, peer_raft_id=peer))])

    async with cluster_of(1, tmp_path) as cluster:
        identity = cluster.pki.identity(Role.MANAGER)
        with pytest.raises(PermissionDenied, match="is not of node"):
            await greeting(cluster, identity, hello("another.x"))
        with pytest.raises(PermissionDenied, match="begins with a hello"):
            await greeting(cluster, identity, pb.RaftFrames(frames=[pb.RaftFrame(vote=pb.RaftVote(term=9))]))
        with pytest.raises(Unavailable, match="this manager is"):
            await greeting(cluster, identity, hello(f"{identity.node_id}.x", "its.former.life"))
        worker = cluster.pki.identity(Role.WORKER)
        with pytest.raises(PermissionDenied, match="this call is for"):
            await greeting(cluster, worker, hello(f"{worker.node_id}.x"))
        answer = await greeting(cluster, identity, hello(f"{identity.node_id}.x"))
        assert answer.frames[0].hello.raft_id == cluster.nodes[0].me.raft_id


async def test_a_peer_that_takes_nothing_is_disconnected_not_buffered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "RAFT_FRAME_BYTES_MAX", 10_000)
    stuck: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def never(*_: object) -> Any:
        return await stuck

    connection = Connection("peer", is_ours=True, write=never, read=never)
    running = asyncio.create_task(connection.run(lambda frame: None))
    frame = pb.RaftFrame(proposal=pb.RaftProposal(command=bytes(1000)))
    sent = 0
    while connection.send(frame):
        sent += 1
    assert 8 <= sent <= 10
    assert not connection.send(frame)
    async with asyncio.timeout(DEADLINE_S):
        await running


async def test_queued_frames_leave_in_few_messages_and_in_order() -> None:
    written: list[pb.RaftFrames] = []
    done = asyncio.Event()

    async def write(message: pb.RaftFrames) -> None:
        written.append(message)

    async def read() -> Any:
        await done.wait()
        return grpc.aio.EOF

    connection = Connection("peer", is_ours=True, write=write, read=read)
    for number in range(1000):
        assert connection.send(pb.RaftFrame(vote=pb.RaftVote(term=number)))
    running = asyncio.create_task(connection.run(lambda frame: None))
    await until(lambda: connection.backlog_bytes == 0)
    done.set()
    await running
    assert [frame.vote.term for message in written for frame in message.frames] == list(range(1000))
    assert len(written) == -(-1000 // limits.RAFT_FRAMES_PER_MESSAGE_MAX)
