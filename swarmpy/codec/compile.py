"""Straight-line functions for one type, generated from its checked fields.

Per type three functions are written as Python source and executed once, at first use:

* ``fill(value, message)`` writes the value into an empty message: first the unknown fields, then the known
  ones that are not zero, so that a known field wins over whatever stood in ``unknown_fields``;
* ``read(message)`` is the fast way back: it looks at no unknown fields, and raises ``KeyError`` at a number
  that an enumeration does not have;
* ``read_all(message)`` is the complete way back: it keeps the unknown fields of every message, and keeps
  unknown numbers of an enumeration with an UNSPECIFIED member among them.

An absent submessage reads as the Struct that an empty message gives, one shared instance per type.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.message import Message

from swarmpy.codec import unknown
from swarmpy.codec.schema import (
    Field,
    Shape,
    descriptor_of,
    fields_of,
    has_unspecified,
    message_class,
    numbers_of,
)
from swarmpy.errors import InvalidArgument
from swarmpy.model.value import Value

SHARED_FIELDS = frozenset(
    {"service_id", "node_id", "revision_id", "network_id", "template_id", "previous_id", "message", "err"}
)
"""Text fields whose equal values are one string in memory: 10,000 pending tasks carry the same reason."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What encodes and decodes one type."""

    message: type[Message]
    fill: Callable[[Any, Any], None]
    read: Callable[[Any], Any]
    read_all: Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Union:
    """What encodes and decodes a message that holds one oneof and nothing else."""

    fill: Callable[[Any, Any], None]
    read: Callable[[Any], Any]
    read_all: Callable[[Any], Any]


@cache
def compiled(type_: type[Value]) -> Compiled:
    """The functions of ``type_``; ``SchemaMismatch`` if Struct and message disagree."""
    fields = fields_of(type_)
    names: dict[str, Any] = {
        "T": type_,
        "intern": sys.intern,
        "capture": unknown.capture,
        "keep": _keep_number,
    }
    for field in fields:
        names |= _names(type_, field)
    lines = ["def fill(v, m):", " x = v.unknown_fields", " if x: m.MergeFromString(x)"]
    lines += [f" {line}" for field in fields for line in _fill_lines(field)]
    for function, suffix in (("read", ""), ("read_all", "_all")):
        is_complete = function == "read_all"
        lines += [f"def {function}(m):", " has = m.HasField"]
        arguments = [f"{field.name}={_read_expression(field, suffix)}" for field in fields]
        if is_complete:
            lines.append(" u = capture(m)")
            for field in fields:
                if field.shape is Shape.ENUM:
                    lines.append(
                        f" {field.name}_, u = keep(u, {field.number}, m.{field.name}, E_{field.name})"
                    )
            arguments.append("unknown_fields=u")
        lines.append(f" return T({', '.join(arguments)})")
    exec(compile("\n".join(lines), f"<codec of {type_.__name__}>", "exec"), names)
    return Compiled(
        message=message_class(descriptor_of(type_)),
        fill=names["fill"],
        read=names["read"],
        read_all=names["read_all"],
    )


@cache
def zero(type_: type[Value]) -> Value:
    """What an empty (or absent) message of ``type_`` reads as."""
    codec = compiled(type_)
    value: Value = codec.read(codec.message())
    return value


@cache
def union(oneof: str, alternatives: tuple[tuple[str, type[Value]], ...]) -> Union:
    """The functions of a oneof message; ``alternatives`` are its fields and their Structs."""
    by_type = {type_: (name, compiled(type_).fill) for name, type_ in alternatives}
    by_name = {name: compiled(type_) for name, type_ in alternatives}

    def fill(value: Value, message: Any) -> None:
        name, fill_field = by_type[type(value)]
        field = getattr(message, name)
        field.SetInParent()
        fill_field(value, field)

    def read(message: Any) -> Any:
        name = message.WhichOneof(oneof)
        if name is None:
            raise _unset(message)
        return by_name[name].read(getattr(message, name))

    def read_all(message: Any) -> Any:
        name = message.WhichOneof(oneof)
        if name is None:
            raise _unset(message)
        return by_name[name].read_all(getattr(message, name))

    return Union(fill=fill, read=read, read_all=read_all)


