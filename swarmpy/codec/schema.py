"""Both schemas of a value side by side: the Struct's fields and the protobuf message's.

``fields_of`` is where a Struct and its message are held against each other. Whatever they disagree on (a
field that only one side has, another type, other members of an enumeration) raises ``SchemaMismatch`` when
the type is first used, so that a forgotten field can't be lost silently on the wire.

Rules: the message of a Struct has its name in package ``swarmpy.v1``; the members of a ``StrEnum`` have
their positions as numbers, those of an ``IntEnum`` their values; ``X | None`` is a field with presence; a
union of Structs is a message that holds one oneof and nothing else, ever.
"""

from __future__ import annotations

import enum
import types
import typing
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from typing import Any, NewType

import msgspec
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from swarmpy.model.value import Value
from swarmpy.pb import changes_pb2, discovery_pb2, objects_pb2, specs_pb2, types_pb2

PACKAGE = "swarmpy.v1"
UNKNOWN_FIELD = "unknown_fields"

_FILES = (
    specs_pb2.DESCRIPTOR,
    objects_pb2.DESCRIPTOR,
    changes_pb2.DESCRIPTOR,
    discovery_pb2.DESCRIPTOR,
    types_pb2.DESCRIPTOR,
)

_SCALARS: dict[type, int] = {
    str: FieldDescriptor.TYPE_STRING,
    bytes: FieldDescriptor.TYPE_BYTES,
    bool: FieldDescriptor.TYPE_BOOL,
    int: FieldDescriptor.TYPE_INT64,
    float: FieldDescriptor.TYPE_DOUBLE,
}


class SchemaMismatch(TypeError):
    """A Struct and its protobuf message disagree: a mistake in the source, not in the data."""


class Shape(enum.Enum):
    """How a field is held on both sides."""

    SCALAR = enum.auto()
    OPTIONAL_SCALAR = enum.auto()
    ENUM = enum.auto()
    STRUCT = enum.auto()
    OPTIONAL_STRUCT = enum.auto()
    UNION = enum.auto()
    SCALARS = enum.auto()
    STRUCTS = enum.auto()
    UNIONS = enum.auto()
    STRING_MAP = enum.auto()


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field: ``type`` is the scalar, the enumeration or the Struct that it holds (or repeats)."""

    name: str
    number: int
    shape: Shape
    type: type[Any]
    union: tuple[str, tuple[tuple[str, Any], ...]] | None = None
    """Of a union: the oneof's name, and each alternative's field name and Struct."""


def descriptor_of(type_: type) -> Descriptor:
    """The message descriptor that carries the name of ``type_``."""
    for file in _FILES:
        found = file.message_types_by_name.get(type_.__name__)
        if found is not None:
            return found
    raise SchemaMismatch(f"{type_.__name__} has no message {PACKAGE}.{type_.__name__}")


def message_class(descriptor: Descriptor) -> type[Message]:
    return message_factory.GetMessageClass(descriptor)


def fields_of(type_: type[Value]) -> tuple[Field, ...]:
    """The fields of ``type_`` in the message's order, checked against the message."""
    descriptor = descriptor_of(type_)
    hints = typing.get_type_hints(type_)
    ours = [field.name for field in msgspec.structs.fields(type_) if field.name != UNKNOWN_FIELD]
    theirs = [field.name for field in descriptor.fields]
    if set(ours) != set(theirs):
        only = sorted(set(ours) ^ set(theirs))
        raise SchemaMismatch(f"{type_.__name__}: only the Struct or only the message has {', '.join(only)}")
    return tuple(_match(f"{type_.__name__}.{pb.name}", hints[pb.name], pb) for pb in descriptor.fields)


def numbers_of(type_: type[Enum]) -> dict[int, Enum]:
    """Wire number -> member, by the rule of the module's docstring."""
    if issubclass(type_, IntEnum):
        return {member.value: member for member in type_}
    return dict(enumerate(type_))


def has_unspecified(type_: type[Enum]) -> bool:
    """Whether an unknown number of this enumeration can be carried along as 'not specified'."""
    return "UNSPECIFIED" in type_.__members__


