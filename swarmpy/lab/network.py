"""The lab's network as text for ``ip -batch`` and ``nft -f``: a bridge, its ports, and ways to cut them.

Pure. The switch is a network namespace with one bridge ``lab0``; every host is one veth pair, whose end in
the switch is named like the host and whose end in the host is ``eth0``. A cable is pulled by taking the
switch's end down (the host loses its carrier); one direction is cut by dropping frames at the bridge.
The switch routes nothing, so a lab reaches no network of the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from swarmpy.lab.layout import PREFIX_BITS, SWITCH_ADDRESS, Host

BRIDGE: Final = "lab0"


class Way(StrEnum):
    """What is cut: the cable, or only what the host would receive (in) or send (out)."""

    BOTH = "both"
    IN = "in"
    OUT = "out"


SWITCH_LINKS: Final = f"""\
link set lo up
link add name {BRIDGE} type bridge stp_state 0 forward_delay 0
addr add {SWITCH_ADDRESS}/{PREFIX_BITS} dev {BRIDGE}
link set {BRIDGE} up
"""

# Frames between ports pass "forward"; those from and to the switch's own address "input" and "output".
SWITCH_FILTER: Final = """\
table bridge lab {
    set cut_in { type ifname; }
    set cut_out { type ifname; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        iifname @cut_out counter drop
        oifname @cut_in counter drop
    }
    chain input { type filter hook input priority 0; policy accept; iifname @cut_out counter drop; }
    chain output { type filter hook output priority 0; policy accept; oifname @cut_in counter drop; }
}
"""


def plug(hosts: Sequence[tuple[Host, int]]) -> str:
    """In the switch: one cable for every (host, pid of its init)."""
    lines = []
    for host, pid in hosts:
        lines.append(f"link add name {host.name} type veth peer name eth0 address {host.mac} netns {pid}")
        lines.append(f"link set {host.name} master {BRIDGE}")
        lines.append(f"link set {host.name} up")
    return "\n".join(lines) + "\n"


def address(host: Host) -> str:
    """In the host: its loopback, its address, its way out (which ends at the switch)."""
    return (
        "link set lo up\n"
        f"addr add {host.address}/{PREFIX_BITS} dev eth0\n"
        "link set eth0 up\n"
        f"route add default via {SWITCH_ADDRESS} dev eth0\n"
    )


def unplug(host: Host) -> str:
    return f"link del {host.name}\n"


def carrier(host: Host, *, is_up: bool) -> str:
    return f"link set {host.name} {'up' if is_up else 'down'}\n"


def one_way(host: Host, way: Way | None) -> str:
    """In the switch: drop one direction, or neither. Adding first makes the deletion safe to repeat."""
    lines = []
    for direction in (Way.IN, Way.OUT):
        element = f"element bridge lab cut_{direction} {{ {host.name} }}"
        lines.append(f"add {element}")
        if way is not direction:
            lines.append(f"delete {element}")
    return "\n".join(lines) + "\n"


def hosts_file(hosts: Sequence[Host]) -> str:
    """The /etc/hosts of every host: they know each other by name."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    lines += [f"{host.address} {host.name}" for host in hosts]
    return "\n".join(lines) + "\n"
