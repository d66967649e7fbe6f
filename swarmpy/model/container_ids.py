"""A container's id: 64 hexadecimal digits, as everywhere in docker's world, made of an object's id.

That object is the task whose container it is, or the service that stands for one started by hand. The ids
differ, so that a client that tries one kind of object after another finds the right one; a container's can be
turned back, so that nobody has to keep a list; and the beginning of one is the beginning of the other. Each
character becomes two digits of which the first is a letter: a short id is a name as well, and names of digits
alone are taken for addresses.
"""

from __future__ import annotations

from string import ascii_lowercase, digits
from typing import Final

ID_DIGITS: Final = 64
SHORT_ID_CHARS: Final = 12
_PADDING: Final = "0"
_FIRST: Final = 0xA0
_ALPHABET: Final = digits + ascii_lowercase
"""Of objects' ids. Whatever else is in one stands for itself."""
_BYTES: Final = {character: _FIRST + at for at, character in enumerate(_ALPHABET)}


def container_id(object_id: str) -> str:
    """Of the container of a task, or of a service that stands for one."""
    data = bytes(_BYTES.get(character, ord(character)) for character in object_id)
    return data.hex().ljust(ID_DIGITS, _PADDING)


def short_container_id(object_id: str) -> str:
    return container_id(object_id)[:SHORT_ID_CHARS]


def object_prefix(prefix: str) -> str | None:
    """How the object's id begins if the container's begins so; all of it for a whole id. None: no container's
    id begins so. Of an odd number of digits the last says nothing yet."""
    if len(prefix) > ID_DIGITS:
        return None
    try:
        data = bytes.fromhex(prefix[: len(prefix) // 2 * 2]).rstrip(b"\0")
    except ValueError:
        return None
    if any(byte >= _FIRST + len(_ALPHABET) or chr(byte) in _ALPHABET for byte in data):
        return None
    return "".join(_ALPHABET[byte - _FIRST] if byte >= _FIRST else chr(byte) for byte in data)
