"""One simulated TCP connection: two pipes that keep order, and two ends that may each find it broken.

* What is sent arrives after a random delay, in order. While the path is cut it waits, and arrives late once
  the path is whole again, unless an end has given up meanwhile.
* An end whose peer can't answer (path cut either way, peer's process paused, its host without power) finds
  the connection broken when keepalive would: after its timeout and up to a period. Nothing polls: every
  change of the network has each connection look at its paths once.
* An end that breaks tells the other, if the path allows it; a process that was killed has its kernel say so,
  and of what it had sent last, only a part may arrive.

What travels are calls: a callback of the other end and its argument, with the size that they stand for. A
callback runs inside the receiving process.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from swarmpy.limits import KEEPALIVE_PERIOD_S, KEEPALIVE_TIMEOUT_S

if TYPE_CHECKING:
    import asyncio

    from swarmpy.sim.grpc_call import SimCall
    from swarmpy.sim.grpc_server import Opening
    from swarmpy.sim.network import SimNetwork
    from swarmpy.sim.process import Process

NEVER = math.inf
PACKET_BYTES = 64
"""What a packet without a message counts for."""
RETRANSMIT_MAX_S = 1.0
"""After a cut, what waited is sent again within the time that it waited, or this if that is less."""
KEEPALIVE_LOST = "ping timeout"
RESET = "Connection reset by peer"
CLOSED = "Socket closed"
REFUSED = "Connection refused"


class Stream(Protocol):
    """One end of a call, as its connection knows it."""

    def lost(self, reason: str) -> None:
        """The connection is gone, and the call with it."""
        ...


class Owner(Protocol):
    """Who has an end. All of it is called inside the end's process."""

    def shown(self, end: End, pem: bytes) -> None:
        """The handshake: the peer has shown its certificate."""
        ...

    def ready(self, end: End) -> None:
        """The handshake is over: the server has taken ours."""
        ...

    def open(self, end: End, call: SimCall | None, opening: Opening) -> None:
        """The peer begins a call."""
        ...

    def end_lost(self, end: End, reason: str) -> None: ...

    def going_away(self, end: End) -> None:
        """The server takes no new calls on this connection."""
        ...


