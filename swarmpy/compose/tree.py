"""What a Compose document consists of: values that know their file and line, and the errors that name them.

A tree is immutable and compares by content alone: where something was written is no part of what it says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, TypeAlias

from swarmpy.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file; lines count from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class ComposeError(InvalidArgument):
    """A Compose file cannot be used as it stands. The text names file and line, and what to write instead."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(f"{place}: {message}")
        self.place = place
        self.message = message


@dataclass(frozen=True, slots=True)
class Scalar:
    value: str | int | float | bool | None
    place: Place = field(compare=False)


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]
    place: Place = field(compare=False)


@dataclass(frozen=True, slots=True)
class Mapping:
    """``key_places`` says where each key stands, not its value. ``key_tags`` says of a key that a document
    before this one has no say in its value: OVERRIDE, or RESET, when there is to be none at all."""

    items: dict[str, Node]
    place: Place = field(compare=False)
    key_places: dict[str, Place] = field(compare=False, default_factory=dict)
    key_tags: dict[str, str] = field(compare=False, default_factory=dict)

    def at(self, key: str) -> Place:
        return self.key_places.get(key, self.place)

    def get(self, key: str) -> Node | None:
        """The value, or None where the key is missing or has no value."""
        node = self.items.get(key)
        return None if isinstance(node, Scalar) and node.value is None else node

    def with_items(self, items: dict[str, Node]) -> Mapping:
        return Mapping(items, self.place, self.key_places, self.key_tags)


Node: TypeAlias = Scalar | Sequence | Mapping

EMPTY_PLACE: Final = Place("<nowhere>", 0)
RESET: Final = "!reset"
OVERRIDE: Final = "!override"


def without_resets(node: Node) -> Node:
    """Without the keys that were to be reset."""
    match node:
        case Mapping():
            return node.with_items(
                {
                    key: without_resets(item)
                    for key, item in node.items.items()
                    if node.key_tags.get(key) != RESET
                }
            )
        case Sequence(items=items):
            return Sequence(tuple(without_resets(item) for item in items), node.place)
    return node


def kind_of(node: Node) -> str:
    """For messages."""
    match node:
        case Mapping():
            return "a map"
        case Sequence():
            return "a list"
        case Scalar(value=None):
            return "nothing"
        case Scalar(value=bool()):
            return "true or false"
        case Scalar(value=int() | float()):
            return "a number"
    return "text"


def text_of(value: str | int | float | bool | None) -> str:
    """A scalar as docker writes it where text is wanted: 1.50 is ``1.5``, 1e30 is ``1e+30``."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return _float_text(value)
    return str(value)


def _float_text(value: float) -> str:
    """As few digits as say the number; with an exponent from a million on, and below 0.0001."""
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    if value == 0:
        return "-0" if sign else "0"
    power = len(digits) + int(exponent) - 1
    if -5 < power < 6:
        return repr(value).removesuffix(".0")
    first, *rest = map(str, digits)
    return f"{'-' * sign}{first}{'.' * bool(rest)}{''.join(rest)}e{power:+03d}"
