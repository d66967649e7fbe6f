"""Managers in memory, as agents see them: some lead, some redirect, some do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from agent.link import AttendedStream
from swarmpy.errors import NodeRemoved, OutcomeUnknown, PermissionDenied, Unavailable
from swarmpy.limits import SESSION_CONNECT_TIMEOUT_S
from swarmpy.pb import dispatcher_pb2 as pb
from swarmpy.pb import streams_pb2

HEARTBEAT_S = 5


class FakeStream:
    """One session, seen from both sides."""

    def __init__(self, address: str, hello: pb.AgentMessage, *, acknowledges: bool = False) -> None:
        self.address = address
        self.acknowledges = acknowledges
        self.heard = [hello]
        self.is_finished = False
        self.is_closed = False
        self._down: asyncio.Queue[pb.ManagerMessage | Exception | None] = asyncio.Queue()

    # --- the agent's side

    async def send(self, message: pb.AgentMessage) -> None:
        if self.is_closed:
            raise OutcomeUnknown("the stream is closed")
        self.heard.append(message)
        if self.acknowledges and message.HasField("statuses"):
            self.say(pb.ManagerMessage(status_ack=pb.StatusAck(sequence=message.statuses.sequence)))

    async def receive(self) -> pb.ManagerMessage | None:
        message = await self._down.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def finish(self) -> None:
        self.is_finished = True
        self._down.put_nowait(None)

    async def close(self) -> None:
        self.is_closed = True

    # --- the manager's side

    def say(self, message: pb.ManagerMessage) -> None:
        self._down.put_nowait(message)

    def end(self) -> None:
        self._down.put_nowait(None)

    def cut(self, error: Exception | None = None) -> None:
        self._down.put_nowait(error or OutcomeUnknown("the connection was lost"))

    def statuses(self) -> list[pb.ReportedStatus]:
        return [
            status
            for message in self.heard
            if message.WhichOneof("message") == "statuses"
            for status in message.statuses.statuses
        ]

    def kinds(self) -> list[str]:
        return [message.WhichOneof("message") or "" for message in self.heard]


@dataclass
class FakeLink:
    """``leader`` welcomes; the other ``managers`` redirect to ``told_leader`` (the leader by default).
    ``dead`` ones hang until the connect timeout, ``refusing`` ones turn the node away, ``removed`` ones for
    good. With
    ``acknowledges`` each status update is acknowledged at once."""

    managers: list[str]
    leader: str = ""
    told_leader: str | None = None
    dead: set[str] = field(default_factory=set)
    refusing: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    dialled: list[str] = field(default_factory=list)
    sessions: list[FakeStream] = field(default_factory=list)
    logs: list[streams_pb2.LogBatch] = field(default_factory=list)
    log_room: asyncio.Semaphore | None = None
    acknowledges: bool = False
    welcome_delay_s: float = 0

    async def open(self, address: str, hello: pb.AgentMessage) -> FakeStream:
        self.dialled.append(address)
        if address in self.dead:
            await asyncio.sleep(SESSION_CONNECT_TIMEOUT_S)
            raise Unavailable(f"manager {address} does not answer")
        if address not in self.managers:
            raise Unavailable(f"nobody listens at {address}")
        if address in self.refusing:
            raise PermissionDenied("this node may not do that")
        if address in self.removed:
            raise NodeRemoved("this node was removed from the swarm")
        stream = FakeStream(address, hello, acknowledges=self.acknowledges)
        if address == self.leader:
            self.sessions.append(stream)
            welcome = pb.Welcome(
                session_id=f"session{len(self.sessions)}", heartbeat_period=HEARTBEAT_S * 1_000_000_000
            )
            stream.say(pb.ManagerMessage(welcome=welcome))
            await asyncio.sleep(self.welcome_delay_s)
        else:
            told = self.leader if self.told_leader is None else self.told_leader
            stream.say(pb.ManagerMessage(redirect=pb.Redirect(leader_addr=told)))
            stream.end()
        return stream

    async def publish_logs(self, address: str, batches: AsyncIterator[streams_pb2.LogBatch]) -> None:
        async for batch in batches:
            if self.log_room is not None:
                await self.log_room.acquire()
            self.logs.append(batch)

    async def attend(self, address: str, stream_id: str) -> AttendedStream:
        raise Unavailable(f"nobody at {address} waits for stream {stream_id}")

    def lines(self) -> list[bytes]:
        return [line.data for batch in self.logs for line in batch.lines]
