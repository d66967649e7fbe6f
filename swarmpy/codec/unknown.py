"""Fields that this version does not know, as protobuf bytes.

``capture`` takes them off one message (not off its submessages); merging those bytes into a message brings
them back. The bytes are canonical: shortest tags and lengths, in the order in which they were received.
"""

from __future__ import annotations

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

VARINT, FIXED64, BYTES, GROUP_START, GROUP_END, FIXED32 = range(6)
_UINT64 = (1 << 64) - 1


def capture(message: Message) -> bytes:
    """The unknown fields of ``message``; ``b""`` for none."""
    fields = UnknownFieldSet(message)
    return _dump(fields) if len(fields) else b""


def varint(number: int) -> bytes:
    """``number`` (negative ones as 64 bits) in protobuf's variable length."""
    number &= _UINT64
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def varint_field(field_number: int, number: int) -> bytes:
    """A whole field: tag and value."""
    return varint(field_number << 3 | VARINT) + varint(number)


def _dump(fields: UnknownFieldSet) -> bytes:
    out = bytearray()
    for field in (fields[i] for i in range(len(fields))):
        tag = field.field_number << 3
        out += varint(tag | field.wire_type)
        match field.wire_type:
            case 0:
                out += varint(field.data)
            case 1:
                out += (field.data & _UINT64).to_bytes(8, "little")
            case 2:
                out += varint(len(field.data)) + field.data
            case 3:
                out += _dump(field.data) + varint(tag | GROUP_END)
            case 5:
                out += (field.data & 0xFFFFFFFF).to_bytes(4, "little")
            case other:
                raise ValueError(f"wire type {other} does not exist")
    return bytes(out)
