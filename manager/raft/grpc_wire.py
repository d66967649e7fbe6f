"""Raft on gRPC: the peer streams of one manager, and joining and leaving by call.

Who is at the other end: a caller's node id comes from its certificate (``identify``), and the raft id that
its first frame claims must be of that node; whom we call proves with its certificate to be a manager of this
cluster, and must answer with the raft id that we meant to call. A manager adds and removes itself only. A
manager that does not lead names the leader's address instead of an answer. Before a member is added its
address is tried from here, because a member that the leader can't reach would cost the cluster its quorum.

If both ends call each other at the same time, the stream that the larger raft id opened stays, so that both
keep the same one; a newer stream from the same side replaces an older one. What frames mean is decided above.
A manager whose certificate is refused as that of a removed node takes no further part in raft: so managers
that a recovered cluster has dropped cannot come back as a cluster of their own.
"""
# ruff: noqa: N802 - the names of calls are the wire's

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import structlog

from manager.raft.grpc_connection import Connection
from manager.raft.members import node_of
from manager.raft.proposer import Member, RaftLog, RaftStatus
from manager.raft.wire import Receiver
from swarmpy import limits
from swarmpy.errors import (
    AlreadyExists,
    FailedPrecondition,
    NodeRemoved,
    NoLeader,
    NotLeader,
    PermissionDenied,
    SwarmError,
    Unavailable,
)
from swarmpy.pb import raft_pb2 as pb
from swarmpy.pb import raft_pb2_grpc
from swarmpy.rpc import error_from_rpc

log = structlog.get_logger(__name__)

Dial = Callable[[str], grpc.aio.Channel]


