"""Files of variables: ``.env`` beside a stack, the files of ``env_file`` and ``label_file``. Pure.

Two readings. ``entries`` is Compose's: quotes, escapes, comments after a value, variables in values.
``raw_entries`` is the engine's: what stands after the equals sign is the value.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterator
from collections.abc import Mapping as Variables
from dataclasses import dataclass
from typing import Final

from swarmpy.compose.interpolate import substitute
from swarmpy.compose.tree import ComposeError, Place

_BLANK: Final = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_NAME: Final = re.compile(r"[ \t]*(?:export[ \t]+)?([^\s=#'\"]+)[ \t]*(=?)[ \t]*")
_SINGLE: Final = re.compile(r"'([^']*)'")
_DOUBLE: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PLAIN: Final = re.compile(r"[^\n]*")
_COMMENT: Final = re.compile(r"(?:^|[ \t])#.*")
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "r": "\r", "t": "\t", "$": "$$"}


@dataclass(frozen=True, slots=True)
class Entry:
    """``value`` None: the name alone was given, and what it is comes from elsewhere."""

    name: str
    value: str | None
    place: Place


def variables_of(text: str, file: str, variables: Variables[str, str]) -> dict[str, str]:
    """What a ``.env`` file adds; ``variables`` go first, and may be used in values."""
    return {entry.name: entry.value for entry in entries(text, file, variables) if entry.value is not None}


def entries(text: str, file: str, variables: Variables[str, str]) -> Iterator[Entry]:
    """As Compose reads such a file. A later value may use an earlier one."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    found: dict[str, str] = {}
    known = ChainMap(found, dict(variables))
    at, line = 0, 1
    while at < len(text):
        begin, place = at, Place(file, line)
        blank = _BLANK.match(text, at)
        if blank is not None:
            at = blank.end()
        else:
            name = _NAME.match(text, at)
            if name is None:
                raise ComposeError(place, "this line sets no variable: write NAME=value")
            value, at = None, name.end()
            if name[2]:
                value, at = _value(text, at, place, known)
                found[name[1]] = variables.get(name[1], value)
            at = _ended(text, at, place)
            yield Entry(name[1], value, place)
        line += text.count("\n", begin, at)


def _value(text: str, at: int, place: Place, known: Variables[str, str]) -> tuple[str, int]:
    quote = text[at : at + 1]
    if quote not in ("'", '"'):
        plain = _PLAIN.match(text, at)
        assert plain is not None
        return _filled(_COMMENT.sub("", plain[0]).strip(), place, known), plain.end()
    match = (_SINGLE if quote == "'" else _DOUBLE).match(text, at)
    if match is None:
        raise ComposeError(place, f"the value has no closing {quote}: write it behind the value")
    if quote == "'":
        return match[1], match.end()
    unescaped = _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), match[1])
    return _filled(unescaped, place, known), match.end()


def _filled(text: str, place: Place, known: Variables[str, str]) -> str:
    try:
        return substitute(text, known)
    except ValueError as error:
        raise ComposeError(
            place, f"the value cannot be read: {error}; in single quotes nothing is special"
        ) from None


def _ended(text: str, at: int, place: Place) -> int:
    blank = _BLANK.match(text, at)
    if blank is None:
        rest = text[at:].partition("\n")[0].strip()
        raise ComposeError(place, f'"{rest}" stands behind the value: put all of the value into quotes')
    return blank.end()


def raw_entries(text: str, file: str) -> Iterator[Entry]:
    """As ``docker stack deploy`` and ``docker run --env-file`` read such a file."""
    for number, whole in enumerate(text.splitlines(), start=1):
        line = whole.strip()
        if line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            place = Place(file, number)
            if not name or any(space in name for space in " \t"):
                raise ComposeError(place, f"the variable '{name}' contains whitespaces: write NAME=value")
            yield Entry(name, value if equals else None, place)