def _unset(message: Message) -> InvalidArgument:
    name = message.DESCRIPTOR.name
    return InvalidArgument(f"{name}: what it holds is missing or was written by a newer version")


def _keep_number(
    unknown_fields: bytes, field: int, number: int, members: tuple[Any, bool]
) -> tuple[Any, bytes]:
    """The enumeration's member, and the unknown fields with ``number`` added if there is no such member."""
    by_number, is_kept = members
    member = by_number.get(number)
    if member is not None:
        return member, unknown_fields
    if not is_kept:
        name = type(by_number[0]).__name__
        raise InvalidArgument(f"{name} {number} is not known to this version")
    return by_number[0], unknown_fields + unknown.varint_field(field, number)


def _names(type_: type[Value], field: Field) -> dict[str, Any]:
    """What the generated lines of ``field`` refer to."""
    name = field.name
    match field.shape:
        case Shape.ENUM:
            members = numbers_of(field.type)
            return {
                f"M_{name}": members,
                f"N_{name}": {member: number for number, member in members.items()},
                f"E_{name}": (members, has_unspecified(field.type)),
            }
        case Shape.STRUCT | Shape.OPTIONAL_STRUCT | Shape.STRUCTS:
            struct: type[Value] = field.type
            codec = compiled(struct)
            functions = {f"F_{name}": codec.fill, f"R_{name}": codec.read, f"R_{name}_all": codec.read_all}
            return functions | ({f"Z_{name}": zero(struct)} if field.shape is Shape.STRUCT else {})
        case Shape.UNION | Shape.UNIONS:
            if field.union is None:
                raise AssertionError(f"{type_.__name__}.{name} is a union without alternatives")
            oneof = union(*field.union)
            return {f"F_{name}": oneof.fill, f"R_{name}": oneof.read, f"R_{name}_all": oneof.read_all}
        case Shape.SCALAR | Shape.OPTIONAL_SCALAR | Shape.SCALARS | Shape.STRING_MAP:
            return {}


def _fill_lines(field: Field) -> list[str]:
    name = field.name
    lines = [f"x = v.{name}"]
    match field.shape:
        case Shape.SCALAR:
            lines += [f"if x: m.{name} = x"]
        case Shape.OPTIONAL_SCALAR:
            lines += [f"if x is not None: m.{name} = x"]
        case Shape.ENUM:
            lines += [f"x = N_{name}[x]", f"if x: m.{name} = x"]
        case Shape.STRUCT:
            lines += [f"if x is not Z_{name}: F_{name}(x, m.{name})"]
        case Shape.OPTIONAL_STRUCT:
            lines += ["if x is not None:", f" s = m.{name}", " s.SetInParent()", f" F_{name}(x, s)"]
        case Shape.UNION:
            lines += [f"F_{name}(x, m.{name})"]
        case Shape.SCALARS:
            lines += [f"if x: m.{name}.extend(x)"]
        case Shape.STRUCTS | Shape.UNIONS:
            lines += ["if x:", f" add = m.{name}.add", " for y in x:", f"  F_{name}(y, add())"]
        case Shape.STRING_MAP:
            lines += [f"if x: m.{name}.update(x)"]
    return lines


def _read_expression(field: Field, suffix: str) -> str:
    name = field.name
    read = f"R_{name}{suffix}"
    match field.shape:
        case Shape.SCALAR:
            return f"intern(m.{name})" if name in SHARED_FIELDS and field.type is str else f"m.{name}"
        case Shape.OPTIONAL_SCALAR:
            return f'm.{name} if has("{name}") else None'
        case Shape.ENUM:
            return f"{name}_" if suffix else f"M_{name}[m.{name}]"
        case Shape.STRUCT:
            return f'{read}(m.{name}) if has("{name}") else Z_{name}'
        case Shape.OPTIONAL_STRUCT:
            return f'{read}(m.{name}) if has("{name}") else None'
        case Shape.UNION:
            return f"{read}(m.{name})"
        case Shape.SCALARS:
            return f"tuple(r) if (r := m.{name}) else ()"
        case Shape.STRUCTS | Shape.UNIONS:
            return f"tuple([{read}(y) for y in r]) if (r := m.{name}) else ()"
        case Shape.STRING_MAP:
            return f"dict(sorted(r.items())) if (r := m.{name}) else {{}}"
