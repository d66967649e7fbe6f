"""Elements of maps and sets in our tables, and how one state of them becomes another. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Element(NamedTuple):
    """A key of one of the maps or sets, as the kernel has it: each field padded to four bytes."""

    map: str
    key: bytes


Elements = Mapping[Element, bytes]
"""What a key leads to: an address, perhaps with a port, or the name of a chain; of a set nothing."""
Sides = tuple[dict[Element, bytes], dict[Element, bytes]]
"""What to remove and what to add: in this order, within one transaction."""


def difference(former: Elements, wished: Elements) -> Sides:
    removed = {key: value for key, value in former.items() if wished.get(key) != value}
    added = {key: value for key, value in wished.items() if former.get(key) != value}
    return removed, added
