"""Networks with a bridge of their own that are no overlays: ``bridge``, ``nat`` and ``l2bridge``.

A ``bridge`` (``nat`` is another name for it) joins the tasks of one node, and nobody else; the outside they
reach as all tasks do, by their node's gateway, with its addresses translated. Ports published in host mode
lead there too.

An ``l2bridge`` joins them with the node's LAN through a device that has one MAC (``up0``). What leaves by it
has that as its sender, in ARP too, and what comes for it goes to the task with the address that the frame is
for: however many tasks there are, upstream sees one MAC. It is for IPv4: neighbour discovery cannot be
translated, so no IPv6 passes.

The bridge itself is made as that of an overlay network; this is what stands there instead of a tunnel.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping
from ipaddress import ip_interface

from agent.dataplane import diff
from agent.dataplane.base import Endpoint, NetworkConfig, NodeState
from agent.dataplane.linux import netlink
from agent.dataplane.linux.drivers import links
from agent.dataplane.linux.drivers.parents import find_parent
from agent.dataplane.linux.nftables import NftError
from agent.dataplane.linux.part import Carriage, Space
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.addresses import mac_of
from swarmpy.model.ids import NetworkId, TaskId

BRIDGED_DRIVERS = frozenset({"bridge", "nat", "l2bridge"})
L2BRIDGE = "l2bridge"
UPLINK = "up0"
TABLE = "swarmpy_macs"
_BRIDGE_MTU = 1500
_GONE = frozenset({errno.ENODEV})


def ruleset(mac: str) -> str:
    """Made if it is not there; the map of who has which address stays as it is."""
    arrive, leave = f"add rule bridge {TABLE} arrive", f"add rule bridge {TABLE} leave"
    for_us = f'iifname "{UPLINK}" ether daddr {mac}'
    return f"""
