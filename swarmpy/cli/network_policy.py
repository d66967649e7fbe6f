"""``--network-policy``, ``--network-rate-in``, ``--network-rate-out``: labels of a service, for short. Pure.

Each value may begin with ``NETWORK:``; without it stands for all networks that have none of their own.
``--network-policy`` may be given several times, a rule each, in order. What ``update`` is given for a network
replaces what the network had; an empty value takes it away.
"""

from __future__ import annotations

import re
from typing import Final

from swarmpy.cli.flags import Options, UsageError, listed
from swarmpy.client import Json
from swarmpy.errors import InvalidArgument

POLICY_FLAGS: Final = (
    listed(
        "network-policy", "Access rule of the tasks' endpoints ([NETWORK:]deny in tcp 22 from 10.0.0.0/8)"
    ),
    listed("network-rate-in", "Cap on what each task receives ([NETWORK:]10mbit)"),
    listed("network-rate-out", "Cap on what each task sends ([NETWORK:]10mbit)"),
)
_NETWORK: Final = re.compile(r"([a-zA-Z0-9_-]+|\*):(.*)", re.DOTALL)
_KEYS: Final = {"network-policy": "acl", "network-rate-in": "rate-in", "network-rate-out": "rate-out"}
_ALL_NETWORKS: Final = "*"


def apply_policy(spec: Json, options: Options) -> None:
    """Set the labels that the flags stand for."""
    if not any(options.many(flag) for flag in _KEYS):
        return
    from swarmpy.model import endpoint_policy  # here, so that commands without policies start fast

    labels = dict(spec.get("Labels") or {})
    for flag, key in _KEYS.items():
        for network, values in _by_network(options.many(flag)).items():
            name = endpoint_policy.label(network, key)
            text = _checked(flag, key, [value for value in values if value])
            if text:
                labels[name] = text
            else:
                labels.pop(name, None)
    if labels != (spec.get("Labels") or {}):
        spec["Labels"] = labels


def _by_network(values: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for value in values:
        match = _NETWORK.fullmatch(value)
        network, text = (match[1], match[2]) if match is not None else (_ALL_NETWORKS, value)
        found.setdefault(network, []).append(text.strip())
    return found


def _checked(flag: str, key: str, values: list[str]) -> str:
    """What goes into the label; a slip is told before anything is sent."""
    from swarmpy.model import endpoint_policy  # here, so that commands without policies start fast

    try:
        if key == endpoint_policy.ACL:
            return endpoint_policy.write(endpoint_policy.parse("\n".join(values)))
        if len(values) > 1:
            raise UsageError(f"--{flag} was given twice for one network: {', '.join(values)}")
        return endpoint_policy.write_rate(endpoint_policy.parse_rate(values[0])) if values else ""
    except InvalidArgument as error:
        raise UsageError(f'invalid argument "{"; ".join(values)}" for "--{flag}" flag: {error}') from None
