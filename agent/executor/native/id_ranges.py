"""The node's ids that tasks have as their own: what ``--userns-remap`` asks for, and what it rules out.

Pure; ``node_ids`` reads what the node knows. With ranges, id 0 of a task is a range's first on the node, so
that root in a task is nobody outside. Docker's words are understood (``user``, ``user:group``, ``uid``,
``uid:gid``): the ranges are those of this user in /etc/subuid and /etc/subgid. As in dockerd, the group is
looked up and has no other part in it.

``default`` is a range that no tool hands out to users, always the same, and not that of ``dockremap``: a node
where dockerd is set up later keeps the owners of its volumes. A range of one's own is ``FIRST+SIZE``.

Unlike dockerd, what would give tasks ids of somebody else is refused, and so is a user's range in which
images would miss ids; of several ranges of a user the first large enough is taken, not all of them together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, NamedTuple

from swarmpy.errors import InvalidArgument, TaskRejected
from swarmpy.model.specs import ContainerSpec

HOST_IDS: Final = "host"
"""The ``userns_mode`` of a container that has the node's own ids."""
ROOT: Final = "root"

_DEFAULT: Final = "default"
_SIZE: Final = 65_536
"""Images have owners up to 65534, ``nobody``."""
_FIRST: Final = 700_000_000
"""Beyond SUB_UID_MAX of login.defs, below which ranges are given to users."""
_ID_MAX: Final = (1 << 32) - 2


class IdRange(NamedTuple):
    first: int
    size: int

    @property
    def last(self) -> int:
        return self.first + self.size - 1

    def overlaps(self, other: IdRange) -> bool:
        return self.first <= other.last and other.first <= self.last


class TaskIds(NamedTuple):
    users: IdRange
    groups: IdRange


class Subordinate(NamedTuple):
    """A line of /etc/subuid or /etc/subgid. ``owner``: a user's name or number."""

    owner: str
    ids: IdRange


@dataclass(frozen=True, kw_only=True)
class NodeIds:
    """Whose the node's ids are. ``users`` and ``groups``: numbers by names."""

    users: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    sub_users: tuple[Subordinate, ...] = ()
    sub_groups: tuple[Subordinate, ...] = ()


def parse(text: str, node: NodeIds) -> TaskIds | None:
    """The ids of tasks; nothing if they are the node's own. InvalidArgument, with docker's words."""
    if not text:
        return None
    owner: tuple[str, ...] = ()
    if text == _DEFAULT:
        found = TaskIds(IdRange(_FIRST, _SIZE), IdRange(_FIRST, _SIZE))
    elif "+" in text and text.partition(":")[0] not in node.users:  # as DOMAIN+ann is
        own = _own_range(text)
        found = TaskIds(own, own)
    else:
        name = _user(text, node)
        if name == ROOT:  # as in dockerd, which says that it cannot be remapped with itself
            return None
        owner = (name, str(node.users[name]))
        found = TaskIds(
            _range_of(owner, node.sub_users, what="uid"), _range_of(owner, node.sub_groups, what="gid")
        )
    _refuse_others(found.users, owner, taken=(node.users, node.sub_users), what="uid")
    _refuse_others(found.groups, owner, taken=(node.groups, node.sub_groups), what="gid")
    return found


def _own_range(text: str) -> IdRange:
    first, _, size = text.partition("+")
    if not (first.isdecimal() and size.isdecimal()):
        raise InvalidArgument(
            f'--userns-remap "{text}" is no range of ids: give FIRST+SIZE, such as 200000+65536'
        )
    found = IdRange(int(first), int(size))
    if found.first == 0 or found.size == 0 or found.last > _ID_MAX:
        raise InvalidArgument(
            f'--userns-remap "{text}": the range must not begin at 0, be empty, or end beyond {_ID_MAX}'
        )
    return found


def _user(text: str, node: NodeIds) -> str:
    """The user's name."""
    words = text.split(":")
    if len(words) > 2:
        raise InvalidArgument(f'Invalid user/group specification in --userns-remap: "{text}"')
    if len(words) == 2:
        _require_group(words[1], node)
    word = words[0]
    if word in node.users:
        return word
    if not word.isdecimal():
        raise InvalidArgument(
            f'Error during uid lookup for "{word}": this node has no such user; give --userns-remap a user '
            'with ranges in /etc/subuid and /etc/subgid, or "default"'
        )
    for name, number in sorted(node.users.items()):
        if number == int(word):
            return name
    raise InvalidArgument(
        f"Uid {word} has no entry in /etc/passwd: give --userns-remap a user of this node; a range of ids is "
        "given as FIRST+SIZE"
    )


def _require_group(word: str, node: NodeIds) -> None:
    if word in node.groups:
        return
    if not word.isdecimal():
        raise InvalidArgument(f'Error during groupname lookup for "{word}": this node has no such group')
    if int(word) not in node.groups.values():
        raise InvalidArgument(
            f"Gid {word} has no entry in /etc/group: give --userns-remap a group of this node, or none; a "
            "range of ids is given as FIRST+SIZE"
        )


def _range_of(owner: tuple[str, ...], given: tuple[Subordinate, ...], *, what: str) -> IdRange:
    """By the user's number if any line has it, else by name, as dockerd looks."""
    name, number = owner
    own = [each.ids for each in given if each.owner == number] or [
        each.ids for each in given if each.owner == name
    ]
    file = f"/etc/sub{what}"
    if not own:
        raise InvalidArgument(
            f'Can\'t create ID mappings: no sub{what} ranges found for user "{name}": add a line to {file}, '
            f'such as "{name}:200000:{_SIZE}"'
        )
    for ids in sorted(own):
        if ids.size >= _SIZE and ids.first > 0 and ids.last <= _ID_MAX:
            return ids
    most = max(ids.size for ids in own)
    raise InvalidArgument(
        f'the range of user "{name}" in {file} cannot be used: it has {most} ids of {_SIZE} that images use, '
        f"or begins at 0, or ends beyond {_ID_MAX}; change it there, or give FIRST+SIZE, of any size"
    )


def _refuse_others(
    ids: IdRange,
    owner: tuple[str, ...],
    *,
    taken: tuple[dict[str, int], tuple[Subordinate, ...]],
    what: str,
) -> None:
    """Ids of the node's own users, or that another one may have, would be the tasks'."""
    numbers, given = taken
    for name, number in sorted(numbers.items(), key=itemgetter(1)):
        if ids.first <= number <= ids.last:
            raise InvalidArgument(
                f"the range {ids.first}-{ids.last} of --userns-remap overlaps ids of this node: {what} "
                f'{number} is "{name}"; choose another'
            )
    for each in given:
        if each.owner not in owner and ids.overlaps(each.ids):
            raise InvalidArgument(
                f'the range {ids.first}-{ids.last} of --userns-remap overlaps that of "{each.owner}" in '
                f"/etc/sub{what} ({each.ids.first}-{each.ids.last}); choose another, as FIRST+SIZE"
            )


def of_task(ids: TaskIds | None, spec: ContainerSpec) -> TaskIds | None:
    """Those of one task: a container made by hand may keep the node's."""
    return None if spec.userns_mode == HOST_IDS else ids


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
