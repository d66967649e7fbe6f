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

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from agent.dataplane.base import Endpoint, NodeState
from agent.dataplane.linux import namespaces
from agent.dataplane.linux.balancing import flows
from agent.dataplane.linux.balancing.wire import SOCKETS, Wire
from agent.dataplane.linux.part import Space
from swarmpy.errors import Unavailable
from swarmpy.model.ids import NetworkId, TaskId

_COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"


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
        failures: list[str] = []
        ended, forgotten = 0, 0
        gone = {
            task_id: {address for leg in endpoint.legs for address in addresses.get(leg.network.id, ())}
            for task_id, (endpoint, _) in self._tasks.items()
        }
        unclear: list[TaskId] = []
        for task_id in filter(gone.__getitem__, gone):
            with _collecting(failures, f"task {task_id}"):
                count, has_more = end_sockets(self._tasks[task_id][1], gone[task_id])
                ended, forgotten = ended + count.sockets, forgotten + count.flows
                unclear += [task_id] if has_more else []
        # Whoever waits is awake by now; what is left takes a search.
        for task_id in unclear:
            with _collecting(failures, f"task {task_id}"):
                forgotten += forget_rest(self._tasks[task_id][1], gone[task_id])
        forwarded = {address for each in self._ingress for address in addresses.get(each, ())}
        if forwarded and self._node is not None:
            with _collecting(failures, "published ports"):
                count = cut_forwarded(self._node, forwarded)
                ended, forgotten = ended + count.sockets, forgotten + count.flows
        if failures:
            raise Unavailable(f"Connections to addresses that are gone still stand: {'; '.join(failures)}.")
        return CutCount(forgotten, ended)


@contextmanager
def _collecting(failures: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        failures.append(f"{what}: {error}")


def end_sockets(space: Space, addresses: set[str]) -> tuple[CutCount, bool]:
    """In a task's namespace; and whether more is tracked there than what its sockets have open."""
    gone = flows.pack(addresses)
    tracker = space.wire
    with namespaces.inside(space.path):
        diagnosis = Wire(SOCKETS)
        count = int(Path(_COUNT).read_text())
    with diagnosis:
        sockets = flows.connected(diagnosis)
        found = flows.of_sockets(tracker, sockets)
        pairs = list(zip(sockets, found, strict=True))
        doomed = [
            (each, flow) for each, flow in pairs if each.ends.remote in gone or (flow and flow.has(gone))
        ]
        # Sockets first: the reset that each sends still finds its way to the other side, if that lives.
        ended = flows.end(diagnosis, [each for each, _ in doomed])
        forgotten = flows.forget(tracker, list(dict.fromkeys(flow for _, flow in doomed if flow)))
        return CutCount(forgotten, ended), count > len(set(filter(None, found)))


def forget_rest(space: Space, addresses: set[str]) -> int:
    """What no connected socket has: datagrams of unconnected ones, SCTP, what a task forwards for others."""
    return flows.forget(space.wire, flows.tracked(space.wire, flows.pack(addresses)))


def cut_forwarded(node: Space, addresses: set[str]) -> CutCount:
    """In the node's namespace: only what was translated on its way to the ingress network.

    The node may well have addresses of its own elsewhere that look the same.
    """
    tracker = node.wire
    with namespaces.inside(node.path), Wire(SOCKETS) as diagnosis:
        found = [flow for flow in flows.tracked(tracker, flows.pack(addresses)) if flow.is_redirected]
        led_there = {flow.ends for flow in found}
        sockets = flows.connected(diagnosis) if found else []
        ended = flows.end(diagnosis, [each for each in sockets if each.ends in led_there])
        return CutCount(flows.forget(tracker, found), ended)
