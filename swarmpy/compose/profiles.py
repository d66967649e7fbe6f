"""Services that are there only when one of their profiles is asked for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from swarmpy.compose.fields import Fields
from swarmpy.compose.tree import Mapping

EVERY: Final = "*"


def active(document: Mapping, profiles: Collection[str]) -> Mapping:
    """The document with the services that are wanted. What waits for one that is not is an error."""
    services = document.get("services")
    if not isinstance(services, Mapping):
        return document
    asked = {name: fields.texts("profiles") for name, fields in Fields(document, "").each("services")}
    if not any(asked.values()):
        return document
    left_out = {
        name: wanted
        for name, wanted in asked.items()
        if wanted and EVERY not in profiles and not set(wanted) & set(profiles)
    }
    kept = {name: node for name, node in services.items.items() if name not in left_out}
    document = document.with_items({**document.items, "services": services.with_items(kept)})
    for _, fields in Fields(document, "").each("services"):
        for name, dependency in fields.each("depends_on"):
            if name in left_out and dependency.flag("required") is not False:
                raise fields.error(
                    "depends_on",
                    f'names "{name}", which is only there with --profile {left_out[name][0]}: give that '
                    "option, or write required: false",
                )
    return document
