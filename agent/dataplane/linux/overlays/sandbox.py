"""The namespace of one overlay network: what the kernel has in it, and the operations on it.

The tunnel device is made straight in it, and its datagrams belong to the node's namespace. It is deleted
before the namespace goes: an identifier that nobody uses but that is taken would block the network for ever.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agent.dataplane import diff
from agent.dataplane.diff import ObservedLink, ObservedSandbox
from agent.dataplane.linux import namespaces, neighbours, netlink, netlink_links, plan
from agent.dataplane.linux.netlink import Link, Message, Netlink
from agent.dataplane.linux.nftables import NftError
from agent.dataplane.linux.overlays import spoofing
from agent.dataplane.linux.part import Space
from agent.dataplane.linux.spaces import NamespaceSpace
from agent.dataplane.plan import EntryChange, Tunnel
from swarmpy.errors import Unavailable

_GONE = frozenset({errno.ENODEV})
_NO_ENTRY = frozenset({errno.ENOENT, errno.ESRCH, errno.EINVAL})
_KINDS = {diff.BRIDGE: "bridge", diff.TUNNEL: "vxlan"}
_PORT_KIND = "veth"


class NetworkSandbox:
    """``name``: the network's, for sentences. Errors are OSError of the kernel but where a sentence helps."""

    def __init__(self, path: Path, node: Space, name: str) -> None:
        self.path = path
        self.name = name
        self._node = node
        self._space: NamespaceSpace | None = None
        self._indices: dict[str, int] = {}

    @property
    def space(self) -> NamespaceSpace:
        assert self._space is not None, "open comes first"
        return self._space

    def open(self) -> None:
        """Make the namespace, or take over the one that stands."""
        if self._space is not None:
            if namespaces.is_live(self.path):
                return
            self._links().do(netlink.delete_link(diff.TUNNEL), accept=_GONE)  # its name is lost, it is not
        self.close()
        if not namespaces.is_live(self.path):
            self.path.unlink(missing_ok=True)
            namespaces.make(self.path).close()
        self._space = NamespaceSpace(self.path)

    def close(self) -> None:
        """Let go; all stays in the kernel."""
        if self._space is not None:
            self._space.close()
            self._space = None

    def remove(self) -> None:
        """The tunnel first; ports, tables and rules go with the namespace."""
        if namespaces.is_live(self.path):
            with namespaces.enter(self.path) as links:
                links.do(netlink.delete_link(diff.TUNNEL), accept=_GONE)
        self.close()
        namespaces.remove(self.path)

    # --- looking

    def observe(self) -> ObservedSandbox:
        """All of it, from dumps."""
        links = {link.name: link for link in self.space.netlink.links()}
        self._indices = {name: link.index for name, link in links.items()}
        bridge = links.get(diff.BRIDGE)
        master = bridge.index if bridge is not None else -1
        found = {name: _observed(link, master) for name, link in links.items()}
        tunnel = links.get(diff.TUNNEL)
        if tunnel is None or tunnel.kind != _KINDS[diff.TUNNEL]:
            return ObservedSandbox(found)
        return ObservedSandbox(
            found,
            neighbours.dump_forwarding(self.space.netlink, tunnel.index),
            neighbours.dump_neighbours(self.space.netlink, tunnel.index),
        )

    # --- doing

    def execute(self, ops: Iterable[diff.Op]) -> None:
        """Carry operations out, in order. Ports are not added here: see ``add_port``."""
        for op in ops:
            match op:
                case diff.DeleteLink(name):
                    self._links().do(netlink.delete_link(name), accept=_GONE)
                case diff.AddBridge(mtu):
                    self._links().do(netlink.add_bridge(diff.BRIDGE, mtu=mtu))
                case diff.AddTunnel(tunnel, mtu):
                    self._add_tunnel(tunnel, mtu)
                case diff.SetLink(name, mtu):
                    self._set_link(name, mtu)
                case diff.SetEntries(change):
                    self.set_entries(change)
                case diff.AddPort():
                    raise AssertionError("a port is made with its task's end")

    def set_entries(self, change: EntryChange) -> None:
        """What is stale goes first: an address may come back under another MAC."""
        index = self._index(diff.TUNNEL)
        stale = [
            *(neighbours.delete_forwarding(index, mac) for mac in sorted(change.stale_forwarding)),
            *(neighbours.delete_neighbour(index, address) for address in sorted(change.stale_neighbours)),
        ]
        self._links().do(*stale, accept=_NO_ENTRY)
        fresh = [
            *(neighbours.set_forwarding(index, mac, node) for mac, node in change.forwarding.items()),
            *(neighbours.set_neighbour(index, address, mac) for address, mac in change.neighbours.items()),
        ]
        self._links().do(*fresh)

    def _add_tunnel(self, tunnel: Tunnel, mtu: int) -> None:
        with open(self.path, "rb") as netns:
            made = netlink_links.add_vxlan(diff.TUNNEL, tunnel, netns_fd=netns.fileno(), mtu=mtu)
            error = self._node.netlink.batch([made])[0]
        if error == errno.EEXIST:
            raise Unavailable(self._clash(tunnel))
        if error:
            raise OSError(error, f"the VXLAN device of network {self.name} cannot be made")
        self._links().do(netlink.no_link_local(diff.TUNNEL))
        self.space.set(f"ipv6/conf/{diff.TUNNEL}/disable_ipv6", "0")  # or it would have no IPv6 neighbours

    def _clash(self, tunnel: Tunnel) -> str:
        """Why the kernel says that there is such a tunnel already, though not here."""
        others = [link for link in self._node.netlink.links() if _has_number(link, tunnel)]
        where = f"the device {others[0].name} of this node" if others else "another device on this node"
        return (
            f"network {self.name} needs VXLAN identifier {tunnel.vni} on port {tunnel.port}, which {where} "
            "uses already; remove that device, or make the network anew"
        )

    def _set_link(self, name: str, mtu: int) -> None:
        master = 0 if name == diff.BRIDGE else self._index(diff.BRIDGE)
        self._links().do(netlink_links.set_link(name, mtu=mtu, master=master))
        if name == diff.TUNNEL:
            self._links().do(netlink_links.tune_network_port(name, is_way_out=True))
        self._links().do(netlink.set_up_by_name(name))

    def add_port(self, name: str, *, peer: netlink.Peer, mtu: int) -> bool:
        """A pair from the bridge into a task's namespace: this end attached, not yet up, the task's down.

        False: one end was there already.
        """
        pair = netlink.add_veth(name, master=self._index(diff.BRIDGE), peer=peer, mtu=mtu)
        error = self._links().batch([pair])[0]
        if error not in (0, errno.EEXIST):
            raise OSError(error, os.strerror(error))
        return not error

    def tune_observed_ports(self, macs: Mapping[str, str]) -> None:
        """Those that ``observe`` has just found. See ``tune_port``."""
        messages: list[Message] = []
        for name, mac in macs.items():
            messages += _tuning(name, self._indices[name], mac)
        self._links().do(*messages)

    def tune_port(self, name: str, mac: str) -> None:
        """The MAC behind the port is told to the bridge, which learns nothing."""
        self._links().do(*_tuning(name, self._index(name), mac))

    def delete_ports(self, names: Sequence[str]) -> None:
        marks: list[Message] = [netlink.mark_group(name, plan.DOOMED_GROUP) for name in names]
        self._links().do(*marks, netlink.delete_group(plan.DOOMED_GROUP), accept=_GONE)

    # --- rules

    def replace_rules(self, commands: str) -> None:
        try:
            self.space.nft.run(commands)
        except NftError as error:
            raise Unavailable(f"nftables refused the rules of network {self.name}: {error}") from None

    def has_rules(self) -> bool:
        with contextlib.suppress(NftError):
            return bool(self.space.nft.run(f"list chain bridge {spoofing.TABLE} prerouting"))
        return False

    # --- small things

    def _links(self) -> Netlink:
        return self.space.netlink

    def _index(self, name: str) -> int:
        link = self._links().link(name)
        if link is None:
            raise OSError(errno.ENODEV, f"{name} of network {self.name} is gone")
        return link.index


def _tuning(name: str, index: int, mac: str) -> tuple[Message, ...]:
    return (
        netlink_links.tune_network_port(name, is_way_out=False),
        neighbours.set_port_of(index, mac),
        netlink.set_up_by_name(name),
    )


def _observed(link: Link, bridge: int) -> ObservedLink:
    kind = _KINDS.get(link.name, _PORT_KIND)
    return ObservedLink(
        mtu=link.mtu,
        is_up=link.is_up,
        is_attached=link.master == bridge,
        is_sound=link.kind == kind,
        tunnel=netlink_links.tunnel_of(link),
    )


def _has_number(link: Link, tunnel: Tunnel) -> bool:
    other = netlink_links.tunnel_of(link)
    return other is not None and (other.vni, other.port) == (tunnel.vni, tunnel.port)
