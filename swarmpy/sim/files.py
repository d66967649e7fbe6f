"""Secrets and configs of simulated users: who uses them how, and what they are renewed with.

Of the services a third uses none, a third pins them, so that newer data roll it, and a third has them
reloaded. Which a service is follows from its name: every client knows it alike.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

Json = dict[str, Any]

FILES: Final = (("secret", "word"), ("config", "page"))
"""Kind and name. There are few, so that services share them."""
_SIGNALS: Final = {"word": "HUP", "page": "USR1"}


def data(name: str, number: int) -> Json:
    """The body of an update of its data."""
    return {"Data": b64encode(f"{name} {number}".encode()).decode()}


def new(name: str) -> Json:
    return {"Name": name, **data(name, 1)}


def references(service: str, ids: dict[str, str]) -> Json:
    """What the service's container says of files; ``ids`` by name, of those that could be created."""
    kind_of_use = int(service.rpartition("-")[2] or 0) % 3 if service[-1:].isdecimal() else 0
    if kind_of_use == 0:
        return {}
    found: Json = {}
    for kind, name in FILES:
        if name not in ids:
            continue
        noun = kind.capitalize()
        reference: Json = {f"{noun}ID": ids[name], f"{noun}Name": name, "File": {"Name": name}}
        if kind_of_use == 2:
            reference["ReloadSignal"] = _SIGNALS[name]
        found[f"{noun}s"] = [reference]
    return found
