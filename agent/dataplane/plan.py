"""What one overlay network looks like on one node: its bridge, tunnel, ports, and where frames go. Pure.

Nothing is learnt from traffic and nothing is flooded to other nodes: a frame leaves the node only for an
address that the manager has named, and questions for those addresses are answered on the spot.

``Entries`` follows the state of a network at the cost of what changed: with ten thousand endpoints, one that
comes or goes takes a comparison by identity of all and work for one. It must always hold what it would hold
had it been made from the newest state alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.dataplane.base import NodeState, RemoteEndpoint
from swarmpy.model.ids import NodeId, TaskId

DATA_PATH_PORT = 4789
"""VXLAN's own (RFC 7348), unless the cluster says otherwise."""
MTU_MIN = 68
"""IPv4's least (RFC 791)."""
IPV4_OVERHEAD_BYTES = 50
"""Outer Ethernet, IPv4, UDP and VXLAN headers."""
IPV6_OVERHEAD_BYTES = 70


def data_ports(state: NodeState) -> tuple[int, int]:
    """Where nodes take frames of plain and of encrypted networks."""
    port = state.data_path_port or DATA_PATH_PORT
    return port, port + 1


def overhead_of(address: str) -> int:
    """Bytes of each frame that the outer headers take, between nodes with addresses like this one."""
    return IPV6_OVERHEAD_BYTES if ":" in address else IPV4_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The VXLAN device. ``local``: this node's address."""

    vni: int
    port: int
    local: str


@dataclass(frozen=True, slots=True)
class SandboxPlan:
    """What the namespace of one network should have. ``tunnel`` None: somebody else's port does its work.

    ``ports``: those of tasks here. ``forwarding``: MAC to node; ``neighbours``: address to MAC.
    """

    mtu: int
    tunnel: Tunnel | None
    ports: frozenset[str] = frozenset()
    forwarding: Mapping[str, str] = field(default_factory=dict)
    neighbours: Mapping[str, str] = field(default_factory=dict)


# --- where frames go


@dataclass(frozen=True, slots=True)
class EntryChange:
    """What to set and what to remove, in tables that were as before."""

    forwarding: Mapping[str, str]
    neighbours: Mapping[str, str]
    stale_forwarding: frozenset[str]
    stale_neighbours: frozenset[str]

    @property
    def is_empty(self) -> bool:
        return not (self.forwarding or self.neighbours or self.stale_forwarding or self.stale_neighbours)


