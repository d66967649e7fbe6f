"""Hosts with the part that encrypts, and an encrypted network between them: for tests on real packets.

The network is a VXLAN device in the host's own namespace, made by ``ip`` from what the part says of carriage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from net_hosts import Host, Rig, net_hosts

from agent.dataplane.base import NetworkConfig, NetworkState, NodeState, Peer
from agent.dataplane.linux.encryption.part import Encryption
from agent.dataplane.linux.encryption.ways import WAYS
from agent.dataplane.linux.part import Carriage
from agent.dataplane.linux.spaces import NamespaceSpace
from swarmpy.model.ids import NetworkId, NodeId, Timestamp
from swarmpy.model.objects import NetworkKey

SECURE_PORT = 4790
VNI = 4097
PATTERN = b"SECRETPATTERN"
NETWORK = NetworkConfig(id=NetworkId("net1"), name="blue", vni=VNI, is_encrypted=True)
PLAIN_MTU_BYTES = 1500


def key(tag: int) -> NetworkKey:
    return NetworkKey(tag=tag, secret=bytes([tag]) * 32, created_at=Timestamp(tag))


def ring(newest: int = 3) -> tuple[NetworkKey, ...]:
    """Three keys, the newest first."""
    return tuple(key(tag) for tag in range(newest, max(newest - 3, 0), -1))


def node_id(host: Host) -> NodeId:
    return NodeId(f"node{host.number}")


def inner_address(host: Host) -> str:
    return f"10.1.0.{host.number}"


def mac(host: Host) -> str:
    return f"02:42:0a:01:00:{host.number:02x}"


@dataclass
class SecureHost:
    """A host with its part. ``told`` of the others is what ``meet`` gave it."""

    host: Host
    run_dir: Path
    only: tuple[str, ...] = WAYS
    is_ipv6: bool = False
    part: Encryption = field(init=False)
    state: NodeState = field(init=False, default=NodeState())
    log_path: Path | None = None

    def start(self) -> None:
        """A daemon's life begins."""
        self.part = Encryption(self.run_dir, only=self.only)
        with self.host.inside():
            self.space = NamespaceSpace()
            _ = self.space.netlink, self.space.nft
            self.part.start_up(self.space)

    def stop(self) -> None:
        """It ends; what it has set up stays."""
        with self.host.inside():
            self.part.shut_down()
        self.space.close()

    @property
    def addr(self) -> str:
        return self.host.address6 if self.is_ipv6 else self.host.address

    @property
    def peer(self) -> Peer:
        """What it tells the others."""
        return Peer(
            node_id=node_id(self.host),
            addr=self.addr,
            boot_id=self.part.epoch,
            number=self.host.number,
            encryption=self.part.told,
            wireguard_key=self.part.wireguard_key,
        )

    def apply(self, peers: Iterable[Peer], keys: tuple[NetworkKey, ...]) -> None:
        self.state = NodeState(
            node_id=node_id(self.host),
            keys=keys,
            peers={peer.node_id: peer for peer in peers},
            networks={NETWORK.id: NetworkState(config=NETWORK)},
        )
        with self.host.inside():
            self.part.apply(self.state)

    def mend(self) -> None:
        with self.host.inside():
            self.part.mend()

    def carry(self) -> Carriage:
        return self.part.carry(NETWORK)

    def plug(self, others: Iterable[SecureHost]) -> None:
        """The network's device, as the part says of carriage."""
        carriage = self.carry()
        add_vxlan(self.host, "vx", carriage, inner_address(self.host), others)

    def destroy(self) -> None:
        with self.host.inside():
            self.part.destroy()


def add_vxlan(
    host: Host, name: str, carriage: Carriage, address: str, others: Iterable[SecureHost], vni: int = VNI
) -> None:
    mtu = PLAIN_MTU_BYTES - carriage.overhead_bytes
    _ip(host, f"link add {name} mtu {mtu} address {mac(host)} type vxlan id {vni} dstport {carriage.port}")
    _ip(host, f"link del {name}")
    _ip(
        host,
        f"link add {name} mtu {mtu} address {mac(host)} type vxlan id {vni} dstport {carriage.port} "
        f"local {carriage.local} nolearning noudpcsum udp6zerocsumtx udp6zerocsumrx",
        f"link set {name} up",
        f"address add {address}/24 dev {name}",
    )
    for other in others:
        if other.host is host:
            continue
        far = f"{address.rpartition('.')[0]}.{other.host.number}"
        route = carriage.routes[node_id(other.host)]
        _ip(host, f"neighbour replace {far} lladdr {mac(other.host)} dev {name} nud permanent")
        words = f"fdb replace {mac(other.host)} dev {name} dst {route} self permanent"
        host.command("bridge", *words.split())


def _ip(host: Host, *lines: str) -> None:
    for line in lines:
        host.command("ip", *line.split())


@dataclass
class SecureRig:
    hosts: tuple[SecureHost, ...]
    rig: Rig

    def meet(self, keys: tuple[NetworkKey, ...] | None = None) -> None:
        """All are told of each other, until nobody has anything new to say."""
        said: Mapping[NodeId, Peer] = {}
        while said != (now := {node_id(each.host): each.peer for each in self.hosts}):
            said = now
            for each in self.hosts:
                each.apply(said.values(), ring() if keys is None else keys)

    def plug(self) -> None:
        for each in self.hosts:
            each.plug(self.hosts)


@contextmanager
def secure_hosts(
    folder: Path, *only: tuple[str, ...], is_ipv6: bool = False, mtu: int = PLAIN_MTU_BYTES
) -> Iterator[SecureRig]:
    """A host per entry, each with the ways that it may use; all met, with the network between them."""
    with net_hosts(len(only), mtu=mtu) as rig, ExitStack() as stack:
        hosts = tuple(
            SecureHost(host, folder / host.name, only=ways, is_ipv6=is_ipv6)
            for host, ways in zip(rig.hosts, only, strict=True)
        )
        for each in hosts:
            each.run_dir.mkdir()
            each.start()
            stack.callback(_end, each)
        secure = SecureRig(hosts, rig)
        secure.meet()
        secure.plug()
        yield secure


def _end(each: SecureHost) -> None:
    each.destroy()
    each.stop()


def ping(source: SecureHost, target: SecureHost, *, count: int = 3, size: int = 200) -> int:
    """How many answers came, to requests with the pattern in them."""
    command = [
        *("ping", "-c", str(count), "-i", "0.05", "-W", "1", "-s", str(size)),
        *("-p", PATTERN.hex(), inner_address(target.host)),
    ]
    try:
        said = source.host.command(*command)
    except AssertionError as error:
        said = str(error)
    found = [line for line in said.splitlines() if "received" in line]
    return int(found[0].split(",")[1].split()[0]) if found else 0
