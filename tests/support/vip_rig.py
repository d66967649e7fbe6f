"""A client's namespace and its backends' on one wire, with virtual addresses loaded by the real part.

The wire stands for an overlay network: what leads from a virtual address to a backend is all in the client's
namespace, so nothing else is needed to see it work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from net_hosts import UPLINK, EchoServer, Host, command_in, net_hosts

from agent.dataplane.base import Balancer, Endpoint, Leg, NetworkConfig, NetworkState, NodeState
from agent.dataplane.linux.balancing.connections import Connections
from agent.dataplane.linux.balancing.part import Balancing
from agent.dataplane.linux.spaces import NamespaceSpace
from swarmpy.model.ids import NetworkId, ServiceId, TaskId

NET = NetworkId("net1")
WEB = ServiceId("web")
CLIENT = TaskId("client")
VIP, VIP6 = "192.0.2.100", "2001:db8::100"
PORT = 8_000


def backend_addresses(count: int) -> tuple[str, ...]:
    """Of so many backends, IPv4 and IPv6."""
    numbers = range(11, 11 + count)
    return (*(f"192.0.2.{each}" for each in numbers), *(f"2001:db8::{each}" for each in numbers))


def endpoint(task_id: TaskId, *addresses: str, network: NetworkId = NET) -> Endpoint:
    leg = Leg(network=NetworkConfig(id=network), link=UPLINK, addresses=addresses)
    return Endpoint(task_id=task_id, legs=(leg,))


def network_state(balancers: dict[ServiceId, Balancer], network: NetworkId = NET) -> NetworkState:
    return NetworkState(config=NetworkConfig(id=network), balancers=balancers)


def web(backends: Sequence[str], *, is_sticky: bool = False) -> dict[ServiceId, Balancer]:
    balancer = Balancer(vips=(VIP, VIP6), backends=tuple(backends), is_sticky=is_sticky)
    return {WEB: balancer}


class VipRig:
    """``serve`` the backends, ``tell`` the part of them."""

    def __init__(self, client: Host, far: Host) -> None:
        self.client, self.far = client, far
        self.space = NamespaceSpace(client.path)
        self.node = NamespaceSpace()
        self.part = Balancing()
        self.connections = Connections()
        self.state = NodeState()

    def start(self) -> None:
        self.part.start_up(self.node)
        self.connections.start_up(self.node)

    def attach(self, *addresses: str) -> None:
        own = addresses or (f"{self.client.address}/24", f"{self.client.address6}/64")
        self.part.attach(endpoint(CLIENT, *own), self.space)
        self.connections.attach(endpoint(CLIENT, *own), self.space)

    def tell(self, *balancers: dict[ServiceId, Balancer]) -> None:
        """These services are what is on the network now."""
        merged = {service_id: each for of in balancers for service_id, each in of.items()}
        self.state = NodeState(networks={NET: network_state(merged)})
        self.part.apply(self.state)
        self.connections.apply(self.state)

    def restart(self) -> None:
        """Another daemon takes over: nothing is known but what stands in the kernel."""
        self.part.shut_down()
        self.connections.shut_down()
        self.part, self.connections = Balancing(), Connections()
        self.start()
        self.part.apply(self.state)
        self.connections.apply(self.state)
        self.attach()

    def nft(self, commands: str) -> str:
        return self.space.nft.run(commands)

    def close(self) -> None:
        self.part.shut_down()
        self.space.close()
        self.node.close()


@contextmanager
def vip_rig() -> Iterator[VipRig]:
    with net_hosts(2) as hosts:
        rig = VipRig(*hosts.hosts)
        rig.start()
        try:
            yield rig
        finally:
            rig.close()


@contextmanager
def serving(path: str | Path, addresses: Sequence[str], *kinds: int, port: int = PORT) -> Iterator[None]:
    """Echo servers at these addresses, added to the namespace's link; each says who it is."""
    with ExitStack() as stack:
        for address in addresses:
            bits, options = (64, ["nodad"]) if ":" in address else (24, [])
            command_in(path, "ip", "address", "add", f"{address}/{bits}", "dev", UPLINK, *options)
            for kind in kinds:
                greeting = f"{address} ".encode()
                stack.enter_context(EchoServer(path, address, port, kind, greeting=greeting))
        yield
