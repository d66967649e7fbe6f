"""``Part``: one concern of the Linux network, such as overlays, virtual addresses, the mesh.

``LinuxBackend`` calls its parts in a fixed order, in its one kernel thread, so a part is plain blocking code
that never races with another. A part keeps nothing that it cannot find again in the kernel or be told by
``apply``: after a crash a new one takes over what stands. It raises ``Unavailable`` for what may pass and
``TaskRejected`` for what this node can never do; either way it leaves what it has done, and the next call
mends it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from agent.dataplane.base import Endpoint, NodeState
from agent.dataplane.linux.netlink import Netlink
from agent.dataplane.linux.nftables import Nftables
from swarmpy.model.ids import TaskId


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
        """After ``attach``, once the legs are up and have their addresses: what needs that, such as routes."""
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
