"""Who is a member: ids, the list that a log implies, and which changes are refused.

A raft id is the node's id with a suffix drawn afresh at every join, so that a node that lost its disk can't
vote as its former self. The list in effect is a starting list plus every membership entry in the log after
it, committed or not; the list that a snapshot carries is as of the last applied entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from manager.raft.codec import Entry, change_of
from swarmpy.errors import FailedPrecondition
from swarmpy.model.ids import base36

SUFFIX_BYTES = 8
_SUFFIX_CHARS = 12

QUORUM_TEXT = (
    "rpc error: code = FailedPrecondition desc = can't remove member from the raft: "
    "this would result in a loss of quorum"
)
LAST_TEXT = "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm"


def make_raft_id(node_id: str, raw: bytes) -> str:
    """A raft id for one join, from ``SUFFIX_BYTES`` bytes of entropy."""
    if len(raw) != SUFFIX_BYTES:
        raise ValueError(f"a raft id is made from {SUFFIX_BYTES} bytes, got {len(raw)}")
    return f"{node_id}.{base36(raw, _SUFFIX_CHARS)}"


def node_of(raft_id: str) -> str:
    """The node that a raft id belongs to."""
    return raft_id.partition(".")[0]


def members_after(start: Mapping[str, str], entries: Iterable[Entry], *, after: int) -> dict[str, str]:
    """Addresses by raft id once the entries with an index above ``after`` are in the log."""
    members = dict(start)
    for command, index, _ in entries:
        change = change_of(command) if index > after else None
        if change is None:
            continue
        if change.is_add:
            members[change.raft_id] = change.address
        else:
            members.pop(change.raft_id, None)
    return members


def check_removal(members: Iterable[str], reachable: Iterable[str], raft_id: str) -> None:
    """Raises ``FailedPrecondition`` if the reachable rest of the members would be no majority of the rest."""
    rest = set(members) - {raft_id}
    if not rest:
        raise FailedPrecondition(LAST_TEXT)
    if len(rest & set(reachable)) <= len(rest) // 2:
        raise FailedPrecondition(QUORUM_TEXT)
