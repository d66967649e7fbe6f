"""Access lists and rates: what is written reads back as the same, and no text is half understood."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.policy import policy_of
from swarmpy.errors import InvalidArgument
from swarmpy.model import endpoint_policy as ep
from swarmpy.model.discovery import NetworkService
from swarmpy.model.endpoint_policy import Policy, Rule

_port = st.integers(1, 65_535)
_ports = st.one_of(
    _port.map(str),
    st.tuples(_port, _port)
    .filter(lambda pair: pair[0] != pair[1])
    .map(lambda pair: f"{min(pair)}-{max(pair)}"),
)
_network = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)),
).map(lambda pair: str(ip_network(f"{pair[0]}/{pair[1]}", strict=False)))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    protocol = draw(st.sampled_from(["", *ep.PROTOCOLS]))
    ports: tuple[str, ...] = ()
    if protocol in ep.PORT_PROTOCOLS:
        ports = tuple(draw(st.lists(_ports, max_size=3, unique=True)))
    return Rule(
        action=draw(st.sampled_from([ep.ALLOW, ep.DENY])),
        direction=draw(st.sampled_from([ep.IN, ep.OUT])),
        protocol=protocol,
        ports=ports,
        address=draw(st.one_of(st.just(""), _network)),
    )


@given(st.lists(rules(), max_size=8).map(tuple), st.sampled_from(["\n", ";", " ; ", "\n\n  "]))
def test_what_is_written_reads_back(wanted: tuple[Rule, ...], between: str) -> None:
    text = ep.write(wanted)
    assert ep.parse(text) == wanted
    assert ep.parse(between.join(text.splitlines())) == wanted


_WORDS = ("allow", "deny", "in", "out", "tcp", "80", "any", "from", "to", "10.0.0.0/8")


@given(st.text(max_size=40) | st.lists(st.sampled_from(_WORDS)).map(" ".join))
def test_any_text_is_understood_wholly_or_refused(text: str) -> None:
    """Anything but InvalidArgument, or a rule that got lost, fails."""
    try:
        found = ep.parse(text)
    except InvalidArgument:
        return
    assert ep.parse(ep.write(found)) == found
    assert len(found) == sum(1 for line in text.splitlines() for part in line.split(";") if part.strip())


@given(st.integers(ep.RATE_BPS_MIN, ep.RATE_BPS_MAX))
def test_rates_read_back(rate: int) -> None:
    assert ep.parse_rate(ep.write_rate(rate)) == rate


@given(st.lists(rules(), max_size=4).map(tuple), st.sampled_from([0, 8_000, 10_000_000]))
def test_what_managers_send_is_what_agents_have(wanted: tuple[Rule, ...], rate: int) -> None:
    labels = {ep.label("blue", ep.ACL): ep.write(wanted), ep.label("*", ep.ACL): "deny in; deny out"}
    if rate:
        labels[ep.label("*", ep.RATE_IN)] = ep.write_rate(rate)
    ep.check_labels(labels)
    made = ep.policy_of(labels, "blue")
    sent = NetworkService(acl=ep.write(made.rules), rate_in_bps=made.rate_in_bps)
    policy = Policy(rules=wanted, rate_in_bps=rate)
    assert policy_of(sent) == (None if policy == ep.UNRESTRICTED else policy)
    assert ep.policy_of(labels, "red").rules == ep.CLOSED.rules


def test_a_record_that_cannot_be_read_closes() -> None:
    policy = policy_of(NetworkService(acl="deny in wormhole"))
    assert policy is not None
    assert policy.rules == ep.CLOSED.rules


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("drop in", 'it begins with "drop"'),
        ("deny", "comes the direction"),
        ("deny in 22", "ports need a protocol"),
        ("deny in icmp 8", "ports need a protocol"),
        ("deny in tcp 0", "not within 1 and 65535"),
        ("deny in tcp 90-80", "the lower port first"),
        ("deny in tcp 22 to 10.0.0.0/8", '"in" goes with "from"'),
        ("deny out tcp 22 to", "needs an address"),
        ("deny in from 10.0.0.1/8", "is no address or subnet"),
        ("deny in tcp 22 please", '"please" is out of place'),
    ],
)
def test_a_slip_names_the_line(line: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid network policy rule") as found:
        ep.parse(f"allow in\n{line}")
    assert f'"{line}"' in str(found.value)
    assert reason in str(found.value)


@pytest.mark.parametrize(
    "labels",
    [
        {"swarmpy.network.blue.acls": "deny in"},
        {"swarmpy.network.acl": "deny in"},
        {"swarmpy.network.blue.acl": "deny all"},
        {"swarmpy.network.blue.rate-in": "fast"},
        {"swarmpy.network.blue.rate-out": "1bit"},
    ],
)
def test_labels_that_make_no_sense_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="label"):
        ep.check_labels(labels)
