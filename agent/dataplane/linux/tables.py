"""A table of ours as the kernel has it: its own messages, not nft's text. Written, read, and compared.

A change of elements is written once, and the same bytes go to every namespace that it concerns.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from agent.dataplane.linux import namespaces
from agent.dataplane.linux.balancing.wire import (
    CREATE,
    KIND_MASK,
    NETFILTER,
    Message,
    Wire,
    attribute,
    attributes,
    each_attribute,
    nested,
    transaction,
)
from agent.dataplane.linux.elements import Element, Elements
from agent.dataplane.linux.nftables import Nftables

Outline = tuple[tuple[bytes, ...], ...]
"""Chains and rules: equal to another's if they do the same."""

INET, NETDEV = 1, 5
"""Families of tables."""
TABLE = 1
"""The attribute that names the table, of all kinds."""
CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE = 3, 4, 5, 7
RULE_CHAIN, RULE_EXPRESSIONS = 2, 4
_NFTABLES = 10
_GET_CHAINS, _GET_RULES, _NEW, _GET, _DELETE = (_NFTABLES << 8 | kind for kind in (4, 7, 12, 13, 14))
_BEGIN, _END = 16, 17
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ITEM = 1, 2, 3, 1
_ELEMENT_KEY, _ELEMENT_DATA = 1, 2
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_GOTO = struct.pack(">i", -4)
_CACHED_MAX = 4_096
"""Texts whose meaning is remembered: namespaces hardly differ."""
_MESSAGE_ELEMENTS = 500
"""Elements in one message: a list of them holds 64 KiB."""


def message_kind(number: int) -> int:
    """Of the packet filter's messages."""
    return _NFTABLES << 8 | number


def family_body(family: int = INET) -> bytes:
    return struct.pack(">BBH", family, 0, 0)


def transact_text(work: Iterable[Message]) -> bytes:
    """The text of a transaction of these, which are something."""
    mark = struct.pack(">BBH", 0, 0, _NFTABLES)
    return transaction(Message(_BEGIN, 0, mark), work, Message(_END, 0, mark))


class Table(NamedTuple):
    """``verdicts`` and ``sets``: how the names of maps that lead to chains end, and those of sets. All others
    lead to data."""

    name: str
    verdicts: tuple[str, ...]
    sets: tuple[str, ...] = ()

    @property
    def own(self) -> bytes:
        """The attribute that says whose something is."""
        return attribute(TABLE, self.name.encode() + b"\0")

    def change(self, removed: Elements, added: Elements, *, making: Sequence[Message] = ()) -> bytes:
        """The text of a transaction that does both, after ``making``; one of the three has something."""
        return transact_text(
            (*making, *self._messages(_DELETE, 0, removed), *self._messages(_NEW, CREATE, added))
        )

    def _messages(self, kind: int, flags: int, elements: Elements) -> Iterator[Message]:
        items: dict[str, list[bytes]] = {}
        for (name, key), value in elements.items():
            item = nested(_ELEMENT_KEY, attribute(_DATA_VALUE, key))
            if kind == _NEW and not (self.sets and name.endswith(self.sets)):
                item += nested(_ELEMENT_DATA, self._data(name, value))
            items.setdefault(name, []).append(nested(_LIST_ITEM, item))
        for name, of_map in items.items():
            for start in range(0, len(of_map), _MESSAGE_ELEMENTS):
                listed = b"".join(of_map[start : start + _MESSAGE_ELEMENTS])
                yield Message(kind, flags, self._place(name) + nested(_LIST_ELEMENTS, listed))

    def _place(self, name: str) -> bytes:
        return (
            family_body()
            + attribute(_LIST_TABLE, self.name.encode() + b"\0")
            + attribute(_LIST_SET, name.encode() + b"\0")
        )

    def _data(self, name: str, value: bytes) -> bytes:
        if not name.endswith(self.verdicts):
            return attribute(_DATA_VALUE, value)
        code = attribute(_VERDICT_CODE, _GOTO)
        return nested(_DATA_VERDICT, code + attribute(_VERDICT_CHAIN, value + b"\0"))

    # --- what is there

    def outline(self, wire: Wire, *, family: int = INET) -> Outline:
        """Of the table in the wire's namespace."""
        body, own = family_body(family), self.name.encode() + b"\0"
        chains = [_chain(each[4:], own) for each in wire.dump(Message(_GET_CHAINS, 0, body))]
        ruled = [_rule(each[4:], own) for each in wire.dump(Message(_GET_RULES, 0, body + self.own))]
        # rules of one chain come in their order; the sort is stable
        return (*sorted(filter(None, chains)), *sorted(filter(None, ruled), key=lambda rule: rule[0]))

    def outline_of(self, ruleset: str) -> Outline:
        """What ``outline`` will say of these rules, tried in a namespace of their own."""
        with namespaces.scratch(), Wire(NETFILTER) as wire:
            nft = Nftables()
            try:
                nft.run(ruleset)
                return self.outline(wire)
            finally:
                nft.close()

    def read(self, wire: Wire, maps: Mapping[str, int]) -> dict[Element, bytes] | None:
        """All that is in these maps and sets of the wire's namespace; None if one is not there, or none of
        ours. ``maps``: how many bytes their keys have; 0: any."""
        found: dict[Element, bytes] = {}
        for name, key_bytes in maps.items():
            try:
                payloads = wire.dump(Message(_GET, 0, self._place(name)))
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return None
                raise
            for payload in payloads:
                listed = attributes(payload, 4).get(_LIST_ELEMENTS, b"")
                for _, item in each_attribute(listed):
                    end = _key_end(item[:8])
                    if not end or (key_bytes and end != 8 + key_bytes):
                        return None
                    found[Element(name, item[8:end])] = _value(item[end:])
        return found


@lru_cache(_CACHED_MAX)
def _chain(text: bytes, own: bytes) -> tuple[bytes, ...]:
    """Empty: of another table. Most namespaces have the same, byte by byte."""
    parts = attributes(text)
    if parts.get(TABLE) != own:
        return ()
    return tuple(parts.get(part, b"") for part in (CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE))


@lru_cache(_CACHED_MAX)
def _rule(text: bytes, own: bytes) -> tuple[bytes, ...]:
    """Empty: of another table."""
    parts = attributes(text)
    return (parts.get(RULE_CHAIN, b""), parts.get(RULE_EXPRESSIONS, b"")) if parts.get(TABLE) == own else ()


@lru_cache(_CACHED_MAX)
def _key_end(heads: bytes) -> int:
    """Where in an item its key ends, which comes first; 0 if this is no key as ours are. ``heads``: those of
    the two attributes around it."""
    if len(heads) != 8:
        return 0
    outer, outer_kind, inner, inner_kind = struct.unpack("=HHHH", heads)
    kinds = (outer_kind & KIND_MASK, inner_kind & KIND_MASK)
    return outer if inner == outer - 4 and kinds == (_ELEMENT_KEY, _DATA_VALUE) else 0


@lru_cache(_CACHED_MAX)
def _value(text: bytes) -> bytes:
    """What follows the key of an item; empty in a set."""
    data = attributes(attributes(text).get(_ELEMENT_DATA, b""))
    if _DATA_VERDICT not in data:
        return data.get(_DATA_VALUE, b"")
    verdict = attributes(data[_DATA_VERDICT])
    chain = verdict.get(_VERDICT_CHAIN, b"").rstrip(b"\0")
    return chain if verdict.get(_VERDICT_CODE) == _GOTO else b"\0" + chain
