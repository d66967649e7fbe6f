"""The node's ids that tasks have as their own: what ``--userns-remap`` asks for, and what it rules out.

Pure. With a range, id 0 of a task is the range's first on the node, so that root in a task is nobody outside.
``default`` is a range that no tool hands out to users. Docker's other form, the name of a user in
/etc/subuid, is not understood.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from swarmpy.errors import InvalidArgument, TaskRejected
from swarmpy.model.specs import ContainerSpec

_DEFAULT: Final = "default"
_SIZE: Final = 65_536
_FIRST: Final = 700_000_000
"""Beyond SUB_UID_MAX of login.defs, below which ranges are given to users."""
_ID_MAX: Final = (1 << 32) - 2


class IdRange(NamedTuple):
    first: int
    size: int


def parse(text: str) -> IdRange | None:
    """``default``, ``FIRST:SIZE``, or nothing. InvalidArgument otherwise."""
    if not text:
        return None
    if text == _DEFAULT:
        return IdRange(_FIRST, _SIZE)
    first, _, size = text.partition(":")
    if not (first.isdecimal() and size.isdecimal()):
        raise InvalidArgument(f'--userns-remap "{text}" is no range of ids: give "default" or FIRST:SIZE')
    found = IdRange(int(first), int(size))
    if found.first == 0 or found.size == 0 or sum(found) - 1 > _ID_MAX:
        raise InvalidArgument(
            f'--userns-remap "{text}": the range must not begin at 0, be empty, or end beyond {_ID_MAX}'
        )
    return found


def check(spec: ContainerSpec, *, is_host_image: bool, is_host_network: bool) -> None:
    """TaskRejected for what needs the node's own ids; docker's words where it has any."""
    if spec.privileged:
        raise TaskRejected(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host "
            "namespace when running privileged mode"
        )
    if is_host_network:
        raise TaskRejected("cannot share the host's network namespace when user namespaces are enabled")
    if is_host_image:
        raise TaskRejected(
            'the image "host" is the node\'s own root file system, which belongs to ids that tasks of this '
            "node do not have (--userns-remap): use an image, or a node without"
        )
