"""Whether a document holds only keys that are known, of which it says what is ignored; see ``tables.py``.

A key that is in no table is an error that names the nearest one that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from swarmpy.compose.tables import TABLES, Fate, Key
from swarmpy.compose.tree import RESET, ComposeError, Mapping, Node, Place, Scalar, Sequence, kind_of


@dataclass(frozen=True, slots=True)
class Checked:
    """Keys that are ignored, with the place of each and the reason."""

    ignored: list[tuple[Place, str, str]] = field(default_factory=list)


_CLOSED: Final = frozenset({"x-swarmpy", *(table for table in TABLES if table.startswith("x-swarmpy "))})
"""Tables whose maps may hold nothing under x-… that is not in them."""


def check_keys(document: Mapping) -> Checked:
    """Raises for the first key that is unknown or refused."""
    checked = Checked()
    _check(document, "document", "", checked)
    return checked


def _check(node: Mapping, table: str, path: str, checked: Checked) -> None:
    known = TABLES[table]
    for name, value in node.items.items():
        place, key = node.at(name), known.get(name)
        if key is None and name.startswith("x-") and table not in _CLOSED:
            continue
        if key is None:
            raise ComposeError(place, _unknown(name, path, known))
        if key.fate is Fate.REFUSED:
            raise ComposeError(place, f"{path or 'the document'}: {name} is not supported: {key.note}")
        if key.fate is Fate.IGNORED:
            checked.ignored.append((place, f"{path}.{name}".lstrip("."), key.note))
        elif key.table:
            for inner, inner_path in _inner(value, key, f"{path}.{name}".lstrip(".")):
                _check(inner, key.table, inner_path, checked)


def _inner(value: Node, key: Key, path: str) -> Iterator[tuple[Mapping, str]]:
    """The maps below a key whose own keys are to be checked; other forms are looked at by their reader."""
    if key.each and isinstance(value, Mapping):
        for name, item in value.items.items():
            if isinstance(item, Mapping):
                yield item, f"{path}.{name}"
            elif value.key_tags.get(name) == RESET:
                continue
            elif key.table == "service" or isinstance(item, Sequence):
                raise ComposeError(value.at(name), f"{path}.{name} must be a mapping, not {kind_of(item)}")
    elif key.each and path in _SECTIONS and not (isinstance(value, Scalar) and value.value is None):
        raise ComposeError(value.place, f"{path} must be a mapping of names, not {kind_of(value)}")
    elif isinstance(value, Mapping) and not key.each:
        yield value, path
    elif isinstance(value, Sequence):
        for number, item in enumerate(value.items):
            if isinstance(item, Mapping):
                yield item, f"{path}.{number}"


_SECTIONS: Final = frozenset(name for name, key in TABLES["document"].items() if key.each)


def _unknown(name: str, path: str, known: dict[str, Key]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known here are {', '.join(sorted(known))}"
    return f"{path or 'the document'}: Additional property {name} is not allowed: {hint}"
