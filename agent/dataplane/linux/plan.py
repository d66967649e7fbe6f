"""What the node-local network should look like: names, addresses, rules, files. Pure.

One bridge per node with a private subnet, in a namespace of its own; every task has a leg on it. A cable
leads from it to the node (``sw-gw``, the tasks' gateway), and what leaves the node is masqueraded. Tasks do
not reach each other over the bridge (its ports are isolated): between tasks there are overlay networks and
published ports. The bridge is not in the node's namespace since there the packet filter may be applied to
bridged frames (br_netfilter, as Docker turns it on), which would forward a published port past the isolation;
and so the node's list of links does not grow with its tasks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from msgspec.structs import replace

from agent.dataplane import diff
from agent.dataplane.base import Endpoint, HostPort, Leg
from agent.dns.zone import RESOLVER_ADDRESS, has_resolver
from swarmpy.errors import Unavailable
from swarmpy.model.ids import NetworkId, TaskId

GATEWAY_LINK = "sw-gw"
GATEWAY_NETNS = ".gateway"
"""The bridge's namespace; no task's id begins with a dot."""
SANDBOX_PREFIX = ".net-"
"""Of overlay networks' namespaces."""
LAN_PREFIX = ".lan-"
"""Of other networks' that have a bridge of their own."""
OUTWARD_DRIVERS = frozenset({"macvlan", "transparent", "ipvlan", "l2bridge", "l2tunnel"})
"""Their tasks are on the node's own LAN, and reach the outside through that."""
BRIDGE = "br0"
BRIDGE_INDEX = 2
"""Fixed, so that nothing has to be looked up. Loopback is 1."""
UPLINK = "uplink"
TABLE = "swarmpy_gw"
PORT_PREFIX = "swt-"
TASK_LINK = "eth"
"""A task's links are eth0, eth1, and so on."""
HOST_MODE, NONE_MODE = "host", "none"
"""``Endpoint.mode`` of tasks in the node's own namespace, and of those with loopback only."""
DOOMED_GROUP = 0x5A02
"""The group of links that are about to be deleted together."""

SUBNETS = tuple(IPv4Network(f"172.{number}.0.0/16") for number in range(31, 17, -1)) + tuple(
    IPv4Network(f"192.168.{number}.0/20") for number in range(240, 0, -16)
)
"""Tried in turn; the first that overlaps nothing on the node is taken."""

_NDOTS = "ndots:"
_PORT_CHARS = 11
_NETWORK_CHARS = 12
_PROTOCOLS = ("tcp", "udp", "sctp")


def port_name(task_id: TaskId) -> str:
    """The host's end of a task's leg: at most 15 characters, and different for every task."""
    return PORT_PREFIX + hashlib.sha256(task_id.encode()).hexdigest()[:_PORT_CHARS]


def sandbox_path(netns_dir: Path, network_id: NetworkId, *, prefix: str = SANDBOX_PREFIX) -> Path:
    """Where the namespace of a network's bridge is kept."""
    return netns_dir / f"{prefix}{network_id[:_NETWORK_CHARS]}"


def network_port_name(task_id: TaskId) -> str:
    """The bridge's end of a task's leg in an overlay network."""
    return diff.PORT_PREFIX + hashlib.sha256(task_id.encode()).hexdigest()[:_PORT_CHARS]


def has_node_leg(endpoint: Endpoint) -> bool:
    """Whether the task reaches the outside through the node: not if all its networks are internal, nor if one
    leads there by itself.
    """
    is_internal = bool(endpoint.legs) and all(leg.network.is_internal for leg in endpoint.legs)
    return not endpoint.mode and not is_internal and not outward_legs(endpoint)


def outward_legs(endpoint: Endpoint) -> list[Leg]:
    """Those that lead to the outside without the node's help."""
    return [
        leg for leg in endpoint.legs if leg.network.driver in OUTWARD_DRIVERS and not leg.network.is_internal
    ]


