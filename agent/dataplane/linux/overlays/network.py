"""One overlay network on this node: what it should be, what is remembered of it, and its tasks' legs.

What is set up is remembered, so that a small change costs little. After any error, and when told to
``doubt``, the kernel is asked: memory is never trusted once something went wrong.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv6Interface, ip_interface
from pathlib import Path

from agent.dataplane import diff
from agent.dataplane.base import Leg, NetworkConfig, NetworkState
from agent.dataplane.linux import netlink, netlink_links, plan
from agent.dataplane.linux.overlays import spoofing
from agent.dataplane.linux.overlays.sandbox import NetworkSandbox
from agent.dataplane.linux.part import Carriage, Space, Uplink
from agent.dataplane.plan import MTU_MIN, Entries, SandboxPlan, Tunnel
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.addresses import bares, mac_of
from swarmpy.model.ids import TaskId
from swarmpy.model.network_rules import MTU_OPTION

LEGS_MAX = netlink.BRIDGE_PORTS_MAX - 3
"""The tunnel and the routing mesh have ports too."""
_GONE = frozenset({errno.ENODEV})


class OverlayNetwork:
    """``legs``: of tasks here. ``broken``: tasks whose port was missing when the kernel was asked last."""

    def __init__(
        self, config: NetworkConfig, path: Path, *, node: Space, uplink: Uplink | None = None
    ) -> None:
        self.config = config
        self.legs: dict[TaskId, Leg] = {}
        self.broken: frozenset[TaskId] = frozenset()
        self.sandbox = NetworkSandbox(path, node, config.name or config.id)
        self._uplink = uplink
        self._entries = Entries()
        self._is_certain = False
        self._state: NetworkState | None = None
        self._alone: NetworkState | None = None
        self._carriage: Carriage | None = None
        self._mtu = 0
        self._tunnel: Tunnel | None = None

    # --- certainty

    @property
    def is_certain(self) -> bool:
        """Whether the sandbox stands, as remembered."""
        return self._is_certain

    def doubt(self) -> None:
        """The kernel may have something else than is remembered."""
        self._is_certain = False

    @contextmanager
    def doubting(self) -> Iterator[None]:
        """Whatever ends the block early leaves doubt."""
        try:
            yield
        except BaseException:
            self._is_certain = False
            raise

    # --- following

    def alone(self) -> NetworkState:
        """The network as it is to be while nothing has been said about it: with what is here."""
        if self._alone is None or self._alone.config is not self.config:
            self._alone = NetworkState(config=self.config)
        return self._alone

    def follow(self, state: NetworkState, carriage: Carriage) -> None:
        """Make it so: what has changed if memory is to be trusted, else all."""
        if self._is_certain and self._is_followed(state, carriage):
            return
        self.config = state.config
        change = self._entries.change_to(state.remotes, carriage.routes)
        mtu = _mtu_of(state.config, carriage)
        tunnel = None if self._uplink else Tunnel(state.config.vni, carriage.port, carriage.local)
        is_small = self._is_certain and (mtu, tunnel) == (self._mtu, self._tunnel)
        self._mtu, self._tunnel = mtu, tunnel
        if not is_small:
            self._reconcile()
            if self._uplink is not None:
                self._uplink.plug(state.config, self.sandbox.space)
        elif tunnel is not None and not change.is_empty:
            self.sandbox.set_entries(change)
        self._state, self._carriage = state, carriage
        self._is_certain = True

    def _is_followed(self, state: NetworkState, carriage: Carriage) -> bool:
        return self._state is state and (self._carriage is carriage or self._carriage == carriage)

    def _reconcile(self) -> None:
        """From what the kernel has. Missing ports are left to ``plug``, which has their other end."""
        self.sandbox.open()
        wanted = SandboxPlan(
            mtu=self._mtu,
            tunnel=self._tunnel,
            ports=frozenset(map(plan.network_port_name, self.legs)),
            forwarding=self._entries.forwarding,
            neighbours=self._entries.neighbours,
        )
        ops = diff.diff(wanted, self.sandbox.observe())
        missing = {op.name for op in ops if isinstance(op, diff.AddPort)}
        self.sandbox.execute(op for op in ops if not isinstance(op, diff.AddPort))
        senders = self._senders()
        self.sandbox.replace_rules(spoofing.ruleset(senders))
        self.sandbox.tune_observed_ports(
            {name: sender.mac for name, sender in senders.items() if name not in missing}
        )
        self.broken = frozenset(task for task in self.legs if plan.network_port_name(task) in missing)

    def _senders(self) -> dict[str, spoofing.Sender]:
        return {plan.network_port_name(task_id): _sender(leg) for task_id, leg in self.legs.items()}

    # --- legs

    def adopt(self, task_id: TaskId, leg: Leg) -> None:
        """The task has had this leg from before; whether it still stands is to be seen."""
        self.legs[task_id] = leg

    def plug(self, task_id: TaskId, leg: Leg, space: Space) -> None:
        """The leg, as it should be; down if it is new. The network was followed before."""
        former = self.legs.get(task_id)
        if former is None and len(self.legs) >= LEGS_MAX:
            raise Unavailable(
                f"network {self.config.name or self.config.id} has {LEGS_MAX} tasks on this node already: a "
                f"Linux bridge takes {netlink.BRIDGE_PORTS_MAX} ports; let other nodes run some of them"
            )
        name, sender = plan.network_port_name(task_id), _sender(leg)
        if former is not None and _sender(former) != sender:
            self.sandbox.replace_rules(spoofing.delete(name, _sender(former)))
        self.sandbox.replace_rules(spoofing.add(name, sender))
        self.legs[task_id] = leg
        if self.sandbox.space.netlink.link(name) is None or space.netlink.link(leg.link) is None:
            self._make_pair(name, leg, space)
        self.sandbox.tune_port(name, sender.mac)
        self._set_inside(leg, space)
        self.broken -= {task_id}

    def _make_pair(self, name: str, leg: Leg, space: Space) -> None:
        with open(space.path, "rb") as netns:
            peer = netlink.Peer(leg.link, _mac_of(leg), netns.fileno())
            if not self.sandbox.add_port(name, peer=peer, mtu=self._mtu):
                space.netlink.do(netlink.delete_link(leg.link), accept=_GONE)
                self.sandbox.space.netlink.do(netlink.delete_link(name), accept=_GONE)
                if not self.sandbox.add_port(name, peer=peer, mtu=self._mtu):
                    raise OSError(errno.EEXIST, f"a link {name} or {leg.link} that cannot be deleted")

    def _set_inside(self, leg: Leg, space: Space) -> None:
        addresses = [ip_interface(address) for address in leg.addresses]
        if any(isinstance(address, IPv6Interface) for address in addresses):
            space.set(f"ipv6/conf/{leg.link}/disable_ipv6", "0")
        link = space.netlink.link(leg.link)
        if link is None:
            raise OSError(errno.ENODEV, f"{leg.link} of a task is gone")
        space.netlink.do(
            netlink_links.set_leg(leg.link, mtu=self._mtu, mac=_mac_of(leg)),
            *(netlink.add_address(link.index, address) for address in addresses),
        )

    def is_ready(self, task_id: TaskId) -> bool:
        """Whether the bridge forwards what the task sends."""
        if not self._is_certain:
            return True  # there is more to mend than this
        link = self.sandbox.space.netlink.link(plan.network_port_name(task_id))
        return link is not None and link.is_forwarding

    def unplug(self, task_ids: Sequence[TaskId]) -> None:
        """Those of them that are here; all in one go."""
        doomed = {task_id: self.legs[task_id] for task_id in task_ids if task_id in self.legs}
        if not doomed:
            return
        if self._is_certain:
            self.sandbox.delete_ports([plan.network_port_name(task_id) for task_id in doomed])
            self.sandbox.replace_rules(
                "".join(
                    spoofing.delete(plan.network_port_name(task_id), _sender(leg))
                    for task_id, leg in doomed.items()
                )
            )
        for task_id in doomed:
            del self.legs[task_id]

    # --- for people

    def describe(self) -> dict[str, object]:
        """What is where on this node, from the kernel."""
        found = self.sandbox.observe()
        return {
            "namespace": str(self.sandbox.path),
            "bridge": diff.BRIDGE,
            "tunnel": diff.TUNNEL if self._tunnel is not None else "",
            "vni": self.config.vni,
            "port": self._carriage.port if self._carriage is not None else 0,
            "local": self._carriage.local if self._carriage is not None else "",
            "mtu": self._mtu,
            "encrypted": self.config.is_encrypted,
            "peers": sorted(set(found.forwarding.values())),
            "forwarding": len(found.forwarding),
            "neighbours": len(found.neighbours),
            "ports": {task_id: plan.network_port_name(task_id) for task_id in sorted(self.legs)},
        }


def _sender(leg: Leg) -> spoofing.Sender:
    return spoofing.Sender(_mac_of(leg), bares(leg.addresses))


def _mac_of(leg: Leg) -> str:
    return leg.mac or mac_of(leg.addresses[0])


def _mtu_of(config: NetworkConfig, carriage: Carriage) -> int:
    """The user's, or what the underlay leaves."""
    wish = str(config.mtu or config.options.get(MTU_OPTION, ""))
    if not wish:
        return carriage.mtu
    if not wish.isdecimal() or int(wish) < MTU_MIN:
        raise TaskRejected(
            f"network {config.name or config.id} has the option {MTU_OPTION}={wish}, which is no MTU"
        )
    return int(wish)
