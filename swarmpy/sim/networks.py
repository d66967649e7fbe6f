"""The networks of simulated users: what they are made like, and how services take part in them.

One is so small that its addresses run out, so that tasks wait for each other's; some services ask for
addresses by name. One more comes and goes all the time, and nobody is on it. Some may be joined by tasks that
run.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

Json = dict[str, Any]

_TINY_SUBNET: Final = "10.77.0.0/29"
_PINNED: Final = "10.77.0.4,10.77.0.5,10.77.0.6"
NETWORKS: Final[dict[str, Json]] = {
    "front": {"Driver": "overlay", "Attachable": True},
    "back": {"Driver": "overlay", "EnableIPv6": True},
    "sealed": {"Driver": "overlay", "Options": {"encrypted": ""}},
    "tiny": {"Driver": "overlay", "Attachable": True, "IPAM": {"Config": [{"Subnet": _TINY_SUBNET}]}},
}
"""By name what they are created with."""
JOINABLE: Final = ("front", "tiny")
SPARE: Final[Json] = {"Name": "spare", "Driver": "overlay"}
_TINY: Final = "tiny"


def attachments(alias: str, dice: Random) -> list[Json]:
    """A service is on some of the networks, under an alias that others use as well."""
    found = []
    for target in dice.sample(list(NETWORKS), dice.choice([0, 0, 1, 1, 2])):
        attachment: Json = {"Target": target, "Aliases": [alias]}
        if target == _TINY and dice.random() < 0.3:
            attachment["DriverOpts"] = {"ipv4_address": _PINNED}
        found.append(attachment)
    return found


def endpoint_settings(dice: Random) -> Json:
    """How a running task is joined to one."""
    return {"Aliases": [dice.choice(["nick", "0-alias", "other"])]}


def endpoint_mode(dice: Random) -> str:
    """Of a service that publishes no port."""
    return dice.choice(["vip", "vip", "dnsrr"])
