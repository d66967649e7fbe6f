"""The table of the node that clients come in on: pure.

The rules never change while the node's ingress address stays. A new connection to a published port finds the
port's number of slots in ``…_ports``; a chain for that number draws a slot, and ``…_slots`` has the task. All
that services do is to change elements:

    ip_ports       tcp . 8080          : goto ip_3
    ip_slots       tcp . 8080 . 0      : 10.0.0.9 . 80     the first of three slots
    ip_ports_at    192.0.2.1 . udp . 53 : goto refuse      on one address only, and without tasks
    ip_ports_on    "eth1" . tcp . 443  : goto ip_on_3      for whoever comes in there

The packet goes straight to the task; its client's address stays, unless the port is in ``classic`` or the
client is one that only this node knows the way to: itself by a loopback address, or one of its tasks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from typing import NamedTuple

from msgspec.structs import replace

from agent.dataplane.base import PublishedPort
from agent.dataplane.linux.balancing import slots
from agent.dataplane.linux.elements import Element, Sides, difference
from agent.dataplane.linux.mesh.names import (
    CLASSIC,
    LINK,
    PROTOCOL_NUMBERS,
    PROTOCOLS,
    TABLE,
    is_address,
    version_of,
)
from agent.dataplane.linux.plan import GATEWAY_LINK
from swarmpy.limits import MESH_STICKY_SLOTS

DELETION = f"table inet {TABLE}\ndelete table inet {TABLE}\n"
"""Deletes it whether it is there or not."""
LISTING = f"list table inet {TABLE}"
REFUSE = "refuse"
CLASSIC_SET = "classic"
_FAMILIES = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}
_SEED = 0x5A
"""The same on all nodes, so that a client that sticks finds its task through each."""
PLACES = {"": "", "_at": "{family} daddr . ", "_on": "iifname . "}
"""Where a port answers, with what comes before it in the keys: on all addresses of the node, on one, and for
whoever comes in by one interface."""
_LINK_NAME_BYTES = 16

Interfaces = Iterable[IPv4Interface | IPv6Interface]


# --- the table


def ruleset(addresses: Interfaces) -> str:
    """The table for a node with these ingress addresses, without elements; it replaces what is there."""
    service, port = "inet_proto . inet_service", "meta l4proto . th dport"
    mark = f"ct mark set {CLASSIC:#x};"
    maps = f" set {CLASSIC_SET} {{ type {service}; }}\n set on_{CLASSIC_SET} {{ type ifname . {service}; }}\n"
    entry = f" {port} @{CLASSIC_SET} {mark} iifname . {port} @on_{CLASSIC_SET} {mark}"
    chains, on, at, anywhere = "", "", "", ""
    for version, (family, kind) in _FAMILIES.items():
        maps += _maps(family, kind)
        chains += "".join(_chains(version, place) for place in PLACES)
        entry += f" {family} daddr . {port} @{family}_{CLASSIC_SET} {mark}"
        on += f" meta nfproto ipv{version} iifname . {port} vmap @{family}_ports_on;"
        at += f" {family} daddr . {port} vmap @{family}_ports_at;"
        anywhere += f" meta nfproto ipv{version} {port} vmap @{family}_ports;"
    guarded = ", ".join(PROTOCOLS)
    enter = f"meta l4proto {{ {guarded} }} fib daddr type local jump publish;"
    return f"""{DELETION}table inet {TABLE} {{
{maps}{chains} chain {REFUSE} {{ meta l4proto tcp reject with tcp reset; reject; }}
 chain publish {{{entry}{on}{at}{anywhere} }}
 chain prerouting {{ type nat hook prerouting priority dstnat; iifname "{LINK}" return; {enter} }}
 chain output {{ type nat hook output priority -100; {enter} }}
 chain postrouting {{
  type nat hook postrouting priority srcnat;
  oifname != "{LINK}" return
{"".join(map(_source_nat, addresses))} }}
 chain segment_size {{
  type filter hook postrouting priority mangle;
  iifname "{LINK}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
  oifname "{LINK}" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
 }}
 chain loopback_guard {{
  type filter hook prerouting priority raw;
  iifname "{LINK}" ip daddr 127.0.0.0/8 drop
 }}
 chain forward_guard {{
  type filter hook forward priority filter;
  iifname "{LINK}" ct state new goto refuse
  oifname "{LINK}" ct state new ct status & dnat == 0 drop
 }}
 chain input_guard {{
  type filter hook input priority filter;
  iifname "{LINK}" meta l4proto {{ icmp, icmpv6 }} accept
  iifname "{LINK}" ct state new goto refuse
 }}
}}
"""


def _maps(family: str, kind: str) -> str:
    target = f"{family} daddr . th dport"
    draw = "meta l4proto . th dport . numgen random mod 2"
    return f""" set {family}_{CLASSIC_SET} {{ type {kind} . inet_proto . inet_service; }}
 map {family}_ports {{ type inet_proto . inet_service : verdict; }}
 map {family}_ports_at {{ type {kind} . inet_proto . inet_service : verdict; }}
 map {family}_ports_on {{ type ifname . inet_proto . inet_service : verdict; }}
 map {family}_slots {{ typeof {draw} : {target}; }}
 map {family}_slots_at {{ typeof {family} daddr . {draw} : {target}; }}
 map {family}_slots_on {{ typeof iifname . {draw} : {target}; }}
