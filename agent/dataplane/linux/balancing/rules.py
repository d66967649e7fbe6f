"""The table in a task's namespace, and its elements: pure.

The rules never change. A packet to a virtual address, of TCP, UDP, ICMP or anything else, finds its service's
number of slots in the map ``…_vips``; a chain for that number draws a slot, and the map ``…_slots`` has the
backend. Services come, go and change by elements of these two maps alone:

    ip_vips   10.0.1.2       : goto ip_3           a service with three slots
    ip_slots  10.0.1.2 . 0   : 10.0.1.7            the first of them
    ip_vips   10.0.1.4       : goto refuse         a service without backends: refused at once

Only the first packet of a connection comes by; the kernel's connection table keeps where it went.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from itertools import compress
from operator import ne

from agent.dataplane.base import Balancer
from agent.dataplane.linux.balancing import slots
from agent.dataplane.linux.elements import Element, Elements, Sides, difference
from swarmpy.model.value import Value

TABLE = "swarmpy_vip"
DELETION = f"table inet {TABLE}\ndelete table inet {TABLE}\n"
"""Deletes it whether it is there or not."""
REFUSE = b"refuse"
VIPS, SLOTS = "_vips", "_slots"
"""How the names of the maps end."""
_FAMILIES = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}
_SLOT_BYTES = 4


class ServiceSlots(Value, frozen=True, kw_only=True):
    """A service's balancer and its slots by IP version. One that is sticky has none: each client chooses."""

    balancer: Balancer
    slots: dict[int, tuple[str, ...]] = {}


def version_of(address: str) -> int:
    return 6 if ":" in address else 4


def versions_of(addresses: Iterable[str]) -> tuple[int, ...]:
    return tuple(sorted({version_of(address) for address in addresses}))


def ruleset(versions: Iterable[int]) -> str:
    """The table for tasks that have addresses of these IP versions; it replaces what is there."""
    maps, chains, entry = "", "", ""
    for version in versions:
        family, kind = _FAMILIES[version]
        draw = f"{family} daddr . numgen random mod"
        maps += f" map {vips_map(version)} {{ type {kind} : verdict; }}\n"
        maps += f" map {slots_map(version)} {{ typeof {draw} 2 : {family} daddr; }}\n"
        for size in slots.SIZES:
            rule = f"dnat {family} to {draw} {size} map @{slots_map(version)};"
            chains += f" chain {chain_of(version, size).decode()} {{ {rule} }}\n"
        entry += f" {family} daddr vmap @{vips_map(version)};"
    refuse = f" chain {REFUSE.decode()} {{ meta l4proto tcp reject with tcp reset; reject; }}\n"
    hooks = "".join(
        f" chain {hook} {{ type nat hook {hook} priority -100;{entry} }}\n"
        for hook in ("output", "prerouting")
    )
    return f"{DELETION}table inet {TABLE} {{\n{maps}{refuse}{chains}{hooks}}}\n"


def vips_map(version: int) -> str:
    return _FAMILIES[version][0] + VIPS


def slots_map(version: int) -> str:
    return _FAMILIES[version][0] + SLOTS


def maps_of(versions: Iterable[int]) -> list[str]:
    return [name for version in versions for name in (vips_map(version), slots_map(version))]


def key_bytes(name: str) -> int:
    """How long the keys of a map are."""
    size = 16 if name.startswith(_FAMILIES[6][0]) else 4
    return size + _SLOT_BYTES if name.endswith(SLOTS) else size


def chain_of(version: int, size: int) -> bytes:
    return f"{_FAMILIES[version][0]}_{size}".encode() if size else REFUSE


# --- services


def place(balancer: Balancer, former: Mapping[int, tuple[str, ...]]) -> ServiceSlots:
    """A service's slots, as near to the former ones as is fair."""
    if balancer.is_sticky:
        return ServiceSlots(balancer=balancer)
    found = {
        version: slots.spread(backends_of(balancer, version), former.get(version, ()))
        for version in versions_of(balancer.vips)
    }
    return ServiceSlots(balancer=balancer, slots=found)


def backends_of(balancer: Balancer, version: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys([each for each in balancer.backends if (":" in each) == (version == 6)]))


def elements_of(service: ServiceSlots, versions: Iterable[int]) -> dict[Element, bytes]:
    """All of a service but what a client that sticks has chosen; for tasks with these IP versions."""
    versions = tuple(versions)
    found = _heads_of(service, versions)
    for vip in service.balancer.vips:
        version = version_of(vip)
        if version in versions:
            found.update(slot_elements(vip, enumerate(service.slots.get(version, ()))))
    return found


def _heads_of(service: ServiceSlots, versions: tuple[int, ...]) -> dict[Element, bytes]:
    """Which chain each virtual address leads to."""
    found = {}
    for vip in service.balancer.vips:
        version = version_of(vip)
        if version not in versions:
            continue
        if service.balancer.is_sticky:
            size = 1 if backends_of(service.balancer, version) else 0
        else:
            size = len(service.slots.get(version, ()))
        found[Element(vips_map(version), ip_address(vip).packed)] = chain_of(version, size)
    return found


def slot_elements(vip: str, places: Iterable[tuple[int, str]]) -> dict[Element, bytes]:
    """``places``: positions, and the backend of each."""
    packed, name = ip_address(vip).packed, slots_map(version_of(vip))
    known: dict[str, bytes] = {}
    found = {}
    for position, backend in places:
        if backend not in known:
            known[backend] = ip_address(backend).packed
        # the kernel draws the slot into a register in its own byte order
        found[Element(name, packed + position.to_bytes(_SLOT_BYTES, sys.byteorder))] = known[backend]
    return found


def slots_in(elements: Elements, vip: str) -> tuple[str, ...]:
    """The slots that a namespace has for an address, as far as they are there in a row."""
    packed, name = ip_address(vip).packed, slots_map(version_of(vip))
    found: list[str] = []
    while len(found) < slots.SIZES[-1]:
        backend = elements.get(Element(name, packed + len(found).to_bytes(_SLOT_BYTES, sys.byteorder)))
        if backend is None:
            break
        found.append(str(ip_address(backend)))
    return tuple(found)


def step(former: ServiceSlots | None, now: ServiceSlots | None, versions: Iterable[int]) -> Sides:
    """From one state of a service to the next; as ``difference`` of all their elements, but sooner."""
    versions = tuple(versions)
    if former is None or now is None or former.balancer.vips != now.balancer.vips:
        return difference(_all_of(former, versions), _all_of(now, versions))
    removed, added = difference(_heads_of(former, versions), _heads_of(now, versions))
    for vip in now.balancer.vips:
        version = version_of(vip)
        if version not in versions:
            continue
        before, after = former.slots.get(version, ()), now.slots.get(version, ())
        shared = min(len(before), len(after))
        moved = list(compress(range(shared), map(ne, before, after)))
        for side, own in ((removed, before), (added, after)):
            positions = [*moved, *range(shared, len(own))]
            side.update(slot_elements(vip, [(position, own[position]) for position in positions]))
    return removed, added


def _all_of(service: ServiceSlots | None, versions: tuple[int, ...]) -> dict[Element, bytes]:
    return elements_of(service, versions) if service is not None else {}
