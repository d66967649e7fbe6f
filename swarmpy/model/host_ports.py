"""Which ports in mode host two tasks of a node can have side by side. Managers and agents share the rule."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from enum import Enum
from typing import Final

BoundPort = tuple[str, int, str]
"""Protocol, number, and the address or interface of the node on which alone it answers; "": on all."""

_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})


class HostKind(Enum):
    ALL = "all"
    ADDRESS = "address"
    INTERFACE = "interface"


def kind_of(host_ip: str) -> HostKind:
    if host_ip in _EVERYWHERE:
        return HostKind.ALL
    try:
        ipaddress.ip_address(host_ip)
    except ValueError:
        return HostKind.INTERFACE
    return HostKind.ADDRESS


def is_clash(one: BoundPort, other: BoundPort) -> bool:
    """Whether two tasks of a node cannot both have these ports.

    Two addresses of a node are two places, and so are two interfaces; an interface may have any address.
    """
    if one[:2] != other[:2]:
        return False
    if one[2] == other[2]:
        return True
    kinds = {kind_of(one[2]), kind_of(other[2])}
    return HostKind.ALL in kinds or len(kinds) == 2


def are_clashing(wanted: Iterable[BoundPort], held: Iterable[BoundPort]) -> bool:
    there = tuple(held)
    return any(is_clash(port, other) for port in wanted for other in there)
