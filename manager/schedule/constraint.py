"""Placement constraints: parse ``key==value`` and ``key!=value``, and match them against a node.

Keys: ``node.id``, ``node.hostname``, ``node.ip`` (address or CIDR), ``node.role``, ``node.platform.os``,
``node.platform.arch``, ``node.labels.NAME``, ``engine.labels.NAME``, all but the label's NAME in any case.
Values are compared whole, in any case; there are no globs. A key that is none of these parses and never
matches, whatever the operator, as in swarm mode. Error texts are swarm mode's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from swarmpy.errors import InvalidArgument
from swarmpy.model.objects import Node

NODE_LABEL_PREFIX: Final = "node.labels."
ENGINE_LABEL_PREFIX: Final = "engine.labels."

_OPERATORS: Final = ("==", "!=")
_KEY: Final = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE | re.ASCII)
_VALUE: Final = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE | re.ASCII)

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Constraint:
    """One parsed expression. ``key`` is as the user wrote it: a label's name keeps its case."""

    key: str
    is_equal: bool
    value: str


def parse_constraints(expressions: Iterable[str]) -> tuple[Constraint, ...]:
    """All expressions, or ``InvalidArgument`` with swarm mode's text for the first that does not parse."""
    return tuple(_parse(expression) for expression in expressions)


def _parse(expression: str) -> Constraint:
    for operator in _OPERATORS:
        key, found, value = expression.partition(operator)
        if not found:
            continue
        key, value = key.strip(), value.strip()
        if not _KEY.fullmatch(key):
            raise InvalidArgument(f"key '{key}' is invalid")
        if not _VALUE.fullmatch(value):
            raise InvalidArgument(f"value '{value}' is invalid")
        return Constraint(key, operator == "==", value)
    raise InvalidArgument(f"constraint expected one operator from {', '.join(_OPERATORS)}")


def is_match(constraints: Iterable[Constraint], node: Node) -> bool:
    """Whether the node meets all of them."""
    return all(_matches(constraint, node) for constraint in constraints)


def _matches(constraint: Constraint, node: Node) -> bool:
    key = constraint.key.lower()
    if key == "node.ip":
        return _matches_address(constraint, node.status.addr)
    if key == "node.platform.arch":
        actual = normal_architecture(node.description.platform.architecture)
        return (actual == normal_architecture(constraint.value)) == constraint.is_equal
    actual_value = _value_of(key, constraint.key, node)
    if actual_value is None:
        return False
    return (actual_value.lower() == constraint.value.lower()) == constraint.is_equal


def _value_of(key: str, key_as_written: str, node: Node) -> str | None:
    match key:
        case "node.id":
            return node.id
        case "node.hostname":
            return node.description.hostname
        case "node.role":
            return node.role
        case "node.platform.os":
            return node.description.platform.os
        case _:
            return label_of(key_as_written, node)


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


def _matches_address(constraint: Constraint, addr: str) -> bool:
    """A constraint whose value is neither address nor network never matches, not even with ``!=``."""
    try:
        network = ipaddress.ip_network(constraint.value, strict=False)
    except ValueError:
        return False
    try:
        is_inside = ipaddress.ip_address(addr) in network
    except ValueError:
        is_inside = False
    return is_inside == constraint.is_equal


def normal_architecture(architecture: str) -> str:
    """One name per architecture: images and kernels name the same ones differently."""
    lowered = architecture.lower()
    return _ARCHITECTURES.get(lowered, lowered)
