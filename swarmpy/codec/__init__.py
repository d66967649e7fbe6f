"""Values to protobuf bytes and back, without loss.

``decode(type(x), encode(x)) == x`` for every value whose texts are Unicode and whose integers fit 64 bits;
equal values give equal bytes (map entries are sorted), on every manager. JSON is msgspec's.

**Mixed versions.** Fields that a newer version wrote are kept in ``Value.unknown_fields`` of the very
(sub)message that held them, and are written again. An unknown number of an enumeration with an UNSPECIFIED
member reads as UNSPECIFIED and is kept in the same way until a known one replaces it. Where no reading would
be safe (a task state, a kind of object or of change) decoding refuses with ``InvalidArgument``: such
additions have to wait until all managers know them.

**Speed.** Most messages hold nothing unknown. That is found out once for the whole message (its size does not
shrink when unknown fields are dropped), and then a function reads it that never looks for any.

Nothing here checks what a value means; ``model/validate.py`` does.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

from google.protobuf.message import DecodeError, EncodeError, Message

from swarmpy.codec.compile import Compiled, Union, compiled, union
from swarmpy.codec.schema import SchemaMismatch
from swarmpy.errors import InvalidArgument
from swarmpy.model.objects import KINDS, Object
from swarmpy.model.value import Value
from swarmpy.pb import objects_pb2

__all__ = [
    "SchemaMismatch",
    "decode",
    "dump_object",
    "encode",
    "from_pb",
    "load_object",
    "prepare",
    "to_pb",
    "write_pb",
]

V = TypeVar("V", bound=Value)


def prepare(*types: type[Value]) -> None:
    """Compile now what would be compiled at first use: a tenth of a second, in the middle of other work."""
    _objects()
    for type_ in types:
        compiled(type_)


def encode(value: Value) -> bytes:
    """The bytes of ``value``; ``InvalidArgument`` if a number or a text has no wire form."""
    return _dump(to_pb(value), type(value).__name__)


def decode(type_: type[V], data: bytes) -> V:
    """The value that ``data`` holds; ``InvalidArgument`` names ``type_`` if it holds none."""
    codec = compiled(type_)
    return cast("V", _load(data, codec.message, codec, type_.__name__))


def to_pb(value: Value) -> Any:
    """``value`` as a message of its own, to be put into a larger one."""
    message = compiled(type(value)).message()
    write_pb(value, message)
    return message


def write_pb(value: Value, into: Message) -> None:
    """Write ``value`` into the empty message (or empty submessage) ``into``, which becomes present."""
    into.SetInParent()
    try:
        compiled(type(value)).fill(value, into)
    except (ValueError, DecodeError) as error:
        raise InvalidArgument(f"{type(value).__name__} can't be written: {error}") from error


def from_pb(type_: type[V], message: Message) -> V:
    """The value that ``message`` holds; as ``decode``, and ``message`` is left alone."""
    if message.DESCRIPTOR is not compiled(type_).message.DESCRIPTOR:
        raise TypeError(f"a {type_.__name__} can't be read from a {message.DESCRIPTOR.full_name}")
    return decode(type_, message.SerializeToString())


def dump_object(value: Object) -> bytes:
    """``value`` as an ``Object`` message, which says of which kind it is."""
    message = objects_pb2.Object()
    name = type(value).__name__
    try:
        _objects().fill(value, message)
    except (ValueError, DecodeError) as error:
        raise InvalidArgument(f"{name} can't be written: {error}") from error
    return _dump(message, name)


def load_object(data: bytes) -> Object:
    """The inverse of ``dump_object``."""
    return cast("Object", _load(data, objects_pb2.Object, _objects(), "Object"))


@cache
def _objects() -> Union:
    return union("object", tuple((kind.value, type_) for type_, kind in KINDS.items()))


def _dump(message: Message, name: str) -> bytes:
    try:
        return message.SerializeToString(deterministic=True)
    except (ValueError, EncodeError) as error:
        raise InvalidArgument(f"{name} can't be written: {error}") from error


def _load(data: bytes, message: type[Message], codec: Compiled | Union, name: str) -> Any:
    try:
        parsed = message.FromString(data)
        parsed.DiscardUnknownFields()
        if parsed.ByteSize() == len(data):
            try:
                return codec.read(parsed)
            except KeyError:  # an enumeration's number that this version does not know
                pass
        return codec.read_all(message.FromString(data))
    except (ValueError, DecodeError) as error:
        raise InvalidArgument(f"{len(data)} bytes are not a {name}: {error}") from error
