"""Former data of secrets and configs go when no revision pins them any more: nothing can go back to them."""

from __future__ import annotations

from collections.abc import Iterable

from manager.reconcile.plan import NOTHING, Plan
from manager.store.file_data import pinned_numbers
from manager.store.view import View
from swarmpy.model.changes import Group, Update
from swarmpy.model.file_versions import kind_of, pins_of, without_unpinned
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Config, Kind, Revision, Secret
from swarmpy.model.states import Owner


class FileUpkeep:
    """Its keys are the kind and id of secrets and configs that have former data."""

    name = "files"

    def keys(self, view: View) -> Iterable[str]:
        for kind in (Kind.SECRET, Kind.CONFIG):
            for item in sorted(view.all(kind), key=lambda each: each.id):
                yield from _key(item)

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        if isinstance(old, Revision) and new is None:
            for kind, id_ in sorted({(pin.kind, pin.id) for pin in pins_of(old.spec)}):
                yield from _key(view.get(kind, id_))
        else:
            yield from _key(new)

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        kind, _, id_ = key.partition(" ")
        item = view.get(Kind(kind), id_)
        if not isinstance(item, Secret | Config):
            return NOTHING
        kept = without_unpinned(item, pinned_numbers(view, item))
        if kept is item:
            return NOTHING
        return Plan(groups=(Group(owner=Owner.ORCHESTRATOR, changes=(Update(object=kept),)),))


def _key(item: object | None) -> Iterable[str]:
    if isinstance(item, Secret | Config) and item.older:
        yield f"{kind_of(item)} {item.id}"
