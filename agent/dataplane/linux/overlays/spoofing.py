"""Tasks speak in a network only as themselves: rules on the bridge of one network's sandbox. Pure.

What comes in at a task's port has the task's MAC and one of its addresses as sender, in IP, in ARP, and in
what neighbour discovery announces; it is no router advertisement and no other protocol. Ports of other parts
and the tunnel are not judged: what comes from there was judged where it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple

from agent.dataplane import diff

TABLE = "swarmpy_spoof"
_V4, _V6, _TARGETS = "senders", "senders6", "targets6"
_TARGET = "@th,64,128"
"""What a neighbour advertisement is about: the 16 bytes after the header and flags."""


class Sender(NamedTuple):
    """A task at its port. ``addresses`` without prefix."""

    mac: str
    addresses: tuple[str, ...]


def ruleset(senders: Mapping[str, Sender]) -> str:
    """The whole table, replaced in one transaction. ``senders``: by port."""
    arp = f"iifname . ether saddr . arp saddr ip @{_V4} iifname . arp saddr ether . arp saddr ip @{_V4}"
    check = f"add rule bridge {TABLE} check"
    return f"""
add table bridge {TABLE}
delete table bridge {TABLE}
table bridge {TABLE} {{
  set {_V4} {{ type ifname . ether_addr . ipv4_addr; }}
  set {_V6} {{ type ifname . ether_addr . ipv6_addr; }}
  set {_TARGETS} {{ typeof iifname . ether saddr . {_TARGET}; }}
  chain check {{ }}
  chain prerouting {{ type filter hook prerouting priority -200; }}
}}
{check} ether type ip iifname . ether saddr . ip saddr @{_V4} accept
{check} ether type arp {arp} accept
{check} ether type ip6 icmpv6 type {{ nd-router-advert, nd-redirect }} drop
{check} ether type ip6 icmpv6 type nd-neighbor-advert iifname . ether saddr . {_TARGET} != @{_TARGETS} drop
{check} ether type ip6 iifname . ether saddr . ip6 saddr @{_V6} accept
{check} drop
add rule bridge {TABLE} prerouting iifname "{diff.PORT_PREFIX}*" goto check
{"".join(add(port, sender) for port, sender in sorted(senders.items()))}"""


def add(port: str, sender: Sender) -> str:
    return _change("add", port, sender)


def delete(port: str, sender: Sender) -> str:
    return _change("delete", port, sender)


def _change(verb: str, port: str, sender: Sender) -> str:
    found = [ip_address(address) for address in sender.addresses]
    later = [address for address in found if address.version == 6]
    lines = []
    for name, keys in (
        (_V4, [str(address) for address in found if address.version == 4]),
        (_V6, [str(address) for address in later]),
        (_TARGETS, [hex(int(address)) for address in later]),
    ):
        members = ", ".join(f'"{port}" . {sender.mac} . {key}' for key in keys)
        if members:
            lines.append(f"{verb} element bridge {TABLE} {name} {{ {members} }}\n")
    return "".join(lines)
