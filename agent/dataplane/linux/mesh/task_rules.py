"""The tables in the namespace of a task that serves published ports: pure.

A packet from outside comes with its client's address, and its answer has to go back through the node that
the client came in on: that node's MAC is the frame's sender. The connection remembers it as a mark; answers
take the routing table for that mark, whose next hop is a stand-in; and as the frame leaves, the mark chooses
the MAC. So there is one rule and one route, however many nodes there are. Whoever is in the network itself,
as nodes are for ports with source NAT, is answered without any of this.

UDP servers that are bound to no address answer from that of the link that routes lead to the client by. So
datagrams of clients on the outside are led to that address, whether the server's sockets are connected or
not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agent.dataplane.linux.mesh.names import MARK, MARK_MASK, TABLE, version_of

DELETION = f"""table inet {TABLE}
delete table inet {TABLE}
table netdev {TABLE}
delete table netdev {TABLE}
"""
_FAMILY = {4: "ip", 6: "ip6"}
_OURS = f"& {MARK_MASK:#x} == {MARK:#x}"


class TaskLeg(NamedTuple):
    """A task's leg in the ingress network. ``way_out``: its link for the outside, with this IPv4 address."""

    link: str
    subnets: tuple[str, ...] = ()
    way_out: str = ""
    address_out: str = ""


def ruleset(leg: TaskLeg, gateways: Mapping[str, int], *, has_egress: bool) -> str:
    """Both tables; they replace what is there. Without the egress hook answers go where routes lead."""
    subnets6 = [subnet for subnet in leg.subnets if version_of(subnet) == 6]
    neighbours = "".join(f"  {_FAMILY[version_of(each)]} saddr {each} return\n" for each in leg.subnets)
    text = f"""{DELETION}table inet {TABLE} {{
 map nodes {{ type ether_addr : mark; {_elements(gateways, is_by_mac=True)} }}
 chain prerouting {{
  type filter hook prerouting priority mangle;
  iifname != "{leg.link}" return
{neighbours}  ct direction original ct mark & {MARK_MASK:#x} != {MARK:#x} ct mark set ether saddr map @nodes
  ct direction original ct mark {_OURS} meta mark set ct mark
 }}
 chain replies {{
  type route hook output priority mangle;
  ct direction reply ct mark {_OURS} meta mark set ct mark
 }}
"""
    if leg.address_out:
        mesh = f'iifname "{leg.link}" meta nfproto ipv4 meta l4proto udp meta mark {_OURS}'
        text += f""" chain datagrams {{
  type nat hook prerouting priority dstnat;
  {mesh} fib saddr oifname "{leg.way_out}" dnat ip to {leg.address_out}
 }}
"""
    if subnets6:
        known = ", ".join(subnets6)
        foreign = f'oifname "{leg.link}" ip6 daddr != {{ {known}, fe80::/10, ff00::/8 }}'
        text += f""" chain no_way_out {{
  type filter hook output priority filter;
  {foreign} meta mark & {MARK_MASK:#x} != {MARK:#x} reject with icmpv6 no-route
 }}
"""
    text += f"}}\ntable netdev {TABLE} {{\n"
    if has_egress:
        text += f""" map gateways {{ type mark : ether_addr; {_elements(gateways, is_by_mac=False)} }}
 chain replies {{
  type filter hook egress device "{leg.link}" priority 0;
  meta mark {_OURS} ether daddr set meta mark map @gateways
 }}
"""
    return text + "}\n"


def _elements(gateways: Mapping[str, int], *, is_by_mac: bool) -> str:
    pairs = ", ".join(
        f"{mac} : {mark:#x}" if is_by_mac else f"{mark:#x} : {mac}" for mac, mark in sorted(gateways.items())
    )
    return f"elements = {{ {pairs} }};" if pairs else ""


def change(former: Mapping[str, int], wished: Mapping[str, int], *, has_egress: bool) -> str:
    """The commands that make one set of gateways of another; empty if they are the same."""
    text = ""
    for verb, gateways in (
        ("delete", dict(former.items() - wished.items())),
        ("add", dict(wished.items() - former.items())),
    ):
        for mac, mark in sorted(gateways.items()):
            text += f"{verb} element inet {TABLE} nodes {{ {mac} : {mark:#x} }}\n"
            if has_egress:
                text += f"{verb} element netdev {TABLE} gateways {{ {mark:#x} : {mac} }}\n"
    return text
