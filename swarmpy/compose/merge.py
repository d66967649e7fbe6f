"""Several documents as one: what a later one says holds, as docker merges a stack's files.

Works on long forms. Maps merge key by key; lists are joined, but commands are replaced, and ports, mounts,
secrets and configs with the same published port, target or source replace each other. A network, volume,
secret or config that two documents define is the later one's as a whole. A value with ``!override`` replaces
what was there, one with ``!reset`` takes it away; the tags stay, so that it does not matter which documents
are merged first.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Sequences
from typing import Final

from swarmpy.compose.tree import OVERRIDE, RESET, Mapping, Node, Scalar, Sequence

REPLACED: Final = frozenset({"command", "entrypoint", "healthcheck.test"})
"""Lists of a service that are one value."""
KEYED: Final = {
    "ports": "published",
    "volumes": "target",
    "secrets": "source",
    "configs": "source",
    "devices": "target",
}
"""Lists of a service whose items have a key, and which it is."""
_WHOLE_SECTIONS: Final = frozenset({"networks", "volumes", "secrets", "configs"})

_Join = Callable[[str, Node, Node], Node]


def merge(documents: Sequences[Mapping]) -> Mapping:
    """``documents`` are in the order in which they were given, the last one last."""
    first, *others = documents
    for document in others:
        first = _over(first, document, _merge_section)
    return first


def merge_service(base: Mapping, over: Mapping) -> Mapping:
    return _merge_maps(base, over, "")


def _over(base: Mapping, over: Mapping, join: _Join, *, holds_nothing: bool = False) -> Mapping:
    """``join`` makes one value of two under one key. A key without a value changes nothing, unless
    ``holds_nothing``."""
    items, places, tags = dict(base.items), dict(base.key_places), dict(base.key_tags)
    for key, node in over.items.items():
        tag, is_there = over.key_tags.get(key, ""), key in items
        if is_there and not tag and not holds_nothing and _is_nothing(node):
            continue
        if tag or not is_there:
            items[key] = node
        elif tags.get(key) == RESET:
            items[key], tag = node, OVERRIDE
        else:
            items[key] = join(key, items[key], node)
        if tag:
            tags[key] = tag
        places[key] = over.at(key)
    return Mapping(items, base.place, places, tags)


def _merge_section(section: str, base: Node, over: Node) -> Node:
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    if section in _WHOLE_SECTIONS or section.startswith("x-"):
        return _over(base, over, _newer, holds_nothing=True)
    return _over(base, over, _merge_services, holds_nothing=True)


def _newer(_: str, base: Node, over: Node) -> Node:
    return over


def _merge_services(_: str, base: Node, over: Node) -> Node:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return _merge_maps(base, over, "")
    return over


def _merge_maps(base: Mapping, over: Mapping, path: str) -> Mapping:
    def join(key: str, old: Node, new: Node) -> Node:
        return _merged(old, new, f"{path}.{key}".lstrip("."))

    return _over(base, over, join)


def _merged(old: Node, new: Node, path: str) -> Node:
    match old, new:
        case Mapping(), Mapping():
            return _merge_maps(old, new, path)
        case Sequence(), Sequence() if path in KEYED:
            return _merge_keyed(old, new, KEYED[path])
        case Sequence(), Sequence() if path not in REPLACED:
            return Sequence((*old.items, *new.items), new.place)
    return new


def _merge_keyed(old: Sequence, new: Sequence, key: str) -> Sequence:
    """Items without the key stand for themselves."""
    replaced = {_key_of(item, key) for item in new.items} - {None}
    kept = tuple(item for item in old.items if _key_of(item, key) not in replaced)
    return Sequence((*kept, *new.items), new.place)


def _key_of(item: Node, key: str) -> object:
    node = item.get(key) if isinstance(item, Mapping) else None
    return str(node.value) if isinstance(node, Scalar) else None


def _is_nothing(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None
