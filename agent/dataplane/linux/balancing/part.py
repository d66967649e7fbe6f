"""``Balancing``: virtual addresses lead to backends, by a table in the namespace of each task that has legs.

A change of services is written as elements, once, and sent to every namespace that is on the network: one
transaction each. Rules are loaded when a task is attached, before its links are up, and never again unless
they are damaged. What goes where is known per network, not per task; only what clients of sticky services
have chosen is a task's own. After a restart the slots are taken over from the first namespace that has them.

Established connections are the kernel's: no change here touches them (``Connections`` cuts them).
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_interface, ip_network
from itertools import combinations
from pathlib import Path

from msgspec.structs import replace

from agent.dataplane.base import Balancer, Endpoint, NetworkState, NodeState
from agent.dataplane.linux import namespaces
from agent.dataplane.linux.balancing import rules, slots, table
from agent.dataplane.linux.balancing.rules import ServiceSlots
from agent.dataplane.linux.balancing.table import VIP_TABLE
from agent.dataplane.linux.balancing.wire import NETFILTER, Wire
from agent.dataplane.linux.elements import Element, Elements, difference
from agent.dataplane.linux.nftables import Nftables, NftError
from agent.dataplane.linux.part import Space
from swarmpy.errors import Unavailable
from swarmpy.limits import VIP_TCP_IDLE_S, VIP_UDP_IDLE_S
from swarmpy.model.ids import NetworkId, ServiceId, TaskId

_IDLE_S = (
    ("netfilter/nf_conntrack_tcp_timeout_established", VIP_TCP_IDLE_S),
    ("netfilter/nf_conntrack_udp_timeout_stream", VIP_UDP_IDLE_S),
)
_LIBERAL = ("netfilter/nf_conntrack_tcp_be_liberal", 1)
"""A segment outside of the window is translated all the same, else the client's own kernel resets."""
_VERSIONS = ((4,), (6,), (4, 6))
_Audience = tuple[tuple[NetworkId, ...], tuple[int, ...]]
"""Networks that changed and IP versions: namespaces that have both in common are sent the same."""


_Steps = list[tuple[ServiceSlots | None, ServiceSlots | None]]
"""Of each service that changed in a network: before and after."""


@dataclass
class _Network:
    """A network as last applied, and its services' slots: the same in every namespace."""

    state: NetworkState | None
    services: dict[ServiceId, ServiceSlots] = field(default_factory=dict)
    members: set[TaskId] = field(default_factory=set)
    _elements: dict[tuple[int, ...], dict[Element, bytes]] = field(default_factory=dict)
    _whole: dict[tuple[int, ...], bytes] = field(default_factory=dict)

    def elements(self, versions: tuple[int, ...]) -> dict[Element, bytes]:
        """Kept, for the next task that is attached, until something changes."""
        if versions not in self._elements:
            found: dict[Element, bytes] = {}
            for service_id in sorted(self.services):
                found.update(rules.elements_of(self.services[service_id], versions))
            self._elements[versions] = found
        return self._elements[versions]

    def whole(self, versions: tuple[int, ...], skeleton: table.Skeleton) -> bytes:
        """The transaction that makes the table with all of them; kept likewise."""
        if versions not in self._whole:
            self._whole[versions] = table.change({}, self.elements(versions), anew=skeleton)
        return self._whole[versions]

    def advance(self, new: NetworkState | None) -> _Steps:
        """It has the new services' slots after this."""
        wished = _balancers(new)
        vanished = [each for each in self.services if each not in wished]
        steps: _Steps = [(self.services.pop(each), None) for each in vanished]
        for service_id, balancer in wished.items():
            former = self.services.get(service_id)
            if former is not None and (former.balancer is balancer or former.balancer == balancer):
                continue
            placed = rules.place(balancer, former.slots if former is not None else {})
            self.services[service_id] = placed
            steps.append((former, placed))
        self.state = new
        if steps:
            self._elements.clear()
            self._whole.clear()
        return steps


@dataclass
class _Client:
    """An attached task. ``choices``: of sticky services, from virtual address to backend."""

    endpoint: Endpoint
    space: Space
    versions: tuple[int, ...]
    choices: dict[str, str] = field(default_factory=dict)
    is_dirty: bool = True

    @property
    def wire(self) -> Wire:
        return self.space.wire

    @property
    def network_ids(self) -> list[NetworkId]:
        return [leg.network.id for leg in self.endpoint.legs]

    @cached_property
    def is_contested(self) -> bool:
        """Whether two of its networks may claim one address: a change of one then depends on the other."""
        ranges = [
            {ip_interface(each).network for each in leg.addresses}
            | {ip_network(subnet.cidr) for subnet in leg.network.subnets}
            for leg in self.endpoint.legs
        ]
        return any(
            one.version == other.version and one.overlaps(other)
            for some, others in combinations(ranges, 2)
            for one in some
            for other in others
        )

    @property
    def address(self) -> str:
        """By which sticky services know it."""
        return next(each for leg in self.endpoint.legs for each in leg.addresses)