class Pipe:
    """One direction. ``context`` is the receiving process's; the kernel's own while there is none."""

    __slots__ = (
        "_connection",
        "_loop",
        "_network",
        "_queue",
        "_timer",
        "blocked_at",
        "context",
        "is_closed",
        "last",
        "path",
    )

    def __init__(self, connection: Connection, path: tuple[str, str], context: Context) -> None:
        network = connection.network
        self._connection = connection
        self._network = network
        self._loop = network.loop
        self._queue: deque[tuple[float, Callable[[Any], object], Any]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.path = path
        self.context = context
        self.blocked_at: float | None = None
        self.is_closed = False
        self.last = 0.0

    def send(self, callback: Callable[[Any], object], argument: Any, size: int = PACKET_BYTES) -> None:
        if self.is_closed:
            return
        network, queue = self._network, self._queue
        network.messages += 1
        network.bytes += size
        if self.blocked_at is not None:
            self.last = arrival = NEVER
        else:
            arrival = self._loop.now + network.delay(self.path)
            if arrival < self.last:
                arrival = self.last
            self.last = arrival
        queue.append((arrival, callback, argument))
        if len(queue) > network.largest_queue:
            network.largest_queue = len(queue)
        if self._timer is None and arrival != NEVER:
            self._timer = self._loop.call_at_true(arrival, self._arrive, context=self.context)
        if network.reset_probability and network.generator.random() < network.reset_probability:
            network.reset(self._connection)

    def _arrive(self) -> None:
        self._timer = None
        queue, now = self._queue, self._loop.now
        while queue and queue[0][0] <= now:
            _, callback, argument = queue.popleft()
            callback(argument)
        self._arm()

    def _arm(self) -> None:
        queue = self._queue
        if self._timer is None and queue and queue[0][0] != NEVER:
            self._timer = self._loop.call_at_true(queue[0][0], self._arrive, context=self.context)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hand_over(self, context: Context) -> None:
        """From now on a process receives. Called from within a delivery, so that no timer is set."""
        self.context = context

    def set_blocked(self, is_blocked: bool) -> None:
        if is_blocked == (self.blocked_at is not None):
            return
        queue, now = self._queue, self._loop.now
        if is_blocked:
            # What has reached the host already is delivered, if a paused process has not taken it yet.
            for index, (arrival, callback, argument) in enumerate(queue):
                if arrival > now:
                    queue[index] = (NEVER, callback, argument)
            self.blocked_at = now
            self.last = NEVER if queue and queue[-1][0] == NEVER else now
        else:
            assert self.blocked_at is not None
            waited_s = min(now - self.blocked_at, RETRANSMIT_MAX_S)
            arrival = now + self._network.delay(self.path) + waited_s * self._network.generator.random()
            for index, (due, callback, argument) in enumerate(queue):
                if due == NEVER:
                    queue[index] = (arrival, callback, argument)
            self.blocked_at = None
            self.last = arrival if queue else now
        self._disarm()
        self._arm()

    def tear(self, *, is_all: bool = False) -> None:
        """Lose a part of what is under way, the last part; or all of it."""
        kept = 0 if is_all else self._network.generator.randint(0, len(self._queue))
        self._network.stats["packets_lost"] += len(self._queue) - kept
        while len(self._queue) > kept:
            self._queue.pop()
        self.last = self._queue[-1][0] if self._queue else 0.0

    def close(self) -> None:
        """Nothing of it arrives any more."""
        self.is_closed = True
        self._queue.clear()
        self._disarm()


class End:
    """One end of a connection, of one process."""

    __slots__ = (
        "_check",
        "_connection",
        "address",
        "certificate",
        "is_broken",
        "out",
        "owner",
        "peer",
        "process",
        "streams",
    )

    def __init__(self, connection: Connection, process: Process, out: Pipe, *, address: str) -> None:
        self._connection = connection
        self._check: asyncio.TimerHandle | None = None
        self.process = process
        self.out = out
        self.address = address
        """Where this end is, as ``host:port``."""
        self.certificate = b""
        """What this end has shown in the handshake."""
        self.owner: Owner | None = None
        self.peer: End | None = None
        self.streams: dict[Stream, None] = {}
        self.is_broken = False

    def lose(self, reason: str) -> None:
        """Find the connection broken, and tell the other end."""
        if not self.is_broken:
            if self.peer is not None:
                self.out.send(self.peer.told, reason)
            self._end(reason)

    def told(self, reason: str) -> None:
        """The other end, or its kernel, says that the connection is gone."""
        self._end(RESET if reason == KEEPALIVE_LOST else reason)

    def drop(self) -> None:
        """Gone with its process: none of its code runs any more."""
        self.is_broken = True
        self.streams.clear()
        self.watch(is_doomed=False)
        self._connection.settle()

    def _end(self, reason: str) -> None:
        if self.is_broken:
            return
        self.is_broken = True
        self.watch(is_doomed=False)
        streams = list(self.streams)
        self.streams.clear()
        for stream in streams:
            stream.lost(reason)
        if self.owner is not None:
            self.owner.end_lost(self, reason)
        self._connection.settle()

    def watch(self, *, is_doomed: bool) -> None:
        """Keepalive: with no answer for long enough, the connection is broken."""
        if not is_doomed or self.is_broken:
            if self._check is not None:
                self._check.cancel()
                self._check = None
        elif self._check is None:
            network = self._connection.network
            after_s = KEEPALIVE_TIMEOUT_S + KEEPALIVE_PERIOD_S * network.generator.random()
            self._check = network.loop.call_at_true(
                network.loop.now + after_s, self._unanswered, context=self.process.context
            )

    def _unanswered(self) -> None:
        self._check = None
        self._connection.network.stats["keepalive_broken"] += 1
        self.lose(KEEPALIVE_LOST)


class Connection:
    """From the first packet to the end of both ends."""

    def __init__(
        self, network: SimNetwork, process: Process, *, source: str, target: str, source_port: int
    ) -> None:
        self.network = network
        self.source, self.target = source, target
        self.up = Pipe(self, (source, target), Context())
        self.down = Pipe(self, (target, source), process.context)
        self.client = End(self, process, self.up, address=f"{source}:{source_port}")
        self.server: End | None = None
        self._is_reset = False

    def accept(self, process: Process, address: str) -> End:
        """The server's host gives the connection to the process that listens."""
        self.up.hand_over(process.context)
        self.server = End(self, process, self.down, address=address)
        self.server.peer, self.client.peer = self.client, self.server
        self.review()
        return self.server

    def review(self) -> None:
        """Something of the network or the processes has changed."""
        network = self.network
        is_up_open = network.is_open(self.source, self.target)
        is_down_open = network.is_open(self.target, self.source)
        self.up.set_blocked(not is_up_open)
        self.down.set_blocked(not is_down_open)
        if self.server is not None:
            is_cut = not (is_up_open and is_down_open)
            self.client.watch(is_doomed=is_cut or self.server.process.is_paused)
            self.server.watch(is_doomed=is_cut or self.client.process.is_paused)

    def reset(self) -> None:
        """Something between the hosts resets it: both ends are told, what is under way is lost."""
        if self._is_reset:
            return
        self._is_reset = True
        self.network.stats["resets"] += 1
        for end, pipe in ((self.client, self.down), (self.server, self.up)):
            if end is not None:
                pipe.tear()
                pipe.send(end.told, RESET)

    def process_ended(self, process: Process) -> None:
        """A process was killed. Its host's kernel closes what it had open, if the host has power."""
        for end, host in ((self.client, self.source), (self.server, self.target)):
            if end is None or end.process is not process or end.is_broken:
                continue
            end.out.tear()
            if self.network.is_powered(host) and end.peer is not None:
                end.out.send(end.peer.told, RESET)
            end.drop()

    def settle(self) -> None:
        """Forget the connection once nobody has a use for it."""
        is_server_gone = self.server is None or self.server.is_broken
        if self.client.is_broken and is_server_gone:
            self.up.close()
            self.down.close()
            self.network.forget(self)
