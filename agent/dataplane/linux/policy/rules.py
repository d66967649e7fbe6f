"""Access lists as nftables rules: a table per namespace, two chains per endpoint in it. Pure.

Seen from a bridge an endpoint is a port of it, and rules are about what the bridge forwards; that is outside
of the task, which cannot touch them. An endpoint that has no port (macvlan) has them in its own namespace.

Kernels need not track connections on bridges, so the rules do without: of TCP only the packet that opens a
connection is judged, all others pass. Of UDP, SCTP and echoes whatever passes is noted, and what answers it
within POLICY_FLOW_S passes too. Errors of ICMP, neighbour discovery and ARP always pass, and so do all
fragments but the first of a packet, which are worth nothing without it. A change of rules is one transaction
and leaves notes alone: who is connected stays so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from swarmpy.limits import POLICY_FLOW_S, POLICY_FLOWS_MAX
from swarmpy.model.endpoint_policy import DENY, IN, OUT, Rule, write

TABLE: Final = "swarmpy_policy"
BRIDGE_FAMILY, OWN_FAMILY = "bridge", "inet"
"""At a port of a bridge, and inside the endpoint's own namespace."""

_HOOKS: Final = {
    (BRIDGE_FAMILY, OUT): ("forward priority -10", "iifname"),
    (BRIDGE_FAMILY, IN): ("forward priority -9", "oifname"),
    (OWN_FAMILY, OUT): ("output priority 10", "oifname"),
    (OWN_FAMILY, IN): ("input priority 10", "iifname"),
}
_FAMILIES: Final = {"ip": ("ipv4_addr", "", "icmp"), "ip6": ("ipv6_addr", "6", "ipv6-icmp")}
_ERRORS: Final = "destination-unreachable, time-exceeded, parameter-problem"
_ND: Final = "nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert"
_CHAIN: Final = re.compile(r"^\tchain (\S+) \{\n(.*?)^\t\}", re.MULTILINE | re.DOTALL)
_DATAGRAMS: Final = "meta l4proto { udp, sctp }"


