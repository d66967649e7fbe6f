"""Every queue of the production code stays under its limit.

A part that queues things says how many wait in its ``backlog``: name of the queue -> length (or bytes). The
names and their bounds stand here, once; a queue that has no bound here is an error of its own. Parts are
asked, never listened to: the world calls ``overfull`` as often as it likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from swarmpy import limits
from swarmpy.sim.checkers.violations import Violations

NAME: Final = "queues"

BOUNDS: Final[Mapping[str, int]] = {
    # A watch that overflows keeps a Resync and the Commit of that batch.
    "watch_events": limits.WATCH_QUEUE_EVENTS_MAX + 2,
    "raft_proposals": limits.RAFT_PROPOSALS_MAX,
    "raft_proposal_bytes": limits.RAFT_PROPOSAL_BYTES_MAX,
    "status_updates": limits.STATUS_UPDATES_MAX,
    # The last words of a session that is closed come on top of what it may queue.
    "session_notices": limits.SESSION_QUEUE_MESSAGES_MAX + 1,
    "agent_events": limits.AGENT_EVENTS_MAX,
    "unacked_batches": limits.STATUS_UNACKED_BATCHES_MAX,
}


class HasBacklog(Protocol):
    @property
    def backlog(self) -> Mapping[str, int]: ...


def overfull(part: HasBacklog, *, objects: int = 0) -> list[str]:
    """What exceeds its bound, one sentence each. ``objects``: how many the store holds, which bounds the
    queues of keys."""
    found = []
    for name, length in part.backlog.items():
        bound = BOUNDS.get(name)
        if bound is None:
            bound = _key_bounds(objects).get(name)
        if bound is None:
            found.append(f"queue {name} has no bound")
        elif length > bound:
            found.append(f"queue {name} holds {length}, and its bound is {bound}")
    return found


def _key_bounds(objects: int) -> Mapping[str, int]:
    """Queues without a constant bound: of keys, each at most once, in a store of so many objects.

    Keys of deleted objects count until they are looked at, hence what a watch may hold on top.
    """
    keys = _RECONCILERS * (objects + limits.WATCH_QUEUE_EVENTS_MAX)
    return {
        "dirty_keys": keys,
        "wakes": 2 * keys,
        "doubtful_nodes": objects + limits.WATCH_QUEUE_EVENTS_MAX,
        "session_tasks": objects + limits.WATCH_QUEUE_EVENTS_MAX,
        "session_records": _NETWORKS_EACH * (objects + limits.WATCH_QUEUE_EVENTS_MAX),
        "statuses": objects + limits.WATCH_QUEUE_EVENTS_MAX,
    }


_RECONCILERS: Final = 20
"""More than there are; each has at most one key per object."""
_NETWORKS_EACH: Final = 20
"""More than anything is on; each object has at most one record in a network."""


class Queues:
    def __init__(self, violations: Violations) -> None:
        self._violations = violations

    def check(self, name: str, part: HasBacklog, *, objects: int = 0) -> None:
        for sentence in overfull(part, objects=objects):
            self._violations.add(NAME, f"{name}: {sentence}")