def without_policies(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, legs=tuple(replace(leg, policy=None) for leg in endpoint.legs))


def node_link(endpoint: Endpoint) -> str:
    """The task's link to the node comes after those of its service's networks; joined ones are behind it."""
    return f"{TASK_LINK}{sum(not leg.is_joined for leg in endpoint.legs)}"


def refusal(endpoint: Endpoint) -> str:
    """Why no node can ever give the task what it asks for; empty if nothing speaks against it."""
    task_id = endpoint.task_id
    if not task_id or "/" in task_id or task_id.startswith("."):
        return f"{task_id!r} is no task id"
    if endpoint.mode not in ("", HOST_MODE, NONE_MODE):
        return f"{endpoint.mode!r} is no network mode: there are host and none"
    if endpoint.host_ports and endpoint.mode == NONE_MODE:
        return "a task on the network none cannot publish ports: it has no way to the outside"
    if endpoint.host_ports and not endpoint.mode and outward_legs(endpoint):
        return (
            f"a task on a {outward_legs(endpoint)[0].network.driver} network cannot publish ports in host "
            "mode: it is on the node's LAN itself, and reached there by its own address"
        )
    if endpoint.host_ports and not endpoint.mode and not has_node_leg(endpoint):
        return (
            "a task whose networks are all internal cannot publish ports in host mode: it has no way to the "
            "outside; attach it to another network too, or publish the ports in ingress mode"
        )
    return ""


def choose_subnet(wanted: str, taken: Iterable[IPv4Network]) -> IPv4Network:
    """The configured subnet as it is, or the first candidate that is free."""
    if wanted:
        return IPv4Network(wanted)
    occupied = list(taken)
    for subnet in SUBNETS:
        if not any(subnet.overlaps(other) for other in occupied):
            return subnet
    raise Unavailable("no private subnet is free for the node's tasks; name one in the node's configuration")


def gateway_of(subnet: IPv4Network) -> IPv4Interface:
    return IPv4Interface((int(subnet.network_address) + 1, subnet.prefixlen))


class AddressPool:
    """The addresses of one subnet. They are given out in turn, so that a freed one rests for long."""

    def __init__(self, subnet: IPv4Network) -> None:
        self._subnet = subnet
        self._taken = {gateway_of(subnet).ip}
        self._next = int(subnet.network_address) + 2

    def claim(self, address: IPv4Address) -> None:
        self._taken.add(address)
        self._next = max(self._next, int(address) + 1)

    def take(self) -> IPv4Address:
        first, last = int(self._subnet.network_address) + 2, int(self._subnet.broadcast_address) - 1
        if len(self._taken) > last - first + 1:
            raise Unavailable(f"no address is free in the node's subnet {self._subnet}")
        while True:
            if self._next > last:
                self._next = first
            address = IPv4Address(self._next)
            self._next += 1
            if address not in self._taken:
                self._taken.add(address)
                return address

    def release(self, address: IPv4Address) -> None:
        self._taken.discard(address)


# --- rules


def ruleset(subnet: IPv4Network, ports: Iterable[tuple[IPv4Address, HostPort]]) -> str:
    """The whole table, replaced in one transaction."""
    known = f"meta l4proto {{ {', '.join(_PROTOCOLS)} }}"
    port, target = "meta l4proto . th dport", "ipv4_addr . inet_service"
    forward = f"""{known} dnat ip to ip daddr . {port} map @ports_at
    fib daddr type local {known} dnat ip to {port} map @ports"""
    return f"""
add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  map ports {{ type inet_proto . inet_service : {target}; }}
  map ports_at {{ type ipv4_addr . inet_proto . inet_service : {target}; }}
  map ports_on {{ type ifname . inet_proto . inet_service : {target}; }}
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    fib daddr type local {known} dnat ip to iifname . {port} map @ports_on
    {forward}
  }}
  chain output {{
    type nat hook output priority -100;
    {forward}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr {subnet} oifname != "{GATEWAY_LINK}" masquerade
    ip saddr 127.0.0.0/8 oifname "{GATEWAY_LINK}" masquerade
    iifname "{GATEWAY_LINK}" oifname "{GATEWAY_LINK}" ct status dnat masquerade
  }}
  chain loopback_guard {{
    type filter hook prerouting priority raw;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
  }}
}}
{"".join(add_port(address, port) for address, port in ports)}"""