"""


def _chains(version: int, place: str) -> str:
    family = _FAMILIES[version][0]
    key = PLACES[place].format(family=family) + "meta l4proto . th dport . "
    draws = {size: f"numgen random mod {size}" for size in slots.SIZES}
    draws[0] = f"jhash {family} saddr mod {MESH_STICKY_SLOTS} seed {_SEED:#x}"
    return "".join(
        f" chain {_chain(version, place, size, is_sticky=not size)} "
        f"{{ dnat {family} to {key}{draw} map @{family}_slots{place}; }}\n"
        for size, draw in draws.items()
    )


def _source_nat(address: IPv4Interface | IPv6Interface) -> str:
    """Ports are drawn at random, so that connections that come at once do not race for one."""
    family, loopback = ("ip", "127.0.0.0/8") if address.version == 4 else ("ip6", "::1")
    to = f"snat {family} to {address.ip} fully-random"
    return "".join(
        f"  meta nfproto ipv{address.version} {client} {to}\n"
        for client in (f"ct mark {CLASSIC:#x}", f'iifname "{GATEWAY_LINK}"', f"{family} saddr {loopback}")
    )


def _chain(version: int, place: str, size: int, *, is_sticky: bool) -> str:
    return f"{_FAMILIES[version][0]}{place}_{'sticky' if is_sticky else size}"


# --- elements


class PlacedPort(NamedTuple):
    """A port, where on this node it answers (an address or an interface; empty: everywhere), and its slots by
    IP version."""

    port: PublishedPort
    where: str
    slots: dict[int, tuple[str, ...]]


def place(port: PublishedPort, where: str, former: PlacedPort | None) -> PlacedPort:
    """Slots as near to the former ones as is fair; the same on every node for clients that stick."""
    before = {} if former is None or former.port.is_sticky != port.is_sticky else former.slots
    found = {}
    for version in _FAMILIES:
        backends = _backends(port, version)
        if port.is_sticky and backends:
            found[version] = slots.favourites(
                MESH_STICKY_SLOTS,
                backends,
                former=before.get(version, ()),
                among=_backends(former.port, version) if former is not None else (),
            )
        else:
            found[version] = slots.spread(backends, before.get(version, ()))
    return PlacedPort(port, where, found)


def _backends(port: PublishedPort, version: int) -> tuple[str, ...]:
    return tuple(sorted({each for each in port.backends if version_of(each) == version}))


def elements_of(placed: PlacedPort) -> dict[Element, bytes]:
    port = placed.port
    found: dict[Element, bytes] = {}
    for version, where, key in _keys(placed):
        family, backends = _FAMILIES[version][0], placed.slots[version]
        size = len(backends)
        chain = _chain(version, where, size, is_sticky=port.is_sticky) if size else REFUSE
        found[Element(f"{family}_ports{where}", key)] = chain.encode()
        found.update(_slot_elements(placed, version, where, key=key, positions=range(size)))
        if port.is_source_nat:
            prefix = {"": "", "_at": f"{family}_", "_on": "on_"}[where]
            found[Element(f"{prefix}{CLASSIC_SET}", key)] = b""
    return found


def change_of(former: PlacedPort, wished: PlacedPort) -> Sides:
    """What to remove and what to add, of one port. As a rule only some slots lead elsewhere."""
    if _outside_of_slots(former) != _outside_of_slots(wished):
        return difference(elements_of(former), elements_of(wished))
    removed: dict[Element, bytes] = {}
    added: dict[Element, bytes] = {}
    for version, where, key in _keys(wished):
        before, after = former.slots[version], wished.slots[version]
        moved = [place for place, backend in enumerate(after) if before[place] != backend]
        removed.update(_slot_elements(former, version, where, key=key, positions=moved))
        added.update(_slot_elements(wished, version, where, key=key, positions=moved))
    return removed, added


def _outside_of_slots(placed: PlacedPort) -> tuple[object, ...]:
    sizes = tuple(len(placed.slots[version]) for version in _FAMILIES)
    return replace(placed.port, backends=()), placed.where, sizes


def _keys(placed: PlacedPort) -> list[tuple[int, str, bytes]]:
    """IP version, which maps, and the key, for each place where the port answers."""
    port = placed.port
    service = bytes([PROTOCOL_NUMBERS[port.protocol], 0, 0, 0]) + _number(port.published_port)
    if is_address(placed.where):
        return [(version_of(placed.where), "_at", ip_address(placed.where).packed + service)]
    if placed.where:
        name = placed.where.encode().ljust(_LINK_NAME_BYTES, b"\0")
        return [(version, "_on", name + service) for version in _FAMILIES]
    return [(version, "", service) for version in _FAMILIES]


def _slot_elements(
    placed: PlacedPort, version: int, where: str, *, key: bytes, positions: Iterable[int]
) -> dict[Element, bytes]:
    backends, target = placed.slots[version], _number(placed.port.target_port)
    name = f"{_FAMILIES[version][0]}_slots{where}"
    known: dict[str, bytes] = {}
    found = {}
    for position in positions:
        backend = backends[position]
        if backend not in known:
            known[backend] = ip_address(backend).packed + target
        # the kernel draws the slot into a register in its own byte order
        found[Element(name, key + position.to_bytes(4, sys.byteorder))] = known[backend]
    return found


def _number(port: int) -> bytes:
    return port.to_bytes(2) + b"\0\0"


def map_names() -> list[str]:
    families = [family for family, _ in _FAMILIES.values()]
    maps = [f"{kind}{place}" for kind in ("ports", "slots") for place in PLACES]
    named = [f"{family}_{each}" for family in families for each in (*maps, CLASSIC_SET)]
    return [CLASSIC_SET, f"on_{CLASSIC_SET}", *named]
