"""What of a node placement may be asked about: the one place that knows which key means which field.

A key is written in any case but for a label's name. What a node does not say is "": a label that it does not
have, an address that is not known.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from swarmpy.model.objects import Node

NODE_LABEL_PREFIX: Final = "node.labels."
ENGINE_LABEL_PREFIX: Final = "engine.labels."
ADDRESS_KEY: Final = "node.ip"
ARCHITECTURE_KEY: Final = "node.platform.arch"
AMOUNT_KEYS: Final = ("node.cpus", "node.memory")
TEXT_KEYS: Final = ("node.id", "node.hostname", "node.role", "node.platform.os", "node.executor")

_CPU_NANOS: Final = 1_000_000_000


def text_of(key: str, node: Node) -> str | None:
    """The text under the key; None if there is no such key."""
    match key.lower():
        case "node.id":
            return node.id
        case "node.hostname":
            return node.description.hostname
        case "node.role":
            return node.role
        case "node.platform.os":
            return node.description.platform.os
        case "node.executor":
            return node.description.engine.executor
        case _:
            return label_of(key, node)


def label_of(descriptor: str, node: Node) -> str | None:
    """The value of ``node.labels.NAME`` or ``engine.labels.NAME``; "" if the node has no such label.

    None if the descriptor is no label's.
    """
    lowered = descriptor.lower()
    if lowered.startswith(NODE_LABEL_PREFIX) and len(descriptor) > len(NODE_LABEL_PREFIX):
        return node.spec.labels.get(descriptor[len(NODE_LABEL_PREFIX) :], "")
    if lowered.startswith(ENGINE_LABEL_PREFIX) and len(descriptor) > len(ENGINE_LABEL_PREFIX):
        return node.description.engine.labels.get(descriptor[len(ENGINE_LABEL_PREFIX) :], "")
    return None


def is_label(key: str) -> bool:
    lowered = key.lower()
    return any(
        lowered.startswith(prefix) and len(lowered) > len(prefix)
        for prefix in (NODE_LABEL_PREFIX, ENGINE_LABEL_PREFIX)
    )


def has_label(key: str, node: Node) -> bool:
    """Whether the node has the label at all, be its value empty."""
    if key.lower().startswith(NODE_LABEL_PREFIX):
        return key[len(NODE_LABEL_PREFIX) :] in node.spec.labels
    return key[len(ENGINE_LABEL_PREFIX) :] in node.description.engine.labels


def amount_of(key: str, node: Node) -> int | float | None:
    """What the node has of ``node.cpus`` or ``node.memory`` (bytes), or a label that is a number."""
    match key.lower():
        case "node.cpus":
            return node.description.resources.nano_cpus / _CPU_NANOS
        case "node.memory":
            return node.description.resources.memory_bytes
        case _:
            return number(label_of(key, node) or "")


def number(text: str) -> int | float | None:
    """A decimal number, such as 4, -1 or 2.5; None if it is none."""
    digits = text.strip().removeprefix("-")
    whole, point, part = digits.partition(".")
    if not all(each.isascii() and each.isdigit() for each in ((whole, part) if point else (whole,))):
        return None
    if len(digits) > _NUMBER_CHARS_MAX:
        return None
    return float(text) if point else int(text)


_NUMBER_CHARS_MAX: Final = 40
"""Of a label that is taken for a number; there is no bound on what a label may be."""


def is_within(network: str, addr: str) -> bool | None:
    """Whether the address is the one named, or within the network; None if none is named."""
    try:
        wanted = ipaddress.ip_network(network, strict=False)
    except ValueError:
        return None
    try:
        return ipaddress.ip_address(addr) in wanted
    except ValueError:
        return False
