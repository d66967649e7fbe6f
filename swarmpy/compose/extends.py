"""Services that extend others, of the same file or of another: the extended one first, their own words over
it.

Works on long forms, whose paths are absolute, so it does not matter where a service was written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from swarmpy.compose.fields import Fields
from swarmpy.compose.limits import COMPOSE_CHAIN_MAX, COMPOSE_NODES_MAX
from swarmpy.compose.merge import merge_service
from swarmpy.compose.tree import Mapping, Scalar, Sequence

_Ref = tuple[str, str]
"""A file and one of its services."""


@dataclass(slots=True)
class Extender:
    """``open_file`` gives the name and the tree of another file; its second argument says who asks."""

    open_file: Callable[[str, Fields], tuple[str, Mapping]]
    _done: dict[_Ref, Mapping] = field(default_factory=dict)
    _size: int = 0

    def extend(self, file: str, tree: Mapping) -> Mapping:
        """The tree, no service of which extends another any more."""
        services = tree.get("services")
        if not isinstance(services, Mapping):
            return tree
        if not any(isinstance(node, Mapping) and "extends" in node.items for node in services.items.values()):
            return tree
        found = {name: self._service(file, tree, name, ()) for name in services.items}
        return tree.with_items({**tree.items, "services": services.with_items({**found})})

    def _service(self, file: str, tree: Mapping, name: str, chain: tuple[_Ref, ...]) -> Mapping:
        ref = (file, name)
        done = self._done.get(ref)
        if done is None:
            done = self._done[ref] = self._extended(file, tree, name, (*chain, ref))
        return done

    def _extended(self, file: str, tree: Mapping, name: str, chain: tuple[_Ref, ...]) -> Mapping:
        services = Fields(tree, "").fields("services")
        assert services is not None
        node = services.node.items[name]
        assert isinstance(node, Mapping)
        own = Fields(node, f"services.{name}")
        if not own.has("extends"):
            return node
        base_file, base_tree, base_name = self._base(file, tree, own)
        if (base_file, base_name) in chain:
            names = " extends ".join([*(each for _, each in chain), base_name])
            raise own.error("extends", f"goes around in a circle: {names}; take one of them out")
        if len(chain) >= COMPOSE_CHAIN_MAX:
            raise own.error("extends", f"is the {COMPOSE_CHAIN_MAX}th of a chain: extend fewer services")
        base = self._service(base_file, base_tree, base_name, chain)
        self._size += _breadth(base)
        if self._size > COMPOSE_NODES_MAX:
            raise own.error("extends", "takes over too much: extend smaller services")
        items = {key: value for key, value in node.items.items() if key != "extends"}
        return merge_service(base, node.with_items(items))

    def _base(self, file: str, tree: Mapping, own: Fields) -> tuple[str, Mapping, str]:
        long = own.fields("extends") if isinstance(own.node.items["extends"], Mapping) else None
        wanted = own.text("extends") if long is None else long.text("service")
        if long is not None and long.has("file"):
            file, tree = self.open_file(long.text("file"), long)
        if not wanted:
            raise own.error("extends", "names no service: write extends: {service: NAME}")
        services = tree.get("services")
        known = services.items if isinstance(services, Mapping) else {}
        if not isinstance(known.get(wanted), Mapping):
            told = ", ".join(sorted(known)) or "none"
            raise own.error(
                "extends", f'names a service that {file} does not have: "{wanted}"; it has {told}'
            )
        return file, tree, wanted


def _breadth(service: Mapping) -> int:
    """What a copy of the service's lists and maps takes."""
    total = len(service.items)
    for node in service.items.values():
        match node:
            case Mapping() | Sequence():
                total += len(node.items)
            case Scalar():
                pass
    return total
