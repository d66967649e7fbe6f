"""The node's table as the kernel has it: its own messages, not nft's text. Written, read, and compared."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from agent.dataplane.linux import namespaces
from agent.dataplane.linux.balancing.wire import (
    CREATE,
    NETFILTER,
    Message,
    Wire,
    attribute,
    attributes,
    each_attribute,
    nested,
    transaction,
)
from agent.dataplane.linux.mesh.host_rules import CLASSIC_SET, Element
from agent.dataplane.linux.mesh.names import TABLE
from agent.dataplane.linux.nftables import Nftables

Outline = tuple[tuple[bytes, ...], ...]

_NFTABLES = 10
_NEW, _GET, _DELETE = (_NFTABLES << 8 | kind for kind in (12, 13, 14))
_GET_CHAINS, _GET_RULES = (_NFTABLES << 8 | kind for kind in (4, 7))
_TABLE = 1
_CHAIN_PARTS = (3, 4, 5, 7)
"""Of a chain: name, hook, policy, type."""
_RULE_PARTS = (2, 4)
"""Of a rule: its chain and its expressions."""
_BEGIN, _END = 16, 17
_INET, NETDEV = 1, 5
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ITEM = 1, 2, 3, 1
_ELEMENT_KEY, _ELEMENT_DATA = 1, 2
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_GOTO = struct.pack(">i", -4)
_MESSAGE_ELEMENTS = 500
"""Elements in one message: a list of them holds 64 KiB."""


def change(removed: Mapping[Element, bytes], added: Mapping[Element, bytes]) -> bytes:
    """The text of a transaction that does both; one of them at least has something."""
    mark = struct.pack(">BBH", 0, 0, _NFTABLES)
    work = [*_messages(_DELETE, 0, removed), *_messages(_NEW, CREATE, added)]
    return transaction(Message(_BEGIN, 0, mark), work, Message(_END, 0, mark))


def _messages(kind: int, flags: int, elements: Mapping[Element, bytes]) -> Iterator[Message]:
    items: dict[str, list[bytes]] = {}
    for (name, key), value in elements.items():
        item = nested(_ELEMENT_KEY, attribute(_DATA_VALUE, key))
        if kind == _NEW and not name.endswith(CLASSIC_SET):
            item += nested(_ELEMENT_DATA, _data(name, value))
        items.setdefault(name, []).append(nested(_LIST_ITEM, item))
    for name, of_map in items.items():
        for start in range(0, len(of_map), _MESSAGE_ELEMENTS):
            listed = b"".join(of_map[start : start + _MESSAGE_ELEMENTS])
            yield Message(kind, flags, _place(name) + nested(_LIST_ELEMENTS, listed))


def _place(name: str) -> bytes:
    return (
        struct.pack(">BBH", _INET, 0, 0)
        + attribute(_LIST_TABLE, TABLE.encode() + b"\0")
        + attribute(_LIST_SET, name.encode() + b"\0")
    )


def _data(name: str, value: bytes) -> bytes:
    if "_slots" in name:
        return attribute(_DATA_VALUE, value)
    code = attribute(_VERDICT_CODE, _GOTO)
    return nested(_DATA_VERDICT, code + attribute(_VERDICT_CHAIN, value + b"\0"))


def outline(wire: Wire, *, family: int = _INET) -> Outline:
    """The table's chains and rules: equal to another's if they do the same."""
    named = sorted(_parts(wire, _GET_CHAINS, _CHAIN_PARTS, family))
    # rules of one chain come in their order; the sort is stable
    return (*named, *sorted(_parts(wire, _GET_RULES, _RULE_PARTS, family), key=lambda rule: rule[0]))


def _parts(wire: Wire, kind: int, parts: Sequence[int], family: int) -> list[tuple[bytes, ...]]:
    listed = wire.dump(Message(kind, 0, struct.pack(">BBH", family, 0, 0)))
    found = [attributes(each, 4) for each in listed]
    own = TABLE.encode() + b"\0"
    return [tuple(each.get(part, b"") for part in parts) for each in found if each.get(_TABLE) == own]


def outline_of(ruleset: str) -> Outline:
    """What ``outline`` will say of these rules, tried in a namespace of their own."""
    with namespaces.scratch(), Wire(NETFILTER) as wire:
        nft = Nftables()
        try:
            nft.run(ruleset)
            return outline(wire)
        finally:
            nft.close()


def read(wire: Wire, names: Iterable[str]) -> dict[Element, bytes] | None:
    """All that is in these maps and sets; None if one of them is not there."""
    found: dict[Element, bytes] = {}
    for name in names:
        try:
            payloads = wire.dump(Message(_GET, 0, _place(name)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        for payload in payloads:
            listed = attributes(payload, 4).get(_LIST_ELEMENTS, b"")
            for _, item in each_attribute(listed):
                key, value = _parse(item)
                found[Element(name, key)] = value
    return found


def _parse(item: bytes) -> tuple[bytes, bytes]:
    parts = attributes(item)
    key = attributes(parts.get(_ELEMENT_KEY, b"")).get(_DATA_VALUE, b"")
    data = attributes(parts.get(_ELEMENT_DATA, b""))
    if _DATA_VERDICT not in data:
        return key, data.get(_DATA_VALUE, b"")
    verdict = attributes(data[_DATA_VERDICT])
    chain = verdict.get(_VERDICT_CHAIN, b"").rstrip(b"\0")
    return key, chain if verdict.get(_VERDICT_CODE) == _GOTO else b"\0" + chain
