"""Whether what an agent makes of a node's networks is what the committed store says.

The expectation is worked out here from the store's objects alone, the slow way: no records, no pushes, no
memory of what was before. Asked at quiet, and whenever an agent has taken all that there is to tell it.

``reachable``: the node's own tasks that have a place there and have not ended. The managers may not have
heard of an end yet; the node goes by what it knows itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final

from agent.core import Core
from agent.dataplane.base import Balancer, NetworkState, NodeState, PublishedPort, RemoteEndpoint
from agent.dataplane.base import Peer as PeerState
from manager.store.networking import places_of, publishes_in_ingress
from manager.store.view import View
from swarmpy.model.container_ids import short_container_id
from swarmpy.model.defaults import is_encrypted, is_standalone, place_text, publish_mode
from swarmpy.model.ids import NetworkId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import Network, Node, Service, Task
from swarmpy.model.standalone import container_name, names_of
from swarmpy.model.states import NodeState as Liveness
from swarmpy.model.states import PortProtocol, PublishMode, TaskState, is_terminal

NAME: Final = "discovery"
ADDRESSES_KEPT: Final = 10_000
"""Addresses whose MAC is remembered: a run meets the same ones at every look."""


def reachable(core: Core) -> set[TaskId]:
    """The own tasks of an agent that have a place in its networks and have not ended."""
    return {
        task_id
        for task_id, run in core.runs.items()
        if run.endpoint is not None and not is_terminal(run.status.state)
    }


def differences(
    view: View, node_id: NodeId, state: NodeState, reachable: Collection[TaskId]
) -> Iterator[str]:
    """Where ``state`` is not what the store says, one sentence each."""
    truth = _Truth(view, node_id, reachable)
    where = f"node {node_id}"
    held = truth.networks()
    yield from _compare(f"{where}: peers", state.peers, truth.peers(held))
    if set(state.networks) != {network.id for network in held}:
        yield f"{where} has networks {sorted(state.networks)}, and should have {[each.id for each in held]}"
        return
    for network in held:
        found = state.networks[network.id]
        yield from _network_differences(f"{where}, network {network.id}", found, truth, network)
    published = sorted(state.published, key=_port_order)
    if published != truth.published():
        yield f"{where} answers on {published}, and should on {truth.published()}"
    keys = tuple(key.tag for key in state.keys)
    if keys != truth.keys(held):
        yield f"{where} has the keys {keys}, and should have {truth.keys(held)}"


def _network_differences(where: str, found: NetworkState, truth: _Truth, network: Network) -> Iterator[str]:
    yield from _compare(f"{where}: remote endpoints", found.remotes, truth.remotes(network))
    yield from _compare(f"{where}: balancers", found.balancers, truth.balancers(network))
    yield from _compare(f"{where}: names", found.names.addresses, truth.names(network))


def _compare(what: str, given: Mapping[Any, object], wanted: Mapping[str, object]) -> Iterator[str]:
    found: dict[str, object] = dict(given)
    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            yield f"{what}: {key} is {found.get(key)}, and should be {wanted.get(key)}"


def _port_order(port: PublishedPort) -> tuple[str, int, str]:
    return port.protocol, port.published_port, port.host_ip


class _Truth:
    def __init__(self, view: View, node_id: NodeId, reachable: Collection[TaskId]) -> None:
        self._view = view
        self._node_id = node_id
        self._reachable = reachable
        # every network and service is asked about several times, and the store stands still meanwhile
        self._on: dict[NetworkId, dict[TaskId, Task]] = {}
        self._known_actives: dict[tuple[NetworkId, ServiceId], tuple[str, ...]] = {}
        for task in view.tasks():
            for place in task.places if _is_on(task) else ():
                if place.addresses:
                    self._on.setdefault(place.network_id, {})[task.id] = task

    # --- what is held

    def networks(self) -> list[Network]:
        view = self._view
        ids = {
            place.network_id
            for task in view.tasks_of_node(self._node_id)
            if _is_on(task)
            for place in task.networks
        }
        ids.update(network.id for network in view.networks() if network.spec.ingress)
        return [network for id_ in sorted(ids) if (network := view.network(id_)) is not None]

    def peers(self, held: list[Network]) -> dict[str, object]:
        wanted = {self._node_id}
        own = [task for task in self._view.tasks_of_node(self._node_id) if _is_on(task)]
        ids = {place.network_id for task in own for place in task.networks}
        knows_all = any(each.id in ids and (each.spec.ingress or is_encrypted(each.spec)) for each in held)
        if knows_all:
            wanted.update(node.id for node in self._view.nodes())
        for network in held:
            wanted.update(task.node_id for task in self._tasks(network))
        nodes = [node for id_ in wanted if (node := self._view.node(id_)) is not None]
        return {node.id: made for node in nodes if (made := self._peer(node)) is not None}

    def _peer(self, node: Node) -> PeerState | None:
        addr = node.description.data_path_addr or node.status.addr
        if not addr:
            return None
        return PeerState(
            node_id=node.id,
            addr=addr,
            ingress_addresses=self._ingress_addresses(node),
            boot_id=node.description.boot_id,
            number=node.number,
            encryption=node.description.encryption,
            wireguard_key=node.description.wireguard_key,
        )

    def _ingress_addresses(self, node: Node) -> tuple[str, ...]:
        ingress = {network.id for network in self._view.networks() if network.spec.ingress}
        return tuple(
            _bare(address)
            for place in node.attachments
            if place.network_id in ingress
            for address in place.addresses
        )

    def keys(self, held: list[Network]) -> tuple[int, ...]:
        cluster = self._view.cluster()
        is_needed = any(is_encrypted(network.spec) for network in held)
        return tuple(key.tag for key in cluster.network_keys) if cluster is not None and is_needed else ()

    # --- endpoints

    def _tasks(self, network: Network) -> list[Task]:
        """All that have addresses there and have not ended."""
        return list(self._on.get(network.id, {}).values())

    def _is_lost(self, task: Task) -> bool:
        node = self._view.node(task.node_id)
        return node is None or node.status.state == Liveness.DOWN

    def _is_active(self, task: Task) -> bool:
        is_wanted = task.desired_state in (TaskState.RUNNING, TaskState.COMPLETE)
        is_here = task.node_id == self._node_id
        return (
            task.status.state == TaskState.RUNNING
            and not task.status.is_unready
            and is_wanted
            and not self._is_lost(task)
            and (not is_here or task.id in self._reachable)
        )

    def remotes(self, network: Network) -> dict[str, object]:
        found: dict[str, object] = {}
        for task in self._tasks(network):
            if task.node_id != self._node_id and not self._is_lost(task):
                (place,) = (each for each in task.networks if each.network_id == network.id)
                addresses = tuple(_bare(each) for each in place.addresses)
                mac = place.mac or _mac(addresses[0])
                found[task.id] = RemoteEndpoint(node_id=task.node_id, addresses=addresses, mac=mac)
        if network.spec.ingress:
            for id_, peer in self.peers(self.networks()).items():
                assert isinstance(peer, PeerState)
                if peer.ingress_addresses and id_ != self._node_id:
                    addresses = peer.ingress_addresses
                    found[f"node:{id_}"] = RemoteEndpoint(
                        node_id=NodeId(id_), addresses=addresses, mac=_mac(addresses[0])
                    )
        return found

    def _actives(self, network_id: NetworkId, service_id: ServiceId) -> tuple[str, ...]:
        key = (network_id, service_id)
        if key not in self._known_actives:
            self._known_actives[key] = tuple(
                sorted(
                    _bare(address)
                    for task in self._view.tasks_of_service(service_id)
                    if self._is_active(task)
                    for place in task.places
                    if place.network_id == network_id
                    for address in place.addresses
                )
            )
        return self._known_actives[key]

    # --- services

    def _services(self, network: Network) -> list[tuple[Service, tuple[str, ...]]]:
        """Those on the network, with their aliases."""
        return [
            (service, place.wish.aliases)
            for service in self._view.services()
            for place in places_of(self._view, service.spec).found
            if place.network.id == network.id
        ]

    def balancers(self, network: Network) -> dict[str, object]:
        return {
            service.id: Balancer(
                vips=vips,
                backends=self._actives(network.id, service.id),
            )
            for service, _ in self._services(network)
            if (vips := _vips(service, network.id))
        }

    def names(self, network: Network) -> dict[str, object]:
        if network.spec.ingress:
            return {}
        found: dict[str, set[str]] = {}
        for service, aliases in self._services(network):
            actives = self._actives(network.id, service.id)
            own = names_of(service.id, service.spec) if is_standalone(service.spec) else (service.spec.name,)
            for name in {alias.lower() for alias in (*own, *aliases)}:
                found.setdefault(name, set()).update(_vips(service, network.id) or actives)
                found.setdefault(f"tasks.{name}", set()).update(actives)
        for task in self._tasks(network):
            if self._is_active(task):
                (place,) = (each for each in task.networks if each.network_id == network.id)
                aliases = place.aliases if task.join_of(network.id) is not None else ()
                for name in self._names_of(task) | {alias.lower() for alias in aliases}:
                    found.setdefault(name, set()).update(_bare(each) for each in place.addresses)
        return {name: tuple(sorted(addresses)) for name, addresses in found.items()}

    def _names_of(self, task: Task) -> set[str]:
        revision = self._view.revision(task.revision_id)
        assert revision is not None
        names = {f"{revision.spec.name}.{place_text(revision.spec, task)}.{task.id}".lower()}
        own_id: str = task.id
        if is_standalone(revision.spec):
            names, own_id = {f"{container_name(revision.spec)}.{task.id}".lower()}, task.service_id
        if task.node_id == self._node_id:
            container = revision.spec.task_template.container_spec
            own = (container.hostname if container else "") or short_container_id(own_id)
            names |= {short_container_id(task.id), own}
        return names

    def published(self) -> list[PublishedPort]:
        ingress = next((each for each in self._view.networks() if each.spec.ingress), None)
        if ingress is None:
            return []
        made = [
            PublishedPort(
                protocol=(port.protocol or PortProtocol.TCP).value,
                published_port=port.published_port,
                target_port=port.target_port,
                backends=self._actives(ingress.id, service.id),
                is_source_nat=port.source_nat,
                host_ip=port.host_ip,
            )
            for service in self._view.services()
            if publishes_in_ingress(service.spec)
            for port in service.endpoint.ports
            if publish_mode(port) is PublishMode.INGRESS and port.published_port
        ]
        return sorted(made, key=_port_order)


def _is_on(task: Task) -> bool:
    return TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING


def _vips(service: Service, network_id: NetworkId) -> tuple[str, ...]:
    return tuple(
        sorted(_bare(vip.addr) for vip in service.endpoint.virtual_ips if vip.network_id == network_id)
    )


def _bare(address: str) -> str:
    return address.partition("/")[0]


@lru_cache(ADDRESSES_KEPT)
def _mac(address: str) -> str:
    return "02:42:" + ip_address(address).packed[-4:].hex(":")