class Balancing:
    """A ``Part``."""

    def __init__(self) -> None:
        self._applied: Mapping[NetworkId, NetworkState] = {}
        self._networks: dict[NetworkId, _Network] = {}
        self._clients: dict[TaskId, _Client] = {}
        self._skeletons: dict[tuple[int, ...], table.Skeleton] = {}
        self._settings: tuple[tuple[str, int], ...] = ()

    def start_up(self, node: Space) -> None:
        """Learn how this kernel shows the rules, and which of its periods are too short."""
        try:
            for versions in _VERSIONS:
                with namespaces.scratch(), contextlib.closing(Nftables()) as nft, Wire(NETFILTER) as wire:
                    nft.run(rules.ruleset(versions))
                    skeleton = table.record(wire)
                    wire.transact(table.change({}, {}, anew=skeleton))
                    if VIP_TABLE.outline(wire) != skeleton.outline:
                        raise OSError(errno.EPROTO, "it makes other rules of its own description of them")
                    self._skeletons[versions] = skeleton
                    short = [(name, least) for name, least in _IDLE_S if _setting(name) < least]
        except (NftError, OSError) as error:
            raise Unavailable(
                f"The kernel takes no rules for virtual addresses ({error}); load the modules nft_nat, "
                "nft_numgen, nft_reject_inet and nf_conntrack_netlink."
            ) from None
        self._settings = (*short, _LIBERAL)

    def apply(self, state: NodeState) -> None:
        steps: dict[NetworkId, _Steps] = {}
        self._applied = state.networks
        for network_id, network in self._networks.items():
            new = state.networks.get(network_id)
            if new is not network.state:
                steps[network_id] = network.advance(new)
        texts: dict[_Audience, bytes] = {}
        failures = []
        for client in self._clients.values():
            concerning = tuple(each for each in client.network_ids if steps.get(each))
            if not concerning and not client.is_dirty:
                continue
            try:
                self._carry(client, {each: steps[each] for each in concerning}, texts)
            except OSError as error:
                client.is_dirty = True
                failures.append(f"task {client.endpoint.task_id}: {error}")
        _complain(failures)

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        versions = rules.versions_of(each for leg in endpoint.legs for each in leg.addresses)
        former = self._clients.get(endpoint.task_id)
        if former is not None and (
            former.space is not space or former.endpoint.legs != endpoint.legs or not versions
        ):
            if not versions:  # it has left its last network
                with contextlib.suppress(OSError):
                    former.wire.transact(table.deletion(self._skeletons[former.versions]))
            self.detach(endpoint.task_id)
            former = None
        if not versions:
            return
        try:
            client = former or _Client(endpoint, space, versions)
            self._clients[endpoint.task_id] = client
            self._reconcile(client)
            for name, value in self._settings:
                space.set(name, str(value))
        except OSError as error:
            raise Unavailable(
                f"cannot make the virtual addresses of task {endpoint.task_id}: {error}"
            ) from error

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        """Virtual addresses need no routes."""

    def mend(self) -> None:
        """Compare every namespace with what it should have: someone may have been at the tables."""
        failures = []
        for client in self._clients.values():
            try:
                self._reconcile(client)
            except OSError as error:
                client.is_dirty = True
                failures.append(f"task {client.endpoint.task_id}: {error}")
        _complain(failures)

    def detach(self, task_id: TaskId) -> None:
        client = self._clients.pop(task_id, None)
        if client is None:
            return
        for network_id in client.network_ids:
            network = self._networks.get(network_id)
            if network is not None:
                network.members.discard(task_id)
                if not network.members:
                    del self._networks[network_id]

    def shut_down(self) -> None:
        self._clients.clear()
        self._networks.clear()

    def destroy(self) -> None:
        """Tasks that stand without their networks lose the table too."""
        for client in self._clients.values():
            with contextlib.suppress(OSError):  # the namespace is about to go anyway
                client.wire.transact(table.deletion(self._skeletons[client.versions]))
        self.shut_down()

    # --- one namespace

    def _carry(
        self, client: _Client, steps: Mapping[NetworkId, _Steps], texts: dict[_Audience, bytes]
    ) -> None:
        """Send a namespace what changed; if that does not fit what it has, compare and mend."""
        if client.is_dirty or client.is_contested:
            self._reconcile(client)
            return
        merged = [step for of_network in steps.values() for step in of_network]
        if any(service and service.balancer.is_sticky for step in merged for service in step):
            text = _text(merged, client)
        else:
            audience = (tuple(steps), client.versions)
            if audience not in texts:
                texts[audience] = _text(merged, client)
            text = texts[audience]
        if not text:
            return
        try:
            client.wire.transact(text)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST, errno.EBUSY):
                raise
            self._reconcile(client)

    def _reconcile(self, client: _Client) -> None:
        """Whatever is in the namespace: the table, its rules and its elements are right after this."""
        present = table.read(client.wire, rules.maps_of(client.versions))
        skeleton = self._skeletons[client.versions]
        is_whole = present is not None and VIP_TABLE.outline(client.wire) == skeleton.outline
        self._take_over(client, present or {})
        wished = self._wished(client)
        if present is not None and is_whole:
            removed, added = difference(present, wished)
            if removed or added:
                client.wire.transact(table.change(removed, added))
        elif len(client.network_ids) == 1 and not client.choices:
            client.wire.transact(self._networks[client.network_ids[0]].whole(client.versions, skeleton))
        else:
            client.wire.transact(table.change({}, wished, anew=skeleton))
        client.is_dirty = False

    def _take_over(self, client: _Client, present: Elements) -> None:
        """Slots of networks that no other task is on, and choices, as they stand in the namespace."""
        for network_id in client.network_ids:
            if network_id not in self._networks:
                network = _Network(state=self._applied.get(network_id))
                self._networks[network_id] = network
                for service_id, balancer in _balancers(network.state).items():
                    former = {rules.version_of(vip): rules.slots_in(present, vip) for vip in balancer.vips}
                    network.services[service_id] = rules.place(balancer, former)
            self._networks[network_id].members.add(client.endpoint.task_id)
            for service in self._networks[network_id].services.values():
                if service.balancer.is_sticky:
                    for vip in service.balancer.vips:
                        _remember(client, vip, present)

    def _wished(self, client: _Client) -> dict[Element, bytes]:
        """Where two of a task's networks claim one address, the first has it."""
        found: dict[Element, bytes] = {}
        networks = [self._networks[network_id] for network_id in client.network_ids]
        if client.is_contested:
            services = _uncontested(networks)
            for service in services:
                found |= rules.elements_of(service, client.versions)
            return found | _choose(client, services)
        for network in networks:
            found |= network.elements(client.versions)
            found |= _choose(client, list(network.services.values()))
        return found


