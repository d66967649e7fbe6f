"""Several documents as one: what a later one says holds, as docker merges a stack's files.

Works on long forms. Maps merge key by key; lists are joined, but commands are replaced, and ports, mounts,
secrets and configs with the same published port, target or source replace each other. A network, volume,
secret or config that two documents define is the later one's as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence as Sequences
from typing import Final

from swarmpy.compose.tree import Mapping, Node, Scalar, Sequence

REPLACED: Final = frozenset({"command", "entrypoint", "healthcheck.test"})
"""Lists of a service that are one value."""
KEYED: Final = {"ports": "published", "volumes": "target", "secrets": "source", "configs": "source"}
"""Lists of a service whose items have a key, and which it is."""
_WHOLE_SECTIONS: Final = frozenset({"networks", "volumes", "secrets", "configs"})


def merge(documents: Sequences[Mapping]) -> Mapping:
    """``documents`` are in the order in which they were given, the last one last."""
    first, *others = documents
    for document in others:
        first = _merge_documents(first, document)
    return first


def _merge_documents(base: Mapping, over: Mapping) -> Mapping:
    items, places = dict(base.items), {**base.key_places, **over.key_places}
    for section, node in over.items.items():
        old = base.get(section)
        if isinstance(old, Mapping) and isinstance(node, Mapping):
            items[section] = _merge_section(section, old, node)
        elif not _is_nothing(node) or section not in items:
            items[section] = node
    return Mapping(items, base.place, places)


def _merge_section(section: str, base: Mapping, over: Mapping) -> Mapping:
    if section in _WHOLE_SECTIONS or section.startswith("x-"):
        return Mapping({**base.items, **over.items}, base.place, {**base.key_places, **over.key_places})
    items = dict(base.items)
    for name, node in over.items.items():
        old = items.get(name)
        if isinstance(old, Mapping) and isinstance(node, Mapping):
            items[name] = _merge_maps(old, node, "")
        else:
            items[name] = node
    return Mapping(items, base.place, {**base.key_places, **over.key_places})


def _merge_maps(base: Mapping, over: Mapping, path: str) -> Mapping:
    items, places = dict(base.items), dict(base.key_places)
    for key, node in over.items.items():
        if key in items and _is_nothing(node) and path != "environment":
            continue
        items[key] = _merged(items[key], node, f"{path}.{key}".lstrip(".")) if key in items else node
        places[key] = over.at(key)
    return Mapping(items, base.place, places)


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
