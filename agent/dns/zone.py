"""What a task's queries are answered with from the names of its networks. Pure; chance comes in.

Names are those of the first of the task's networks that has them. A name that is known without an address of
the family that was asked for, or asked for by another type, has an empty answer: it is ours, and nobody else
is asked. What is not known here is passed on.

An answer is written once and kept under the bytes of the query without its id; a repeated query then costs
one look-up, an id, and the next turn of the addresses. Several addresses start from a random one and move on
by one for each query, so that as many queries as there are addresses meet every one. A zone never changes:
when names do there is a new one, and with it everything that was kept is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from agent.dataplane.base import Endpoint, Names
from agent.dns import wire
from agent.dns.limits import DNS_ANSWERS_KEPT, DNS_STREAM_BYTES_MAX, DNS_TTL_S
from agent.dns.wire import Query, Refusal
from swarmpy.model.ids import NetworkId

Draw = Callable[[int], int]
"""A random number from 0 to below the given one."""

RESOLVER_ADDRESS = "127.0.0.11"
"""Where a task asks for names; the address that Docker uses, which programs have come to know."""

_REVERSE_4, _REVERSE_6 = ".in-addr.arpa", ".ip6.arpa"
_NIBBLES = 32
_ESCAPE = "\\"
_MODES_WITHOUT = ("host", "none")


def has_resolver(endpoint: Endpoint) -> bool:
    """A task in the node's own network asks as the node does; one without a network asks nobody."""
    return endpoint.mode not in _MODES_WITHOUT


def network_ids(endpoint: Endpoint) -> tuple[NetworkId, ...]:
    """The networks whose names a task knows, in the order in which they are asked."""
    return tuple(leg.network.id for leg in endpoint.legs if not leg.network.is_ingress)


def has_way_out(endpoint: Endpoint) -> bool:
    """A task on internal networks only must not reach the outside, and so not the node's servers either."""
    return not endpoint.legs or not all(leg.network.is_internal for leg in endpoint.legs)


class Answer:
    """One answer, ready but for its id and the turn of its addresses."""

    __slots__ = ("_closing", "_count", "_next", "_opening", "_shown", "_twice", "_width")

    def __init__(self, query: Query, records: list[bytes], *, size: int, draw: Draw) -> None:
        shown = wire.fitting(query, records, size)
        self._opening = wire.opening(query, answers=shown, is_truncated=shown < len(records))
        self._closing = wire.closing(query)
        self._count = len(records)
        self._width = len(records[0]) if records else 0
        self._shown = shown * self._width
        self._twice = b"".join(records * 2)
        self._next = draw(len(records)) if len(records) > 1 else 0
        if shown == len(records) <= 1:
            self._opening += b"".join(records) + self._closing
            self._count = 0

    def message(self, ident: bytes) -> bytes:
        count = self._count
        if not count:
            return ident + self._opening
        turn = self._next
        self._next = turn + 1 if turn + 1 < count else 0
        start = turn * self._width
        return ident + self._opening + self._twice[start : start + self._shown] + self._closing


class Zone:
    """The names that tasks on the same networks, in the same order, can ask for."""

    __slots__ = ("_draw", "_networks", "answers")

    def __init__(self, networks: Iterable[Names], draw: Draw) -> None:
        self._networks = tuple(networks)
        self._draw = draw
        self.answers: dict[bytes, Answer] = {}
        """By the query's bytes after its id, over UDP."""

    def respond(self, packet: bytes) -> bytes | Query | None:
        """To a query over UDP: its answer, or the query to be passed on, or None for nothing at all."""
        answer = self.answers.get(packet[2:])
        if answer is not None:
            return answer.message(packet[:2])
        found = self._find(packet, is_stream=False)
        if not isinstance(found, Answer):
            return found
        if len(self.answers) >= DNS_ANSWERS_KEPT:
            self.answers.clear()
        self.answers[packet[2:]] = found
        return found.message(packet[:2])

    def respond_stream(self, packet: bytes) -> bytes | Query | None:
        """The same to a query over TCP."""
        found = self._find(packet, is_stream=True)
        return found.message(packet[:2]) if isinstance(found, Answer) else found

    def _find(self, packet: bytes, *, is_stream: bool) -> Answer | bytes | Query | None:
        query = wire.parse_query(packet)
        if query is None:
            return None
        if isinstance(query, Refusal):
            return query.message
        if query.edns is not None and query.edns.version:
            return wire.failure(query, wire.BADVERS)
        records = self._records(query)
        if records is None:
            return query
        size = DNS_STREAM_BYTES_MAX if is_stream else wire.room(query)
        return Answer(query, records, size=size, draw=self._draw)

    def _records(self, query: Query) -> list[bytes] | None:
        """None if the name is not known here."""
        if query.cls not in (wire.CLASS_IN, wire.CLASS_ANY):
            return None
        for names in self._networks:
            addresses = names.addresses.get(query.name)
            if addresses is not None:
                return _address_records(query.type, addresses)
        address = reversed_address(query.name)
        if address is not None:
            for names in self._networks:
                name = names.pointers.get(address)
                if name is not None:
                    return _pointer_records(query.type, name)
        return None


def _address_records(kind: int, addresses: Iterable[str]) -> list[bytes]:
    """Asked for anything, a name has its addresses of one family (RFC 8482)."""
    four: list[bytes] = []
    six: list[bytes] = []
    for text in addresses:
        address = ip_address(text)
        if address.version == 4:
            four.append(wire.record(wire.A, DNS_TTL_S, address.packed))
        else:
            six.append(wire.record(wire.AAAA, DNS_TTL_S, address.packed))
    if kind == wire.ANY:
        return four or six
    if kind == wire.A:
        return four
    return six if kind == wire.AAAA else []


def _pointer_records(kind: int, name: str) -> list[bytes]:
    if kind not in (wire.PTR, wire.ANY):
        return []
    try:
        return [wire.record(wire.PTR, DNS_TTL_S, wire.encode_name(name))]
    except ValueError:
        return []  # a name that no DNS message can hold


def reversed_address(name: str) -> str | None:
    """The address that a name below in-addr.arpa or ip6.arpa stands for."""
    if _ESCAPE in name:
        return None
    if name.endswith(_REVERSE_4):
        parts = name.removesuffix(_REVERSE_4).split(".")
        try:
            return str(IPv4Address(".".join(reversed(parts))))
        except ValueError:
            return None
    if name.endswith(_REVERSE_6):
        digits = name.removesuffix(_REVERSE_6).split(".")
        if len(digits) != _NIBBLES or any(len(digit) != 1 for digit in digits):
            return None
        try:
            return str(IPv6Address(bytes.fromhex("".join(reversed(digits)))))
        except ValueError:
            return None
    return None