def add_port(address: IPv4Address, port: HostPort) -> str:
    name, key = _place(port)
    return f"add element ip {TABLE} {name} {{ {key} : {address} . {port.target_port} }}\n"


def delete_port(port: HostPort) -> str:
    name, key = _place(port)
    return f"delete element ip {TABLE} {name} {{ {key} }}\n"


def _place(port: HostPort) -> tuple[str, str]:
    """The map that a port is in, and its key there."""
    key = f"{port.protocol} . {port.published_port}"
    if port.host_ip in ("", "0.0.0.0"):
        return "ports", key
    try:
        return "ports_at", f"{IPv4Address(port.host_ip)} . {key}"
    except ValueError:
        return "ports_on", f'"{port.host_ip}" . {key}'


def is_port_forwardable(port: HostPort) -> bool:
    """By IPv4: the node's bridge has nothing else."""
    return port.protocol in _PROTOCOLS and ":" not in port.host_ip


# --- files


def hosts_file(endpoint: Endpoint, addresses: Sequence[str]) -> str:
    """Docker's /etc/hosts. Extra hosts come as ``IP name [name…]`` or as ``name:IP``.

    ``addresses``: the task's own, that its hostname stands for.
    """
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "ff00::0\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
        *_extra_hosts(endpoint),
    ]
    if endpoint.hostname:
        lines += [f"{address.partition('/')[0]}\t{endpoint.hostname}" for address in addresses]
    return "\n".join(lines) + "\n"


def host_mode_hosts_file(endpoint: Endpoint, node_file: str) -> str:
    """The node's own, and what the task wishes beside it."""
    return "".join(f"{line}\n" for line in [*node_file.splitlines(), *_extra_hosts(endpoint)])


def _extra_hosts(endpoint: Endpoint) -> list[str]:
    lines = []
    for extra in endpoint.extra_hosts:
        first, _, names = extra.partition(" ")
        if names:
            lines.append(f"{first}\t{names.strip()}")
        else:
            name, _, target = extra.partition(":")
            lines.append(f"{target}\t{name}")
    return lines


def resolv_conf(endpoint: Endpoint, node_files: Sequence[str]) -> str:
    """The task's own wishes over the node's settings; ``node_files``: its resolver's, the best first.

    A task with a resolver of its own asks nobody else: that knows the servers which would stand here, and
    reaches those on the node's loopback. Services' names are single words: unless the task wishes otherwise
    they are looked up as they are first, whatever the node does.
    """
    text = node_files[0] if node_files else ""
    search = list(endpoint.dns_search) or _words(text, "search") or _words(text, "domain")
    options = list(endpoint.dns_options) or _words(text, "options")
    if has_resolver(endpoint):
        servers = [RESOLVER_ADDRESS]
        wished = [option for option in endpoint.dns_options if option.startswith(_NDOTS)]
        options = [option for option in options if not option.startswith(_NDOTS)]
        options += wished or [f"{_NDOTS}0"]
    else:
        servers = list(endpoint.dns) or re.findall(r"^[ \t]*nameserver[ \t]+(\S+)", text, re.MULTILINE)
    lines = [f"nameserver {server}" for server in servers]
    if search and search != ["."]:
        lines.append(f"search {' '.join(search)}")
    if options:
        lines.append(f"options {' '.join(options)}")
    return "\n".join(lines) + "\n"


def _words(text: str, key: str) -> list[str]:
    found = re.findall(rf"^\s*{key}\s+(.+)$", text, re.MULTILINE)
    return str(found[-1]).split() if found else []
