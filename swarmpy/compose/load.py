"""YAML text to a tree in which every value knows its line.

Built from the parser's events, so that nothing is recursive here, a bomb of aliases is counted before it is
written out, and scalars mean what they mean to docker (YAML 1.2 with the old octal numbers: ``yes`` is text,
``0440`` is a file mode). Duplicate keys are refused; ``<<`` merges. The tags ``!reset`` and ``!override`` are
kept for merging.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Final

import yaml

from swarmpy.compose.limits import COMPOSE_BYTES_MAX, COMPOSE_DEPTH_MAX, COMPOSE_NODES_MAX
from swarmpy.compose.tree import (
    OVERRIDE,
    RESET,
    ComposeError,
    Mapping,
    Node,
    Place,
    Scalar,
    Sequence,
    kind_of,
    text_of,
)

_MERGE: Final = "<<"
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS: Final = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER: Final = re.compile(r"([-+]?)(0b[01]+|0o[0-7]+|0x[0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)\Z")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NUMBER_STARTS: Final = frozenset("+-.0123456789")
_NUMBER_MAX: Final = 1 << 64
_INTEGER_CHARS_MAX: Final = 70
_MERGING: Final = frozenset({RESET, OVERRIDE})
_TAGS: Final = {
    f"tag:yaml.org,2002:{name}": type_
    for name, type_ in {
        "str": str,
        "int": int,
        "float": float,
        "bool": bool,
        "null": type(None),
        "map": Mapping,
        "seq": Sequence,
    }.items()
}


@dataclass(slots=True)
class _Sized:
    """A node, with what it takes when all aliases are written out."""

    node: Node
    size: int = 1
    height: int = 1
    tag: str = ""


@dataclass(slots=True)
class _Open:
    """A list or map that is being read."""

    place: Place
    is_map: bool
    anchor: str | None
    size: int = 1
    height: int = 1
    items: list[Node] = field(default_factory=list)
    pairs: dict[str, Node] = field(default_factory=dict)
    key_places: dict[str, Place] = field(default_factory=dict)
    key_tags: dict[str, str] = field(default_factory=dict)
    tag: str = ""
    merged: list[Node] = field(default_factory=list)
    key: tuple[str, Place] | None = None


def load(text: str, file: str) -> Mapping:
    """The document's tree; an empty document is an empty map."""
    if len(text) > COMPOSE_BYTES_MAX:
        raise ComposeError(
            Place(file, 1), f"the file is larger than {COMPOSE_BYTES_MAX >> 20} MiB: split it into several"
        )
    reader = _Reader(file)
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        raise ComposeError(Place(file, mark.line + 1 if mark else 1), f"this is no YAML: {message}") from None
    except yaml.YAMLError as error:
        raise ComposeError(Place(file, 1), f"this is no YAML: {' '.join(str(error).split())}") from None
    except UnicodeError as error:
        raise ComposeError(Place(file, 1), f"this is no text: {error}") from None
    root = reader.root
    if root is None or (isinstance(root, Scalar) and root.value is None):
        return Mapping({}, Place(file, 1))
    if not isinstance(root, Mapping):
        raise ComposeError(
            root.place,
            f"Top-level object must be a mapping: write 'services:' with the services below it, "
            f"not {kind_of(root)}",
        )
    return root


