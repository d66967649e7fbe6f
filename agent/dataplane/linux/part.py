"""``Part``: one concern of the Linux network, such as overlays, virtual addresses, the mesh.

``LinuxBackend`` calls its parts in a fixed order, in its one kernel thread, so a part is plain blocking code
that never races with another. A part keeps nothing that it cannot find again in the kernel or be told by
``apply``: after a crash a new one takes over what stands. It raises ``Unavailable`` for what may pass and
``TaskRejected`` for what this node can never do; either way it leaves what it has done, and the next call
mends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from agent.dataplane.base import Endpoint, NetworkConfig, NodeState
from agent.dataplane.linux.balancing.wire import Wire
from agent.dataplane.linux.netlink import Netlink
from agent.dataplane.linux.nftables import Nftables
from swarmpy.model.ids import NetworkId, NodeId, TaskId


class Space(Protocol):
    """A network namespace, and open doors to it: a task's, a network's sandbox, or the node's own.

    The doors are opened when first asked for, are kept, and are closed by whoever owns the space.
    """

    @property
    def path(self) -> Path: ...

    @property
    def netlink(self) -> Netlink: ...

    @property
    def nft(self) -> Nftables: ...

    @property
    def wire(self) -> Wire:
        """To the packet filter, for messages. Closing one waits for the kernel if rules have just gone."""
        ...

    def set(self, name: str, value: str) -> None:
        """Write a setting below /proc/sys/net inside: ``set("ipv4/ip_forward", "1")``."""
        ...


class Part(Protocol):
    """See the module. All calls come from one thread that is in the node's namespace."""

    def start_up(self, node: Space) -> None:
        """Take over what stands, and make what is there from the beginning."""
        ...

    def apply(self, state: NodeState) -> None:
        """Make it so. Parts of ``state`` that did not change are the objects of the call before."""
        ...

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        """The task's namespace stands and has its legs, all down: prepare it before the first packet.

        Called again for a task that is attached, it mends what is missing.
        """
        ...

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        """After ``attach``, once the legs are up and have their addresses: what needs that, like routes."""
        ...

    def detach(self, task_id: TaskId) -> None:
        """The task is gone or going; an unknown one is fine. Its space is closed right after."""
        ...

    def shut_down(self) -> None:
        """Let go of what is open; the kernel keeps everything."""
        ...

    def destroy(self) -> None:
        """Remove everything of this part from the node."""
        ...


@runtime_checkable
class LegMaker(Part, Protocol):
    """A part that gives tasks links. ``attach`` makes them, down; ``detach`` leaves them to ``unplug``."""

    def adopt(self, endpoints: Iterable[Endpoint]) -> None:
        """These were attached by a former life of the daemon: they are not leftovers. After ``start_up``."""
        ...

    def is_ready(self, task_id: TaskId) -> bool:
        """Whether packets pass: a port that is up forwards once the kernel has noticed, moments later."""
        ...

    def unplug(self, task_ids: Sequence[TaskId]) -> None:
        """Take down all links of these tasks, together: one by one each waits for the kernel's readers."""
        ...


@runtime_checkable
class Mending(Protocol):
    """A part that outsiders can break without a trace in what it is told."""

    def mend(self) -> frozenset[TaskId] | None:
        """Ask the kernel whether all stands as applied last, and make it so.

        Tasks whose links are gone may be named: they are attached again then, by all parts.
        """
        ...


@runtime_checkable
class Cutting(Protocol):
    """A part that can end connections of tasks here."""

    def cut(self, addresses: Mapping[NetworkId, tuple[str, ...]]) -> object:
        """Who had these addresses is gone for good. What it returns is for people: what was cut."""
        ...


# --- encrypted networks


@dataclass(frozen=True, slots=True)
class Carriage:
    """How frames travel: by VXLAN to ``port`` from ``local``. For encrypted networks that is a port
    of its own, with something beneath it that encrypts.

    ``routes``: where each node is reached. ``mtu``: what is left for frames' contents; 0: that of the device
    with the address ``local`` less ``overhead_bytes``.
    """

    local: str
    port: int
    routes: Mapping[NodeId, str]
    overhead_bytes: int
    mtu: int = 0


class Encryption(Part, Protocol):
    """Comes before the overlays: whatever keeps clear text from leaving stands before there is a device."""

    def carry(self, network: NetworkConfig) -> Carriage:
        """As applied last. TaskRejected with what is missing, if this node cannot encrypt."""
        ...


# --- networks that are joined by something else than a tunnel


class Uplink(Protocol):
    """What joins the bridge of such a network with the world; nothing, maybe."""

    def carry(self, network: NetworkConfig) -> Carriage:
        """Of which the MTU matters alone. TaskRejected with what is missing, if this node cannot do it."""
        ...

    def plug(self, network: NetworkConfig, sandbox: Space) -> None:
        """The sandbox with its bridge stands; called for a new one and when mending."""
        ...

    def unplug(self, network_id: NetworkId) -> None:
        """The network's sandbox is about to go."""
        ...
