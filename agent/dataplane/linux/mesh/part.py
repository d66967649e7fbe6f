"""``Mesh``: the Part by which every node answers on every published port.

On the node: a leg in the ingress network (``gateway``), a table that leads new connections to tasks
(``host_rules``), and a socket per port, so that no program takes it unknowingly. In a task that is in the
ingress network: the way back (``replies``). A port that a program of the node holds already is left to it,
with a line in the log, and tried again with the next change and when mending; the other ports and nodes are
not concerned.

Established connections are never touched: the kernel's connection table keeps where each went.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import structlog

from agent.dataplane.base import Endpoint, HostPort, NetworkConfig, NodeState, Peer, PublishedPort
from agent.dataplane.linux import plan
from agent.dataplane.linux.balancing.wire import Wire
from agent.dataplane.linux.elements import Element, Sides, difference
from agent.dataplane.linux.mesh import gateway, host_rules, names, probe
from agent.dataplane.linux.mesh.host_rules import PlacedPort
from agent.dataplane.linux.mesh.names import Interface
from agent.dataplane.linux.mesh.replies import Replies, ingress_leg
from agent.dataplane.linux.nftables import NftError
from agent.dataplane.linux.part import Space
from agent.dataplane.linux.ports import PortReservations
from agent.dataplane.linux.tables import Outline, Table
from swarmpy.errors import SwarmError, Unavailable
from swarmpy.model.addresses import mac_of
from swarmpy.model.ids import NodeId, TaskId

log = structlog.get_logger(__name__)

OWNER = "the routing mesh"
_TABLE = Table(names.TABLE, tuple(f"_ports{place}" for place in host_rules.PLACES), (host_rules.CLASSIC_SET,))
_MAPS = dict.fromkeys(host_rules.map_names(), 0)
_ANYWHERE = ("", "0.0.0.0", "::")
_PortKey = tuple[str, int, str]
"""Protocol, number, and where it answers: see ``PlacedPort``."""


class Mesh:
    """See ``Part``. ``problems``: sentences about ports that do not answer on this node."""

    def __init__(self, netns_dir: Path, *, ports: PortReservations) -> None:
        self._netns_dir = netns_dir
        self._reserved = ports
        self._node: Space | None = None
        self._tasks: dict[TaskId, Replies] = {}
        self._peers: Mapping[NodeId, Peer] = {}
        self._gateways: dict[str, int] = {}
        self._addresses: tuple[Interface, ...] = ()
        self._plugged: tuple[Interface, ...] = ()
        """With which the leg was made right."""
        self._placed: dict[_PortKey, PlacedPort] = {}
        """What is served, as far as the kernel is known to have it."""
        self._held: dict[_PortKey, tuple[HostPort, ...]] = {}
        """What was reserved for ports, whatever the kernel has."""
        self._elements: dict[Element, bytes] | None = None
        """What is in the kernel's maps; None: to be found out."""
        self._outline: Outline = ()
        self._state = NodeState()
        self._has_egress = False
        self._is_gone = False
        """Whether nothing of the mesh is on the node, as far as it is known."""
        self.problems: tuple[str, ...] = ()

    # --- life

    def start_up(self, node: Space) -> None:
        self.shut_down()
        self._node = node
        self._has_egress = probe.has_egress_hook()
        self._elements, self._placed, self._plugged, self._is_gone = None, {}, (), False

    def shut_down(self) -> None:
        self._release_all()
        self._tasks.clear()

    def destroy(self) -> None:
        self._take_down()
        self._tasks.clear()  # their namespaces go, and all that is in them

    # --- the node

    def apply(self, state: NodeState) -> None:
        """What goes wrong here does not keep tasks from the network: it is reported, and tried again."""
        self._state = state
        if state.peers is not self._peers:
            self._peers = state.peers
            self._follow_nodes(names.gateways(state.peers.values()))
        try:
            problems = self._serve(state)
        except (NftError, OSError) as error:
            self._elements = None
            problems = [f"The kernel refused what the routing mesh needs: {error}"]
        except SwarmError as error:
            self._elements, self._plugged = None, ()
            problems = [f"Published ports do not answer on this node: {error}"]
        for problem in problems:
            if problem not in self.problems:
                log.warning("published_port_unanswered", reason=problem)
        self.problems = tuple(problems)

    def _serve(self, state: NodeState) -> list[str]:
        """What could not be served; errors if it is all."""
        own = state.peers.get(state.node_id)
        config, addresses = _own_place(own, state)
        if config is None or own is None:
            if not self._is_gone:
                self._take_down()
            return []
        self._is_gone = False
        if addresses != self._plugged or not gateway.is_up(self._own_node()):
            sandbox = plan.sandbox_path(self._netns_dir, config.id)
            gateway.make(self._own_node(), sandbox, addresses, mac_of(own.ingress_addresses[0]))
            self._plugged = addresses
        self._load(addresses)
        return self._publish(state.published)

    def mend(self) -> None:
        """Everything is looked up in the kernel, and made right."""
        if self._elements is not None:
            found = _TABLE.read(self._own_wire(), _MAPS)
            if found != self._elements or _TABLE.outline(self._own_wire()) != self._outline:
                self._elements = None
        self._plugged, self._is_gone = (), False
        self.apply(self._state)
        errors: list[OSError | Unavailable] = []
        for replies in self._tasks.values():
            try:
                replies.prepare(self._gateways, has_egress=self._has_egress)
                replies.settle(self._gateways, has_egress=self._has_egress)
            except (OSError, Unavailable) as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _load(self, addresses: tuple[Interface, ...]) -> None:
        """The table's rules; those that stand are kept with their elements, as after a restart."""
        if self._elements is not None and addresses == self._addresses:
            return
        ruleset = host_rules.ruleset(addresses)
        self._outline = _TABLE.outline_of(ruleset)
        found = _TABLE.read(self._own_wire(), _MAPS)
        if found is None or _TABLE.outline(self._own_wire()) != self._outline:
            self._own_node().nft.run(ruleset)
            found = {}
        self._addresses, self._elements, self._placed = addresses, found, {}

    def _publish(self, ports: tuple[PublishedPort, ...]) -> list[str]:
        """The maps' elements; what is paid for is what has changed."""
        assert self._elements is not None, "the table was loaded"
        problems: dict[_PortKey, str] = {}
        wished: dict[_PortKey, PlacedPort] = {}
        for port in ports:
            where = self._where(port)
            key = (port.protocol, port.published_port, where or "")
            if where is None:
                continue
            if key in wished:
                problems[key] = f"Port {key[1]}/{key[0]} is published twice; the first service has it"
                continue
            former = self._placed.get(key)
            if former is not None and _is_same(former.port, port):
                wished[key] = former
                continue
            placed = host_rules.place(port, where, former)
            problem = "" if former is not None else self._reserve(key, placed)
            if problem:
                problems[key] = problem
            else:
                wished[key] = placed
        self._change(wished)
        for key in sorted(self._held.keys() - wished.keys()):
            self._reserved.release(OWNER, self._held.pop(key))
        self._placed = wished
        return [problems[key] for key in sorted(problems)]

    def _change(self, wished: Mapping[_PortKey, PlacedPort]) -> None:
        assert self._elements is not None, "the table was loaded"
        if self._placed:
            removed, added = _changes(self._placed, wished)
        else:  # a former life's elements, or none
            all_wished = {
                key: value for each in wished.values() for key, value in host_rules.elements_of(each).items()
            }
            removed, added = difference(self._elements, all_wished)
        if removed or added:
            self._own_wire().transact(_TABLE.change(removed, added))
        for element in removed:
            del self._elements[element]
        self._elements.update(added)

    def _where(self, port: PublishedPort) -> str | None:
        """Empty: everywhere. None: this node has no such address or interface, so it is not concerned."""
        host = "" if port.host_ip in _ANYWHERE else port.host_ip
        node = self._own_node()
        if not host:
            return host
        if not names.is_address(host):
            return host if node.netlink.link(host) is not None else None
        address = ip_address(host)
        if address.is_loopback or any(each.ip == address for _, each in gateway.own_addresses(node)):
            return str(address)
        return None

    def _reserve(self, key: _PortKey, placed: PlacedPort) -> str:
        """Why the port cannot be had on this node; empty if it is ours now."""
        assert self._elements is not None, "the table was loaded"
        holds = self._holds(placed)
        if not self._placed and host_rules.elements_of(placed).keys() & self._elements.keys():
            self._reserved.take_back(OWNER, holds)  # served by a former life: clients count on it
            self._held[key] = holds
            return ""
        try:
            self._reserved.reserve(OWNER, holds)
            self._held[key] = holds
        except Unavailable as error:
            return (
                f"Port {placed.port.published_port}/{placed.port.protocol} does not answer on this node:"
                f" {error}; stop the program that listens there or publish another port"
            )
        return ""

    def _holds(self, placed: PlacedPort) -> tuple[HostPort, ...]:
        everywhere = ("", "::") if any(each.version == 6 for each in self._addresses) else ("",)
        return tuple(
            HostPort(
                protocol=placed.port.protocol,
                published_port=placed.port.published_port,
                target_port=placed.port.target_port,
                host_ip=host,
            )
            for host in ((placed.where,) if placed.where else everywhere)
        )

    def _take_down(self) -> None:
        node = self._own_node()
        gateway.remove(node)
        try:
            node.nft.run(host_rules.DELETION)
        except NftError as error:
            raise Unavailable(f"the rules of the routing mesh could not be removed: {error}") from None
        self._elements, self._placed, self._addresses, self._plugged = None, {}, (), ()
        self._is_gone = True
        self._release_all()

    def _release_all(self) -> None:
        self._reserved.release(OWNER)
        self._held = {}

    # --- tasks

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        leg = ingress_leg(endpoint)
        if leg is None:
            return
        replies = self._tasks.get(endpoint.task_id)
        if replies is None or not replies.is_for(endpoint, space):
            replies = self._tasks[endpoint.task_id] = Replies(endpoint, leg, space)
        replies.prepare(self._gateways, has_egress=self._has_egress)

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        if endpoint.task_id in self._tasks:
            self._tasks[endpoint.task_id].settle(self._gateways, has_egress=self._has_egress)

    def detach(self, task_id: TaskId) -> None:
        self._tasks.pop(task_id, None)

    def _follow_nodes(self, gateways: dict[str, int]) -> None:
        if gateways == self._gateways:
            return
        self._gateways = gateways
        for task_id, replies in self._tasks.items():
            try:
                replies.follow(gateways, has_egress=self._has_egress)
            except (OSError, Unavailable) as error:
                log.warning("nodes_not_followed", task_id=task_id, error=str(error))

    # --- small things

    def _own_node(self) -> Space:
        assert self._node is not None, "the backend was not started"
        return self._node

    def _own_wire(self) -> Wire:
        return self._own_node().wire


def _own_place(own: Peer | None, state: NodeState) -> tuple[NetworkConfig | None, tuple[Interface, ...]]:
    """The ingress network that the node has addresses in. While it is replaced there may be two."""
    if own is not None:
        for network_id in sorted(state.networks):
            config = state.networks[network_id].config
            if config.is_ingress:
                addresses = names.with_prefix(own.ingress_addresses, config.subnets)
                if addresses:
                    return config, addresses
    return None, ()


def _changes(former: Mapping[_PortKey, PlacedPort], wished: Mapping[_PortKey, PlacedPort]) -> Sides:
    """What to remove and what to add, of the ports that are not the same objects."""
    removed: dict[Element, bytes] = {}
    added: dict[Element, bytes] = {}
    for key, before in former.items():
        after = wished.get(key)
        if after is None:
            removed.update(host_rules.elements_of(before))
        elif after is not before:
            less, more = host_rules.change_of(before, after)
            removed.update(less)
            added.update(more)
    for key in wished.keys() - former.keys():
        added.update(host_rules.elements_of(wished[key]))
    return removed, added


def _is_same(one: PublishedPort, other: PublishedPort) -> bool:
    """Mostly it is the same object."""
    return one is other or one == other
