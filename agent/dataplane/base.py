"""``Backend``: the seam between the agent and a node's network.

Level-triggered: ``apply`` takes the whole desired state of the node's networks, is idempotent, and mends
whatever it finds. ``attach`` and ``detach`` are the two hot-path verbs for one task; they equal ``apply``
of one endpoint. The overlay's parts of ``NodeState`` (peers, remote endpoints, services, ports, keys) are
added as the overlay is built.
"""

from __future__ import annotations

from typing import Protocol

from agent.executor.base import Sandbox
from swarmpy.model.ids import TaskId
from swarmpy.model.value import Value


class BackendCapabilities(Value, frozen=True, kw_only=True):
    """What ``probe`` found. ``missing`` are sentences for the user, empty if all is well."""

    name: str
    is_usable: bool
    missing: tuple[str, ...] = ()


class HostPort(Value, frozen=True, kw_only=True):
    protocol: str
    published_port: int
    target_port: int


class Endpoint(Value, frozen=True, kw_only=True):
    """One task's place in the network. Node-local tasks get an address from the node's own bridge."""

    task_id: TaskId
    hostname: str = ""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    """Ports published in host mode: reachable at the node's own addresses."""


class NodeState(Value, frozen=True, kw_only=True):
    """All endpoints that should exist on this node."""

    endpoints: tuple[Endpoint, ...] = ()


class Backend(Protocol):
    """Programs one node's network. One instance per node."""

    name: str

    async def start_up(self) -> None:
        """Make the node-wide parts (bridge, NAT, guard rules), mending leftovers of a crash."""
        ...

    async def shut_down(self) -> None:
        """Let go of sockets and contexts; networks stay as they are, tasks keep their connections."""
        ...

    async def probe(self) -> BackendCapabilities: ...

    async def apply(self, state: NodeState) -> None:
        """Make it so: attach what is missing, detach what is not wished for."""
        ...

    async def attach(self, endpoint: Endpoint) -> Sandbox:
        """The task's namespace with loopback and its legs up; of an attached one, the same again."""
        ...

    async def detach(self, task_id: TaskId) -> None:
        """Remove the namespace, addresses and ports; an unknown task is fine."""
        ...

    async def list(self) -> tuple[TaskId, ...]: ...

    async def destroy(self) -> None:
        """Remove everything with our names from this node."""
        ...
