"""Variables in values: ``$NAME``, ``${NAME}`` and its forms with a default, an error or an alternative.

Every text value is looked through, keys are not; ``x-…`` sections at the top are left alone. Words after an
operator may hold variables themselves and are read only if they are used, so ``${A:-${B:?no B}}`` asks for B
only without an A. What a number or a flag is written in may come from a variable: types are looked at later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Variables
from dataclasses import dataclass, field
from typing import Final

from swarmpy.compose.limits import COMPOSE_DEFAULTS_DEPTH_MAX, COMPOSE_VALUE_CHARS_MAX
from swarmpy.compose.tree import ComposeError, Mapping, Node, Place, Scalar, Sequence

_NAME: Final = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")
_DOLLAR: Final = re.compile(r"\$")
_ENDS: Final = re.compile(r"[$}]")
_OPERATOR: Final = re.compile(r":?[-?+]")


@dataclass(frozen=True, slots=True)
class Interpolated:
    """``unset`` are the variables that are missing and have no default, with the first place of each."""

    tree: Mapping
    unset: dict[str, Place]


def interpolate(tree: Mapping, variables: Variables[str, str]) -> Interpolated:
    filler = _Filler(variables)
    items = {
        key: node if key.startswith("x-") or key == "version" else filler.fill(node, key)
        for key, node in tree.items.items()
    }
    return Interpolated(tree.with_items(items), filler.unset)


def substitute(text: str, variables: Variables[str, str]) -> str:
    """One value. Raises ``ValueError`` with the reason."""
    return _Template(text, variables).whole()


@dataclass(slots=True)
class _Filler:
    variables: Variables[str, str]
    unset: dict[str, Place] = field(default_factory=dict)

    def fill(self, node: Node, path: str) -> Node:
        match node:
            case Mapping(items=items):
                return node.with_items({key: self.fill(item, f"{path}.{key}") for key, item in items.items()})
            case Sequence(items=items):
                return Sequence(
                    tuple(self.fill(item, f"{path}.{number}") for number, item in enumerate(items)),
                    node.place,
                )
            case Scalar(value=str(text)) if "$" in text:
                return self._filled(text, node.place, path)
        return node

    def _filled(self, text: str, place: Place, path: str) -> Scalar:
        template = _Template(text, self.variables)
        try:
            value = template.whole()
        except _Missing as error:
            raise ComposeError(place, f"{path}: {error}") from None
        except ValueError as error:
            reason = str(error)
            raise ComposeError(
                place,
                f'invalid interpolation format for {path}: "{text}"; {reason}',
            ) from None
        for name in template.unset:
            self.unset.setdefault(name, place)
        return Scalar(value, place)


class _Missing(ValueError):
    """A variable that is required has no value."""


class _Template:
    """A cursor over one text."""

    def __init__(self, text: str, variables: Variables[str, str]) -> None:
        self.unset: list[str] = []
        self._text = text
        self._at = 0
        self._variables = variables
        self._chars = 0

    def whole(self) -> str:
        return self._word(depth=0, is_used=True)

    def _word(self, *, depth: int, is_used: bool) -> str:
        """Up to the end, or inside braces up to the brace that closes them."""
        if depth > COMPOSE_DEFAULTS_DEPTH_MAX:
            raise ValueError(f"defaults are nested more than {COMPOSE_DEFAULTS_DEPTH_MAX} deep")
        text, parts = self._text, []
        while self._at < len(text):
            mark = (_ENDS if depth else _DOLLAR).search(text, self._at)
            end = mark.start() if mark is not None else len(text)
            parts.append(text[self._at : end])
            self._at = end
            if end == len(text):
                break
            if text[end] == "}":
                return "".join(parts)
            self._at += 1
            parts.append(self._variable(depth, is_used))
            self._chars += len(parts[-1])
            if self._chars > COMPOSE_VALUE_CHARS_MAX:
                raise ValueError(f"the value grows longer than {COMPOSE_VALUE_CHARS_MAX} characters")
        if depth:
            raise _malformed()
        return "".join(parts)

    def _variable(self, depth: int, is_used: bool) -> str:
        """What stands after a dollar sign."""
        follows = self._text[self._at : self._at + 1]
        if follows == "$":
            self._at += 1
            return "$"
        if follows != "{":
            return self._value(self._name(), is_used)
        self._at += 1
        name = self._name()
        operator = _OPERATOR.match(self._text, self._at)
        if operator is None:
            self._close()
            return self._value(name, is_used)
        self._at = operator.end()
        value = self._variables.get(name)
        has_value = bool(value) if operator[0].startswith(":") else value is not None
        takes_word = has_value if operator[0].endswith("+") else not has_value
        word = self._word(depth=depth + 1, is_used=is_used and takes_word)
        self._close()
        if takes_word and operator[0].endswith("?") and is_used:
            raise _Missing(f"required variable {name} is missing a value: {word}")
        if operator[0].endswith("+"):
            return word if takes_word else ""
        return word if takes_word else value or ""

    def _value(self, name: str, is_used: bool) -> str:
        if is_used and name not in self._variables and name not in self.unset:
            self.unset.append(name)
        return self._variables.get(name, "")

    def _name(self) -> str:
        match = _NAME.match(self._text, self._at)
        if match is None:
            raise _malformed()
        self._at = match.end()
        return match[0]

    def _close(self) -> None:
        if self._text[self._at : self._at + 1] != "}":
            raise _malformed()
        self._at += 1


def _malformed() -> ValueError:
    return ValueError("you may need to escape any $ with another $")