class GrpcWire:
    """``Wire`` over streams that other managers open here and that we open there."""

    def __init__(self, *, identify: Callable[[Any], str], dial: Dial) -> None:
        self._identify, self._dial = identify, dial
        self._receiver: Receiver | None = None
        self._connections: dict[str, Connection] = {}
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._served: set[asyncio.Task[Any]] = set()
        self._dialler: asyncio.Task[None] | None = None

    # --- Wire

    async def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._dialler = asyncio.create_task(self._keep_dialling())

    async def stop(self) -> None:
        self._receiver = None
        tasks = [*self._calls.values(), *self._served]
        if self._dialler is not None:
            tasks.append(self._dialler)
        for connection in list(self._connections.values()):
            connection.close()
        for task in self._calls.values():
            task.cancel()
        if self._dialler is not None:
            self._dialler.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def send(self, peer: str, frame: pb.RaftFrame) -> bool:
        connection = self._connections.get(peer)
        return connection is not None and connection.send(frame)

    def backlog(self, peer: str) -> int:
        connection = self._connections.get(peer)
        return 0 if connection is None else connection.backlog_bytes

    def drop(self, peer: str) -> None:
        connection = self._connections.get(peer)
        if connection is not None:
            connection.close()

    # --- streams that others open

    async def serve(self, context: Any) -> None:
        """One stream, from its hello to its end."""
        receiver = self._receiver
        if receiver is None:
            raise Unavailable("this manager is not taking part in raft now: try again")
        peer = await self._greet(context, receiver)
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        try:
            connection = Connection(peer, is_ours=False, write=context.write, read=context.read)
            await self._run(connection, receiver)
        finally:
            self._served.discard(task)

    async def _greet(self, context: Any, receiver: Receiver) -> str:
        try:
            async with asyncio.timeout(limits.RAFT_DIAL_TIMEOUT_S):
                hello = _hello_in(await context.read())
        except TimeoutError:
            raise PermissionDenied("a raft stream begins with a hello") from None
        node_id = self._identify(context)
        if node_of(hello.raft_id) != node_id:
            raise PermissionDenied(f"raft id {hello.raft_id} is not of node {node_id}")
        if hello.peer_raft_id not in ("", receiver.raft_id):
            raise Unavailable(f"this manager is {receiver.raft_id}, not {hello.peer_raft_id}")
        await context.write(_hello(receiver.raft_id, hello.raft_id))
        return hello.raft_id

    # --- streams that we open

    async def _keep_dialling(self) -> None:
        while (receiver := self._receiver) is not None:
            for peer, address in receiver.peers().items():
                is_busy = peer in self._connections or peer in self._calls
                if not is_busy and receiver.may_dial(peer):
                    self._calls[peer] = asyncio.create_task(self._call(peer, address, receiver))
            await asyncio.sleep(limits.RAFT_DIAL_PERIOD_S)

    async def _call(self, peer: str, address: str, receiver: Receiver) -> None:
        try:
            async with self._dial(address) as channel:
                stub: raft_pb2_grpc.RaftAsyncStub = raft_pb2_grpc.RaftStub(channel)
                stream = stub.Stream()
                async with asyncio.timeout(limits.RAFT_DIAL_TIMEOUT_S):
                    await stream.write(_hello(receiver.raft_id, peer))
                    answer = _hello_in(await stream.read())
                if answer.raft_id != peer:
                    raise PermissionDenied(f"{address} is {answer.raft_id}, not {peer}")
                connection = Connection(peer, is_ours=True, write=stream.write, read=stream.read)
                await self._run(connection, receiver)
                stream.cancel()
        except grpc.aio.AioRpcError as error:
            if isinstance(error_from_rpc(error), NodeRemoved):
                receiver.removed()
            log.debug("raft peer not reached", peer=peer, address=address, reason=error.details())
        except (SwarmError, TimeoutError, asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            log.debug("raft peer not reached", peer=peer, address=address, reason=str(error))
        finally:
            self._calls.pop(peer, None)

    # --- both

    async def _run(self, connection: Connection, receiver: Receiver) -> None:
        peer = connection.peer
        old = self._connections.get(peer)
        if old is not None:
            winner_is_ours = receiver.raft_id > peer
            if old.is_ours != connection.is_ours and old.is_ours == winner_is_ours:
                raise AlreadyExists(f"managers {receiver.raft_id} and {peer} are connected already")
            old.close()
            receiver.disconnected(peer)
        self._connections[peer] = connection
        receiver.connected(peer)
        try:
            await connection.run(lambda frame: receiver.receive(peer, frame))
        finally:
            if self._connections.get(peer) is connection:
                del self._connections[peer]
                receiver.disconnected(peer)

    async def ping(self, address: str) -> str:
        """The raft id of the manager that answers at ``address``; raises ``Unavailable``."""
        try:
            async with self._dial(address) as channel:
                stub: raft_pb2_grpc.RaftAsyncStub = raft_pb2_grpc.RaftStub(channel)
                answer = await stub.Ping(pb.RaftPingRequest(), timeout=limits.RAFT_PING_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(str(error_from_rpc(error))) from error
        return answer.raft_id


class RaftServicer(raft_pb2_grpc.RaftServicer):
    """``check_joiner`` raises if a node may not become a member now."""

    def __init__(
        self,
        wire: GrpcWire,
        raft: RaftLog,
        *,
        identify: Callable[[Any], str],
        check_joiner: Callable[[str, int], None] = lambda node_id, store_format: None,
        unlock_key: Callable[[], bytes] = bytes,
    ) -> None:
        self._wire, self._raft = wire, raft
        self._unlock_key = unlock_key
        self._identify, self._check_joiner = identify, check_joiner

    async def Stream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        await self._wire.serve(context)

    async def Ping(self, request: pb.RaftPingRequest, context: Any) -> pb.RaftPingResponse:
        return pb.RaftPingResponse(raft_id=self._raft.status().raft_id)

    async def Members(self, request: pb.RaftMembersRequest, context: Any) -> pb.RaftMembersResponse:
        status = self._raft.status()
        return pb.RaftMembersResponse(
            members=_members(status), leader=status.leader or "", unlock_key=self._unlock_key()
        )

    async def Join(self, request: pb.RaftJoinRequest, context: Any) -> pb.RaftJoinResponse:
        self._check_own(request.raft_id, context)
        if address := self._leader_elsewhere():
            return pb.RaftJoinResponse(leader_address=address)
        self._check_joiner(node_of(request.raft_id), request.store_format)
        await self._check_address(request)
        try:
            await self._raft.add_member(Member(raft_id=request.raft_id, address=request.address))
        except NotLeader:
            return pb.RaftJoinResponse(leader_address=self._known_leader())
        return pb.RaftJoinResponse(members=_members(self._raft.status()))

    async def Leave(self, request: pb.RaftLeaveRequest, context: Any) -> pb.RaftLeaveResponse:
        self._check_own(request.raft_id, context)
        if address := self._leader_elsewhere():
            return pb.RaftLeaveResponse(leader_address=address)
        try:
            await self._raft.remove_member(request.raft_id)
        except NotLeader:
            return pb.RaftLeaveResponse(leader_address=self._known_leader())
        return pb.RaftLeaveResponse()

    def _check_own(self, raft_id: str, context: Any) -> None:
        node_id = self._identify(context)
        if node_of(raft_id) != node_id:
            raise PermissionDenied(f"node {node_id} may add and remove itself only, not {raft_id}")

    def _leader_elsewhere(self) -> str:
        return "" if self._raft.status().is_leader else self._known_leader()

    def _known_leader(self) -> str:
        status = self._raft.status()
        addresses = {member.raft_id: member.address for member in status.members}
        if status.leader is None or not addresses.get(status.leader):
            raise NoLeader
        return addresses[status.leader]

    async def _check_address(self, request: pb.RaftJoinRequest) -> None:
        try:
            found = await self._wire.ping(request.address)
        except Unavailable as error:
            raise FailedPrecondition(
                "could not connect to prospective new cluster member using its advertised address: "
                f"{request.address}: {error}"
            ) from error
        if found != request.raft_id:
            raise FailedPrecondition(
                f"another manager answers at the advertised address {request.address}: "
                "give each node an address of its own"
            )


def _hello(raft_id: str, peer: str) -> pb.RaftFrames:
    hello = pb.RaftHello(raft_id=raft_id, peer_raft_id=peer)
    return pb.RaftFrames(frames=[pb.RaftFrame(hello=hello)])


def _hello_in(message: Any) -> pb.RaftHello:
    if message is grpc.aio.EOF or not message.frames or message.frames[0].WhichOneof("body") != "hello":
        raise PermissionDenied("a raft stream begins with a hello")
    hello: pb.RaftHello = message.frames[0].hello
    return hello


def _members(status: RaftStatus) -> list[pb.RaftMember]:
    return [pb.RaftMember(raft_id=member.raft_id, address=member.address) for member in status.members]
