"""What an endpoint may do in a network: access list and rates, as users write them and as values. Pure.

A service says it by labels, ``swarmpy.network.<network>.acl``, ``.rate-in`` and ``.rate-out``, where
``<network>`` is a network's name or ``*`` for all that have no label of their own. They are labels of the
service and not of its containers, so a change of them replaces no task.

An access list has a rule per line (or between semicolons); the first that fits decides, and what none fits
passes::

    RULE   = ACTION DIRECTION [PROTOCOL [PORTS]] [("from" | "to") ADDRESS]
    ACTION = "allow" | "deny"            DIRECTION = "in" | "out"
    PROTOCOL = "any" | "tcp" | "udp" | "sctp" | "icmp"
    PORTS  = 80 | 8000-8100 | 80,443     ADDRESS = 10.0.0.0/8 | 2001:db8::1

``parse`` and ``write`` are each other's inverse. What cannot be read is ``InvalidArgument`` with the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from typing import Final

from swarmpy.errors import InvalidArgument
from swarmpy.limits import POLICY_RULES_MAX
from swarmpy.model.value import Value

LABEL_PREFIX: Final = "swarmpy.network."
STACK_LABEL: Final = "com.docker.stack.namespace"
ACL, RATE_IN, RATE_OUT = "acl", "rate-in", "rate-out"
ALL_NETWORKS: Final = "*"

ALLOW, DENY = "allow", "deny"
IN, OUT = "in", "out"
PROTOCOLS: Final = ("tcp", "udp", "sctp", "icmp")
PORT_PROTOCOLS: Final = ("tcp", "udp", "sctp")
_ANY = "any"
_SIDE: Final = {IN: "from", OUT: "to"}
_PORT_MAX: Final = 65_535

RATE_BPS_MIN: Final = 8_000
RATE_BPS_MAX: Final = 400_000_000_000
_RATE: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(bit|kbit|mbit|gbit)")
_UNIT_BPS: Final = {"bit": 1, "kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}


class Rule(Value, frozen=True, kw_only=True):
    """One line of an endpoint's access list; the first that fits decides. Empty fields fit anything.

    ``action``: allow or deny; ``direction``: in (to the task) or out; ``address``: a CIDR of the other side;
    ``protocol``: tcp, udp, sctp, icmp; ``ports``: of the side that is called, ``80`` or ``8000-8100``.
    """

    action: str
    direction: str
    address: str = ""
    protocol: str = ""
    ports: tuple[str, ...] = ()


class Policy(Value, frozen=True, kw_only=True):
    """What one endpoint may do. Rates in bits per second, 0 means no cap; seen from the task."""

    rules: tuple[Rule, ...] = ()
    rate_in_bps: int = 0
    rate_out_bps: int = 0


UNRESTRICTED: Final = Policy()
CLOSED: Final = Policy(rules=(Rule(action=DENY, direction=IN), Rule(action=DENY, direction=OUT)))
"""What stands in for a policy that cannot be read."""


# --- access lists


def parse(text: str) -> tuple[Rule, ...]:
    lines = [line for part in text.splitlines() for line in part.split(";")]
    rules = tuple(_parse_rule(line) for line in lines if line.strip())
    if len(rules) > POLICY_RULES_MAX:
        raise InvalidArgument(
            f"an access list has at most {POLICY_RULES_MAX} rules; this one has {len(rules)}"
        )
    return rules


def write(rules: tuple[Rule, ...]) -> str:
    return "\n".join(map(_write_rule, rules))


def _write_rule(rule: Rule) -> str:
    words = [rule.action, rule.direction]
    if rule.protocol:
        words.append(rule.protocol)
    if rule.ports:
        words.append(",".join(rule.ports))
    if rule.address:
        words += [_SIDE[rule.direction], rule.address]
    return " ".join(words)


def _parse_rule(line: str) -> Rule:
    words = line.split()
    if words[0] not in (ALLOW, DENY):
        raise _invalid(line, f'it begins with "{words[0]}": a rule begins with allow or deny')
    if len(words) < 2 or words[1] not in _SIDE:
        raise _invalid(line, 'after "allow" or "deny" comes the direction: in or out')
    action, direction, rest = words[0], words[1], words[2:]
    protocol, address = "", ""
    ports: tuple[str, ...] = ()
    if rest and rest[0] in (*PROTOCOLS, _ANY):
        protocol = "" if rest[0] == _ANY else rest[0]
        rest = rest[1:]
    if rest and rest[0][0].isdigit():
        ports = _parse_ports(line, rest[0])
        if protocol not in PORT_PROTOCOLS:
            raise _invalid(line, f"ports need a protocol before them: {', '.join(PORT_PROTOCOLS)}")
        rest = rest[1:]
    if rest and rest[0] in _SIDE.values():
        if rest[0] != _SIDE[direction]:
            raise _invalid(line, f'"{direction}" goes with "{_SIDE[direction]}", not with "{rest[0]}"')
        if len(rest) < 2:
            raise _invalid(line, f'"{rest[0]}" needs an address after it')
        address = _parse_address(line, rest[1])
        rest = rest[2:]
    if rest:
        raise _invalid(line, f'"{rest[0]}" is out of place')
    return Rule(action=action, direction=direction, address=address, protocol=protocol, ports=ports)


def _parse_ports(line: str, text: str) -> tuple[str, ...]:
    found = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        numbers = [first, last] if dash else [first]
        if not all(number.isascii() and number.isdigit() and len(number) <= 5 for number in numbers):
            raise _invalid(line, f'"{part}" is no port: give 80, 8000-8100, or several with commas')
        low, high = int(numbers[0]), int(numbers[-1])
        if not 1 <= low <= high <= _PORT_MAX:
            raise _invalid(line, f'"{part}" is not within 1 and {_PORT_MAX}, the lower port first')
        found.append(f"{low}-{high}" if high > low else str(low))
    return tuple(dict.fromkeys(found))


def _parse_address(line: str, text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise _invalid(line, f'"{text}" is no address or subnet ({error})') from None


def _invalid(line: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f'invalid network policy rule "{line.strip()}": {reason}')


# --- rates


def parse_rate(text: str) -> int:
    """``10mbit``, ``512kbit``, in bits per second."""
    match = _RATE.fullmatch(text.strip().lower())
    rate = round(float(match[1]) * _UNIT_BPS[match[2]]) if match is not None else 0
    if not RATE_BPS_MIN <= rate <= RATE_BPS_MAX:
        raise InvalidArgument(f'invalid rate "{text}": give 8kbit to 400gbit, such as 512kbit or 10mbit')
    return rate


def write_rate(rate_bps: int) -> str:
    unit = next(each for each in reversed(_UNIT_BPS) if rate_bps % _UNIT_BPS[each] == 0)
    return f"{rate_bps // _UNIT_BPS[unit]}{unit}"


# --- labels


def label(network: str, key: str) -> str:
    return f"{LABEL_PREFIX}{network}.{key}"


def policy_of(labels: Mapping[str, str], network: str) -> Policy:
    """Of a service with these labels on a network of that name. A label of its own comes before ``*``.

    A network of the service's stack also goes by the name that it has in the Compose file.
    """
    stack = labels.get(STACK_LABEL, "")
    short = network.removeprefix(f"{stack}_") if stack else network

    def text(key: str) -> str:
        names = [label(name, key) for name in (network, short, ALL_NETWORKS)]
        return next((labels[name] for name in names if name in labels), "")

    rate_in, rate_out = text(RATE_IN), text(RATE_OUT)
    return Policy(
        rules=parse(text(ACL)),
        rate_in_bps=parse_rate(rate_in) if rate_in else 0,
        rate_out_bps=parse_rate(rate_out) if rate_out else 0,
    )


def check_labels(labels: Mapping[str, str]) -> None:
    """That all labels of this family make sense: a slip in one must not leave an endpoint open."""
    for name, network, key in _own_labels(labels):
        if not network or key not in (ACL, RATE_IN, RATE_OUT):
            raise InvalidArgument(
                f'invalid label "{name}": '
                f"{LABEL_PREFIX}NETWORK. is followed by {ACL}, {RATE_IN} or {RATE_OUT}"
            )
        try:
            if key == ACL:
                parse(labels[name])
            elif labels[name]:
                parse_rate(labels[name])
        except InvalidArgument as error:
            raise InvalidArgument(f"label {name}: {error}") from None


def _own_labels(labels: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for name in sorted(labels):
        if name.startswith(LABEL_PREFIX):
            network, _, key = name.removeprefix(LABEL_PREFIX).rpartition(".")
            yield name, network, key
