"""``SimNetwork``: hosts, the paths between them, and every fault that a network may have.

Hosts are names (``10.0.0.1``); a process on one reaches another at ``host:port`` through its ``transport``.
All chance is drawn from one generator, in the order of events, so a run can be repeated. Faults act on paths
and hosts; what they do to a connection is decided in ``connection``.

Decides nothing about calls. Killing processes is the caller's business: power a host off, and kill its
processes, in the same step.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from swarmpy.runtime import Clock
from swarmpy.sim.connection import REFUSED, RESET, Connection, End
from swarmpy.sim.handshake import Verdicts
from swarmpy.sim.process import Process

if TYPE_CHECKING:
    from swarmpy.sim.loop import SimLoop
    from swarmpy.sim.transport import SimTransport

LATENCY_MIN_S = 0.0002
LATENCY_MAX_S = 0.002
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0", "::", ""})
PORT_FIRST = 32_768
PORT_LAST = 60_999


class Listener(Protocol):
    """A port that is open."""

    @property
    def process(self) -> Process: ...

    def accept(self, connection: Connection) -> None:
        """A client has connected. Called inside the process."""
        ...


class Host:
    def __init__(self, name: str) -> None:
        self.name = name
        self.listeners: dict[int, Listener] = {}
        self.connections: dict[Connection, None] = {}
        """Those that it is either end of."""
        self._next_port = PORT_FIRST

    def listener(self, port: int) -> Listener | None:
        listener = self.listeners.get(port)
        return None if listener is None or listener.process.is_dead else listener

    def free_port(self) -> int:
        while True:
            port = self._next_port
            self._next_port = PORT_FIRST if port == PORT_LAST else port + 1
            if self.listener(port) is None:
                return port


class SimNetwork:
    """One network. ``stats`` counts what it carried and what was done to it."""

    def __init__(
        self,
        loop: SimLoop,
        generator: random.Random,
        *,
        latency_s: tuple[float, float] = (LATENCY_MIN_S, LATENCY_MAX_S),
    ) -> None:
        self.loop = loop
        self.generator = generator
        self.verdicts = Verdicts()
        self.messages = self.bytes = self.largest_queue = 0
        self.reset_probability = 0.0
        """Of a connection at each message that it carries."""
        self.duplicate_probability = 0.0
        """Of a unary call to be served twice."""
        self.unexpected: list[tuple[str, Exception]] = []
        """Errors that servicers let through, by method: a caller gets UNKNOWN, and somebody has a bug."""
        self._stats: Counter[str] = Counter()
        self._latency_min_s, self._latency_span_s = latency_s[0], latency_s[1] - latency_s[0]
        self._hosts: dict[str, Host] = {}
        self._connections: dict[Connection, None] = {}
        self._serving: dict[Host, None] = {}
        self._dark: dict[str, None] = {}
        """Hosts without power."""
        self._blocked: dict[tuple[str, str], None] = {}
        self._splits: list[frozenset[str]] = []
        self._isolated: dict[str, None] = {}
        self._slow: dict[tuple[str, str], float] = {}

    def transport(self, process: Process, host: str, clock: Clock) -> SimTransport:
        """The transport of one life of one daemon; ``clock`` is its wall clock."""
        from swarmpy.sim.transport import SimTransport

        machine = self.host(host)
        process.on_pause(lambda: self._review(machine))
        process.on_end(lambda: self._process_ended(process, machine))
        return SimTransport(self, process, host=host, clock=clock)

    @property
    def stats(self) -> Counter[str]:
        """By name: messages, bytes, connections, resets, and every kind of fault."""
        self._stats["messages"], self._stats["bytes"] = self.messages, self.bytes
        return self._stats

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    # --- faults

    def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Nothing passes between two hosts any more; one way: nothing from ``a`` to ``b``."""
        self._stats["cuts_one_way" if one_way else "cuts"] += 1
        self._blocked[(a, b)] = None
        if not one_way:
            self._blocked[(b, a)] = None
        self._review(self.host(a))

    def cut_one_way(self, paths: Iterable[tuple[str, str]]) -> None:
        """Nothing passes on any of these paths any more, each from its first to its second."""
        for path in paths:
            self._stats["cuts_one_way"] += 1
            self._blocked[path] = None
        self._review()

    def heal_paths(self, paths: Iterable[tuple[str, str]]) -> None:
        for path in paths:
            self._stats["heals"] += 1
            self._blocked.pop(path, None)
        self._review()

    def split(self, hosts: Iterable[str]) -> Callable[[], None]:
        """Nothing passes between these hosts and all others, known or not. What is returned undoes that."""
        group = frozenset(hosts)
        self._stats["splits"] += 1
        self._splits.append(group)
        self._review()

        def mend() -> None:
            if group in self._splits:
                self._splits.remove(group)
                self._review()

        return mend

    def heal(self, a: str, b: str) -> None:
        """Undo ``cut``, either way."""
        self._stats["heals"] += 1
        self._blocked.pop((a, b), None)
        self._blocked.pop((b, a), None)
        self._review(self.host(a))

    def isolate(self, host: str) -> None:
        """Cut a host off from every other, known or not, until ``rejoin`` or ``heal_all``."""
        self._stats["isolations"] += 1
        self._isolated[host] = None
        self._review(self.host(host))

    def rejoin(self, host: str) -> None:
        self._stats["heals"] += 1
        self._isolated.pop(host, None)
        self._review(self.host(host))

    def heal_all(self) -> None:
        """Every path is whole again, and fast. Hosts without power stay so."""
        self._stats["heals"] += 1
        self._blocked.clear()
        self._splits.clear()
        self._isolated.clear()
        self._slow.clear()
        self._review()

    def slow(self, a: str, b: str, seconds: float) -> None:
        """Whatever passes between two hosts takes that much longer, on the average; 0: no longer."""
        self._stats["slowdowns"] += 1
        for path in ((a, b), (b, a)):
            if seconds > 0:
                self._slow[path] = seconds
            else:
                self._slow.pop(path, None)

    def lose_connections(self, probability: float = 1.0) -> int:
        """Reset each open connection with this probability; how many that were."""
        chosen = [one for one in self._connections if self.generator.random() < probability]
        for connection in chosen:
            self.reset(connection)
        return len(chosen)

    def reset(self, connection: Connection) -> None:
        connection.reset()

    def power_off(self, host: str) -> None:
        """At once, and without a word to anybody. Kill its processes in the same step."""
        self._stats["power_offs"] += 1
        machine = self.host(host)
        self._dark[host] = None
        machine.listeners.clear()
        self._serving.pop(machine, None)
        for connection in list(machine.connections):
            for end in self._ends_at(connection, host):
                end.out.tear(is_all=True)
                end.drop()
        self._review(machine)

    def power_on(self, host: str) -> None:
        """The host is back, and knows nothing of its old connections: its kernel resets them."""
        machine = self.host(host)
        self._dark.pop(host, None)
        self._review(machine)
        for connection in list(machine.connections):
            for end in self._ends_at(connection, host):
                if end.is_broken and end.peer is not None:
                    end.out.send(end.peer.told, RESET)

    def _ends_at(self, connection: Connection, host: str) -> list[End]:
        ends = [connection.client] if connection.source == host else []
        if connection.target == host and connection.server is not None:
            ends.append(connection.server)
        return ends

    # --- what connections ask

    def host(self, name: str) -> Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(name)
        return host

    def serving(self) -> list[str]:
        """Hosts on which some port is open, the one that opened its first port first."""
        return [host.name for host in self._serving]

    def open_port(self, host: Host, port: int, listener: Listener) -> None:
        host.listeners[port] = listener
        self._serving[host] = None

    def close_port(self, host: Host, port: int) -> None:
        del host.listeners[port]
        if not host.listeners:
            del self._serving[host]

    def is_powered(self, host: str) -> bool:
        return host not in self._dark

    def is_open(self, source: str, target: str) -> bool:
        """Whether packets get from one host to the other now."""
        if source in self._dark or target in self._dark:
            return False
        if source == target:
            return True
        if source in self._isolated or target in self._isolated or (source, target) in self._blocked:
            return False
        return not any((source in group) is not (target in group) for group in self._splits)

    def delay(self, path: tuple[str, str]) -> float:
        delay_s = self._latency_min_s + self._latency_span_s * self.generator.random()
        if self._slow and path in self._slow:
            delay_s += self._slow[path] * (0.5 + self.generator.random())
        return delay_s

    def note_unexpected(self, method: str, error: Exception) -> None:
        self._stats["calls_failed_unexpectedly"] += 1
        self.unexpected.append((method, error))

    def forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        for name in (connection.source, connection.target):
            self.host(name).connections.pop(connection, None)

    # --- connecting

    def connect(self, process: Process, source: str, address: str) -> Connection:
        """Begin to connect; what comes of it the client's end is told."""
        target, _, port = address.rpartition(":")
        target = target.strip("[]")
        if target in LOCAL_NAMES:
            target = source
        connection = Connection(
            self, process, source=source, target=target, source_port=self.host(source).free_port()
        )
        self._connections[connection] = None
        for name in (source, target):
            self.host(name).connections[connection] = None
        self._stats["connections"] += 1
        connection.review()
        connection.up.send(self._connect_arrived, (connection, int(port)))
        return connection

    def _connect_arrived(self, request: tuple[Connection, int]) -> None:
        """The first packet, at the target's kernel."""
        connection, port = request
        listener = self.host(connection.target).listener(port)
        if listener is None:
            connection.down.send(connection.client.told, REFUSED)
            return
        connection.accept(listener.process, f"{connection.target}:{port}")
        self.loop.call_soon(listener.accept, connection, context=listener.process.context)

    # --- what becomes of processes

    def _process_ended(self, process: Process, host: Host) -> None:
        for port in [port for port, one in host.listeners.items() if one.process is process]:
            self.close_port(host, port)
        for connection in list(host.connections):
            connection.process_ended(process)

    def _review(self, host: Host | None = None) -> None:
        """Something has changed between this host and others, or between any."""
        for connection in list(self._connections if host is None else host.connections):
            connection.review()
