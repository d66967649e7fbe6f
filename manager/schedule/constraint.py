"""Placement constraints: parse ``key==value`` and ``key!=value``, and match them against a node.

Keys: ``node.id``, ``node.hostname``, ``node.ip`` (address or CIDR), ``node.role``, ``node.platform.os``,
``node.platform.arch``, ``node.executor``, ``node.labels.NAME``, ``engine.labels.NAME``, in any case but the
label's NAME.
Values are compared whole, in any case; there are no globs. A key that is none of these parses and never
matches, whatever the operator, as in swarm mode. Error texts are swarm mode's. An expression with neither
operator, which swarm mode refuses, may be one of ours (``predicates``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from manager.schedule.node_facts import is_within, text_of
from manager.schedule.predicates import Predicate, parse_predicate
from swarmpy.errors import InvalidArgument
from swarmpy.model.architectures import normal_architecture
from swarmpy.model.objects import Node

_OPERATORS: Final = ("==", "!=")
_KEY: Final = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE | re.ASCII)
_VALUE: Final = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Equality:
    """One parsed expression. ``key`` is as the user wrote it: a label's name keeps its case."""

    key: str
    is_equal: bool
    value: str

    def matches(self, node: Node) -> bool:
        match self.key.lower():
            case "node.ip":
                # a value that is neither address nor network never matches, not even with !=
                return is_within(self.value, node.status.addr) is self.is_equal
            case "node.platform.arch":
                actual = normal_architecture(node.description.platform.architecture)
                return (actual == normal_architecture(self.value)) == self.is_equal
            case _:
                text = text_of(self.key, node)
                if text is None:
                    return False
                return (text.lower() == self.value.lower()) == self.is_equal


Constraint = Equality | Predicate


def parse_constraints(expressions: Iterable[str]) -> tuple[Constraint, ...]:
    """All expressions, or ``InvalidArgument`` for the first that does not parse."""
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
        return Equality(key, operator == "==", value)
    ours = parse_predicate(expression)
    if ours is None:
        raise InvalidArgument(f"constraint expected one operator from {', '.join(_OPERATORS)}")
    return ours


def is_match(constraints: Iterable[Constraint], node: Node) -> bool:
    """Whether the node meets all of them."""
    return all(constraint.matches(node) for constraint in constraints)