def frame(family: str) -> str:
    """The table with all that belongs to no single endpoint; nothing changes where it stands."""
    base = f"{family} {TABLE}"
    lines = [f"add table {base}"]
    for network, (kind, suffix, _) in _FAMILIES.items():
        more = f"flags dynamic,timeout; timeout {POLICY_FLOW_S}s; size {POLICY_FLOWS_MAX};"
        flow = f"inet_proto . {kind} . inet_service . {kind} . inet_service"
        lines += [
            f"add set {base} flows{suffix} {{ type {flow}; {more} }}",
            f"add set {base} pings{suffix} {{ type {kind} . {kind}; {more} }}",
        ]
        assert network in ("ip", "ip6")
    for direction in (IN, OUT):
        hook, side = _HOOKS[family, direction]
        ports = f"ports_{direction}"
        lines += [
            f"add map {base} {ports} {{ type ifname : verdict; }}",
            f"add chain {base} {direction} {{ type filter hook {hook}; }}",
            f"flush chain {base} {direction}",
            f"add rule {base} {direction} {side} vmap @{ports}",
        ]
    for chain, rules in (("answers", _answers()), ("pass", _pass())):
        lines += [f"add chain {base} {chain}", f"flush chain {base} {chain}"]
        lines += [f"add rule {base} {chain} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"


def _answers() -> list[str]:
    rules = [
        "meta protocol != { ip, ip6 } accept",
        f"icmpv6 type {{ {_ND}, packet-too-big, {_ERRORS} }} accept",
        f"icmp type {{ {_ERRORS} }} accept",
        "ip frag-off & 0x1fff != 0 accept",
        "frag frag-off != 0 accept",
        "tcp flags & (syn | ack) != syn accept",
    ]
    for network, (_, suffix, echo) in _FAMILIES.items():
        flow = f"meta l4proto . {network} saddr . th sport . {network} daddr . th dport"
        rules += [
            f"meta protocol {network} {_DATAGRAMS} {flow} @flows{suffix} accept",
            f"meta protocol {network} meta l4proto {echo} {network} saddr . {network} daddr @pings{suffix} "
            "accept",
        ]
    return rules


def _pass() -> list[str]:
    """The other way round, as the answer will have it."""
    rules = []
    for network, (_, suffix, echo) in _FAMILIES.items():
        flow = f"meta l4proto . {network} daddr . th dport . {network} saddr . th sport"
        rules += [
            f"meta protocol {network} {_DATAGRAMS} update @flows{suffix} {{ {flow} }}",
            f"meta protocol {network} meta l4proto {echo} "
            f"update @pings{suffix} {{ {network} daddr . {network} saddr }}",
        ]
    return [*rules, "accept"]


def put(family: str, port: str, rules: tuple[Rule, ...], *, is_there: bool) -> str:
    """An endpoint's chains, made or replaced. ``is_there``: they exist already; not known to be right."""
    base = f"{family} {TABLE}"
    lines = [remove(family, port).rstrip()] if is_there else []
    for direction in (IN, OUT):
        chain = f"{direction}-{port}"
        lines.append(f'add chain {base} {chain} {{ comment "{digest(rules)}"; }}')
        lines += [f"add rule {base} {chain} {rule}" for rule in chain_rules(rules, direction)]
        lines.append(f'add element {base} ports_{direction} {{ "{port}" : goto {chain} }}')
    return "\n".join(lines) + "\n"


def remove(family: str, port: str) -> str:
    base = f"{family} {TABLE}"
    return "".join(
        f'delete element {base} ports_{direction} {{ "{port}" }}\n'
        f"flush chain {base} {direction}-{port}\n"
        f"delete chain {base} {direction}-{port}\n"
        for direction in (IN, OUT)
    )


def chain_rules(rules: tuple[Rule, ...], direction: str) -> list[str]:
    return ["jump answers", *(_rule(each) for each in rules if each.direction == direction), "goto pass"]


def _rule(rule: Rule) -> str:
    words = []
    if rule.address:
        network = "ip6" if ":" in rule.address else "ip"
        words.append(f"{network} {'saddr' if rule.direction == IN else 'daddr'} {rule.address}")
    if rule.ports:
        words.append(f"{rule.protocol} dport {{ {', '.join(_merged(rule.ports))} }}")
    elif rule.protocol == "icmp":
        words.append("meta l4proto { icmp, ipv6-icmp }")
    elif rule.protocol:
        words.append(f"meta l4proto {rule.protocol}")
    words.append("drop" if rule.action == DENY else "goto pass")
    return " ".join(words)


def _merged(ports: tuple[str, ...]) -> list[str]:
    """Without overlaps, which a set takes for a clash."""
    spans = sorted((int(low), int(high or low)) for low, _, high in (port.partition("-") for port in ports))
    found: list[tuple[int, int]] = []
    for low, high in spans:
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return [f"{low}-{high}" if high > low else str(low) for low, high in found]


def digest(rules: tuple[Rule, ...]) -> str:
    """By it a chain of a former life of the daemon is known again."""
    return hashlib.sha256(write(rules).encode()).hexdigest()[:32]


# --- looking


def chains_of(shown: str) -> dict[str, tuple[str, ...]]:
    """The lines of each chain of a table that was listed."""
    return {
        name: tuple(line.strip() for line in body.splitlines() if line.strip())
        for name, body in _CHAIN.findall(shown)
    }


def is_sound(chains: Mapping[str, tuple[str, ...]], ports: Mapping[str, tuple[Rule, ...]]) -> bool:
    """Whether the table has what ``frame`` and ``put`` make, as far as can be seen without knowing how the
    kernel's rules are written: which chains there are, of which rules, and how many.
    """
    sizes = {IN: 2, OUT: 2, "answers": len(_answers()), "pass": len(_pass())}
    if any(len(chains.get(name, ())) != size for name, size in sizes.items()):
        return False
    return all(is_sound_at(chains, port, wanted) for port, wanted in ports.items())


def is_sound_at(chains: Mapping[str, tuple[str, ...]], port: str, wanted: tuple[Rule, ...]) -> bool:
    comment = f'comment "{digest(wanted)}"'
    return all(
        (lines := chains.get(f"{direction}-{port}", ()))[:1] == (comment,)
        and len(lines) == 1 + len(chain_rules(wanted, direction))
        for direction in (IN, OUT)
    )
