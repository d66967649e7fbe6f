"""One network as a node should have it, kept up record by record.

From services and endpoints follow who is reached where (remotes), who is behind virtual addresses
(balancers), published ports, and names. A change touches what depends on it and nothing else; what was given
out before is never changed, and what did not change is given out as the same object again.

Names lead to ACTIVE tasks only, and so do virtual addresses; pointers (from address to name) also name tasks
that are PRESENT, since who calls may want to know. A task of this node counts as long as it has its place
here: one that has ended is gone from names before the managers have heard of it. The ingress network has no
names: nobody calls a service there by name.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

from agent.dataplane.base import (
    Balancer,
    Endpoint,
    Names,
    NetworkConfig,
    NetworkState,
    PublishedPort,
    RemoteEndpoint,
)
from swarmpy.model.addresses import bares, mac_of
from swarmpy.model.container_ids import short_container_id
from swarmpy.model.discovery import EndpointState, NetworkEndpoint, NetworkService
from swarmpy.model.ids import NodeId, ServiceId, TaskId

K = TypeVar("K")
V = TypeVar("V")

"""Containers go by this many characters of their id."""
_TASKS = "tasks."
NODE_DRIVERS = frozenset({"bridge", "nat"})
"""Drivers of networks that each node has for itself: tasks of other nodes are on other ones."""


class Sheet(Generic[K, V]):
    """A mapping that is given out as it stands; it is copied before the first change after that."""

    __slots__ = ("_is_given", "data")

    def __init__(self) -> None:
        self.data: dict[K, V] = {}
        self._is_given = False

    def give(self) -> Mapping[K, V]:
        self._is_given = True
        return self.data

    def put(self, key: K, value: V) -> bool:
        """Whether anything changed: an equal value leaves the one that is there."""
        if self.data.get(key) == value:
            return False
        self._own()
        self.data[key] = value
        return True

    def drop(self, key: K) -> bool:
        if key not in self.data:
            return False
        self._own()
        del self.data[key]
        return True

    def _own(self) -> None:
        if self._is_given:
            self.data = self.data.copy()
            self._is_given = False


class NameSheet:
    """Names and where they lead. Several may go by one name: it leads to all of them."""

    def __init__(self) -> None:
        self.sheet: Sheet[str, tuple[str, ...]] = Sheet()
        self._sources: dict[str, dict[str, tuple[str, ...]]] = {}

    def put(self, name: str, source: str, addresses: tuple[str, ...]) -> None:
        """``addresses`` sorted. Without any the name is known too, so that nobody outside is asked for it."""
        self._sources.setdefault(name, {})[source] = addresses
        self._add_up(name)

    def drop(self, name: str, source: str) -> None:
        """``source`` goes by that name no more."""
        sources = self._sources.get(name, {})
        sources.pop(source, None)
        if sources:
            self._add_up(name)
        elif self._sources.pop(name, None) is not None:
            self.sheet.drop(name)

    def _add_up(self, name: str) -> None:
        sources = self._sources[name]
        if len(sources) == 1:
            self.sheet.put(name, next(iter(sources.values())))
        else:
            self.sheet.put(name, tuple(sorted({each for given in sources.values() for each in given})))


class _Shown(NamedTuple):
    """What of one endpoint was written down, so that it can be taken out again."""

    service_id: ServiceId = ServiceId("")
    active: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    pointers: tuple[str, ...] = ()


_NOTHING = _Shown()


class NetworkPicture:
    """``take_*`` and ``drop_*`` what is known; ``state`` and ``published`` give out what follows."""

    def __init__(self, node_id: NodeId) -> None:
        self.config: NetworkConfig | None = None
        """None until the network's own object has come."""
        self.services: dict[ServiceId, NetworkService] = {}
        self.endpoints: dict[TaskId, NetworkEndpoint] = {}
        self._node_id = node_id
        self._locals: dict[TaskId, Endpoint] = {}
        self._shown: dict[TaskId, _Shown] = {}
        self._named: dict[ServiceId, tuple[str, ...]] = {}
        self._actives: dict[ServiceId, list[str]] = {}
        self._dirty: dict[ServiceId, None] = {}
        self._remotes: Sheet[TaskId, RemoteEndpoint] = Sheet()
        self._balancers: Sheet[ServiceId, Balancer] = Sheet()
        self._names = NameSheet()
        self._pointers: Sheet[str, str] = Sheet()
        self._ports: Sheet[ServiceId, tuple[PublishedPort, ...]] = Sheet()
        self._state: NetworkState | None = None
        self._published: tuple[Mapping[ServiceId, tuple[PublishedPort, ...]], tuple[PublishedPort, ...]] = (
            {},
            (),
        )

    @property
    def is_empty(self) -> bool:
        return self.config is None and not self.services and not self.endpoints

    def holds(self, address: str) -> bool:
        """Whether somebody has the address now."""
        return address in self._pointers.data

    # --- what is known

    def configure(self, config: NetworkConfig) -> None:
        is_told_apart = config.driver in NODE_DRIVERS and self.config is None
        self.config = config
        if is_told_apart:
            for task_id in list(self.endpoints):
                self._show(task_id)

    def take_service(self, service: NetworkService) -> None:
        self.services[service.service_id] = service
        self._dirty[service.service_id] = None

    def drop_service(self, service_id: ServiceId) -> None:
        if self.services.pop(service_id, None) is not None:
            self._dirty[service_id] = None

    def take_endpoint(self, endpoint: NetworkEndpoint) -> None:
        self.endpoints[endpoint.task_id] = endpoint
        self._show(endpoint.task_id)

    def drop_endpoint(self, task_id: TaskId) -> None:
        if self.endpoints.pop(task_id, None) is not None:
            self._show(task_id)

    def take_local(self, endpoint: Endpoint) -> None:
        """The task has its place on this node."""
        self._locals[endpoint.task_id] = endpoint
        self._show(endpoint.task_id)

    def drop_local(self, task_id: TaskId) -> None:
        if self._locals.pop(task_id, None) is not None:
            self._show(task_id)

    def put_remote(self, key: TaskId, remote: RemoteEndpoint | None) -> None:
        """Of somebody who is no task: another node's own place in the network."""
        if remote is None:
            self._remotes.drop(key)
        else:
            self._remotes.put(key, remote)

    # --- what follows

    def state(self) -> NetworkState | None:
        """None while the network itself is unknown. The same object while nothing changed."""
        if self.config is None:
            return None
        self._settle()
        before = self._state
        remotes, balancers = self._remotes.give(), self._balancers.give()
        addresses, pointers = self._names.sheet.give(), self._pointers.give()
        if self.config.is_ingress:
            names = before.names if before is not None and not before.names.addresses else Names()
        elif before and before.names.addresses is addresses and before.names.pointers is pointers:
            names = before.names
        else:
            names = Names(addresses=addresses, pointers=pointers)
        is_same = (
            before is not None
            and before.config is self.config
            and before.remotes is remotes
            and before.balancers is balancers
            and before.names is names
        )
        if not is_same:
            self._state = NetworkState(config=self.config, remotes=remotes, balancers=balancers, names=names)
        return self._state

    def published(self) -> tuple[PublishedPort, ...]:
        """What this node answers on for services; the same object while nothing changed."""
        self._settle()
        ports, flat = self._published
        if self._ports.data is not ports:
            ports = self._ports.give()
            flat = tuple(port for service_id in sorted(ports) for port in ports[service_id])
            self._published = ports, flat
        return flat

    def _show(self, task_id: TaskId) -> None:
        """Have everything say what is known of one endpoint now."""
        endpoint = self.endpoints.get(task_id)
        before = self._shown.get(task_id, _NOTHING)
        after = self._picture_of(endpoint) if endpoint is not None else _NOTHING
        self._show_remote(task_id, endpoint)
        if before == after:
            return
        self._show_active(before, after)
        for name in before.names:
            if name not in after.names:
                self._names.drop(name, task_id)
        for name in after.names:
            self._names.put(name, task_id, after.active)
        if endpoint is not None and after.pointers:
            for address in after.pointers:
                self._pointers.put(address, endpoint.name.lower())
        for address in before.pointers:
            # not if it has another owner by now
            if address not in after.pointers and self._pointers.data.get(address, "").endswith(task_id):
                self._pointers.drop(address)
        if after is _NOTHING:
            self._shown.pop(task_id, None)
        else:
            self._shown[task_id] = after

    def _picture_of(self, endpoint: NetworkEndpoint) -> _Shown:
        local = self._locals.get(endpoint.task_id)
        is_gone = endpoint.state is EndpointState.LOST or self._is_elsewhere(endpoint)
        if is_gone or (local is None and endpoint.node_id == self._node_id):
            return _NOTHING
        addresses = tuple(sorted(bares(endpoint.addresses)))
        if endpoint.state is not EndpointState.ACTIVE:
            return _Shown(pointers=addresses)
        names = [name.lower() for name in (endpoint.name, *endpoint.aliases)]
        if local is not None:
            names += [short_container_id(endpoint.task_id), local.hostname.lower()]
        given = tuple(dict.fromkeys(name for name in names if name))
        return _Shown(endpoint.service_id, active=addresses, names=given, pointers=addresses)

    def _show_remote(self, task_id: TaskId, endpoint: NetworkEndpoint | None) -> None:
        if (
            endpoint is None
            or endpoint.node_id == self._node_id
            or endpoint.state is EndpointState.LOST
            or self._is_elsewhere(endpoint)
            or not endpoint.addresses
        ):
            self._remotes.drop(task_id)
            return
        mac = endpoint.mac or mac_of(endpoint.addresses[0])
        remote = RemoteEndpoint(node_id=endpoint.node_id, addresses=bares(endpoint.addresses), mac=mac)
        self._remotes.put(task_id, remote)

    def _is_elsewhere(self, endpoint: NetworkEndpoint) -> bool:
        """Whether it is on another node's network of that name, which nobody here can reach."""
        is_local = self.config is not None and self.config.driver in NODE_DRIVERS
        return is_local and endpoint.node_id != self._node_id

    def _show_active(self, before: _Shown, after: _Shown) -> None:
        if (before.service_id, before.active) == (after.service_id, after.active):
            return
        if before.active:
            actives = self._actives[before.service_id]
            for address in before.active:
                del actives[bisect_left(actives, address)]
            if not actives:
                del self._actives[before.service_id]
            self._dirty[before.service_id] = None
        if after.active:
            actives = self._actives.setdefault(after.service_id, [])
            for address in after.active:
                insort(actives, address)
            self._dirty[after.service_id] = None

    def _settle(self) -> None:
        """Work out anew what follows for the services in which something changed."""
        for service_id in self._dirty:
            self._settle_service(service_id, self.services.get(service_id))
        self._dirty.clear()

    def _settle_service(self, service_id: ServiceId, service: NetworkService | None) -> None:
        actives = tuple(dict.fromkeys(self._actives.get(service_id, ())))
        vips = tuple(sorted(bares(service.addresses))) if service is not None else ()
        names: tuple[str, ...] = ()
        if service is not None:
            names = tuple(dict.fromkeys(name.lower() for name in (service.name, *service.aliases) if name))
        for name in self._named.pop(service_id, ()):
            if name not in names:
                self._names.drop(name, service_id)
                self._names.drop(_TASKS + name, service_id)
        for name in names:
            self._names.put(name, service_id, vips or actives)
            self._names.put(_TASKS + name, service_id, actives)
        if names:
            self._named[service_id] = names
        self._point_back(service_id, service, vips)
        if service is None or not vips:
            self._balancers.drop(service_id)
        else:
            self._balancers.put(
                service_id, Balancer(vips=vips, backends=actives, is_sticky=service.is_sticky)
            )
        if service is None or not service.ports:
            self._ports.drop(service_id)
        else:
            self._ports.put(service_id, _published_ports(service, actives))

    def _point_back(
        self, service_id: ServiceId, service: NetworkService | None, vips: tuple[str, ...]
    ) -> None:
        balancer = self._balancers.data.get(service_id)
        for address in balancer.vips if balancer is not None else ():
            if address not in vips:
                self._pointers.drop(address)
        for address in vips:
            assert service is not None
            self._pointers.put(address, service.name.lower())


def _published_ports(service: NetworkService, backends: tuple[str, ...]) -> tuple[PublishedPort, ...]:
    made = [
        PublishedPort(
            protocol=port.protocol.value,
            published_port=port.published_port,
            target_port=port.target_port,
            backends=backends,
            is_source_nat=port.source_nat,
            is_sticky=service.is_sticky,
            host_ip=port.host_ip,
        )
        for port in service.ports
    ]
    return tuple(sorted(made, key=lambda port: (port.protocol, port.published_port, port.host_ip)))
