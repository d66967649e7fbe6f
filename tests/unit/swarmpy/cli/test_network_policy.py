"""Flags of network policies, and the labels that they stand for."""

from __future__ import annotations

from typing import Any

import pytest

from swarmpy.cli.flags import Options, UsageError
from swarmpy.cli.network_policy import POLICY_FLAGS, apply_policy

FLAGS = {flag.name: flag for flag in POLICY_FLAGS}


def labels(spec: dict[str, Any], **flags: list[str]) -> dict[str, str]:
    options = Options(FLAGS, {f"network-{name.replace('_', '-')}": values for name, values in flags.items()})
    apply_policy(spec, options)
    found: dict[str, str] = spec.get("Labels") or {}
    return found


def test_rules_of_a_network_stay_in_order() -> None:
    found = labels({}, policy=["web:allow in tcp 22 from 10.0.0.0/8", "deny out", "web:deny in tcp 22"])
    assert found == {
        "swarmpy.network.web.acl": "allow in tcp 22 from 10.0.0.0/8\ndeny in tcp 22",
        "swarmpy.network.*.acl": "deny out",
    }


def test_an_address_with_colons_is_no_network() -> None:
    assert labels({}, policy=["deny in from fd00::/8"]) == {"swarmpy.network.*.acl": "deny in from fd00::/8"}


def test_an_update_replaces_and_takes_away() -> None:
    spec = {"Labels": {"swarmpy.network.web.acl": "deny in", "swarmpy.network.*.rate-in": "1mbit", "x": "y"}}
    assert labels(spec, policy=["web:deny out"], rate_in=[""]) == {
        "swarmpy.network.web.acl": "deny out",
        "x": "y",
    }
    assert labels(spec, policy=["web:"], rate_out=["web:2500kbit"]) == {
        "swarmpy.network.web.rate-out": "2500kbit",
        "x": "y",
    }


def test_nothing_asked_for_is_nothing_changed() -> None:
    spec: dict[str, Any] = {}
    apply_policy(spec, Options(FLAGS))
    assert spec == {}


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"policy": ["drop in"]}, "begins with"),
        ({"rate_in": ["fast"]}, 'invalid rate "fast"'),
        ({"rate_in": ["1mbit", "2mbit"]}, "given twice"),
    ],
)
def test_a_slip_is_told(flags: dict[str, list[str]], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        labels({}, **flags)