def _uncontested(networks: Sequence[_Network]) -> list[ServiceSlots]:
    """The networks' services, each with those of its addresses that no network before has."""
    found: list[ServiceSlots] = []
    claimed: set[str] = set()
    for network in networks:
        own: set[str] = set()
        for service_id in sorted(network.services):
            service = network.services[service_id]
            vips = tuple(vip for vip in service.balancer.vips if vip not in claimed)
            found.append(replace(service, balancer=replace(service.balancer, vips=vips)))
            own.update(vips)
        claimed |= own
    return found


def _complain(failures: Sequence[str]) -> None:
    if failures:
        raise Unavailable(f"Virtual addresses are not up to date for {'; '.join(failures)}.")


def _balancers(state: NetworkState | None) -> Mapping[ServiceId, Balancer]:
    return state.balancers if state is not None else {}


def _text(steps: _Steps, client: _Client) -> bytes:
    """The transaction of a client, which makes its choices anew; empty if nothing changes for it."""
    removed: dict[Element, bytes] = {}
    added: dict[Element, bytes] = {}
    for former, now in steps:
        out, new = rules.step(former, now, client.versions)
        removed.update(out)
        added.update(new)
    before = _chosen(client, [former for former, _ in steps if former])
    after = _choose(client, [now for _, now in steps if now])
    out, new = difference(before, after)
    removed.update(out)
    added.update(new)
    return table.change(removed, added) if removed or added else b""


def _sticky_vips(client: _Client, services: Sequence[ServiceSlots]) -> Iterator[tuple[str, ServiceSlots]]:
    for service in services:
        if service.balancer.is_sticky:
            for vip in service.balancer.vips:
                if rules.version_of(vip) in client.versions:
                    yield vip, service


def _chosen(client: _Client, services: Sequence[ServiceSlots]) -> dict[Element, bytes]:
    """The elements of choices that were made."""
    found: dict[Element, bytes] = {}
    for vip, _ in _sticky_vips(client, services):
        if vip in client.choices:
            found.update(rules.slot_elements(vip, [(0, client.choices[vip])]))
    return found


def _remember(client: _Client, vip: str, present: Elements) -> None:
    chosen = rules.slots_in(present, vip)
    if chosen:
        client.choices[vip] = chosen[0]


def _choose(client: _Client, services: Sequence[ServiceSlots]) -> dict[Element, bytes]:
    """The elements of the choices that a client makes of these services."""
    found: dict[Element, bytes] = {}
    for vip, service in _sticky_vips(client, services):
        backends = rules.backends_of(service.balancer, rules.version_of(vip))
        if not backends:
            client.choices.pop(vip, None)
            continue
        client.choices[vip] = slots.favourite(client.address, backends, client.choices.get(vip, ""))
        found.update(rules.slot_elements(vip, [(0, client.choices[vip])]))
    return found


def _setting(name: str) -> int:
    """Of the calling thread's namespace."""
    return int(Path(f"/proc/sys/net/{name}").read_text())
