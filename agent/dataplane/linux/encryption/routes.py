"""Which device leads to whom, for what this node itself sends to the data port of encrypted networks.

A rule sends such datagrams, and no others, to a routing table of ours. In it is a route for each known peer:
through the device that encrypts, or onwards to the usual routes where IPsec does. To all others nothing
leads. Everything else between the nodes, also what the ways send themselves, goes its usual way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, ip_address
from socket import AF_INET, AF_INET6, IPPROTO_UDP
from typing import Final, NamedTuple

from agent.dataplane.linux.netlink import Message, Netlink, attribute, attributes, u32

_NEW_ROUTE, _DELETE_ROUTE, _GET_ROUTE = 24, 25, 26
_NEW_RULE, _DELETE_RULE, _GET_RULE = 32, 33, 34
_CREATE, _REPLACE, _EXCLUSIVE = 0x400, 0x100, 0x200
_RTA_DST, _RTA_OIF, _RTA_TABLE, _RTA_PRIORITY = 1, 4, 15, 6
_FRA_IIFNAME, _FRA_PRIORITY, _FRA_TABLE, _FRA_PROTOCOL, _FRA_PORTS = 3, 6, 15, 22, 24
_TO_TABLE: Final = 1
_UNICAST, _UNREACHABLE, _THROW = 1, 7, 9
_SCOPE_LINK, _SCOPE_UNIVERSE = 253, 0
_PROTOCOL_STATIC: Final = 4
_METRIC: Final = 1024

_ROUTE = struct.Struct("=BBBBBBBBI")
_RULE = struct.Struct("=BBBBBBBBI")

TABLE: Final = 0x5A5A
PRIORITY: Final = 5_090
"""Before the usual tables and before what people set up for all traffic."""
FAMILIES: Final = (AF_INET, AF_INET6)


class Rule(NamedTuple):
    family: int
    port: int


class Route(NamedTuple):
    """``link``: index of the device; 0: as usual for a peer, nowhere for ``target`` empty (all others)."""

    family: int
    target: str
    link: int = 0


class Observed(NamedTuple):
    """``rules`` with our priority, ``routes`` of our table."""

    rules: frozenset[Rule]
    routes: frozenset[Route]


def wanted_routes(
    by_link: Mapping[int, Iterable[str]], families: Iterable[int] = FAMILIES
) -> frozenset[Route]:
    """``by_link``: addresses of peers by the index of their device; 0 for IPsec."""
    nowhere = {Route(family, "") for family in families}
    return frozenset(nowhere) | {
        Route(_family(address), address, link) for link, addresses in by_link.items() for address in addresses
    }


def diff(wanted: frozenset[Route], port: int, observed: Observed) -> list[Message]:
    """The dead ends first, then the rules, and only then what leads somewhere."""
    former = {(route.family, route.target): route for route in observed.routes}
    messages: list[Message] = []
    rules = {Rule(route.family, port) for route in wanted if not route.target}
    ordered = sorted(wanted, key=lambda route: (bool(route.target), route))
    for route in ordered:
        if not route.target and route not in observed.routes:
            messages += _set(route, former)
    messages += [add_rule(rule) for rule in sorted(rules - observed.rules)]
    messages += [delete_rule(rule) for rule in sorted(observed.rules - rules)]
    for route in ordered:
        if route.target and route not in observed.routes:
            messages += _set(route, former)
    kept = {(route.family, route.target) for route in wanted}
    messages += [
        delete_route(route) for route in sorted(observed.routes) if (route.family, route.target) not in kept
    ]
    return messages


def removal(observed: Observed) -> list[Message]:
    return [delete_rule(rule) for rule in sorted(observed.rules)] + [
        delete_route(route) for route in sorted(observed.routes)
    ]


def _set(route: Route, former: Mapping[tuple[int, str], Route]) -> list[Message]:
    standing = former.get((route.family, route.target))
    return ([delete_route(standing)] if standing is not None else []) + [add_route(route)]


# --- messages


def add_rule(rule: Rule) -> Message:
    return Message(_NEW_RULE, _CREATE | _EXCLUSIVE, _rule_body(rule))


def delete_rule(rule: Rule) -> Message:
    return Message(_DELETE_RULE, 0, _rule_body(rule))


def _rule_body(rule: Rule) -> bytes:
    """For what this node sends itself: ``iif lo``. What it forwards for others is not its own."""
    return (
        _RULE.pack(rule.family, 0, 0, 0, 0, 0, 0, _TO_TABLE, 0)
        + attribute(_FRA_IIFNAME, b"lo\0")
        + u32(_FRA_PRIORITY, PRIORITY)
        + u32(_FRA_TABLE, TABLE)
        + attribute(_FRA_PROTOCOL, bytes([IPPROTO_UDP]))
        + attribute(_FRA_PORTS, struct.pack("=HH", rule.port, rule.port))
    )


def add_route(route: Route) -> Message:
    return Message(_NEW_ROUTE, _CREATE | _REPLACE, _route_body(route))


def delete_route(route: Route) -> Message:
    return Message(_DELETE_ROUTE, 0, _route_body(route))


def _route_body(route: Route) -> bytes:
    raw = ip_address(route.target).packed if route.target else b""
    kind = (_UNICAST if route.link else _THROW) if route.target else _UNREACHABLE
    scope = _SCOPE_LINK if route.link and route.family == AF_INET else _SCOPE_UNIVERSE
    return (
        _ROUTE.pack(route.family, len(raw) * 8, 0, 0, 0, _PROTOCOL_STATIC, scope, kind, 0)
        + (attribute(_RTA_DST, raw) if raw else b"")
        + (u32(_RTA_OIF, route.link) if route.link else b"")
        + u32(_RTA_PRIORITY, _METRIC)
        + u32(_RTA_TABLE, TABLE)
    )


# --- dumps


def observe(netlink: Netlink, families: Iterable[int] = FAMILIES) -> Observed:
    rules: set[Rule | None] = set()
    routes: set[Route | None] = set()
    for family in families:
        body = _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        rules |= {_parse_rule(payload) for payload in netlink.dump(_GET_RULE, body)}
        routes |= {_parse_route(payload) for payload in netlink.dump(_GET_ROUTE, body)}
    return Observed(frozenset(filter(None, rules)), frozenset(filter(None, routes)))


def _parse_rule(payload: bytes) -> Rule | None:
    raw = attributes(payload, _RULE.size)
    if _number(raw.get(_FRA_TABLE, b"")) != TABLE or _number(raw.get(_FRA_PRIORITY, b"")) != PRIORITY:
        return None
    port, _ = struct.unpack("=HH", raw.get(_FRA_PORTS, bytes(4)))
    return Rule(payload[0], port)


def _parse_route(payload: bytes) -> Route | None:
    family, bits, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(payload)
    raw = attributes(payload, _ROUTE.size)
    if _number(raw.get(_RTA_TABLE, b"")) != TABLE:
        return None
    target = str(ip_address(raw[_RTA_DST])) if bits and _RTA_DST in raw else ""
    # the kernel says of a dead end of IPv6 that it is on the loopback
    link = _number(raw.get(_RTA_OIF, b"")) if kind == _UNICAST else 0
    return Route(family, target, link)


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def _family(address: str) -> int:
    return AF_INET if isinstance(ip_address(address), IPv4Address) else AF_INET6
