"""Hypothesis strategies for every value of the model, built from the Structs' own type hints.

``values(type_)`` covers whatever the type can hold on the wire; the strategies below it make values that are
meant to be understood: ids, names, services that fit together.
"""

from __future__ import annotations

import types
import typing
from enum import Enum
from functools import cache
from typing import Any, NewType, TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from swarmpy.codec import unknown
from swarmpy.model import changes, discovery, objects, specs
from swarmpy.model.ids import ID_CHARS
from swarmpy.model.value import Value

V = TypeVar("V", bound=Value)

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
UNKNOWN_NUMBER_MIN = 1_000
"""Field numbers from here on belong to no message of this version."""

VALUE_TYPES: tuple[type[Value], ...] = tuple(
    type_
    for module in (specs, objects, changes, discovery)
    for type_ in vars(module).values()
    if isinstance(type_, type) and issubclass(type_, Value) and type_ is not Value
    if type_.__module__ == module.__name__
)
"""Every stored or transmitted value, each once."""

texts = st.text(st.characters(codec="utf-8"), max_size=12)
int64s = st.one_of(st.integers(0, 9), st.integers(INT64_MIN, INT64_MAX))


@st.composite
def unknown_fields(draw: st.DrawFn) -> bytes:
    """What a newer version may have written: fields of every wire type, in canonical form."""
    out = b""
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(UNKNOWN_NUMBER_MIN, UNKNOWN_NUMBER_MIN + 50))
        match draw(st.sampled_from([unknown.VARINT, unknown.FIXED64, unknown.BYTES, unknown.FIXED32])):
            case unknown.VARINT:
                out += unknown.varint_field(number, draw(st.integers(0, (1 << 64) - 1)))
            case unknown.BYTES:
                data = draw(st.binary(max_size=8))
                out += unknown.varint(number << 3 | unknown.BYTES) + unknown.varint(len(data)) + data
            case unknown.FIXED64:
                out += unknown.varint(number << 3 | unknown.FIXED64) + draw(st.binary(min_size=8, max_size=8))
            case _:
                out += unknown.varint(number << 3 | unknown.FIXED32) + draw(st.binary(min_size=4, max_size=4))
    return out


@cache
def values(type_: type[V], *, has_unknown: bool = False) -> SearchStrategy[V]:
    """Any ``type_``; with ``has_unknown`` it, and every value inside, may carry unknown fields."""
    hints = typing.get_type_hints(type_)
    fields: dict[str, SearchStrategy[Any]] = {}
    for field in msgspec.structs.fields(type_):
        if field.name == "unknown_fields":
            if has_unknown:
                fields[field.name] = st.one_of(st.just(b""), unknown_fields())
        else:
            fields[field.name] = _of_hint(hints[field.name], has_unknown)
    return st.builds(type_, **fields)


def _of_hint(hint: Any, has_unknown: bool) -> SearchStrategy[Any]:
    while isinstance(hint, NewType):
        hint = hint.__supertype__
    origin = typing.get_origin(hint)
    if origin is typing.Union or isinstance(hint, types.UnionType):
        return st.one_of(*(_of_hint(arg, has_unknown) for arg in typing.get_args(hint)))
    if origin is tuple:
        item = _of_hint(typing.get_args(hint)[0], has_unknown)
        return st.lists(item, max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(texts, texts, max_size=2)
    if hint is type(None):
        return st.none()
    if issubclass(hint, Value):
        return st.deferred(lambda: values(hint, has_unknown=has_unknown))
    if issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    by_type: dict[Any, SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: int64s,
        float: st.floats(allow_nan=False, allow_infinity=False),
        bytes: st.binary(max_size=12),
        str: texts,
    }
    return by_type[hint]


def has_union(type_: type[Value]) -> bool:
    """Whether a value of ``type_`` can hold an alternative of several Structs: those have no JSON form."""
    return type_ in {changes.Create, changes.Update, changes.Group, changes.Batch}


# --- values with a meaning

ids = st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=ID_CHARS, max_size=ID_CHARS)
names = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,8})?", fullmatch=True)
any_object: SearchStrategy[objects.Object] = st.one_of(*(values(type_) for type_ in objects.KINDS))
any_batch = values(changes.Batch)
