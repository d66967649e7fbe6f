"""``Encryption``: the Part that sees to it that frames of encrypted networks travel encrypted, or not at all.

It comes before the overlays, so that the lock stands before any device that could send: from then on nothing
leaves for the data port of encrypted networks in the clear, nothing is taken there that came in the clear,
and nothing is routed but to peers that a way leads to (see ``ways``). What encrypts is left in place over a
restart of the daemon, and while there is no encrypted network for once: it counts nonces and holds replay
windows, and tasks keep their connections.

A node that can encrypt in no way refuses the task, in a sentence. What this node has to tell the others, so
that they can talk to it, is ``told``, ``epoch`` and ``wireguard_key``; the epoch may change at any ``apply``.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from agent.dataplane.base import Endpoint, NetworkConfig, NodeState, Peer
from agent.dataplane.linux import netlink
from agent.dataplane.linux.encryption import esp, lock, routes, wireguard
from agent.dataplane.linux.encryption.associations import Associations, Wanted, tags_of
from agent.dataplane.linux.encryption.epoch import Epoch
from agent.dataplane.linux.encryption.links import add_wireguard, give_address, raise_link
from agent.dataplane.linux.encryption.probe import Found, find_ways, has_ipv6
from agent.dataplane.linux.encryption.userspace.orders import Configure, Member
from agent.dataplane.linux.encryption.userspace.port import UserspacePort
from agent.dataplane.linux.encryption.userspace.records import HEAD
from agent.dataplane.linux.encryption.ways import (
    ESP,
    USERSPACE,
    USERSPACE_LARGE,
    WAYS,
    WIREGUARD,
    Ports,
    is_within_reach,
    overhead_of,
    pair_up,
    ports_of,
)
from agent.dataplane.linux.encryption.wireguard import Wireguard, WireguardPeer
from agent.dataplane.linux.encryption.xfrm import Xfrm, delete_policy
from agent.dataplane.linux.nftables import NftError
from agent.dataplane.linux.overlays.underlay import find_device
from agent.dataplane.linux.part import Carriage, Space
from swarmpy.errors import TaskRejected, Unavailable
from swarmpy.model.ids import NodeId, TaskId

_LEDGER_NAME: Final = "epoch.json"
_KEY_NAME: Final = "wireguard.key"
_WIREGUARD_BYTES: Final = {4: 60, 6: 80}
_DATAGRAM_BYTES: Final = {4: 28, 6: 48}
_TUNNEL_MTU: Final = 65_000
_LOOSE: Final = "2"
"""Reverse path filter: a peer's address is also behind the usual device."""

Pairs = Mapping[str, tuple[Peer, ...]]


