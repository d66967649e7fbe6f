"""Constraints beyond swarm mode's two operators::

    KEY in (a, b)       KEY not in (a, b)      one of the values, as == would find it; none of them
    KEY > 4             also >=, <, <=         a label that is a number, node.cpus or node.memory (8g)
    exists(LABEL)       !exists(LABEL)         whether the node has the label, be it empty

None of them can be one of swarm mode's: those all have ``==`` or ``!=`` in them, and what has is never looked
at here. Unlike those, a key that does not exist is refused: it could only be a typing error.

A label that is missing is "" for ``in``, as it is for ``==``. In a comparison a label that is missing, or is
no number, matches nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from manager.schedule.node_facts import (
    ADDRESS_KEY,
    AMOUNT_KEYS,
    ARCHITECTURE_KEY,
    TEXT_KEYS,
    amount_of,
    has_label,
    is_label,
    is_within,
    number,
    text_of,
)
from swarmpy.errors import InvalidArgument
from swarmpy.model import quantities
from swarmpy.model.architectures import normal_architecture
from swarmpy.model.objects import Node

_KEY: Final = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE | re.ASCII)
_VALUE: Final = re.compile(r"[a-z0-9:\-_\s.*?+\[\]\\^$|/]+", re.IGNORECASE | re.ASCII)
_COMPARISON: Final = re.compile(r"<=|>=|<|>")
_IN: Final = re.compile(r"\bin\b", re.IGNORECASE)
_EXISTS: Final = re.compile(r"\bexists\b", re.IGNORECASE)
_SHOWN_CHARS_MAX: Final = 100

FORMS: Final = "KEY in (a, b), KEY not in (a, b), KEY > 4 (or >=, <, <=), exists(LABEL) or !exists(LABEL)"


@dataclass(frozen=True, slots=True)
class OneOf:
    """``KEY in (…)``; ``is_wanted`` False: ``not in``. Values are lowered, architectures normal."""

    key: str
    is_wanted: bool
    values: tuple[str, ...]

    def matches(self, node: Node) -> bool:
        return self._is_one(node) == self.is_wanted

    def _is_one(self, node: Node) -> bool:
        match self.key.lower():
            case "node.ip":
                return any(is_within(value, node.status.addr) for value in self.values)
            case "node.platform.arch":
                return normal_architecture(node.description.platform.architecture) in self.values
            case _:
                return (text_of(self.key, node) or "").lower() in self.values


@dataclass(frozen=True, slots=True)
class Comparison:
    key: str
    operator: str
    limit: int | float

    def matches(self, node: Node) -> bool:
        amount = amount_of(self.key, node)
        if amount is None:
            return False
        match self.operator:
            case ">":
                return amount > self.limit
            case ">=":
                return amount >= self.limit
            case "<":
                return amount < self.limit
            case _:
                return amount <= self.limit


@dataclass(frozen=True, slots=True)
class Existence:
    key: str
    is_wanted: bool

    def matches(self, node: Node) -> bool:
        return has_label(self.key, node) == self.is_wanted


Predicate = OneOf | Comparison | Existence


def parse_predicate(expression: str) -> Predicate | None:
    """One of ours, or None if the expression does not look like one.

    InvalidArgument if it does, and is none: the text says what to write.
    """
    head, _, rest = expression.strip().partition("(")
    words = head.split()
    if "".join(words).lower() in ("exists", "!exists"):
        return _existence(expression, rest, is_wanted="!" not in head)
    if len(words) in (2, 3) and words[-1].lower() == "in":
        if len(words) == 3 and words[1].lower() != "not":
            raise _malformed(expression)
        return _one_of(expression, words[0], rest, is_wanted=len(words) == 2)
    found = _COMPARISON.search(expression)
    if found is not None:
        return _comparison(expression, found)
    if _EXISTS.search(expression) or _IN.search(expression):
        raise _malformed(expression)
    return None


def _existence(expression: str, rest: str, *, is_wanted: bool) -> Existence:
    key, closed, more = rest.partition(")")
    key = key.strip()
    if not closed or more.strip():
        raise _malformed(expression)
    if not _KEY.fullmatch(key) or not is_label(key):
        raise InvalidArgument(
            f"constraint '{_shown(expression)}' is invalid: exists asks for a label: "
            "write exists(node.labels.NAME) or exists(engine.labels.NAME)"
        )
    return Existence(key, is_wanted)


def _one_of(expression: str, key: str, rest: str, *, is_wanted: bool) -> OneOf:
    body, closed, more = rest.partition(")")
    if not closed or more.strip():
        raise _malformed(expression)
    values = [value.strip() for value in body.split(",")]
    for value in values:
        if not _VALUE.fullmatch(value):
            raise InvalidArgument(
                f"constraint '{_shown(expression)}' is invalid: the value '{_shown(value)}' cannot be used: "
                "write values of letters, digits and :-_./ with commas between them"
            )
    lowered = key.lower()
    if lowered == ARCHITECTURE_KEY:
        return OneOf(key, is_wanted, tuple(normal_architecture(value) for value in values))
    if lowered == ADDRESS_KEY:
        for value in values:
            if is_within(value, "") is None:
                raise InvalidArgument(
                    f"constraint '{_shown(expression)}' is invalid: '{_shown(value)}' is no address: "
                    "write addresses or networks such as 10.1.0.0/16"
                )
    elif lowered not in TEXT_KEYS and not (is_label(key) and _KEY.fullmatch(key)):
        keys = ", ".join((*TEXT_KEYS, ARCHITECTURE_KEY, ADDRESS_KEY))
        raise _unknown_key(expression, key, f"{keys}, node.labels.NAME or engine.labels.NAME")
    return OneOf(key, is_wanted, tuple(value.lower() for value in values))


def _comparison(expression: str, found: re.Match[str]) -> Comparison:
    key = expression[: found.start()].strip()
    text = expression[found.end() :].strip()
    if not key or not text or _COMPARISON.search(text):
        raise _malformed(expression)
    lowered = key.lower()
    if lowered not in AMOUNT_KEYS and not (is_label(key) and _KEY.fullmatch(key)):
        keys = f"{', '.join(AMOUNT_KEYS)}, node.labels.NAME or engine.labels.NAME"
        raise _unknown_key(expression, key, keys)
    limit = number(text)
    if limit is None and lowered == "node.memory":
        try:
            limit = quantities.memory_bytes(text)
        except InvalidArgument:
            limit = None
    if limit is None:
        example = (
            "a number of bytes or a size such as 8g" if lowered == "node.memory" else "a number such as 4"
        )
        raise InvalidArgument(
            f"constraint '{_shown(expression)}' is invalid: '{_shown(text)}' is no number: write {example}"
        )
    return Comparison(key, found.group(), limit)


def _unknown_key(expression: str, key: str, keys: str) -> InvalidArgument:
    return InvalidArgument(
        f"constraint '{_shown(expression)}' is invalid: it cannot ask for '{_shown(key)}': use {keys}"
    )


def _malformed(expression: str) -> InvalidArgument:
    return InvalidArgument(f"constraint '{_shown(expression)}' is invalid: write {FORMS}")


def _shown(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "…"