def _match(where: str, hint: Any, pb: FieldDescriptor) -> Field:
    inner, is_optional = _strip_optional(_strip_new_type(hint))
    origin = typing.get_origin(inner)
    if origin is dict:
        return _match_map(where, inner, pb)
    is_tuple = origin is tuple
    if is_tuple:
        item, *rest = typing.get_args(inner)
        if rest != [Ellipsis] or is_optional:
            raise SchemaMismatch(f"{where}: only tuple[X, ...] can be repeated")
        inner = _strip_new_type(item)
    if is_tuple is not pb.is_repeated:
        raise SchemaMismatch(f"{where}: repeated on one side only")
    if isinstance(inner, types.UnionType) or typing.get_origin(inner) is typing.Union:
        return _match_union(where, typing.get_args(inner), pb, is_optional=is_optional)
    if not isinstance(inner, type):
        raise SchemaMismatch(f"{where}: no wire form for {hint!r}")
    if issubclass(inner, Value):
        if pb.type != FieldDescriptor.TYPE_MESSAGE or pb.message_type is not descriptor_of(inner):
            raise SchemaMismatch(f"{where}: the message has another type than {inner.__name__}")
        shape = Shape.STRUCTS if is_tuple else Shape.OPTIONAL_STRUCT if is_optional else Shape.STRUCT
        return Field(name=pb.name, number=pb.number, shape=shape, type=inner)
    if issubclass(inner, (StrEnum, IntEnum)):
        if is_tuple or is_optional or pb.type != FieldDescriptor.TYPE_ENUM or pb.has_presence:
            raise SchemaMismatch(f"{where}: an enumeration is a plain, single field on both sides")
        _match_enum(where, inner, pb.enum_type)
        return Field(name=pb.name, number=pb.number, shape=Shape.ENUM, type=inner)
    if pb.type != _SCALARS.get(inner):
        raise SchemaMismatch(f"{where}: the message has another type than {inner.__name__}")
    if not is_tuple and pb.has_presence is not is_optional:
        raise SchemaMismatch(f"{where}: optional on one side only")
    shape = Shape.SCALARS if is_tuple else Shape.OPTIONAL_SCALAR if is_optional else Shape.SCALAR
    return Field(name=pb.name, number=pb.number, shape=shape, type=inner)


def _match_map(where: str, hint: Any, pb: FieldDescriptor) -> Field:
    entry = pb.message_type
    if typing.get_args(hint) != (str, str) or entry is None or not entry.GetOptions().map_entry:
        raise SchemaMismatch(f"{where}: a dict is a map<string, string> and the other way round")
    if any(field.type != FieldDescriptor.TYPE_STRING for field in entry.fields):
        raise SchemaMismatch(f"{where}: a dict is a map<string, string> and the other way round")
    return Field(name=pb.name, number=pb.number, shape=Shape.STRING_MAP, type=dict)


def _match_union(where: str, members: tuple[Any, ...], pb: FieldDescriptor, *, is_optional: bool) -> Field:
    message = pb.message_type
    if is_optional or message is None or len(message.oneofs) != 1:
        raise SchemaMismatch(f"{where}: a union of Structs is a message with exactly one oneof")
    (oneof,) = message.oneofs
    by_name = {member.__name__: member for member in members}
    alternatives = tuple(
        (field.name, by_name.get(field.message_type.name) if field.message_type is not None else None)
        for field in oneof.fields
    )
    if len(oneof.fields) != len(message.fields) or {a[1] for a in alternatives} != set(members):
        raise SchemaMismatch(f"{where}: {message.name} and the union have different alternatives")
    shape = Shape.UNIONS if pb.is_repeated else Shape.UNION
    return Field(name=pb.name, number=pb.number, shape=shape, type=Value, union=(oneof.name, alternatives))


def _match_enum(where: str, type_: type[Enum], pb: EnumDescriptor | None) -> None:
    """``TaskState.NEW`` is ``TASK_STATE_NEW``."""
    prefix = "".join("_" + c if c.isupper() else c for c in type_.__name__).strip("_").upper() + "_"
    ours = {number: prefix + member.name for number, member in numbers_of(type_).items()}
    theirs = {value.number: value.name for value in pb.values} if pb is not None else {}
    if ours != theirs:
        raise SchemaMismatch(f"{where}: {type_.__name__} has other members than its enum in proto/")


def _strip_new_type(hint: Any) -> Any:
    while isinstance(hint, NewType):
        hint = hint.__supertype__
    return hint


def _strip_optional(hint: Any) -> tuple[Any, bool]:
    if not isinstance(hint, types.UnionType) and typing.get_origin(hint) is not typing.Union:
        return hint, False
    args = typing.get_args(hint)
    if type(None) not in args:
        return hint, False
    rest = tuple(arg for arg in args if arg is not type(None))
    if len(rest) == 1:
        return _strip_new_type(rest[0]), True
    return typing.Union[rest], True  # noqa: UP007 - built at run time
