"""The agent's end of the session with the leading manager.

Finds the leader, says hello, and then carries: assignments to the core, statuses and heartbeats to the
manager. When the session ends, for whatever reason, tasks run on and the next one is looked for: every known
manager in turn, each of which names the leader if it is not it. The wait between two rounds is a part of the
time without a session, so an election costs tenths of a second and a long outage few dials.

What is reported while there is no session is dropped: the next one begins with all that the manager knows,
and the core reports what is ahead of it. Decides nothing about tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from agent import events
from agent.assembly import Assembly
from agent.link import Link, SessionStream
from agent.logs import LogPublisher
from agent.managers import Managers
from agent.outbox import Outbox
from agent.streams import StreamServer
from agent.usage import UsageMeter
from swarmpy import codec
from swarmpy.cancellation import run_apart
from swarmpy.errors import CertificateRetired, Corrupt, NodeRemoved, SwarmError, Unavailable
from swarmpy.limits import (
    HEARTBEAT_JITTER,
    HEARTBEAT_PERIOD_MIN_S,
    SESSION_BACKOFF_FRACTION,
    SESSION_BACKOFF_MAX_S,
    SESSION_BACKOFF_MIN_S,
    SESSION_CONNECT_TIMEOUT_S,
    SESSION_GOODBYE_TIMEOUT_S,
    SESSION_REDIRECTS_MAX,
    SESSION_SETTLED_S,
    SESSION_WELCOME_TIMEOUT_S,
)
from swarmpy.model.ids import SECOND_NS, SessionId, TaskId
from swarmpy.model.objects import Node, NodeDescription, TaskStatus, TLSInfo
from swarmpy.pb import dispatcher_pb2 as pb
from swarmpy.runtime import Env

log = structlog.get_logger(__name__)

WIRE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who is told what the manager says.

    ``post`` takes events for the core; ``on_node`` the node as the cluster sees it and its root bundle;
    ``on_managers`` the addresses worth remembering, best first; ``on_removed`` that this node is in the swarm
    no more, and never will be again.
    """

    post: Callable[[events.Event], Awaitable[None]]
    on_node: Callable[[Node, bytes], Awaitable[None]]
    on_managers: Callable[[tuple[str, ...]], None]
    on_removed: Callable[[str], None]
    on_retired: Callable[[TLSInfo | None], None] = lambda shown: None
    """The cluster has left the root of the certificate that we showed: it takes it for a renewal only."""


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What the agent says of itself. ``incarnation`` is fresh for every start of the agent."""

    describe: Callable[[], NodeDescription]
    incarnation: str
    advertise_addr: str = ""


class _Over(Exception):
    """This session has ended."""


class Session:
    """One session after the other, until cancelled."""

    def __init__(
        self,
        link: Link,
        managers: Managers,
        *,
        greeting: Greeting,
        listener: Listener,
        logs: LogPublisher,
        streams: StreamServer,
        usage: UsageMeter,
        env: Env,
    ) -> None:
        self._link = link
        self._managers = managers
        self._greeting = greeting
        self._listener = listener
        self._logs = logs
        self._streams = streams
        self._usage = usage
        self._env = env
        self._outbox = Outbox()
        self._assembly = Assembly()
        self._outbox_changed = asyncio.Event()
        self._nudged = asyncio.Event()
        self._nudges = 0
        self._is_described_anew = asyncio.Event()
        self._stream: SessionStream | None = None
        self._sending = asyncio.Lock()
        self._failures: dict[str, str] = {}
        self._end_reason = ""
        self._ending = asyncio.Event()
        self._ended = asyncio.Event()
        self.manager_addr = ""
        """The manager of the present session; empty if there is none."""
        self.error = ""
        """Why there is no session; empty while there is one."""

    # --- what the agent asks for

    def report(self, task_id: TaskId, status: TaskStatus) -> None:
        if self._stream is not None:
            self._outbox.put(task_id, status, self._env.clock.monotonic())
            self._outbox_changed.set()

    @property
    def backlog(self) -> dict[str, int]:
        """Statuses that wait, and batches of them that are under way."""
        return self._outbox.backlog

    def drop(self, task_id: TaskId) -> None:
        self._outbox.drop(task_id)

    def end(self, reason: str) -> None:
        """Leave the present session for a new one."""
        if self._stream is not None:
            self._end_reason = reason
            self._ending.set()

    def nudge(self) -> None:
        """Something has changed (identity, addresses): do not wait for the next try."""
        self._managers.trust_all()
        self._nudges += 1
        self._nudged.set()

    def describe(self) -> None:
        """The node's description has changed: do not wait for the next heartbeat."""
        self._is_described_anew.set()

    async def goodbye(self, reason: str) -> None:
        """Tell the manager that we go on purpose. Waits until it has heard, within bounds."""
        stream = self._stream
        if stream is None:
            return
        try:
            async with asyncio.timeout(SESSION_GOODBYE_TIMEOUT_S):
                await self._send(stream, pb.AgentMessage(goodbye=pb.Goodbye(reason=reason)))
                async with self._sending:
                    await stream.finish()
                await self._ended.wait()
        except (TimeoutError, SwarmError) as error:
            log.info("goodbye_unheard", reason=str(error))

    # --- finding the leader

    async def run(self) -> None:
        failing_since = self._env.clock.monotonic()
        while True:
            welcomed = await self._search()
            if welcomed is not None:
                began = self._env.clock.monotonic()
                await self._serve(*welcomed)
                now = self._env.clock.monotonic()
                if now - began >= SESSION_SETTLED_S:
                    failing_since = now
                    continue
            await self._pause(self._env.clock.monotonic() - failing_since)

    async def _pause(self, failing_s: float) -> None:
        delay_s = min(SESSION_BACKOFF_MAX_S, max(SESSION_BACKOFF_MIN_S, failing_s * SESSION_BACKOFF_FRACTION))
        self._nudged.clear()
        try:
            async with asyncio.timeout(self._env.entropy.uniform(0.5, 1.0) * delay_s):
                await self._nudged.wait()
        except TimeoutError:
            pass

    async def _search(self) -> tuple[SessionStream, pb.Welcome, str] | None:
        """Ask each manager once; None if nobody took us, or if nobody leads."""
        if not self._managers.addresses:
            self.error = "no manager is known: join the swarm again"
        for address in self._managers.in_turn(self._env.clock.monotonic()):
            target = address
            for _ in range(SESSION_REDIRECTS_MAX):
                began, nudges = self._env.clock.monotonic(), self._nudges
                description = self._greeting.describe()
                try:
                    stream, first = await self._greet(target, description)
                except SwarmError as error:
                    self._note_failure(target, error, took_s=self._env.clock.monotonic() - began)
                    if isinstance(error, CertificateRetired):
                        self._listener.on_retired(description.tls_info)
                    break
                if isinstance(first, pb.Welcome) and nudges == self._nudges:
                    return stream, first, target
                await stream.close()
                if isinstance(first, pb.Welcome):
                    continue  # who was welcomed is who we were: greet again
                self._managers.defer(target)
                target = first.leader_addr
                if not target or self._managers.is_suspect(target, self._env.clock.monotonic()):
                    self.error = "the managers know of no leader"
                    return None
        return None

    def _note_failure(self, address: str, error: SwarmError, *, took_s: float) -> None:
        if self._failures.get(address) != str(error):
            log.warning("session_failed", manager=address, error=str(error))
        self._failures[address] = str(error)
        self.error = str(error)
        if isinstance(error, NodeRemoved):
            self._listener.on_removed(str(error))
        if took_s >= SESSION_CONNECT_TIMEOUT_S / 2:
            self._managers.suspect(address, self._env.clock.monotonic())
        else:
            self._managers.defer(address)

    async def _greet(
        self, address: str, description: NodeDescription
    ) -> tuple[SessionStream, pb.Welcome | pb.Redirect]:
        """Open a stream and wait for the manager's first word."""
        hello = pb.Hello(
            incarnation=self._greeting.incarnation,
            advertise_addr=self._greeting.advertise_addr,
            version=WIRE_VERSION,
        )
        codec.write_pb(description, hello.description)
        stream = await self._link.open(address, pb.AgentMessage(hello=hello))
        try:
            async with asyncio.timeout(SESSION_WELCOME_TIMEOUT_S):
                message = await stream.receive()
            match message.WhichOneof("message") if message is not None else None:
                case "welcome" if message is not None:
                    return stream, message.welcome
                case "redirect" if message is not None:
                    return stream, message.redirect
                case _:
                    raise Unavailable(f"manager {address} ended the session before it began")
        except TimeoutError as error:
            await stream.close()
            raise Unavailable(f"manager {address} did not welcome us in time") from error
        except BaseException:
            await stream.close()
            raise

    # --- one session

    async def _serve(self, stream: SessionStream, welcome: pb.Welcome, address: str) -> None:
        self._stream = stream
        self._outbox.clear()
        self._ending.clear()
        self._ended.clear()
        self.manager_addr = address
        self.error = ""
        self._failures.clear()
        self._managers.add(address)
        if self._managers.prefer(address):
            self._listener.on_managers(self._managers.addresses)
        log.info("session_started", session_id=welcome.session_id, manager=address)
        reason = "the agent stops"
        try:
            await self._listener.post(events.SessionUp(SessionId(welcome.session_id)))
            await run_apart(self._carry(stream, welcome, address))
        except* Corrupt:
            raise
        except* (_Over, SwarmError) as group:
            reason = "; ".join(str(error) for error in group.exceptions)
        finally:
            self._stream = None
            self.manager_addr = ""
            self.error = reason
            self._ended.set()
            if not self._ending.is_set():
                self._managers.lost(address, self._env.clock.monotonic())
            log.info("session_ended", session_id=welcome.session_id, manager=address, reason=reason)
            await stream.close()
        await self._listener.post(events.SessionDown())

    async def _carry(self, stream: SessionStream, welcome: pb.Welcome, address: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat(stream, welcome.heartbeat_period / SECOND_NS))
            tasks.create_task(self._send_statuses(stream))
            tasks.create_task(self._watch_end())
            tasks.create_task(self._usage.run(lambda message: self._send(stream, message)))
            tasks.create_task(self._read(stream, address, tasks))

    async def _send(self, stream: SessionStream, message: pb.AgentMessage) -> None:
        async with self._sending:
            await stream.send(message)

    async def _watch_end(self) -> None:
        await self._ending.wait()
        raise _Over(self._end_reason)

    async def _beat(self, stream: SessionStream, period_s: float) -> None:
        told = self._greeting.describe()
        period_s = max(period_s, HEARTBEAT_PERIOD_MIN_S)
        while True:
            jitter = self._env.entropy.uniform(1 - HEARTBEAT_JITTER, 1 + HEARTBEAT_JITTER)
            try:
                async with asyncio.timeout(period_s * jitter):
                    await self._is_described_anew.wait()
            except TimeoutError:
                pass
            self._is_described_anew.clear()
            description = self._greeting.describe()
            if description != told:
                message = pb.AgentMessage()
                codec.write_pb(description, message.description)
                told = description
            else:
                message = pb.AgentMessage(heartbeat=pb.Heartbeat())
            await self._send(stream, message)

    async def _send_statuses(self, stream: SessionStream) -> None:
        while True:
            now = self._env.clock.monotonic()
            due_at = self._outbox.due_at
            if due_at is not None and due_at <= now:
                sequence, batch = self._outbox.take(now)
                update = pb.StatusUpdate(sequence=sequence)
                for task_id, status in batch:
                    codec.write_pb(status, update.statuses.add(task_id=task_id).status)
                await self._send(stream, pb.AgentMessage(statuses=update))
                continue
            self._outbox_changed.clear()
            try:
                async with asyncio.timeout(None if due_at is None else due_at - now):
                    await self._outbox_changed.wait()
            except TimeoutError:
                pass

    # --- what the manager says

    async def _read(self, stream: SessionStream, address: str, tasks: asyncio.TaskGroup) -> None:
        self._assembly = Assembly()
        while (message := await stream.receive()) is not None:
            await self._take(message, address, tasks)
            if self._env.buggify("session.ends"):
                raise _Over("a fault point ended the session")
        raise _Over("the manager ended the session")

    async def _take(self, message: pb.ManagerMessage, address: str, tasks: asyncio.TaskGroup) -> None:
        match message.WhichOneof("message"):
            case "assignments":
                received = self._assembly.take(message.assignments)
                if received is not None:
                    await self._listener.post(received)
            case "status_ack":
                self._outbox.acknowledge(message.status_ack.sequence)
                self._outbox_changed.set()
            case "node":
                if message.node.HasField("node"):
                    node = codec.from_pb(Node, message.node.node)
                    await self._listener.on_node(node, message.node.root_ca)
            case "managers":
                if self._managers.learn(peer.addr for peer in message.managers.managers):
                    self._listener.on_managers(self._managers.addresses)
            case "log_subscription":
                self._logs.take(message.log_subscription, address, tasks)
            case "usage_order":
                self._usage.take(message.usage_order)
            case "stream_request":
                self._streams.take(message.stream_request, address, tasks)
            case "redirect":
                self._managers.defer(address)
                if message.redirect.leader_addr:
                    self._managers.prefer(message.redirect.leader_addr)
                raise _Over("the manager no longer leads")
            case _:
                pass  # a second welcome, or something newer than this agent
