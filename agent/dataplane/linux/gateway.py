"""The node-local bridge: through it tasks reach the outside, and their host-mode ports are reached.

Each task has a leg on it, with an address that the record on disk keeps. Tasks with networks have it as
their last link, after those of the networks; their packets to the outside are no larger than what the
networks carry, so that a peer on either way is told one size. It is the route that says so and not the link:
a link with a smaller size would drop what comes from outside, without a word to the sender.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from agent.dataplane.base import Endpoint, HostPort, NodeState
from agent.dataplane.linux import namespaces, netlink, plan
from agent.dataplane.linux.netlink import Netlink
from agent.dataplane.linux.nftables import NftError
from agent.dataplane.linux.part import Space
from agent.dataplane.linux.ports import PortReservations
from swarmpy.errors import InvalidArgument, Unavailable
from swarmpy.model.addresses import mac_of
from swarmpy.model.ids import TaskId

LEGS_MAX = netlink.BRIDGE_PORTS_MAX - 1
"""The way to the node has a port too."""
_GONE = frozenset({errno.ENODEV})
_THERE = frozenset({errno.EEXIST})


class Gateway:
    """A ``LegMaker``. ``take``, ``keep`` and ``release`` are about the addresses of tasks."""

    def __init__(self, netns_dir: Path, *, ports: PortReservations, subnet: str = "") -> None:
        try:
            self._wanted_subnet = str(IPv4Network(subnet)) if subnet else ""
        except ValueError as error:
            raise InvalidArgument(f'"{subnet}" is no subnet for the node\'s tasks: {error}') from None
        self._path = netns_dir / plan.GATEWAY_NETNS
        self._reserved = ports
        self._node: Space | None = None
        self._ports: Netlink | None = None
        """A socket in the bridge's namespace, where the host's ends of all legs are."""
        self._subnet = IPv4Network("0.0.0.0/0")
        self._pool = plan.AddressPool(self._subnet)
        self._addresses: dict[TaskId, IPv4Interface] = {}
        self._published: dict[TaskId, tuple[HostPort, ...]] = {}
        """Whose ports the rules forward."""

    # --- addresses

    @property
    def subnet(self) -> IPv4Network:
        return self._subnet

    def take(self, task_id: TaskId) -> IPv4Interface:
        """An address for the task: the one that it has, or a free one."""
        if task_id not in self._addresses:
            self._addresses[task_id] = IPv4Interface((int(self._pool.take()), self._subnet.prefixlen))
        return self._addresses[task_id]

    def keep(self, task_id: TaskId, address: IPv4Interface) -> None:
        """The task has this address from a former life of the daemon."""
        self._addresses[task_id] = address
        self._pool.claim(address.ip)

    def release(self, task_id: TaskId) -> None:
        address = self._addresses.pop(task_id, None)
        if address is not None:
            self._pool.release(address.ip)

    # --- life

    def start_up(self, node: Space) -> None:
        self._node = node
        self.shut_down()
        try:
            self._ports = self._make(node.netlink)
        except OSError as error:
            raise Unavailable(f"cannot make the node's gateway for tasks: {error}") from None
        self._pool = plan.AddressPool(self._subnet)
        self._addresses = {}
        self._published = {}

    def adopt(self, endpoints: Iterable[Endpoint]) -> None:
        """Legs without a record go, and the rules are made anew, with the ports of these."""
        known = list(endpoints)
        names = {plan.port_name(endpoint.task_id) for endpoint in known if plan.has_node_leg(endpoint)}
        stray = [
            link.name
            for link in self._links().links()
            if link.name.startswith(plan.PORT_PREFIX) and link.name not in names
        ]
        self._links().do(*(netlink.delete_link(name) for name in stray), accept=_GONE)
        self._published = {
            endpoint.task_id: endpoint.host_ports
            for endpoint in known
            if endpoint.host_ports and endpoint.task_id in self._addresses
        }
        self._load_rules()
        for task_id, ports in sorted(self._published.items()):
            self._reserved.take_back(task_id, ports)

    def shut_down(self) -> None:
        """The ports of the node are free then, also those that others have reserved."""
        self._reserved.close()
        if self._ports is not None:
            self._ports.close()
            self._ports = None

    def destroy(self) -> None:
        node = self._own_node()
        node.netlink.do(netlink.delete_link(plan.GATEWAY_LINK), accept=_GONE)
        self.shut_down()
        namespaces.remove(self._path)
        self._rules(f"add table ip {plan.TABLE}\ndelete table ip {plan.TABLE}\n")

    def apply(self, state: NodeState) -> None:
        pass  # it knows nothing of other nodes

    def mend(self) -> frozenset[TaskId]:
        """The cable to the node, and the rules, as they should be; whole legs are mended by ``attach``."""
        node = self._own_node().netlink
        if self._ports is None or node.link(plan.GATEWAY_LINK) is None or not self._is_uplink_sound():
            if self._ports is not None:
                self._ports.close()
            try:
                self._ports = self._make(node)
            except OSError as error:
                raise Unavailable(f"cannot make the node's gateway for tasks: {error}") from None
        try:
            self._own_node().nft.run(f"list chain ip {plan.TABLE} postrouting")
        except NftError:
            self._load_rules()
        links = {link.name: link for link in self._links().links()}
        return frozenset(
            task_id
            for task_id in self._addresses
            if (link := links.get(plan.port_name(task_id))) is None or link.master != plan.BRIDGE_INDEX
        )

    def _is_uplink_sound(self) -> bool:
        link = self._links().link(plan.UPLINK)
        return link is not None and link.is_up and link.master == plan.BRIDGE_INDEX

    # --- legs

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        task_id = endpoint.task_id
        if not plan.has_node_leg(endpoint):
            self._take_away(task_id)
            return
        address = self.take(task_id)
        self._publish(endpoint)
        link_name = plan.node_link(endpoint)
        try:
            if not self._stands(task_id, link_name, space):
                if len(self._addresses) > LEGS_MAX:
                    raise Unavailable(
                        f"{LEGS_MAX} tasks are on this node's own bridge already, and a Linux bridge takes "
                        f"{netlink.BRIDGE_PORTS_MAX} ports; let other nodes run some of them, or give "
                        "tasks that need no way out internal networks only"
                    )
                self._plug(task_id, link_name, space)
            leg = space.netlink.link(link_name)
            assert leg is not None, "the pair was made a moment ago"
            space.netlink.do(netlink.add_address(leg.index, address))
            name = plan.port_name(task_id)
            self._links().do(netlink.tune_port(name), netlink.set_up_by_name(name))
        except OSError as error:
            raise Unavailable(f"cannot make the network of task {task_id}: {error}") from error

    def _take_away(self, task_id: TaskId) -> None:
        """It has left the last network from which there is a way out."""
        if task_id in self._addresses:
            self._withdraw([task_id])
            self.unplug([task_id])
            self.release(task_id)

    def _plug(self, task_id: TaskId, link_name: str, space: Space) -> None:
        name, mac = plan.port_name(task_id), mac_of(str(self._addresses[task_id]))
        outside = self._links()
        with open(space.path, "rb") as netns:
            peer = netlink.Peer(link_name, mac, netns.fileno())
            pair = netlink.add_veth(name, master=plan.BRIDGE_INDEX, peer=peer)
            if outside.batch([pair])[0]:
                space.netlink.do(netlink.delete_link(link_name), accept=_GONE)
                outside.do(netlink.delete_link(name), accept=_GONE)
                outside.do(pair)  # again, for its error

    def _stands(self, task_id: TaskId, link_name: str, space: Space) -> bool:
        """Whether both ends of the pair are where they belong."""
        outside, inside = self._links().link(plan.port_name(task_id)), space.netlink.link(link_name)
        return outside is not None and inside is not None and outside.master == plan.BRIDGE_INDEX

    def _publish(self, endpoint: Endpoint) -> None:
        """Reserve and forward the task's ports; those that it no longer has go."""
        task_id = endpoint.task_id
        if self._published.get(task_id) == endpoint.host_ports:
            return
        self._withdraw([task_id])
        if not endpoint.host_ports:
            return
        self._reserved.reserve(task_id, endpoint.host_ports)
        self._published[task_id] = endpoint.host_ports
        ip = self._addresses[task_id].ip
        ports = [port for port in endpoint.host_ports if plan.is_port_forwardable(port)]
        self._rules("".join(plan.add_port(ip, port) for port in ports))

    def _withdraw(self, task_ids: Iterable[TaskId]) -> None:
        for task_id in task_ids:
            for port in self._published.pop(task_id, ()):
                with contextlib.suppress(NftError):  # it had not come so far
                    self._own_node().nft.run(plan.delete_port(port))
            self._reserved.release(task_id)

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        """The way out; the task's own routes stay."""
        if not plan.has_node_leg(endpoint):
            return
        try:
            link = space.netlink.link(plan.node_link(endpoint))
            assert link is not None, "attach has made it"
            gateway = plan.gateway_of(self._subnet).ip
            mtu = _smallest_mtu(endpoint, space)
            space.netlink.do(netlink.add_default_route(link.index, gateway, mtu=mtu))
        except OSError as error:
            raise Unavailable(f"cannot make the network of task {endpoint.task_id}: {error}") from error

    def is_ready(self, task_id: TaskId) -> bool:
        if task_id not in self._addresses:
            return True
        link = self._links().link(plan.port_name(task_id))
        return link is not None and link.is_forwarding

    def detach(self, task_id: TaskId) -> None:
        self._withdraw([task_id])

    def unplug(self, task_ids: Sequence[TaskId]) -> None:
        names = [plan.port_name(task_id) for task_id in task_ids]
        marks = [netlink.mark_group(name, plan.DOOMED_GROUP) for name in names]
        try:
            self._links().do(*marks, netlink.delete_group(plan.DOOMED_GROUP), accept=_GONE)
        except OSError as error:
            raise Unavailable(f"cannot take down networks of tasks: {error}") from None

    # --- the node-wide parts

    def _make(self, node: Netlink) -> Netlink:
        """The bridge's namespace, the bridge, and the cable to the node. A socket in that namespace.

        A gateway that stands keeps its subnet: tasks are using it.
        """
        gateway = self._choose(node)
        self._subnet = gateway.network
        if namespaces.is_live(self._path) and node.link(plan.GATEWAY_LINK) is not None:
            ports = namespaces.enter(self._path)
        else:
            # whatever a crash left of it: made anew, and the tasks' legs with it
            node.do(netlink.delete_link(plan.GATEWAY_LINK), accept=_GONE)
            namespaces.remove(self._path)
            ports = namespaces.make(self._path)
        mac = mac_of(str(gateway))
        bridge = netlink.add_bridge(plan.BRIDGE, number=plan.BRIDGE_INDEX)
        ports.do(bridge, netlink.set_up(plan.BRIDGE_INDEX), accept=_THERE)
        with open(self._path, "rb") as netns:
            peer = netlink.Peer(plan.UPLINK, "", netns.fileno())
            node.do(netlink.add_veth(plan.GATEWAY_LINK, peer=peer, mac=mac), accept=_THERE)
        ports.do(netlink.set_master(plan.UPLINK, plan.BRIDGE_INDEX), netlink.set_up_by_name(plan.UPLINK))
        link = node.link(plan.GATEWAY_LINK)
        assert link is not None, "the link was made a moment ago"
        node.do(
            netlink.no_link_local(plan.GATEWAY_LINK),
            netlink.add_address(link.index, gateway),
            netlink.set_up(link.index),
        )
        own = self._own_node()
        own.set("ipv4/ip_forward", "1")
        own.set(f"ipv4/conf/{plan.GATEWAY_LINK}/route_localnet", "1")
        return ports

    def _choose(self, node: Netlink) -> IPv4Interface:
        link = node.link(plan.GATEWAY_LINK)
        present = node.addresses()
        own = [address for index, address in present if link is not None and index == link.index]
        if own and self._wanted_subnet in ("", str(own[0].network)):
            return own[0]
        if self._addresses:  # tasks have addresses of it
            return plan.gateway_of(self._subnet)
        taken = [address.network for _, address in present] + [network for _, network in node.routes()]
        if link is not None:
            node.do(netlink.delete_link(plan.GATEWAY_LINK), accept=_GONE)
        return plan.gateway_of(plan.choose_subnet(self._wanted_subnet, taken))

    def _load_rules(self) -> None:
        ports = [
            (self._addresses[task_id].ip, port)
            for task_id, published in self._published.items()
            for port in published
            if plan.is_port_forwardable(port)
        ]
        self._rules(plan.ruleset(self._subnet, ports))

    # --- small things

    def _own_node(self) -> Space:
        assert self._node is not None, "the backend was not started"
        return self._node

    def _links(self) -> Netlink:
        assert self._ports is not None, "the backend was not started"
        return self._ports

    def _rules(self, commands: str) -> None:
        try:
            self._own_node().nft.run(commands)
        except NftError as error:
            raise Unavailable(f"nftables refused the node's rules: {error}") from None


def _smallest_mtu(endpoint: Endpoint, space: Space) -> int:
    """Of the task's links in its networks; 0 if it has none."""
    links = [space.netlink.link(leg.link) for leg in endpoint.legs]
    return min((link.mtu for link in links if link is not None), default=0)