class Entries:
    """Two tables, ``forwarding`` (MAC to node's address) and ``neighbours`` (address to MAC).

    An endpoint of a node whose address is not known has no entries. Of two endpoints with one address the
    one with the greater id counts.
    """

    def __init__(self) -> None:
        self.forwarding: dict[str, str] = {}
        self.neighbours: dict[str, str] = {}
        self._remotes: Mapping[TaskId, RemoteEndpoint] = {}
        self._routes: Mapping[NodeId, str] = {}
        self._is_contested = False

    def change_to(
        self, remotes: Mapping[TaskId, RemoteEndpoint], routes: Mapping[NodeId, str]
    ) -> EntryChange:
        """``routes``: each node's address. Both are kept until the next change, and must not change."""
        gone, come = self._find_changed(remotes, routes)
        left = [remote for remote in gone if self._routes.get(remote.node_id)]
        if self._is_contested or not self._are_free(left, come, routes):
            change = self._change_all(remotes, routes)
        else:
            change = self._change_few(left, come, routes)
        self._remotes, self._routes = remotes, routes
        return change

    def _find_changed(
        self, remotes: Mapping[TaskId, RemoteEndpoint], routes: Mapping[NodeId, str]
    ) -> tuple[list[RemoteEndpoint], list[RemoteEndpoint]]:
        """Those whose entries may go, and those that may have others from now on."""
        before = self._remotes
        # one pass in C over each: what is the same object in both costs next to nothing
        differing = before.items() ^ remotes.items() if remotes is not before else frozenset()
        changed = sorted({task_id for task_id, _ in differing})
        gone = [before[task_id] for task_id in changed if task_id in before]
        come = {task_id: remotes[task_id] for task_id in changed if task_id in remotes}
        moved = _changed_keys(self._routes, routes) if routes is not self._routes else frozenset()
        if moved:
            for task_id, remote in remotes.items():
                if remote.node_id in moved and task_id not in come:
                    gone.append(remote)
                    come[task_id] = remote
        return gone, list(come.values())

    def _are_free(
        self, left: list[RemoteEndpoint], come: list[RemoteEndpoint], routes: Mapping[NodeId, str]
    ) -> bool:
        """Whether what comes takes no place of what stays, and no two of it one place."""
        free_macs = {remote.mac for remote in left}
        free_addresses = {address for remote in left for address in remote.addresses}
        forwarding, neighbours, is_contested = _entries_of(come, routes)
        return not (
            is_contested
            or any(mac in self.forwarding and mac not in free_macs for mac in forwarding)
            or any(ip in self.neighbours and ip not in free_addresses for ip in neighbours)
        )

    def _change_few(
        self, left: list[RemoteEndpoint], come: list[RemoteEndpoint], routes: Mapping[NodeId, str]
    ) -> EntryChange:
        lost_forwarding, lost_neighbours = {}, {}
        for remote in left:
            lost_forwarding[remote.mac] = self.forwarding.pop(remote.mac)
            for address in remote.addresses:
                lost_neighbours[address] = self.neighbours.pop(address)
        forwarding, neighbours, _ = _entries_of(come, routes)
        self.forwarding.update(forwarding)
        self.neighbours.update(neighbours)
        return _change(lost_forwarding, forwarding, former_neighbours=lost_neighbours, neighbours=neighbours)

    def _change_all(
        self, remotes: Mapping[TaskId, RemoteEndpoint], routes: Mapping[NodeId, str]
    ) -> EntryChange:
        former_forwarding, former_neighbours = self.forwarding, self.neighbours
        ordered = [remotes[task_id] for task_id in sorted(remotes)]
        self.forwarding, self.neighbours, self._is_contested = _entries_of(ordered, routes)
        return _change(
            former_forwarding,
            self.forwarding,
            former_neighbours=former_neighbours,
            neighbours=self.neighbours,
        )


def _entries_of(
    remotes: list[RemoteEndpoint], routes: Mapping[NodeId, str]
) -> tuple[dict[str, str], dict[str, str], bool]:
    """Both tables, and whether two endpoints wanted one place."""
    forwarding: dict[str, str] = {}
    neighbours: dict[str, str] = {}
    wanted = 0
    for remote in remotes:
        route = routes.get(remote.node_id)
        if not route:
            continue
        forwarding[remote.mac] = route
        for address in remote.addresses:
            neighbours[address] = remote.mac
        wanted += 1 + len(remote.addresses)
    return forwarding, neighbours, wanted != len(forwarding) + len(neighbours)


def _change(
    former_forwarding: Mapping[str, str],
    forwarding: Mapping[str, str],
    *,
    former_neighbours: Mapping[str, str],
    neighbours: Mapping[str, str],
) -> EntryChange:
    return EntryChange(
        forwarding={mac: to for mac, to in forwarding.items() if former_forwarding.get(mac) != to},
        neighbours={ip: mac for ip, mac in neighbours.items() if former_neighbours.get(ip) != mac},
        stale_forwarding=frozenset(former_forwarding.keys() - forwarding.keys()),
        stale_neighbours=frozenset(former_neighbours.keys() - neighbours.keys()),
    )


def _changed_keys(before: Mapping[NodeId, str], after: Mapping[NodeId, str]) -> frozenset[NodeId]:
    return frozenset(key for key in before.keys() | after.keys() if before.get(key, "") != after.get(key, ""))
