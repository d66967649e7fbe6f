"""Finding what a client names: by full id, then exact name, then unique prefix of the id. Pure.

Containers that were started by hand are neither services nor tasks here: ``container_refs`` finds them.
"""

from __future__ import annotations

from typing import TypeVar

from manager.store.view import View
from swarmpy.errors import InvalidArgument, NotFound
from swarmpy.model.defaults import is_standalone
from swarmpy.model.objects import (
    Config,
    Kind,
    Network,
    Node,
    Object,
    Secret,
    Service,
    Task,
)

T = TypeVar("T", Node, Service, Task, Network, Secret, Config)

_KINDS: dict[type[Object], Kind] = {
    Node: Kind.NODE,
    Service: Kind.SERVICE,
    Task: Kind.TASK,
    Network: Kind.NETWORK,
    Secret: Kind.SECRET,
    Config: Kind.CONFIG,
}
_AMBIGUOUS_MATCHES_MAX = 100


def find(view: View, type_: type[T], reference: str) -> T:
    """The object, or NotFound, or InvalidArgument where several match."""
    found = _candidates(view, type_, reference)
    kind = _KINDS[type_]
    if not found:
        raise NotFound(f"{kind} {reference} not found")
    if len(found) > 1:
        raise InvalidArgument(f"{kind} {reference} is ambiguous ({len(found)} matches found)")
    return found[0]


def find_or_none(view: View, type_: type[T], reference: str) -> T | None:
    found = _candidates(view, type_, reference)
    return found[0] if len(found) == 1 else None


def _candidates(view: View, type_: type[T], reference: str) -> list[T]:
    if not reference:
        return []
    kind = _KINDS[type_]
    exact = view.get(kind, reference)
    if isinstance(exact, type_):
        return [exact] if not is_by_hand(view, exact) else []
    named = _named(view, type_, reference)
    if named:
        return named
    matches = view.by_prefix(kind, reference, limit=_AMBIGUOUS_MATCHES_MAX)
    return [item for item in matches if isinstance(item, type_) and not is_by_hand(view, item)]


def is_by_hand(view: View, item: object | None) -> bool:
    """Whether it stands for a container that was started by hand, or is a run of one, which may be gone."""
    if isinstance(item, Task):
        known = view.service(item.service_id) or view.revision(item.revision_id)
        return known is not None and is_standalone(known.spec)
    return isinstance(item, Service) and is_standalone(item.spec)


def _named(view: View, type_: type[T], name: str) -> list[T]:
    if type_ is Task:
        return []
    if type_ is Node:
        # hostnames are not unique: two nodes of one name are ambiguous
        return [n for n in view.nodes() if n.description.hostname == name and isinstance(n, type_)]
    item = view.by_name(_KINDS[type_], name)
    return [item] if isinstance(item, type_) and not is_by_hand(view, item) else []
