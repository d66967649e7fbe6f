"""Nodes with overlays and the routing mesh on hosts of a switch, driven through their parts; no manager.

    with mesh_rig(3, tmp_path) as rig:
        web = rig.run("web.1", on=2)                   # a task with legs in ingress and to its node
        rig.publish(port(8080, 80, backends=[web]))    # every node is told
        assert rig.outside.ask(rig.nodes[0].address, 8080) ...

All parts run in the calling thread, which must be the same one throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace
from net_hosts import Host, Rig, command_in, net_hosts
from overlay_rig import node_places

from agent.dataplane.base import (
    Endpoint,
    HostPort,
    Leg,
    NetworkConfig,
    NetworkState,
    NodeState,
    Peer,
    PublishedPort,
    RemoteEndpoint,
    Subnet,
)
from agent.dataplane.linux import namespaces, plan
from agent.dataplane.linux.gateway import Gateway
from agent.dataplane.linux.mesh.part import Mesh
from agent.dataplane.linux.overlays.part import Overlays
from agent.dataplane.linux.part import Part
from agent.dataplane.linux.ports import PortReservations
from agent.dataplane.linux.spaces import NamespaceSpace
from swarmpy.errors import SwarmError
from swarmpy.model.addresses import mac_of
from swarmpy.model.ids import NetworkId, NodeId, TaskId

INGRESS = NetworkConfig(
    id=NetworkId("ingress0123456789"),
    name="ingress",
    vni=4096,
    subnets=(Subnet(cidr="10.255.0.0/16", gateway="10.255.0.1"),),
    is_ingress=True,
)
SUBNET6 = Subnet(cidr="fd00:255::/64", gateway="fd00:255::1")


@dataclass(frozen=True)
class RunningTask:
    """``number`` is the end of its addresses. ``path``: its namespace."""

    endpoint: Endpoint
    node: MeshNode
    path: Path
    space: NamespaceSpace

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(each.partition("/")[0] for each in self.endpoint.legs[0].addresses)

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def mac(self) -> str:
        return mac_of(self.addresses[0])


class MeshNode:
    """One node: the parts that the mesh needs, in their order."""

    def __init__(self, host: Host, run_dir: Path) -> None:
        self.host = host
        self.node_id = NodeId(f"node{host.number}")
        self.netns_dir = run_dir / "netns"
        self.tasks: dict[str, RunningTask] = {}
        self._start_parts()

    @property
    def address(self) -> str:
        return self.host.address

    @property
    def path(self) -> Path:
        return self.host.path

    def _start_parts(self) -> None:
        self.space = NamespaceSpace()
        ports = PortReservations()
        self.gateway = Gateway(self.netns_dir, ports=ports)
        self.overlays = Overlays(self.netns_dir)
        self.mesh = Mesh(self.netns_dir, ports=ports)
        self.parts: tuple[Part, ...] = (self.gateway, self.overlays, self.mesh)

    def start_up(self) -> None:
        with self.host.inside():
            namespaces.prepare_folder(self.netns_dir)
            for part in self.parts:
                part.start_up(self.space)
            for task in self.tasks.values():
                endpoint = task.endpoint
                self.gateway.take(endpoint.task_id)
            self.gateway.adopt(task.endpoint for task in self.tasks.values())
            self.overlays.adopt(task.endpoint for task in self.tasks.values())

    def apply(self, state: NodeState) -> None:
        with self.host.inside():
            for part in self.parts:
                part.apply(state)

    def mend(self) -> None:
        with self.host.inside():
            self.overlays.mend()
            self.mesh.mend()

    def run(self, endpoint: Endpoint) -> RunningTask:
        path = self.netns_dir / endpoint.task_id
        with self.host.inside():
            namespaces.make(path).close()
            task = RunningTask(endpoint, self, path, NamespaceSpace(path))
            self.tasks[endpoint.task_id] = task
            command_in(path, "ip", "link", "set", "lo", "up")
            try:
                self._connect(task)
            except SwarmError:
                self.stop(task)
                raise
        return task

    def _connect(self, task: RunningTask) -> None:
        endpoint = task.endpoint
        for part in self.parts:
            part.attach(endpoint, task.space)
        for link in (*(leg.link for leg in endpoint.legs), plan.node_link(endpoint)):
            command_in(task.path, "ip", "link", "set", link, "up")
        for part in self.parts:
            part.settle(endpoint, task.space)

    def stop(self, task: RunningTask) -> None:
        del self.tasks[task.endpoint.task_id]
        with self.host.inside():
            for part in reversed(self.parts):
                part.detach(task.endpoint.task_id)
            task.space.close()
            self.overlays.unplug([task.endpoint.task_id])
            self.gateway.unplug([task.endpoint.task_id])
            namespaces.remove(task.path)

    def restart(self) -> None:
        """The daemon goes and comes; tasks run on, and are attached again with the first state."""
        with self.host.inside():
            for part in self.parts:
                part.shut_down()
        self.space.close()
        self._start_parts()
        self.start_up()

    def attach_again(self) -> None:
        with self.host.inside():
            for task in self.tasks.values():
                for part in self.parts:
                    part.attach(task.endpoint, task.space)
                for part in self.parts:
                    part.settle(task.endpoint, task.space)

    def destroy(self) -> None:
        for task in list(self.tasks.values()):
            self.stop(task)
        with self.host.inside():
            for part in reversed(self.parts):
                part.destroy()
                part.shut_down()
            self.space.close()
            namespaces.remove_folder(self.netns_dir)


@dataclass
class MeshRig:
    """``outside``: a host that takes no part."""

    net: Rig
    nodes: tuple[MeshNode, ...]
    outside: Host
    config: NetworkConfig
    published: tuple[PublishedPort, ...] = ()
    absent: set[int] = field(default_factory=set)
    """Numbers of nodes that have no place in the ingress network."""
    _next: int = 20

    def run(self, name: str, *, on: int, host_ports: Sequence[HostPort] = ()) -> RunningTask:
        self._next += 1
        addresses = [f"10.255.0.{self._next}/16"]
        if len(self.config.subnets) > 1:
            addresses.append(f"fd00:255::{self._next:x}/64")
        leg = Leg(network=self.config, link="eth0", addresses=tuple(addresses))
        endpoint = Endpoint(task_id=TaskId(name), legs=(leg,), host_ports=tuple(host_ports))
        task = self.nodes[on - 1].run(endpoint)
        self.apply()
        return task

    def publish(self, *ports: PublishedPort) -> None:
        self.published = ports
        self.apply()

    def apply(self, nodes: Sequence[MeshNode] = ()) -> None:
        for node in nodes or self.nodes:
            node.apply(self.state_of(node))

    def gateway_of(self, number: int) -> str:
        return f"10.255.0.{number + 1}"

    def state_of(self, node: MeshNode) -> NodeState:
        peers = {}
        for each in self.nodes:
            number = each.host.number
            addresses = (self.gateway_of(number), f"fd00:255::{number + 1:x}")[: len(self.config.subnets)]
            peers[each.node_id] = Peer(
                node_id=each.node_id,
                addr=each.address,
                ingress_addresses=() if number in self.absent else addresses,
            )
        remotes = {
            task.endpoint.task_id: RemoteEndpoint(
                node_id=each.node_id, addresses=task.addresses, mac=mac_of(task.addresses[0])
            )
            for each in self.nodes
            if each is not node
            for task in each.tasks.values()
        }
        remotes |= node_places(peers, node.node_id)
        return NodeState(
            node_id=node.node_id,
            peers=peers,
            networks={self.config.id: NetworkState(config=self.config, remotes=remotes)},
            published=self.published,
            endpoints={task.endpoint.task_id: task.endpoint for task in node.tasks.values()},
        )


def port(
    published: int,
    target: int,
    backends: Sequence[RunningTask],
    *,
    protocol: str = "tcp",
    change: Callable[[PublishedPort], PublishedPort] = lambda port: port,
) -> PublishedPort:
    addresses = tuple(address for task in backends for address in task.addresses)
    return change(
        PublishedPort(
            protocol=protocol, published_port=published, target_port=target, backends=tuple(sorted(addresses))
        )
    )


@contextmanager
def mesh_rig(count: int, folder: Path, *, has_ipv6: bool = False, mtu: int = 1500) -> Iterator[MeshRig]:
    config = replace(INGRESS, subnets=(*INGRESS.subnets, SUBNET6)) if has_ipv6 else INGRESS
    with ExitStack() as stack:
        net = stack.enter_context(net_hosts(count + 1, mtu=mtu))
        nodes = []
        for host in net.hosts[:count]:
            node = MeshNode(host, folder / host.name)
            stack.callback(node.destroy)
            node.start_up()
            nodes.append(node)
        rig = MeshRig(net, tuple(nodes), net.hosts[count], config)
        rig.apply()
        yield rig
