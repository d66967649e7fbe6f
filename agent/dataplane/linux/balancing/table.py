"""The table in a task's namespace as the kernel has it: its own messages, not nft's text.

A change of elements is written once, and the same bytes go to every namespace that it concerns.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from agent.dataplane.linux.balancing import rules
from agent.dataplane.linux.balancing.rules import Element
from agent.dataplane.linux.balancing.wire import (
    CREATE,
    KIND_MASK,
    Message,
    Wire,
    attribute,
    attributes,
    each_attribute,
    nested,
    transaction,
)

_NFTABLES = 10
_NEW, _GET, _DELETE = (_NFTABLES << 8 | kind for kind in (12, 13, 14))
_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _GET_CHAINS, _NEW_RULE, _GET_RULES, _NEW_SET, _GET_SETS = (
    _NFTABLES << 8 | kind for kind in (0, 2, 3, 4, 6, 7, 9, 10)
)
_TABLE = 1
"""The attribute that names the table, of all kinds."""
_SET_ID = 10
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 3, 4, 5, 7
_RULE_CHAIN, _RULE_EXPRESSIONS = 2, 4
_APPEND = 0x800
_RECORDED = (
    (_GET_SETS, _NEW_SET, CREATE, (_TABLE, 2, 3, 4, 5, 6, 7, 8, 9, 13)),
    (_GET_CHAINS, _NEW_CHAIN, CREATE, (_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE)),
    (_GET_RULES, _NEW_RULE, CREATE | _APPEND, (_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS, 7)),
)
"""What is asked for, what makes it, and with which attributes: those that are not the kernel's own counts.

Of sets: name, flags, key and data (type, length), policy, description, and what nft shows them by.
"""
_BEGIN, _END = 16, 17
_INET = 1
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ITEM = 1, 2, 3, 1
_ELEMENT_KEY, _ELEMENT_DATA = 1, 2
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_GOTO = -4
_CACHED_MAX = 4_096
"""Texts whose meaning is remembered: namespaces hardly differ."""
_MESSAGE_ELEMENTS = 500
"""Elements in one message: a list of them holds 64 KiB."""


class Skeleton(NamedTuple):
    """The table without elements: how the kernel shows it, and what makes it anew whatever is there."""

    outline: tuple[tuple[bytes, ...], ...]
    making: tuple[Message, ...]


def record(wire: Wire) -> Skeleton:
    """Of the table in the wire's namespace, which was loaded from nft's text.

    That text takes nft milliseconds in each namespace; the kernel is told the same sooner in its own words.
    """
    own, family = attribute(_TABLE, rules.TABLE.encode() + b"\0"), struct.pack(">BBH", _INET, 0, 0)
    anew = (Message(_NEW_TABLE, CREATE, family + own), Message(_DELETE_TABLE, 0, family + own))
    making = [*anew, anew[0]]
    for get, new, flags, parts in _RECORDED:
        for number, payload in enumerate(wire.dump(Message(get, 0, family + own)), start=1):
            found = attributes(payload, 4)
            if found.get(_TABLE) == rules.TABLE.encode() + b"\0":
                body = b"".join(attribute(part, found[part]) for part in parts if part in found)
                named = attribute(_SET_ID, struct.pack(">I", number)) if new == _NEW_SET else b""
                making.append(Message(new, flags, family + body + named))
    return Skeleton(outline(wire), tuple(making))


def change(
    removed: Mapping[Element, bytes], added: Mapping[Element, bytes], anew: Skeleton | None = None
) -> bytes:
    """The text of a transaction that does both, which is something; ``anew``: in a table that it makes."""
    making = anew.making if anew is not None else ()
    return _transaction((*making, *_messages(_DELETE, 0, removed), *_messages(_NEW, CREATE, added)))


def deletion(anew: Skeleton) -> bytes:
    """Of the table, whether it is there or not."""
    return _transaction(anew.making[:2])


def _transaction(work: Iterable[Message]) -> bytes:
    mark = struct.pack(">BBH", 0, 0, _NFTABLES)
    return transaction(Message(_BEGIN, 0, mark), work, Message(_END, 0, mark))


def _messages(kind: int, flags: int, elements: Mapping[Element, bytes]) -> Iterator[Message]:
    items: dict[str, list[bytes]] = {}
    for (name, key), value in elements.items():
        item = nested(_ELEMENT_KEY, attribute(_DATA_VALUE, key))
        if kind == _NEW:
            item += nested(_ELEMENT_DATA, _data(name, value))
        items.setdefault(name, []).append(nested(_LIST_ITEM, item))
    for name, of_map in items.items():
        for start in range(0, len(of_map), _MESSAGE_ELEMENTS):
            listed = b"".join(of_map[start : start + _MESSAGE_ELEMENTS])
            yield Message(kind, flags, _place(name) + nested(_LIST_ELEMENTS, listed))


def _place(name: str) -> bytes:
    return (
        struct.pack(">BBH", _INET, 0, 0)
        + attribute(_LIST_TABLE, rules.TABLE.encode() + b"\0")
        + attribute(_LIST_SET, name.encode() + b"\0")
    )


def _data(name: str, value: bytes) -> bytes:
    if not name.endswith(rules.VIPS):
        return attribute(_DATA_VALUE, value)
    code = attribute(_VERDICT_CODE, struct.pack(">i", _GOTO))
    return nested(_DATA_VERDICT, code + attribute(_VERDICT_CHAIN, value + b"\0"))


def outline(wire: Wire) -> tuple[tuple[bytes, ...], ...]:
    """The table's chains and rules in the wire's namespace: equal to another's if they do the same."""
    family = struct.pack(">BBH", _INET, 0, 0)
    of_table = attribute(_TABLE, rules.TABLE.encode() + b"\0")
    chains = [_chain(each[4:]) for each in wire.dump(Message(_GET_CHAINS, 0, family))]
    ruled = [_rule(each[4:]) for each in wire.dump(Message(_GET_RULES, 0, family + of_table))]
    # rules of one chain come in their order; the sort is stable
    return (*sorted(filter(None, chains)), *sorted(ruled, key=lambda rule: rule[0]))


