"""A container's id: 64 hexadecimal digits, as everywhere in docker's world, made of an object's id.

That object is the task whose container it is, or the service that stands for one started by hand. The ids
differ, so that a client that tries one kind of object after another finds the right one; a container's can be
turned back, so that nobody has to keep a list; and the beginning of one is the beginning of the other.
"""

from __future__ import annotations

from typing import Final

ID_DIGITS: Final = 64
SHORT_ID_CHARS: Final = 12
_PADDING: Final = "0"


def container_id(object_id: str) -> str:
    """Of the container of a task, or of a service that stands for one."""
    return object_id.encode().hex().ljust(ID_DIGITS, _PADDING)


def short_container_id(object_id: str) -> str:
    return container_id(object_id)[:SHORT_ID_CHARS]


def object_prefix(prefix: str) -> str | None:
    """How the object's id begins if the container's begins so; all of it for a whole id. None: no container's
    id begins so. Of an odd number of digits the last says nothing yet."""
    if len(prefix) > ID_DIGITS:
        return None
    try:
        return bytes.fromhex(prefix[: len(prefix) // 2 * 2]).rstrip(b"\0").decode("ascii")
    except ValueError:
        return None
