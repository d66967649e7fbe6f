"""A simulated network between raft members: FIFO connections that break, delay, and are cut by partitions."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable

from manager.raft.wire import Receiver
from swarmpy.pb import raft_pb2 as pb

Pair = frozenset[str]
Observer = Callable[[str, pb.RaftFrame], None]


class SimWire:
    """One incarnation's end of the network."""

    def __init__(self, network: Network, name: str) -> None:
        self.network, self.name = network, name
        self.receiver: Receiver
        self.is_up = False

    async def start(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.is_up = True
        self.network.attach(self)

    async def stop(self) -> None:
        self.network.detach(self)

    def send(self, peer: str, frame: pb.RaftFrame) -> bool:
        return self.network.send(self, peer, frame)

    def backlog(self, peer: str) -> int:
        return self.network.in_flight.get((self.name, peer), 0)

    def drop(self, peer: str) -> None:
        self.network.disconnect(self.name, peer)


class _Link:
    def __init__(self) -> None:
        self.is_up = self.is_coming = False
        self.generation = 0


class Network:
    def __init__(self, loop: asyncio.AbstractEventLoop, generator: random.Random, observe: Observer) -> None:
        self._loop, self._random, self._observe = loop, generator, observe
        self.wires: dict[str, SimWire] = {}
        self.blocked: set[Pair] = set()
        self.slow: dict[tuple[str, str], float] = {}
        self.in_flight: dict[tuple[str, str], int] = {}
        self._queues: dict[tuple[str, str], deque[bytes]] = {}
        self._links: dict[Pair, _Link] = {}
        self._last_delivery: dict[tuple[str, str], float] = {}
        self._dial_later()

    def attach(self, wire: SimWire) -> None:
        self.wires[wire.name] = wire

    def detach(self, wire: SimWire) -> None:
        """The end of an incarnation. Part of what it had sent may still arrive."""
        wire.is_up = False
        if self.wires.get(wire.name) is wire:
            del self.wires[wire.name]
            for peer in sorted(self.wires):
                self._deliver_last_words(wire.name, peer)
                self.disconnect(wire.name, peer)

    def cut(self, one: str, other: str) -> None:
        self.blocked.add(frozenset((one, other)))
        self.disconnect(one, other)

    def heal(self) -> None:
        self.blocked.clear()

    def send(self, wire: SimWire, peer: str, frame: pb.RaftFrame) -> bool:
        link = self._links.get(frozenset((wire.name, peer)))
        if not wire.is_up or link is None or not link.is_up:
            return False
        self._observe(wire.name, frame)
        way = (wire.name, peer)
        delay = self._random.uniform(0.0005, 0.02) + self.slow.get(way, 0.0) * self._random.random()
        at = max(self._last_delivery.get(way, 0.0) + 1e-6, self._loop.time() + delay)
        self._last_delivery[way] = at
        data = frame.SerializeToString()
        self.in_flight[way] = self.in_flight.get(way, 0) + len(data)
        self._queues.setdefault(way, deque()).append(data)
        self._loop.call_at(at, self._deliver, way, link.generation)
        return True

    def disconnect(self, one: str, other: str) -> None:
        link = self._links.get(frozenset((one, other)))
        if link is None or not link.is_up:
            return
        link.is_up = False
        link.generation += 1
        for name, peer in ((one, other), (other, one)):
            self._last_delivery.pop((name, peer), None)
            self.in_flight.pop((name, peer), None)
            self._queues.pop((name, peer), None)
            self._loop.call_soon(self._tell_disconnected, name, peer)

    def _tell_disconnected(self, name: str, peer: str) -> None:
        wire = self.wires.get(name)
        if wire is not None and wire.is_up:
            wire.receiver.disconnected(peer)

    def _deliver_last_words(self, source: str, target: str) -> None:
        queue = self._queues.get((source, target))
        for _ in range(self._random.randint(0, len(queue)) if queue else 0):
            assert queue is not None
            frame = pb.RaftFrame.FromString(queue.popleft())
            self._loop.call_soon(self._receive, self.wires[target], source, frame)

    def _receive(self, wire: SimWire, source: str, frame: pb.RaftFrame) -> None:
        if wire.is_up:
            wire.receiver.receive(source, frame)

    def _deliver(self, way: tuple[str, str], generation: int) -> None:
        source, target = way
        link = self._links[frozenset(way)]
        if not link.is_up or link.generation != generation:
            return
        data = self._queues[way].popleft()
        self.in_flight[way] -= len(data)
        wire = self.wires.get(target)
        if wire is not None:
            self._receive(wire, source, pb.RaftFrame.FromString(data))

    def _dial_later(self) -> None:
        self._loop.call_later(0.1, self._dial)

    def _dial(self) -> None:
        names = sorted(self.wires)
        for position, one in enumerate(names):
            for other in names[position + 1 :]:
                if self._wants(one, other) or self._wants(other, one):
                    self._connect_soon(frozenset((one, other)))
        self._dial_later()

    def _wants(self, one: str, other: str) -> bool:
        receiver = self.wires[one].receiver
        return other in receiver.peers() and receiver.may_dial(other)

    def _connect_soon(self, pair: Pair) -> None:
        link = self._links.setdefault(pair, _Link())
        if not link.is_up and not link.is_coming and pair not in self.blocked:
            link.is_coming = True
            self._loop.call_later(self._random.uniform(0.001, 0.2), self._connect, pair)

    def _connect(self, pair: Pair) -> None:
        link = self._links[pair]
        link.is_coming = False
        one, other = sorted(pair)
        if link.is_up or pair in self.blocked or one not in self.wires or other not in self.wires:
            return
        link.is_up = True
        link.generation += 1
        self.wires[one].receiver.connected(other)
        self.wires[other].receiver.connected(one)