@lru_cache(_CACHED_MAX)
def _chain(text: bytes) -> tuple[bytes, ...]:
    """Empty: of another table. Most namespaces have the same, byte by byte."""
    parts = attributes(text)
    if parts.get(_TABLE) != rules.TABLE.encode() + b"\0":
        return ()
    return tuple(parts.get(part, b"") for part in (_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE))


@lru_cache(_CACHED_MAX)
def _rule(text: bytes) -> tuple[bytes, ...]:
    parts = attributes(text)
    return parts.get(_RULE_CHAIN, b""), parts.get(_RULE_EXPRESSIONS, b"")


def read(wire: Wire, names: Iterable[str]) -> dict[Element, bytes] | None:
    """All that is in these maps of the wire's namespace; None if one is not there, or none of ours."""
    found: dict[Element, bytes] = {}
    for name in names:
        try:
            payloads = wire.dump(Message(_GET, 0, _place(name)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        size = 8 + rules.key_bytes(name)
        for payload in payloads:
            listed = attributes(payload, 4).get(_LIST_ELEMENTS, b"")
            for _, item in each_attribute(listed):
                if not _is_key(item[:8], size):
                    return None
                found[Element(name, item[8:size])] = _value(item[size:])
    return found


@lru_cache(_CACHED_MAX)
def _is_key(heads: bytes, size: int) -> bool:
    """Whether an item starts with a key as ours are; these are the heads of the two attributes."""
    if len(heads) != 8:
        return False
    outer, outer_kind, inner, inner_kind = struct.unpack("=HHHH", heads)
    kinds = (outer_kind & KIND_MASK, inner_kind & KIND_MASK)
    return (outer, inner, *kinds) == (size, size - 4, _ELEMENT_KEY, _DATA_VALUE)


@lru_cache(_CACHED_MAX)
def _value(text: bytes) -> bytes:
    """What follows the key of an item."""
    data = attributes(attributes(text).get(_ELEMENT_DATA, b""))
    if _DATA_VERDICT not in data:
        return data.get(_DATA_VALUE, b"")
    verdict = attributes(data[_DATA_VERDICT])
    chain = verdict.get(_VERDICT_CHAIN, b"").rstrip(b"\0")
    is_ours = verdict.get(_VERDICT_CODE) == struct.pack(">i", _GOTO)
    return chain if is_ours else b"\0" + chain