table bridge {TABLE} {{
  map macs {{ type ipv4_addr : ether_addr; }}
  chain arrive {{ type filter hook prerouting priority -250; }}
  chain leave {{ type filter hook postrouting priority 300; }}
}}
flush chain bridge {TABLE} arrive
flush chain bridge {TABLE} leave
{arrive} {for_us} ether type ip ether daddr set ip daddr map @macs
{arrive} {for_us} ether type arp arp daddr ether set arp daddr ip map @macs
{arrive} {for_us} ether type arp ether daddr set arp daddr ip map @macs
{leave} oifname "{UPLINK}" ether type != {{ ip, arp }} drop
{leave} oifname "{UPLINK}" ether type arp arp saddr ether set {mac}
{leave} oifname "{UPLINK}" ether saddr set {mac}
"""


class Uplinks:
    """An ``Uplink`` for ``Overlays``, and a ``Part``, which is told who is behind it."""

    def __init__(self) -> None:
        self._node: Space | None = None
        self._state = NodeState()
        self._sandboxes: dict[NetworkId, Space] = {}
        self._macs: dict[TaskId, dict[NetworkId, dict[str, str]]] = {}
        """By task and l2bridge network: address to MAC."""

    # --- the port to the outside

    def carry(self, network: NetworkConfig) -> Carriage:
        mtu = _BRIDGE_MTU
        if network.driver == L2BRIDGE:
            mtu = find_parent(network, self._own_node(), self._state).mtu
        return Carriage(local="", port=0, routes={}, overhead_bytes=0, mtu=mtu)

    def plug(self, network: NetworkConfig, sandbox: Space) -> None:
        if network.driver != L2BRIDGE:
            return
        name = network.name or network.id
        parent = find_parent(network, self._own_node(), self._state)
        self._sandboxes[network.id] = sandbox
        link = sandbox.netlink.link(UPLINK)
        if link is None:
            with open(sandbox.path, "rb") as netns:
                made = links.add_macvlan(
                    UPLINK,
                    parent=parent.index,
                    mode="bridge",
                    mac=_mac_of(network, self._state),
                    netns_fd=netns.fileno(),
                )
                error = self._own_node().netlink.batch([made])[0]
            if error:
                raise TaskRejected(lacking("macvlan", name, error))
            sandbox.netlink.do(netlink.no_link_local(UPLINK))
            link = sandbox.netlink.link(UPLINK)
        bridge = sandbox.netlink.link(diff.BRIDGE)
        assert link is not None, "it was made a moment ago"
        assert bridge is not None, "the bridge stands before its ports"
        if link.master != bridge.index:
            sandbox.netlink.do(netlink.set_master(UPLINK, bridge.index))
        sandbox.netlink.do(netlink.set_up(link.index))
        self._own_node().netlink.do(netlink.set_up(parent.index))
        known = [macs[network.id] for macs in self._macs.values() if network.id in macs]
        self._run(sandbox, name, ruleset(link.mac) + "".join(_elements("add", macs) for macs in known))

    def unplug(self, network_id: NetworkId) -> None:
        self._sandboxes.pop(network_id, None)  # the device goes with the namespace

    # --- who is behind it

    def start_up(self, node: Space) -> None:
        self._node = node
        self._sandboxes = {}
        self._macs = {}

    def apply(self, state: NodeState) -> None:
        self._state = state

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        pass  # see Translation, whose turn comes when the bridge stands

    def enter(self, endpoint: Endpoint) -> None:
        """The task is behind its bridges."""
        wanted = {
            leg.network.id: {
                str(address.ip): leg.mac or mac_of(leg.addresses[0])
                for address in map(ip_interface, leg.addresses)
                if address.version == 4
            }
            for leg in endpoint.legs
            if leg.network.driver == L2BRIDGE
        }
        former = self._macs.get(endpoint.task_id, {})
        if wanted == former:
            return
        self.leave(endpoint.task_id)
        for network_id, macs in wanted.items():
            sandbox = self._sandboxes.get(network_id)
            if sandbox is None:
                raise Unavailable(f"the bridge of network {network_id} has no way out yet")
            self._run(sandbox, network_id, _elements("add", macs))
        if wanted:
            self._macs[endpoint.task_id] = wanted

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        pass  # see Direct, which knows the ways out

    def detach(self, task_id: TaskId) -> None:
        pass

    def leave(self, task_id: TaskId) -> None:
        for network_id, macs in self._macs.pop(task_id, {}).items():
            sandbox = self._sandboxes.get(network_id)
            if sandbox is not None:
                self._run(sandbox, network_id, _elements("delete", macs))

    def shut_down(self) -> None:
        self._sandboxes = {}

    def destroy(self) -> None:
        pass  # all of it is in the networks' namespaces

    # --- small things

    def _run(self, sandbox: Space, name: str, commands: str) -> None:
        try:
            sandbox.nft.run(commands)
        except NftError as error:
            raise Unavailable(f"nftables refused to translate MACs of network {name}: {error}") from None

    def _own_node(self) -> Space:
        assert self._node is not None, "the backend was not started"
        return self._node


def _mac_of(network: NetworkConfig, state: NodeState) -> str:
    """What upstream sees of the network on this node: the same whenever the device is made anew."""
    return "02:53:" + hashlib.sha256(f"{network.id} {state.node_id}".encode()).digest()[:4].hex(":")


class Translation:
    """The ``Part`` that tells ``Uplinks`` of tasks. It comes after the bridges, and the other before them."""

    def __init__(self, uplinks: Uplinks) -> None:
        self._uplinks = uplinks

    def start_up(self, node: Space) -> None:
        pass

    def apply(self, state: NodeState) -> None:
        pass

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        self._uplinks.enter(endpoint)

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        pass

    def detach(self, task_id: TaskId) -> None:
        self._uplinks.leave(task_id)

    def shut_down(self) -> None:
        pass

    def destroy(self) -> None:
        pass


def _elements(verb: str, macs: Mapping[str, str]) -> str:
    return "".join(
        f"{verb} element bridge {TABLE} macs {{ {address}{f' : {mac}' if verb == 'add' else ''} }}\n"
        for address, mac in macs.items()
    )


def lacking(driver: str, network: str, error: int) -> str:
    """Why a device of that kind cannot be made, as a sentence."""
    if error == errno.EOPNOTSUPP:
        return f"network {network} needs {driver}, which this node's kernel lacks: load the module {driver}"
    if error == errno.EBUSY:
        return f"network {network} cannot use its interface: another kind of network has it (EBUSY)"
    return (
        f"network {network} cannot have a {driver} device on this node: {errno.errorcode.get(error, error)}"
    )