class _Reader:
    def __init__(self, file: str) -> None:
        self.root: Node | None = None
        self._file = file
        self._open: list[_Open] = []
        self._anchors: dict[str, _Sized] = {}
        self._size = 0
        self._has_document = False

    def take(self, event: yaml.Event) -> None:
        mark = event.start_mark
        place = Place(self._file, mark.line + 1 if mark else 1)
        match event:
            case yaml.DocumentStartEvent():
                if self._has_document:
                    raise ComposeError(
                        place, "a second document begins here: put it into a file of its own, and give both"
                    )
                self._has_document = True
            case yaml.ScalarEvent():
                self._add(self._scalar(event, place), anchor=event.anchor)
            case yaml.AliasEvent():
                self._add(self._alias(event.anchor or "", place), anchor=None, alias_at=place)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._begin(event, place)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                done = self._open.pop()
                self._add(_closed(done), anchor=done.anchor)

    def _alias(self, anchor: str, place: Place) -> _Sized:
        found = self._anchors.get(anchor)
        if found is None:
            raise ComposeError(
                place, f"*{anchor} refers to nothing: define &{anchor} above this line, and not around it"
            )
        return found

    def _begin(self, event: yaml.SequenceStartEvent | yaml.MappingStartEvent, place: Place) -> None:
        is_map = isinstance(event, yaml.MappingStartEvent)
        tag = event.tag if event.tag in _MERGING else None
        if (
            event.tag not in (None, "!")
            and not tag
            and _TAGS.get(event.tag) is not (Mapping if is_map else Sequence)
        ):
            raise ComposeError(place, f"the tag {event.tag} is not understood: leave it out")
        if len(self._open) >= COMPOSE_DEPTH_MAX:
            raise _too_deep(place)
        parent = self._open[-1] if self._open else None
        if parent is not None and parent.is_map and parent.key is None:
            raise ComposeError(place, "a list or map cannot be a key: write text before the colon")
        if event.anchor is not None:
            # from here on the name is this value's, which cannot be used before its end
            self._anchors.pop(event.anchor, None)
        self._open.append(_Open(place, is_map, event.anchor, tag=tag or ""))

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> _Sized:
        is_plain = event.implicit[0]
        value = resolve(event.value) if is_plain else event.value
        if event.tag in _MERGING:
            value = event.value if event.style else resolve(event.value)
            return _Sized(Scalar(value, place), tag=event.tag)
        if event.tag not in (None, "!"):
            wanted = _TAGS.get(event.tag)
            value = event.value if wanted is str else resolve(event.value)
            if wanted is float and type(value) is int:
                value = float(value)
            if wanted is None or type(value) is not wanted:
                raise ComposeError(
                    place, f"the tag {event.tag} does not suit {event.value!r}: leave the tag out"
                )
        return _Sized(Scalar(value, place))

    def _add(self, made: _Sized, *, anchor: str | None, alias_at: Place | None = None) -> None:
        """Parts of a list or map were counted as they came; those of an alias count here."""
        place = alias_at or made.node.place
        if anchor is not None:
            self._anchors[anchor] = _Sized(made.node, made.size, made.height)
        if made.tag and not self._open:
            raise ComposeError(place, f"{made.tag} cannot stand before a whole file: leave it out")
        self._size += 1 if alias_at is None else made.size
        if self._size > COMPOSE_NODES_MAX:
            raise ComposeError(
                place,
                f"more than {COMPOSE_NODES_MAX} values, aliases written out: "
                "use fewer aliases, or split the file",
            )
        if len(self._open) + made.height > COMPOSE_DEPTH_MAX + 1:
            raise _too_deep(place)
        if not self._open:
            self.root = made.node
            return
        self._put(self._open[-1], made, place)
        self._open[-1].size += made.size
        self._open[-1].height = max(self._open[-1].height, made.height + 1)

    def _put(self, into: _Open, made: _Sized, place: Place) -> None:
        node = made.node
        if made.tag and (not into.is_map or into.key is None or into.key[0] == _MERGE):
            raise ComposeError(
                place, f"{made.tag} can only stand before the value of a key: leave it out here"
            )
        if not into.is_map:
            into.items.append(node)
            return
        if into.key is None:
            into.key = (_key(node, place), place)
            return
        (key, key_place), into.key = into.key, None
        if key == _MERGE:
            into.merged += _merge_sources(node, key_place)
            return
        if key in into.pairs:
            raise ComposeError(
                key_place,
                f'mapping key "{key}" already defined at line {into.key_places[key].line}: remove one',
            )
        into.pairs[key] = Scalar(None, place) if made.tag == RESET else node
        into.key_places[key] = key_place
        if made.tag:
            into.key_tags[key] = made.tag


def _key(node: Node, place: Place) -> str:
    if not isinstance(node, Scalar):
        raise ComposeError(place, "a list or map cannot be a key: write text before the colon")
    if not isinstance(node.value, str):
        text = text_of(node.value)
        raise ComposeError(place, f'Non-string key {text}: put it in quotes, "{text}"')
    return node.value


def _merge_sources(node: Node, place: Place) -> list[Node]:
    sources: list[Node] = list(node.items) if isinstance(node, Sequence) else [node]
    for source in sources:
        if not isinstance(source, Mapping):
            raise ComposeError(
                place, f"map merge requires map or sequence of maps as the value, not {kind_of(source)}"
            )
    return sources


def _closed(done: _Open) -> _Sized:
    if not done.is_map:
        return _Sized(Sequence(tuple(done.items), done.place), done.size, done.height, done.tag)
    pairs, key_places, key_tags = dict(done.pairs), dict(done.key_places), dict(done.key_tags)
    for source in done.merged:
        assert isinstance(source, Mapping)
        for key, node in source.items.items():
            if key not in pairs:
                pairs[key] = node
                key_places[key] = source.at(key)
                if key in source.key_tags:
                    key_tags[key] = source.key_tags[key]
    return _Sized(Mapping(pairs, done.place, key_places, key_tags), done.size, done.height, done.tag)


def _too_deep(place: Place) -> ComposeError:
    return ComposeError(place, f"lists and maps are nested more than {COMPOSE_DEPTH_MAX} deep: flatten them")


def resolve(text: str) -> str | int | float | bool | None:
    """What an unquoted scalar means."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    plain = text.replace("_", "")
    match = _INTEGER.match(plain) if len(plain) <= _INTEGER_CHARS_MAX else None
    if match is not None:
        value = _integer(match[2]) * (-1 if match[1] == "-" else 1)
        if abs(value) < _NUMBER_MAX:
            return value
    if _FLOAT.match(plain):
        number = float(plain)
        if math.isfinite(number):
            return number
    return text


def _integer(digits: str) -> int:
    if len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567":
        return int(digits, 8)
    return int(digits, 0)
