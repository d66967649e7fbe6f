"""Networks whose tasks are on the node's LAN with a device of their own: ``macvlan`` and its like.

==============  =====================================================================================
macvlan         A MAC per task on the parent; tasks of one node reach each other. ``transparent`` too.
l2tunnel        macvlan as VEPA: all frames go to the switch, also those for a neighbour, and come back
                if that reflects them (hairpin).
ipvlan          One MAC for all, the parent's; where the kernel has it.
==============  =====================================================================================

The device is made straight in the task's namespace and goes with it; the network itself leaves nothing on the
node. By the kernel's rules the node itself and such tasks do not reach each other. Addresses are the swarm's,
or come by DHCP from the LAN. The way out is the LAN's gateway.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv6Interface, ip_address, ip_interface
from pathlib import Path

from agent.dataplane.base import Endpoint, Leg, NetworkConfig, NodeState
from agent.dataplane.linux import namespaces, netlink, plan
from agent.dataplane.linux.drivers import links
from agent.dataplane.linux.drivers.announce import announce
from agent.dataplane.linux.drivers.leases import Leases
from agent.dataplane.linux.drivers.parents import find_parent
from agent.dataplane.linux.drivers.uplinks import lacking
from agent.dataplane.linux.part import Space
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.addresses import mac_of
from swarmpy.model.ids import TaskId
from swarmpy.model.network_rules import MODE_OPTION

_MODES = {"l2tunnel": "vepa"}
DIRECT_DRIVERS = frozenset({"macvlan", "transparent", "l2tunnel", "ipvlan"})
_GONE = frozenset({errno.ENODEV})


class Direct:
    """A ``LegMaker`` that mends."""

    def __init__(self, netns_dir: Path) -> None:
        self._netns_dir = netns_dir
        self._node: Space | None = None
        self._state = NodeState()
        self._legs: dict[TaskId, tuple[Leg, ...]] = {}
        self._leases = Leases()
        self._unannounced: dict[TaskId, tuple[Space, list[Leg]]] = {}
        """Whose addresses the LAN is to be told once their links forward."""

    # --- life

    def start_up(self, node: Space) -> None:
        self._node = node
        self._legs = {}
        self._leases.stop_all()

    def adopt(self, endpoints: Iterable[Endpoint]) -> None:
        """Their devices stand in their namespaces; what is missing there ``attach`` and ``mend`` find."""
        for endpoint in endpoints:
            if legs := direct_legs(endpoint):
                self._legs[endpoint.task_id] = legs

    def apply(self, state: NodeState) -> None:
        self._state = state

    def shut_down(self) -> None:
        """Leases are the tasks', and stay; a later life of the daemon renews them."""
        self._leases.stop_all()

    def destroy(self) -> None:
        self._leases.stop_all()

    def mend(self) -> frozenset[TaskId]:
        broken = set()
        for task_id, legs in self._legs.items():
            path = self._netns_dir / task_id
            if not namespaces.is_live(path):
                broken.add(task_id)
                continue
            with namespaces.enter(path) as inside:
                if any(inside.link(leg.link) is None for leg in legs):
                    broken.add(task_id)
        return frozenset(broken)

    # --- legs

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        task_id, legs = endpoint.task_id, direct_legs(endpoint)
        if not legs and task_id not in self._legs:
            return
        with _translated(task_id):
            for leg in self._legs.get(task_id, ()):
                if all(leg.link != kept.link or leg.network.id != kept.network.id for kept in legs):
                    self._leases.stop(task_id, leg.link)
                    space.netlink.do(netlink.delete_link(leg.link), accept=_GONE)
            self._legs[task_id] = legs
            for leg in legs:
                if space.netlink.link(leg.link) is None:
                    self._make(leg, space)
                self._set_addresses(leg, space)

    def _make(self, leg: Leg, space: Space) -> None:
        config = leg.network
        parent = find_parent(config, self._own_node(), self._state)
        with open(space.path, "rb") as netns:
            error = self._own_node().netlink.batch([_device(leg, parent.index, netns.fileno())])[0]
        if error:
            kind = "ipvlan" if config.driver == "ipvlan" else "macvlan"
            raise TaskRejected(lacking(kind, config.name or config.id, error))
        space.netlink.do(netlink.no_link_local(leg.link))
        if config.mtu:
            space.netlink.do(links.set_mtu(leg.link, config.mtu))
        self._own_node().netlink.do(netlink.set_up(parent.index))

    def _set_addresses(self, leg: Leg, space: Space) -> None:
        addresses = [ip_interface(address) for address in leg.addresses]
        if not addresses and not leg.network.is_dhcp:
            raise TaskRejected(f"the task has no address in network {leg.network.name}")
        if any(isinstance(address, IPv6Interface) for address in addresses):
            space.set(f"ipv6/conf/{leg.link}/disable_ipv6", "0")
        link = space.netlink.link(leg.link)
        if link is None:
            raise OSError(errno.ENODEV, f"{leg.link} of a task is gone")
        space.netlink.do(*(netlink.add_address(link.index, address) for address in addresses))

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        """The links are up: the way out through the first leg that leads there, and leases."""
        if legs := plan.outward_legs(endpoint):
            self._unannounced[endpoint.task_id] = space, legs
        with _translated(endpoint.task_id):
            for number, leg in enumerate(plan.outward_legs(endpoint)):
                link = space.netlink.link(leg.link)
                if link is None:
                    raise OSError(errno.ENODEV, f"{leg.link} of a task is gone")
                if leg.network.is_dhcp:
                    self._leases.start(endpoint.task_id, leg, space.path, is_way_out=number == 0)
                elif number == 0:
                    gateways = [ip_address(each) for each in _gateways(leg)]
                    space.netlink.do(*(links.set_way_out(link.index, gateway) for gateway in gateways))

    def is_ready(self, task_id: TaskId) -> bool:
        """A task begins once it has its leases, or has waited long enough for them. It comes after those
        whose bridges have to be ready.
        """
        space, legs = self._unannounced.pop(task_id, (None, []))
        with _translated(task_id):
            for leg in legs:
                for address in map(ip_interface, leg.addresses):
                    if space is not None and address.version == 4:
                        mac = leg.mac or mac_of(leg.addresses[0])
                        announce(space, leg.link, mac=mac, address=address.ip)
        return self._leases.is_settled(task_id)

    def detach(self, task_id: TaskId) -> None:
        self._unannounced.pop(task_id, None)
        self._leases.release(task_id)

    def unplug(self, task_ids: Sequence[TaskId]) -> None:
        for task_id in task_ids:
            legs = self._legs.pop(task_id, ())
            path = self._netns_dir / task_id
            if legs and namespaces.is_live(path):
                with _translated(task_id), namespaces.enter(path) as inside:
                    inside.do(*(netlink.delete_link(leg.link) for leg in legs), accept=_GONE)

    def _own_node(self) -> Space:
        assert self._node is not None, "the backend was not started"
        return self._node


def direct_legs(endpoint: Endpoint) -> tuple[Leg, ...]:
    return tuple(leg for leg in endpoint.legs if leg.network.driver in DIRECT_DRIVERS)


def _device(leg: Leg, parent: int, netns_fd: int) -> netlink.Message:
    config = leg.network
    if config.driver == "ipvlan":
        return links.add_ipvlan(leg.link, parent=parent, netns_fd=netns_fd)
    mac = leg.mac or mac_of(leg.addresses[0])
    return links.add_macvlan(leg.link, parent=parent, mode=_mode(config), mac=mac, netns_fd=netns_fd)


def _mode(config: NetworkConfig) -> str:
    return _MODES.get(config.driver) or config.options.get(MODE_OPTION, "bridge")


def _gateways(leg: Leg) -> list[str]:
    """Of the families that the leg has an address of."""
    versions = {ip_interface(address).version for address in leg.addresses}
    found = (subnet.gateway for subnet in leg.network.subnets if subnet.gateway)
    return [each for each in found if ip_address(each).version in versions]


@contextmanager
def _translated(task_id: TaskId) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"cannot make the network of task {task_id}: {error}") from error
