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
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_address

from agent.dataplane.base import Endpoint, HostPort
from swarmpy.errors import Unavailable
from swarmpy.model.ids import TaskId

GATEWAY_LINK = "sw-gw"
GATEWAY_NETNS = ".gateway"
"""The bridge's namespace; no task's id begins with a dot."""
BRIDGE = "br0"
BRIDGE_INDEX = 2
"""Fixed, so that nothing has to be looked up. Loopback is 1."""
UPLINK = "uplink"
TABLE = "swarmpy_gw"
PORT_PREFIX = "swt-"
TASK_LINK = "eth0"
DOOMED_GROUP = 0x5A02
"""The group of links that are about to be deleted together."""
DATA_PORTS = (4789, 4790)
"""Nodes exchange encapsulated frames on these; a task that could send to them could forge frames."""

SUBNETS = tuple(IPv4Network(f"172.{number}.0.0/16") for number in range(31, 17, -1)) + tuple(
    IPv4Network(f"192.168.{number}.0/20") for number in range(240, 0, -16)
)
"""Tried in turn; the first that overlaps nothing on the node is taken."""

_PORT_CHARS = 11
_PROTOCOLS = ("tcp", "udp")


def port_name(task_id: TaskId) -> str:
    """The host's end of a task's leg: at most 15 characters, and different for every task."""
    return PORT_PREFIX + hashlib.sha256(task_id.encode()).hexdigest()[:_PORT_CHARS]


def endpoint_mac(address: IPv4Address) -> str:
    return "02:42:" + address.packed.hex(":")


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
    kind = "type inet_service : ipv4_addr . inet_service;"
    maps = "\n".join(f"  map ports_{name} {{ {kind} }}" for name in _PROTOCOLS)
    local = "fib daddr type local dnat ip to"
    forward = "\n".join(f"    {local} {name} dport map @ports_{name}" for name in _PROTOCOLS)
    guarded = ", ".join(map(str, DATA_PORTS))
    return f"""
add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
{maps}
  chain prerouting {{
    type nat hook prerouting priority dstnat;
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
  chain forward_guard {{
    type filter hook forward priority filter;
    iifname "{GATEWAY_LINK}" udp dport {{ {guarded} }} drop
  }}
  chain input_guard {{
    type filter hook input priority filter;
    iifname "{GATEWAY_LINK}" udp dport {{ {guarded} }} drop
  }}
}}
{"".join(add_port(address, port) for address, port in ports)}"""


def add_port(address: IPv4Address, port: HostPort) -> str:
    element = f"{port.published_port} : {address} . {port.target_port}"
    return f"add element ip {TABLE} ports_{port.protocol} {{ {element} }}\n"


def delete_port(port: HostPort) -> str:
    return f"delete element ip {TABLE} ports_{port.protocol} {{ {port.published_port} }}\n"


def is_port_forwardable(port: HostPort) -> bool:
    return port.protocol in _PROTOCOLS


# --- files


def hosts_file(endpoint: Endpoint, address: IPv4Address) -> str:
    """Docker's /etc/hosts. Extra hosts come as ``IP name [name…]`` or as ``name:IP``."""
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "ff00::0\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
    ]
    for extra in endpoint.extra_hosts:
        first, _, names = extra.partition(" ")
        if names:
            lines.append(f"{first}\t{names.strip()}")
        else:
            name, _, target = extra.partition(":")
            lines.append(f"{target}\t{name}")
    if endpoint.hostname:
        lines.append(f"{address}\t{endpoint.hostname}")
    return "\n".join(lines) + "\n"


def resolv_conf(endpoint: Endpoint, node_files: Sequence[str]) -> str:
    """The task's own wishes over the node's settings.

    ``node_files`` are the node's resolver files in order of preference. A nameserver on the node's loopback
    cannot be reached from a task, so the first file that has another is the one that counts.
    """
    chosen = next((text for text in node_files if _servers(text)), node_files[0] if node_files else "")
    servers = list(endpoint.dns) or _servers(chosen)
    search = list(endpoint.dns_search) or _words(chosen, "search") or _words(chosen, "domain")
    options = list(endpoint.dns_options) or _words(chosen, "options")
    lines = [f"nameserver {server}" for server in servers]
    if search and search != ["."]:
        lines.append(f"search {' '.join(search)}")
    if options:
        lines.append(f"options {' '.join(options)}")
    return "\n".join(lines) + "\n"


def _servers(text: str) -> list[str]:
    found = re.findall(r"^\s*nameserver\s+(\S+)", text, re.MULTILINE)
    return [server for server in found if not _is_loopback(server)]


def _is_loopback(server: str) -> bool:
    try:
        return ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True  # not an address: of no use to anybody


def _words(text: str, key: str) -> list[str]:
    found = re.findall(rf"^\s*{key}\s+(.+)$", text, re.MULTILINE)
    return str(found[-1]).split() if found else []
