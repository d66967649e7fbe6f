"""What holds between the data of secrets and configs and the revisions that pin them. Texts, or None.

A number means the same bytes for ever, and whoever pins it finds it: a revision that is stored can be rolled
back to.
"""

from __future__ import annotations

from manager.store.view import View
from swarmpy.model.file_versions import File, data_number, data_of, kind_of, numbers_of, pins_of
from swarmpy.model.objects import Config, Secret
from swarmpy.model.specs import ServiceSpec


def pin_clash(view: View, spec: ServiceSpec) -> str | None:
    """Which data a spec pins that are not there; a secret or config that is gone is another's to tell."""
    for kind, id_, number in sorted(pins_of(spec)):
        item = view.get(kind, id_)
        if isinstance(item, Secret | Config) and data_of(item, number) is None:
            kept = ", ".join(map(str, numbers_of(item)))
            return f"{kind} {item.spec.name} has no version {number}: there is {kept}"
    return None


def data_clash(old: File, new: File) -> str | None:
    """Why an item's data cannot become those of ``new``."""
    if data_number(new) < data_number(old):
        return f"the data of {kind_of(new)} {new.spec.name} cannot go back to version {data_number(new)}"
    for number in numbers_of(old):
        if (data := data_of(new, number)) is not None and data != data_of(old, number):
            return f"version {number} of {kind_of(new)} {new.spec.name} has other data already"
    return None


def lost_pin(view: View, old: File, new: File) -> str | None:
    """Which revision pins data that ``new`` would have no more."""
    lost = set(numbers_of(old)) - set(numbers_of(new))
    if not lost:
        return None
    kind = kind_of(new)
    for revision in sorted(view.revisions_using(kind, new.id), key=lambda each: each.id):
        for pin in sorted(pins_of(revision.spec)):
            if (pin.kind, pin.id) == (kind, new.id) and pin.number in lost:
                return f"version {pin.number} of {kind} {new.spec.name} is in use by revision {revision.id}"
    return None


def pinned_numbers(view: View, item: File) -> frozenset[int]:
    """The versions of its data that stored revisions pin."""
    key = (kind_of(item), item.id)
    return frozenset(
        pin.number
        for revision in view.revisions_using(*key)
        for pin in pins_of(revision.spec)
        if (pin.kind, pin.id) == key
    )
