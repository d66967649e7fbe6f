"""The table in a task's namespace, and how it is made: in the kernel's own words, as it shows it."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from agent.dataplane.linux import tables
from agent.dataplane.linux.balancing import rules
from agent.dataplane.linux.balancing.wire import CREATE, Message, Wire, attribute, attributes
from agent.dataplane.linux.elements import Element, Elements
from agent.dataplane.linux.tables import Outline, Table, message_kind

_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _GET_CHAINS, _NEW_RULE, _GET_RULES, _NEW_SET, _GET_SETS = map(
    message_kind, (0, 2, 3, 4, 6, 7, 9, 10)
)
_SET_ID = 10
_APPEND = 0x800
_RECORDED = (
    (_GET_SETS, _NEW_SET, CREATE, (tables.TABLE, 2, 3, 4, 5, 6, 7, 8, 9, 13)),
    (
        _GET_CHAINS,
        _NEW_CHAIN,
        CREATE,
        (tables.TABLE, tables.CHAIN_NAME, tables.CHAIN_HOOK, tables.CHAIN_POLICY, tables.CHAIN_TYPE),
    ),
    (_GET_RULES, _NEW_RULE, CREATE | _APPEND, (tables.TABLE, tables.RULE_CHAIN, tables.RULE_EXPRESSIONS, 7)),
)
"""What is asked for, what makes it, and with which attributes: those that are not the kernel's own counts.

Of sets: name, flags, key and data (type, length), policy, description, and what nft shows them by.
"""
VIP_TABLE: Final = Table(rules.TABLE, (rules.VIPS,))


class Skeleton(NamedTuple):
    """The table without elements: how the kernel shows it, and what makes it anew whatever is there."""

    outline: Outline
    making: tuple[Message, ...]


def record(wire: Wire) -> Skeleton:
    """Of the table in the wire's namespace, which was loaded from nft's text.

    That text takes nft milliseconds in each namespace; the kernel is told the same sooner in its own words.
    """
    family, own = tables.family_body(), VIP_TABLE.own
    anew = (Message(_NEW_TABLE, CREATE, family + own), Message(_DELETE_TABLE, 0, family + own))
    making = [*anew, anew[0]]
    for get, new, flags, parts in _RECORDED:
        for number, payload in enumerate(wire.dump(Message(get, 0, family + own)), start=1):
            found = attributes(payload, 4)
            if found.get(tables.TABLE) == rules.TABLE.encode() + b"\0":
                body = b"".join(attribute(part, found[part]) for part in parts if part in found)
                named = attribute(_SET_ID, struct.pack(">I", number)) if new == _NEW_SET else b""
                making.append(Message(new, flags, family + body + named))
    return Skeleton(VIP_TABLE.outline(wire), tuple(making))


def change(removed: Elements, added: Elements, anew: Skeleton | None = None) -> bytes:
    """The text of a transaction that does both, which is something; ``anew``: in a table that it makes."""
    return VIP_TABLE.change(removed, added, making=anew.making if anew is not None else ())


def deletion(anew: Skeleton) -> bytes:
    """Of the table, whether it is there or not."""
    return tables.transact_text(anew.making[:2])


def read(wire: Wire, names: Iterable[str]) -> dict[Element, bytes] | None:
    """All that is in these maps of the wire's namespace; None if one is not there, or none of ours."""
    return VIP_TABLE.read(wire, {name: rules.key_bytes(name) for name in names})
