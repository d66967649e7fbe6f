"""From what a network's namespace has to what it should have: the operations, in an order that works. Pure.

Whatever is observed, carrying the operations out leads to the plan, and another run finds nothing to do. A
device that is wrong in what cannot be changed is made anew; what hung on it is then counted as missing. Links
with names that are not ours to give (``is_port``) belong to other parts and are not touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.dataplane.plan import EntryChange, SandboxPlan, Tunnel

BRIDGE = "br0"
TUNNEL = "vx0"
PORT_PREFIX = "p-"


def is_port(name: str) -> bool:
    """Whether a link by that name is a task's port."""
    return name.startswith(PORT_PREFIX)


# --- what is there


@dataclass(frozen=True, slots=True)
class ObservedLink:
    """``is_sound``: it is of the kind that its name promises. ``is_attached``: to our bridge."""

    mtu: int
    is_up: bool
    is_attached: bool = False
    is_sound: bool = True
    tunnel: Tunnel | None = None


@dataclass(frozen=True, slots=True)
class ObservedSandbox:
    """``forwarding`` and ``neighbours``: those of the tunnel."""

    links: Mapping[str, ObservedLink] = field(default_factory=dict)
    forwarding: Mapping[str, str] = field(default_factory=dict)
    neighbours: Mapping[str, str] = field(default_factory=dict)


# --- what to do


@dataclass(frozen=True, slots=True)
class DeleteLink:
    name: str


@dataclass(frozen=True, slots=True)
class AddBridge:
    mtu: int


@dataclass(frozen=True, slots=True)
class AddTunnel:
    """Made unattached and down: so that nothing passes before its tables are filled."""

    tunnel: Tunnel
    mtu: int


@dataclass(frozen=True, slots=True)
class AddPort:
    """One end of a pair, attached and up; the other end is in the task's namespace, and down."""

    name: str
    mtu: int


@dataclass(frozen=True, slots=True)
class SetLink:
    """Up, with this MTU; the bridge's ports attached to it."""

    name: str
    mtu: int


@dataclass(frozen=True, slots=True)
class SetEntries:
    """All entries that are to be set or to go, at once: there may be ten thousand."""

    change: EntryChange


Op = DeleteLink | AddBridge | AddTunnel | AddPort | SetLink | SetEntries


def diff(plan: SandboxPlan, observed: ObservedSandbox) -> tuple[Op, ...]:
    """Surplus first, then bridge, tunnel, tables, and only then what lets packets pass."""
    doomed = {name for name, link in observed.links.items() if _is_doomed(name, link, plan)}
    ops: list[Op] = [DeleteLink(name) for name in sorted(doomed)]
    standing = {name: link for name, link in observed.links.items() if name not in doomed}
    if BRIDGE in doomed:  # its ports lose it
        standing = {name: _detached(link) for name, link in standing.items()}
    if BRIDGE not in standing:
        ops.append(AddBridge(plan.mtu))
        standing = {name: _detached(link) for name, link in standing.items()}
    if _is_unlike(standing.get(BRIDGE), plan.mtu, is_attached=False):
        ops.append(SetLink(BRIDGE, plan.mtu))
    if plan.tunnel is not None:
        ops += _tunnel_ops(plan, plan.tunnel, standing=standing, observed=observed)
    for name in sorted(plan.ports):
        if name not in standing:
            ops.append(AddPort(name, plan.mtu))
        elif _is_unlike(standing[name], plan.mtu, is_attached=True):
            ops.append(SetLink(name, plan.mtu))
    return tuple(ops)


def _tunnel_ops(
    plan: SandboxPlan, tunnel: Tunnel, *, standing: Mapping[str, ObservedLink], observed: ObservedSandbox
) -> list[Op]:
    ops: list[Op] = []
    is_new = TUNNEL not in standing
    if is_new:
        ops.append(AddTunnel(tunnel, plan.mtu))
    change = entry_change(plan, ObservedSandbox() if is_new else observed)
    if not change.is_empty:
        ops.append(SetEntries(change))
    if _is_unlike(standing.get(TUNNEL), plan.mtu, is_attached=True):
        ops.append(SetLink(TUNNEL, plan.mtu))
    return ops


def entry_change(plan: SandboxPlan, observed: ObservedSandbox) -> EntryChange:
    return EntryChange(
        forwarding={
            mac: node for mac, node in plan.forwarding.items() if observed.forwarding.get(mac) != node
        },
        neighbours={ip: mac for ip, mac in plan.neighbours.items() if observed.neighbours.get(ip) != mac},
        stale_forwarding=frozenset(observed.forwarding.keys() - plan.forwarding.keys()),
        stale_neighbours=frozenset(observed.neighbours.keys() - plan.neighbours.keys()),
    )


def _is_doomed(name: str, link: ObservedLink, plan: SandboxPlan) -> bool:
    if name == BRIDGE:
        return not link.is_sound
    if name == TUNNEL and plan.tunnel is None:
        return link.tunnel is not None  # else it is the port of whoever does the tunnel's work
    if name == TUNNEL:
        return link.tunnel != plan.tunnel
    if is_port(name):
        return name not in plan.ports or not link.is_sound
    return False


def _is_unlike(link: ObservedLink | None, mtu: int, *, is_attached: bool) -> bool:
    return link is None or not link.is_up or link.mtu != mtu or link.is_attached != is_attached


def _detached(link: ObservedLink) -> ObservedLink:
    return ObservedLink(link.mtu, link.is_up, False, link.is_sound, link.tunnel)