class Encryption:
    """See ``Part``. ``only``: the ways that may be used, however many there are."""

    def __init__(self, run_dir: Path, *, only: tuple[str, ...] = WAYS) -> None:
        self._folder = run_dir / "encryption"
        self._only = only
        self._epoch = Epoch(self._folder / _LEDGER_NAME)
        self._port = UserspacePort(self._folder)
        self._associations = Associations(self._epoch, self._port)
        self._found = Found()
        self._families = esp.families(False)
        self._node: Space | None = None
        self._xfrm: Xfrm | None = None
        self._wireguard: Wireguard | None = None
        self._private_key = b""
        self._state = NodeState()
        self._routes: Mapping[NodeId, str] = {}
        self._is_settled = False
        self._locked_port = 0
        """The data port of encrypted networks that the lock was made for last."""

    # --- what the others are told

    @property
    def ways(self) -> tuple[str, ...]:
        """The best first."""
        return self._found.ways

    @property
    def told(self) -> tuple[str, ...]:
        """For ``NodeDescription.encryption``."""
        return self._found.told

    @property
    def lacking(self) -> str:
        """Why there is no way, in a sentence; empty if there is one."""
        return self._found.lacking

    @property
    def epoch(self) -> str:
        """For ``NodeDescription.boot_id``."""
        return self._epoch.name

    @property
    def wireguard_key(self) -> bytes:
        """For ``NodeDescription.wireguard_key``: the public one."""
        return wireguard.public_key_of(self._private_key) if self._private_key else b""

    # --- life

    def start_up(self, node: Space) -> None:
        self.shut_down()
        self._node = node
        self._found = _only(find_ways(), self._only)
        self._families = esp.families(has_ipv6())
        if not self.ways:
            return
        self._epoch.load()
        if ESP in self.ways:
            self._xfrm = Xfrm()
        if WIREGUARD in self.ways:
            self._wireguard = Wireguard()
            self._private_key = wireguard.load_key(self._folder / _KEY_NAME)

    def apply(self, state: NodeState) -> None:
        former, self._state = self._state, state
        is_same = (
            self._is_settled
            and state.keys is former.keys
            and state.peers is former.peers
            and state.node_id == former.node_id
            and state.data_path_port == former.data_path_port
            and _has_encrypted(state) == _has_encrypted(former)
        )
        if not is_same:
            self._settle_all()

    def mend(self) -> None:
        self._settle_all()

    def attach(self, endpoint: Endpoint, space: Space) -> None:
        for leg in endpoint.legs:
            if leg.network.is_encrypted:
                self._require_way(leg.network)

    def settle(self, endpoint: Endpoint, space: Space) -> None:
        pass  # what it needs is not in the task's namespace

    def detach(self, task_id: TaskId) -> None:
        pass

    def shut_down(self) -> None:
        for each in (self._xfrm, self._wireguard):
            if each is not None:
                each.close()
        self._xfrm = self._wireguard = None
        self._is_settled = False

    def destroy(self) -> None:
        """The lock goes last, when there is no device of a network any more."""
        self._port.stop()
        node = self._own_node().netlink
        try:
            observed = routes.observe(node, self._families)
            locked = {ports_of(self._state).secure, *(rule.port for rule in observed.rules)}
            for port in sorted(locked) if self._xfrm is not None else ():
                self._remove_ipsec(port)
            node.do(*routes.removal(observed))
            if node.link(lock.WIREGUARD_LINK) is not None:
                node.do(netlink.delete_link(lock.WIREGUARD_LINK))
            self._own_node().nft.run(lock.removal())
        except (OSError, NftError) as error:
            raise Unavailable(f"cannot remove the encryption of networks: {error}") from None
        self._epoch.remove()
        self._is_settled = False
        self._locked_port = 0

    def _remove_ipsec(self, port: int) -> None:
        assert self._xfrm is not None
        empty = esp.Plan("", esp.base_policies(port, self._families))
        work = esp.diff(empty, self._xfrm.states(), self._xfrm.policies())
        self._xfrm.do(*work.messages, *map(delete_policy, empty.base))

    # --- for the overlays

    def carry(self, network: NetworkConfig) -> Carriage:
        """As applied last. TaskRejected with what is missing, if this node cannot encrypt."""
        self._require_way(network)
        own = self._own()
        if own is None or not own.addr:
            raise Unavailable(
                f"network {network.name} has to wait: this node has not been told its own address"
            )
        port = ports_of(self._state).secure
        if self._locked_port != port:
            raise Unavailable(f"network {network.name} has to wait: its data port is not locked yet")
        return Carriage(own.addr, port, self._routes, overhead_of(own.addr))

    def _require_way(self, network: NetworkConfig) -> None:
        if not self.ways:
            raise TaskRejected(
                f'network "{network.name}" is encrypted, and this node cannot encrypt: {self.lacking}'
            )

    # --- settling

    def _settle_all(self) -> None:
        """Lock first. Each way then gets its turn, whatever becomes of the others."""
        self._is_settled = False
        if not self.ways or not _has_encrypted(self._state):
            return
        own, ports = self._own(), ports_of(self._state)
        try:
            script = lock.ruleset(ports.secure, has_ipsec=self._found.has_ipsec_match)
            self._own_node().nft.run(script)
        except NftError as error:
            raise Unavailable(f"nftables refused the lock of encrypted networks: {error}") from None
        self._locked_port = ports.secure
        pairs: Pairs = pair_up(own, self._state.peers, self.ways) if own is not None else {}
        self._note_routes(own)
        errors: list[Unavailable] = []
        for step in (self._settle_keys, self._settle_wireguard, self._settle_routes):
            try:
                step(own, pairs, ports)
            except OSError as error:
                errors.append(Unavailable(f"cannot set up the encryption of networks: {error}"))
            except Unavailable as error:
                errors.append(error)
        if errors:
            raise errors[0]
        self._is_settled = True

    def _note_routes(self, own: Peer | None) -> None:
        found = {
            node_id: peer.addr
            for node_id, peer in sorted(self._state.peers.items())
            if own is not None and is_within_reach(own, peer)
        }
        if found != self._routes:
            self._routes = found

    def _settle_keys(self, own: Peer | None, pairs: Pairs, ports: Ports) -> None:
        wanted = Wanted(
            own=own,
            ring=self._state.keys,
            by_ipsec=pairs.get(ESP, ()),
            by_port=pairs.get(USERSPACE, ()),
            others=tuple(peer.addr for way in (WIREGUARD, USERSPACE) for peer in pairs.get(way, ())),
            base=esp.base_policies(ports.secure, self._families),
        )
        members = self._associations.settle(wanted, self._xfrm)
        if members is not None and own is not None:
            self._configure_port(own, members, ports)

    def _configure_port(self, own: Peer, members: list[Member], ports: Ports) -> None:
        node = self._own_node()
        version = ip_address(own.addr).version
        able = [peer for peer in self._state.peers.values() if USERSPACE in peer.encryption]
        order = Configure(
            addr=own.addr,
            port=ports.userspace,
            secure_port=ports.secure,
            piece_bytes=self._underlay_mtu(own) - _DATAGRAM_BYTES[version] - HEAD.size,
            is_large=USERSPACE_LARGE in self.told
            and all(USERSPACE_LARGE in peer.encryption for peer in able),
            members=tuple(members),
            tags=tags_of(self._state.keys),
            reached=self._port.reached,
        )
        self._port.configure(order)
        self._raise_link(node, lock.USERSPACE_LINK, mtu=_TUNNEL_MTU)

    def _settle_wireguard(self, own: Peer | None, pairs: Pairs, ports: Ports) -> None:
        if self._wireguard is None:
            return
        node = self._own_node()
        standing = node.netlink.link(lock.WIREGUARD_LINK)
        peers = [
            WireguardPeer(peer.wireguard_key, peer.addr, ports.wireguard)
            for peer in pairs.get(WIREGUARD, ())
            if len(peer.wireguard_key) == wireguard.KEY_BYTES
        ]
        if own is None or not peers:
            if standing is not None:
                node.netlink.do(netlink.delete_link(lock.WIREGUARD_LINK))
            return
        mtu = self._underlay_mtu(own) - _WIREGUARD_BYTES[ip_address(own.addr).version]
        if standing is None:
            node.netlink.do(add_wireguard(lock.WIREGUARD_LINK, mtu=mtu))
        device = self._wireguard.device(lock.WIREGUARD_LINK)
        change = wireguard.diff(self._private_key, ports.wireguard, peers, device)
        if not change.is_empty:
            self._wireguard.carry_out(lock.WIREGUARD_LINK, change)
        self._raise_link(node, lock.WIREGUARD_LINK, mtu=mtu)

    def _settle_routes(self, own: Peer | None, pairs: Pairs, ports: Ports) -> None:
        """A device that is missing leads nowhere, and so does what it was to lead to."""
        node = self._own_node().netlink
        by_link: dict[int, list[str]] = {0: [peer.addr for peer in pairs.get(ESP, ())]}
        for way, name in ((WIREGUARD, lock.WIREGUARD_LINK), (USERSPACE, lock.USERSPACE_LINK)):
            link = node.link(name)
            if link is not None and link.is_up:
                by_link[link.index] = [peer.addr for peer in pairs.get(way, ())]
        wanted = routes.wanted_routes(by_link, self._families)
        node.do(*routes.diff(wanted, ports.secure, routes.observe(node, self._families)))

    # --- small things

    def _raise_link(self, node: Space, name: str, *, mtu: int) -> None:
        link = node.netlink.link(name)
        if link is None:
            raise Unavailable(f"the device {name} is gone; it is made again")
        if link.is_up and link.mtu == mtu:
            return
        node.set(f"ipv4/conf/{name}/rp_filter", _LOOSE)
        if has_ipv6():
            node.set(f"ipv6/conf/{name}/disable_ipv6", "0")
            node.netlink.do(netlink.no_link_local(name))
        node.netlink.do(give_address(link.index), raise_link(name, mtu=mtu))

    def _underlay_mtu(self, own: Peer) -> int:
        device = find_device(self._own_node().netlink, own.addr)
        if device is None:
            raise Unavailable(
                f"no interface of this node has the address {own.addr}, which encrypted networks are to use; "
                "set the interface up, or join with another --data-path-addr"
            )
        return device.mtu

    def _own(self) -> Peer | None:
        return self._state.peers.get(self._state.node_id)

    def _own_node(self) -> Space:
        assert self._node is not None, "the part was not started"
        return self._node


def _only(found: Found, ways: tuple[str, ...]) -> Found:
    kept = tuple(way for way in found.ways if way in ways)
    told = tuple(each for each in found.told if each in kept or (each not in WAYS and USERSPACE in kept))
    lacking = found.lacking or ("" if kept else "no way is allowed")
    return Found(ways=kept, told=told, lacking=lacking, has_ipsec_match=found.has_ipsec_match)


def _has_encrypted(state: NodeState) -> bool:
    return any(network.config.is_encrypted for network in state.networks.values())
