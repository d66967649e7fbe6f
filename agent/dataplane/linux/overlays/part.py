"""Overlay networks: a sandbox per network, a leg in it per task. See ``OverlayNetwork``.

A sandbox stands while this node takes part in the network. One that nobody knows of any more is collected
once it has been said which ones there should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agent.dataplane import plan as network_plan
from agent.dataplane.base import Endpoint, Leg, NetworkConfig, NodeState, Peer
from agent.dataplane.linux import plan
from agent.dataplane.linux.overlays.network import OverlayNetwork
from agent.dataplane.linux.overlays.sandbox import NetworkSandbox
from agent.dataplane.linux.overlays.underlay import find_device
from agent.dataplane.linux.part import Carriage, Encryption, Space, Uplink
from swarmpy.errors import SwarmError, TaskRejected, Unavailable
from swarmpy.model.ids import NetworkId, NodeId, TaskId

DRIVER = "overlay"


class Overlays:
    """A ``LegMaker`` that mends. ``encryption`` None: networks that are to be encrypted are refused.

    ``drivers``: networks of other drivers that are made alike, but for ``uplink`` instead of a tunnel. Their
    namespaces' names begin with ``prefix``.
    """

    def __init__(
        self,
        netns_dir: Path,
        *,
        encryption: Encryption | None = None,
        uplink: Uplink | None = None,
        drivers: frozenset[str] = frozenset({DRIVER}),
        prefix: str = plan.SANDBOX_PREFIX,
    ) -> None:
        self._netns_dir = netns_dir
        self._drivers = drivers
        self._prefix = prefix
        self._uplink = uplink
        self._encryption = encryption
        self._node: Space | None = None
        self._state = NodeState()
        self._is_applied = False
        self._networks: dict[NetworkId, OverlayNetwork] = {}
        self._plain: tuple[Mapping[NodeId, Peer], int, Carriage] | None = None
        """How plain networks' frames travel, and what that was worked out from."""

    # --- life

    def start_up(self, node: Space) -> None:
        self.shut_down()
        self._node = node
        self._is_applied = False

    def adopt(self, endpoints: Iterable[Endpoint]) -> None:
        for endpoint in endpoints:
            for leg in self._legs(endpoint):
                self._network(leg.network).adopt(endpoint.task_id, leg)

    def shut_down(self) -> None:
        for network in self._networks.values():
            network.sandbox.close()
        self._networks = {}

    def destroy(self) -> None:
        for network_id in list(self._networks):
            self._remove(network_id)
        self._collect_leftovers()

    # --- networks

    def apply(self, state: NodeState) -> None:
        """Every network gets its turn, whatever becomes of the others; the first error is raised then."""
        self._state = state
        wanted = {
            network_id
            for network_id, network in state.networks.items()
            if network.config.driver in self._drivers
        }
        errors: list[SwarmError] = []
        for network_id in sorted(set(self._networks) - wanted):
            if not self._networks[network_id].legs:
                with _collecting(errors):
                    self._remove(network_id)
        for network_id in sorted(wanted | set(self._networks)):
            with _collecting(errors):
                self._update(self._network(self._config(network_id)))
        if not self._is_applied:
            with _collecting(errors):
                self._collect_leftovers()
        if errors:
            raise errors[0]
        self._is_applied = True

    def mend(self) -> frozenset[TaskId]:
        """Tasks that have lost a link are to be attached again."""
        broken: set[TaskId] = set()
        errors: list[SwarmError] = []
        self._plain = None
        for network in self._networks.values():
            network.doubt()
            with _collecting(errors):
                self._update(network)
                broken |= network.broken
        if errors:
            raise errors[0]
        return frozenset(broken)

    def _update(self, network: OverlayNetwork) -> None:
        """Follow the state; ask the kernel if in doubt."""
        known = self._state.networks.get(network.config.id)
        state = known if known is not None else network.alone()
        with _translated(f"network {state.config.name or state.config.id}"), network.doubting():
            network.follow(state, self._carriage(state.config))

    def _carriage(self, config: NetworkConfig) -> Carriage:
        """How its frames travel, with an MTU. Errors say what is missing."""
        name = config.name or config.id
        if self._uplink is not None:
            return self._uplink.carry(config)
        if not config.is_encrypted:
            return self._plain_carriage(name)
        if self._encryption is None:
            raise TaskRejected(f"network {name} is encrypted, and this node has no way to encrypt")
        return self._with_mtu(self._encryption.carry(config))

    def _plain_carriage(self, name: str) -> Carriage:
        state, port = self._state, network_plan.data_ports(self._state)[0]
        if self._plain is not None and self._plain[0] is state.peers and self._plain[1] == port:
            return self._plain[2]
        own = state.peers.get(state.node_id)
        if own is None or not own.addr:
            raise Unavailable(f"network {name} has to wait: this node has not been told its own address")
        routes = {node_id: peer.addr for node_id, peer in state.peers.items() if peer.addr}
        carriage = self._with_mtu(Carriage(own.addr, port, routes, network_plan.overhead_of(own.addr)))
        if self._plain is not None and self._plain[2] == carriage:
            carriage = self._plain[2]
        self._plain = state.peers, port, carriage
        return carriage

    def _with_mtu(self, carriage: Carriage) -> Carriage:
        if carriage.mtu:
            return carriage
        device = find_device(self._own_node().netlink, carriage.local)
        if device is None:
            raise Unavailable(
                f"no interface of this node has the address {carriage.local}, which overlay networks are to "
                "use; set the interface up, or join with another --data-path-addr"
            )
        return replace(carriage, mtu=device.mtu - carriage.overhead_bytes)

    def _network(self, config: NetworkConfig) -> OverlayNetwork:
        network = self._networks.get(config.id)
        if network is None:
            path = plan.sandbox_path(self._netns_dir, config.id, prefix=self._prefix)
            for other in self._networks.values():
                if other.sandbox.path == path:
                    raise TaskRejected(
                        f"the networks {config.name or config.id} and {other.config.name or other.config.id} "
                        "have ids that begin alike, so this node can have one of them only; make one anew"
                    )
            network = OverlayNetwork(config, path, node=self._own_node(), uplink=self._uplink)
            self._networks[config.id] = network
        return network

    def _config(self, network_id: NetworkId) -> NetworkConfig:
        state = self._state.networks.get(network_id)
        return state.config if state is not None else self._networks[network_id].config

    def _remove(self, network_id: NetworkId) -> None:
        network = self._networks[network_id]
        with _translated(f"network {network.config.name or network_id}"):
            if self._uplink is not None:
                self._uplink.unplug(network_id)
            network.sandbox.remove()
        del self._networks[network_id]

    def _collect_leftovers(self) -> None:
        """Sandboxes that nothing is known of: of networks that this node left while the daemon was away."""
        known = {network.sandbox.path for network in self._networks.values()}
        for path in sorted(self._netns_dir.glob(f"{self._prefix}*")):
            if path not in known:
                with _translated(f"the namespace {path}"):
                    NetworkSandbox(path, self._own_node(), path.name).remove()

    # --- legs

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        task_id = endpoint.task_id
        wanted = {leg.network.id: leg for leg in self._legs(endpoint)}
        for network_id, network in list(self._networks.items()):
            if task_id in network.legs and network_id not in wanted:
                with _translated(f"the network of task {task_id}"), network.doubting():
                    network.unplug([task_id])
                if not network.legs and network_id not in self._state.networks:
                    self._remove(network_id)
        for leg in wanted.values():
            if not leg.addresses:
                raise TaskRejected(f"task {task_id} has no address in network {leg.network.name}")
            network = self._network(leg.network)
            self._update(network)
            with _translated(f"the network of task {task_id}"), network.doubting():
                network.plug(task_id, leg, space)

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        pass  # routes to the networks come with the addresses

    def is_ready(self, task_id: TaskId) -> bool:
        return all(
            network.is_ready(task_id) for network in self._networks.values() if task_id in network.legs
        )

    def detach(self, task_id: TaskId) -> None:
        pass

    def unplug(self, task_ids: Sequence[TaskId]) -> None:
        for network in self._networks.values():
            with _translated(f"network {network.config.name or network.config.id}"), network.doubting():
                network.unplug(task_ids)

    # --- for other parts and for people

    def sandbox(self, network_id: NetworkId) -> Space | None:
        """The sandbox of a network that stands. Its owner closes it."""
        network = self._networks.get(network_id)
        return network.sandbox.space if network is not None and network.is_certain else None

    def describe(self, network_id: NetworkId) -> dict[str, object]:
        """What is where; empty for a network that this node has no part in."""
        network = self._networks.get(network_id)
        return network.describe() if network is not None and network.is_certain else {}

    def _legs(self, endpoint: Endpoint) -> list[Leg]:
        return [leg for leg in endpoint.legs if leg.network.driver in self._drivers]

    def _own_node(self) -> Space:
        assert self._node is not None, "the backend was not started"
        return self._node


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"cannot set up {what}: {error}") from error


@contextmanager
def _collecting(errors: list[SwarmError]) -> Iterator[None]:
    try:
        yield
    except SwarmError as error:
        errors.append(error)
