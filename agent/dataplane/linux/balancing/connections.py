"""``Connections``: what is open to an address that is gone for good is ended at once, not when TCP gives up.

In the namespace of each task that is on the network: sockets whose other side is the address, or is a virtual
address that led there, are ended, so that whoever waits for data wakes with an error (ECONNABORTED); then the
kernel forgets the connection, so that a datagram or a new connection goes to a backend that stands. TCP and
connected UDP sockets; unconnected UDP sockets have nothing to end. SCTP sockets the kernel cannot end from
outside: only the connection is forgotten. In the node's own namespace, through which published ports are
forwarded, connections are forgotten that were translated to the address in the ingress network.

All other connections are untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agent.dataplane.base import Endpoint, NodeState
from agent.dataplane.linux import namespaces
from agent.dataplane.linux.balancing import flows
from agent.dataplane.linux.balancing.wire import NETFILTER, SOCKETS, Wire
from agent.dataplane.linux.part import Space
from swarmpy.errors import Unavailable
from swarmpy.model.ids import NetworkId, TaskId


class CutCount(NamedTuple):
    """What ``cut`` ended: connections that the kernel tracked, and sockets."""

    flows: int = 0
    sockets: int = 0


class Connections:
    """A ``Part`` that makes nothing: it only knows who is on which network."""

    def __init__(self) -> None:
        self._node: Space | None = None
        self._tasks: dict[TaskId, tuple[Endpoint, Space]] = {}
        self._ingress: frozenset[NetworkId] = frozenset()

    def start_up(self, node: Space) -> None:
        self._node = node

    def apply(self, state: NodeState) -> None:
        self._ingress = frozenset(
            network_id for network_id, network in state.networks.items() if network.config.is_ingress
        )

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        self._tasks[endpoint.task_id] = (endpoint, space)

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        """Nothing is open yet."""

    def detach(self, task_id: TaskId) -> None:
        self._tasks.pop(task_id, None)

    def shut_down(self) -> None:
        self._tasks.clear()

    def destroy(self) -> None:
        """There is nothing of it in the kernel."""
        self._tasks.clear()

    def cut(self, addresses: Mapping[NetworkId, tuple[str, ...]]) -> CutCount:
        """End all that is open to these addresses of networks; without prefix. Again does no harm."""
        counts, failures = [], []
        for endpoint, space in self._tasks.values():
            gone = {address for leg in endpoint.legs for address in addresses.get(leg.network.id, ())}
            if gone:
                try:
                    counts.append(cut_in(space, gone))
                except OSError as error:
                    failures.append(f"task {endpoint.task_id}: {error}")
        forwarded = {address for each in self._ingress for address in addresses.get(each, ())}
        if forwarded and self._node is not None:
            try:
                counts.append(cut_forwarded(self._node, forwarded))
            except OSError as error:
                failures.append(f"published ports: {error}")
        if failures:
            raise Unavailable(f"Connections to addresses that are gone still stand: {'; '.join(failures)}.")
        return CutCount(sum(each.flows for each in counts), sum(each.sockets for each in counts))


def cut_in(space: Space, addresses: set[str]) -> CutCount:
    """In a task's namespace."""
    gone = flows.pack(addresses)
    with namespaces.inside(space.path):
        tracker, sockets = Wire(NETFILTER), Wire(SOCKETS)
    with tracker, sockets:
        found = flows.tracked(tracker, gone)
        led_there = {flow.ends for flow in found}
        # Sockets first: the reset that each sends still finds its way to the other side, if that lives.
        ended = flows.end_sockets(sockets, lambda ends: ends.remote in gone or ends in led_there)
        return CutCount(flows.forget(tracker, found), ended)


def cut_forwarded(node: Space, addresses: set[str]) -> CutCount:
    """In the node's namespace: only what was translated on its way to the ingress network.

    The node may well have addresses of its own elsewhere that look the same.
    """
    gone = flows.pack(addresses)
    with namespaces.inside(node.path):
        tracker, sockets = Wire(NETFILTER), Wire(SOCKETS)
    with tracker, sockets:
        found = [flow for flow in flows.tracked(tracker, gone) if flow.is_redirected]
        led_there = {flow.ends for flow in found}
        ended = flows.end_sockets(sockets, lambda ends: ends in led_there) if found else 0
        return CutCount(flows.forget(tracker, found), ended)
