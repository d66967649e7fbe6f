"""Nodes with the Linux backend on hosts of a test, and a stand-in for the manager.

with net_hosts(2) as hosts:
    async with overlay_rig(hosts, tmp_path) as rig:
        web = rig.place("web", 0, (BLUE, "10.1.0.2/24"))
        client = rig.place("client", 1, (BLUE, "10.1.0.3/24"))
        await rig.apply()
        ask(client.path, "10.1.0.2", 80)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace
from net_hosts import Host, Rig

from agent.dataplane.base import (
    Endpoint,
    HostPort,
    Leg,
    NetworkConfig,
    NetworkState,
    NodeState,
    Peer,
    RemoteEndpoint,
    Subnet,
)
from agent.dataplane.linux.backend import LinuxBackend
from swarmpy.model.addresses import mac_of
from swarmpy.model.ids import NetworkId, NodeId, TaskId


def network(name: str, vni: int, *subnets: str, **more: object) -> NetworkConfig:
    made = NetworkConfig(
        id=NetworkId(f"{name}-network-id"),
        name=name,
        vni=vni,
        subnets=tuple(Subnet(cidr=cidr) for cidr in subnets),
    )
    return replace(made, **more)


BLUE = network("blue", 4096, "10.1.0.0/16")
RED = network("red", 4097, "10.1.0.0/16")
"""Overlaps with blue."""
INSIDE = network("inside", 4098, "10.3.0.0/16", is_internal=True)


@dataclass(frozen=True)
class Placed:
    """A task at a node. ``path``: its namespace."""

    endpoint: Endpoint
    node: int
    path: Path


@dataclass
class OverlayRig:
    hosts: Sequence[Host]
    folders: Sequence[Path]
    backends: list[LinuxBackend]
    address: str = "address"
    """Which of a host's addresses nodes use: ``address`` or ``address6``."""
    data_path_port: int = 0
    tasks: dict[TaskId, Placed] = field(default_factory=dict)
    ingress: dict[int, tuple[str, ...]] = field(default_factory=dict)
    networks: dict[NetworkId, NetworkConfig] = field(default_factory=dict)
    _states: dict[int, NodeState] = field(default_factory=dict)

    def place(
        self,
        name: str,
        node: int,
        *places: tuple[NetworkConfig, str],
        mac: str = "",
        ports: tuple[HostPort, ...] = (),
        mode: str = "",
    ) -> Placed:
        """A task on networks; several addresses in one network are joined by a comma."""
        task_id = TaskId(name)
        legs = tuple(
            Leg(network=config, link=f"eth{number}", addresses=tuple(text.split(",")), mac=mac)
            for number, (config, text) in enumerate(places)
        )
        self.networks |= {config.id: config for config, _ in places}
        endpoint = Endpoint(task_id=task_id, hostname=name, legs=legs, host_ports=ports, mode=mode)
        self.tasks[task_id] = Placed(endpoint, node, self.folders[node] / "netns" / name)
        return self.tasks[task_id]

    def remove(self, name: str) -> None:
        del self.tasks[TaskId(name)]

    def state_of(self, node: int) -> NodeState:
        """What the manager would tell this node; parts that are as before are the objects of before."""
        before = self._states.get(node, NodeState())
        endpoints = {
            task_id: placed.endpoint for task_id, placed in self.tasks.items() if placed.node == node
        }
        own = {leg.network.id for endpoint in endpoints.values() for leg in endpoint.legs}
        own |= {config.id for config in self.networks.values() if config.is_ingress}
        peers = {
            NodeId(host.name): Peer(
                node_id=NodeId(host.name),
                addr=getattr(host, self.address),
                ingress_addresses=self.ingress.get(number, ()),
            )
            for number, host in enumerate(self.hosts)
        }
        networks: dict[NetworkId, NetworkState] = {}
        for network_id in sorted(own):
            config, remotes = self.networks[network_id], self._remotes(network_id, node)
            if config.is_ingress:
                remotes |= node_places(peers, NodeId(self.hosts[node].name))
            made = NetworkState(config=config, remotes=remotes)
            former = before.networks.get(network_id)
            networks[network_id] = former if former == made else made
        state = NodeState(
            node_id=NodeId(self.hosts[node].name),
            data_path_port=self.data_path_port,
            peers=before.peers if before.peers == peers else peers,
            networks=networks,
            endpoints=before.endpoints if before.endpoints == endpoints else endpoints,
        )
        self._states[node] = state
        return state

    def _remotes(self, network_id: NetworkId, node: int) -> dict[TaskId, RemoteEndpoint]:
        found = {}
        for task_id, placed in self.tasks.items():
            for leg in placed.endpoint.legs:
                if placed.node != node and leg.network.id == network_id:
                    bare = tuple(address.partition("/")[0] for address in leg.addresses)
                    node_id = NodeId(self.hosts[placed.node].name)
                    mac = leg.mac or mac_of(bare[0])
                    found[task_id] = RemoteEndpoint(node_id=node_id, addresses=bare, mac=mac)
        return found

    async def apply(self, *nodes: int) -> None:
        """Tell these nodes, or all."""
        for node in nodes or range(len(self.backends)):
            await self.backends[node].apply(self.state_of(node))

    async def restart(self, node: int) -> LinuxBackend:
        """A new life of the node's daemon, after one that has not said goodbye."""
        backend = LinuxBackend(run_dir=self.folders[node])
        with self.hosts[node].inside():
            await backend.start_up()
        former, self.backends[node] = self.backends[node], backend
        await former.shut_down()
        return backend


def node_places(peers: Mapping[NodeId, Peer], own: NodeId) -> dict[TaskId, RemoteEndpoint]:
    """The other nodes' own places in the ingress network, as agents have them."""
    return {
        TaskId(f"node:{peer.node_id}"): RemoteEndpoint(
            node_id=peer.node_id, addresses=peer.ingress_addresses, mac=mac_of(peer.ingress_addresses[0])
        )
        for peer in peers.values()
        if peer.ingress_addresses and peer.node_id != own
    }


@asynccontextmanager
async def overlay_rig(
    rig: Rig, folder: Path, *, address: str = "address", data_path_port: int = 0
) -> AsyncIterator[OverlayRig]:
    """A backend per host, destroyed in the end."""
    made = OverlayRig(rig.hosts, [], [], address=address, data_path_port=data_path_port)
    folders = [folder / host.name for host in rig.hosts]
    made.folders = folders
    try:
        for host, own in zip(rig.hosts, folders, strict=True):
            backend = LinuxBackend(run_dir=own)
            with host.inside():
                await backend.start_up()
            made.backends.append(backend)
        yield made
    finally:
        for backend in made.backends:
            await backend.destroy()
            await backend.shut_down()
