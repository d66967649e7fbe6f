"""The node's leg in the ingress network: a cable from the node into the network's sandbox.

It carries the node's ingress address, through which tasks answer to clients that came in on this node. What
is there is looked at each time, and made right: the sandbox may have been made anew, and the cable with it.
"""

from __future__ import annotations

import errno
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

from agent.dataplane.diff import BRIDGE
from agent.dataplane.linux import namespaces, netlink
from agent.dataplane.linux.mesh import messages
from agent.dataplane.linux.mesh.names import LINK, PORT, Interface
from agent.dataplane.linux.netlink import Link, Netlink
from agent.dataplane.linux.part import Space
from swarmpy.errors import Unavailable

_GONE = frozenset({errno.ENODEV})
_NO_SUCH = frozenset({errno.EADDRNOTAVAIL})
_LINK_LOCAL = 0xFE80 << 112
_IF_INET6 = Path("/proc/thread-self/net/if_inet6")
_SETTINGS = (
    # answers of tasks come from addresses that routes lead elsewhere
    (f"ipv4/conf/{LINK}/rp_filter", "2"),
    # connections of the node to its own 127.0.0.1 leave by this link
    (f"ipv4/conf/{LINK}/route_localnet", "1"),
    (f"ipv4/conf/{LINK}/send_redirects", "0"),
    (f"ipv4/conf/{LINK}/accept_redirects", "0"),
    # the node speaks for its ingress address there, and for no other
    (f"ipv4/conf/{LINK}/arp_ignore", "1"),
    (f"ipv4/conf/{LINK}/arp_announce", "2"),
    ("ipv4/ip_forward", "1"),
)


def own_addresses(node: Space) -> list[tuple[int, Interface]]:
    """(link index, address) of all addresses of the node. Called in the node's namespace."""
    found: list[tuple[int, Interface]] = list(node.netlink.addresses())
    if _IF_INET6.exists():
        for line in _IF_INET6.read_text().splitlines():
            raw, index, bits, *_ = line.split()
            found.append((int(index, 16), IPv6Interface((int(raw, 16), int(bits, 16)))))
    return found


def make(node: Space, sandbox: Path, addresses: tuple[Interface, ...], mac: str) -> None:
    """Make it so, or Unavailable."""
    _refuse_overlap(node, addresses)
    if not namespaces.is_live(sandbox):
        raise Unavailable("the ingress network is not on this node yet")
    try:
        with namespaces.enter(sandbox) as inside:
            bridge = inside.link(BRIDGE)
            if bridge is None:
                raise Unavailable("the ingress network has no bridge on this node yet")
            link = _plug(node.netlink, inside, sandbox=sandbox, bridge=bridge, mac=mac)
        if link.mtu != bridge.mtu:
            node.netlink.do(messages.set_mtu(LINK, bridge.mtu))
        for name, value in _SETTINGS:
            node.set(name, value)
        _address(node, link.index, (*addresses, *_link_local(addresses, mac)))
        if not link.is_up:
            node.netlink.do(netlink.set_up(link.index))
        if any(address.version == 6 for address in addresses):
            node.netlink.do(messages.accept_loopback(link.index))
    except OSError as error:
        raise Unavailable(f"cannot make the node's leg in the ingress network: {error}") from None
    if any(address.version == 6 for address in addresses):
        _forward6(node)


def is_up(node: Space) -> bool:
    link = node.netlink.link(LINK)
    return link is not None and link.is_up


def remove(node: Space) -> None:
    node.netlink.do(netlink.delete_link(LINK), accept=_GONE)


def _plug(node: Netlink, inside: Netlink, *, sandbox: Path, bridge: Link, mac: str) -> Link:
    """The node's end of the cable; the other is up, and on the bridge."""
    link, port = node.link(LINK), inside.link(PORT)
    if link is None or port is None or link.mac != mac:
        node.do(netlink.delete_link(LINK), accept=_GONE)
        inside.do(netlink.delete_link(PORT), accept=_GONE)
        with open(sandbox, "rb") as netns:
            peer = netlink.Peer(PORT, "", netns.fileno())
            node.do(netlink.add_veth(LINK, peer=peer, mac=mac, mtu=bridge.mtu))
        node.do(netlink.no_link_local(LINK))
        link, port = node.link(LINK), inside.link(PORT)
    assert link is not None, "the link was made a moment ago"
    assert port is not None, "its other end was made with it"
    if port.mtu != bridge.mtu:
        inside.do(messages.set_mtu(PORT, bridge.mtu))
    if port.master != bridge.index:
        inside.do(netlink.no_link_local(PORT), netlink.set_master(PORT, bridge.index))
    if not port.is_up:
        inside.do(netlink.set_up(port.index))
    return link


def _link_local(addresses: tuple[Interface, ...], mac: str) -> list[Interface]:
    """IPv6 asks for neighbours with it, where packets of others are passed on."""
    if all(address.version == 4 for address in addresses):
        return []
    return [IPv6Interface((_LINK_LOCAL | int(mac.replace(":", ""), 16), 64))]


def _address(node: Space, index: int, addresses: tuple[Interface, ...]) -> None:
    present = {address for number, address in own_addresses(node) if number == index}
    surplus = sorted(present - set(addresses), key=str)
    node.netlink.do(*(messages.delete_address(index, each) for each in surplus), accept=_NO_SUCH)
    missing = [each for each in addresses if each not in present]
    if any(each.version == 6 for each in missing):
        node.set(f"ipv6/conf/{LINK}/disable_ipv6", "0")
    node.netlink.do(*(netlink.add_address(index, each) for each in missing))


def _refuse_overlap(node: Space, addresses: tuple[Interface, ...]) -> None:
    """The node must not lose the way to its own network to the ingress network."""
    link = node.netlink.link(LINK)
    taken = [
        (str(address), address.network)
        for index, address in node.netlink.addresses()
        if link is None or index != link.index
    ]
    taken += [
        (f"the route to {network}", network)
        for index, network in node.netlink.routes()
        if link is None or index != link.index
    ]
    for address in addresses:
        if not isinstance(address, IPv4Interface):
            continue
        for what, network in taken:
            if address.network.overlaps(network):
                raise Unavailable(
                    f"the ingress network {address.network} overlaps with {what} of this node, so published"
                    " ports do not answer here; create the ingress network with another subnet"
                )


def _forward6(node: Space) -> None:
    """A node that forwards ignores the router's advertisements unless told not to: it would lose its way."""
    folder = Path("/proc/sys/net/ipv6/conf")
    if (folder / "all/forwarding").read_text().strip() == "1":
        return
    for each in sorted(folder.iterdir()):
        if each.name != "all" and (each / "accept_ra").read_text().strip() == "1":
            node.set(f"ipv6/conf/{each.name}/accept_ra", "2")
    node.set("ipv6/conf/all/forwarding", "1")
