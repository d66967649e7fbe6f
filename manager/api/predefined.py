"""The networks that every node has by itself: ``bridge``, ``host`` and ``none``. No object stands for them.

They have the same ids on every node, so that a client may refer to one by what it was shown by another
manager. A spec names them by their name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from manager.api.docker_json import Json, rfc3339
from swarmpy.model.ids import Timestamp

ID_PREFIX_CHARS_MIN: Final = 4
"""Shorter beginnings of an id are not looked for: the swarm's own networks go first."""


@dataclass(frozen=True)
class Predefined:
    name: str
    driver: str

    @property
    def id(self) -> str:
        return hashlib.sha256(f"predefined network {self.name}".encode()).hexdigest()

    def is_in(self, scope: str) -> bool:
        """Clients look in the swarm's scope, too, for what a service may be on."""
        return scope in ("", "local") or (scope == "swarm" and self.name != "none")


PREDEFINED: Final = {
    network.name: network
    for network in (Predefined("bridge", "bridge"), Predefined("host", "host"), Predefined("none", "null"))
}
PREDEFINED_LABEL: Final = "com.docker.swarm.predefined"


def find_predefined(reference: str) -> Predefined | None:
    """By name, id, or the beginning of an id."""
    found = PREDEFINED.get(reference)
    if found is not None:
        return found
    if len(reference) < ID_PREFIX_CHARS_MIN:
        return None
    return next((each for each in PREDEFINED.values() if each.id.startswith(reference)), None)


def shape(network: Predefined, *, scope: str = "local") -> Json:
    """In the swarm's scope its id is what specs name it by: clients put that in, and look for it there."""
    is_swarms = scope == "swarm"
    labels = {PREDEFINED_LABEL: "true"} if is_swarms else {}
    return {
        "Name": network.name,
        "Id": network.name if is_swarms else network.id,
        "Created": rfc3339(Timestamp(0)),
        "Scope": scope,
        "Driver": network.driver,
        "EnableIPv6": False,
        "IPAM": {"Driver": "" if is_swarms else "default", "Options": None, "Config": []},
        "Internal": False,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None if is_swarms else {},
        "Options": None if is_swarms else {},
        "Labels": labels,
    }
