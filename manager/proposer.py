"""``Proposer``: batches of changes in, what became of them out. The typed side of the raft log.

``propose`` returns once the batch was applied on this manager, so the proposer reads its own write. It
raises ``NoLeader`` if the batch certainly was not committed, ``OutcomeUnknown`` if it may have been: then
commit a barrier (any batch), read again, decide again.
"""

from __future__ import annotations

from typing import Protocol

from manager.raft.proposer import RaftLog
from swarmpy import codec
from swarmpy.errors import Rejected, Stale
from swarmpy.limits import ENTRY_BYTES_MAX
from swarmpy.model.changes import Applied, Batch


class Proposer(Protocol):
    async def propose(self, batch: Batch) -> Applied: ...


class RaftProposer:
    """Encodes a batch into one raft entry."""

    def __init__(self, log: RaftLog) -> None:
        self._log = log

    async def propose(self, batch: Batch) -> Applied:
        entry = codec.encode(batch)
        if len(entry) > ENTRY_BYTES_MAX:
            raise Rejected(f"the change has {len(entry)} bytes; one transaction takes {ENTRY_BYTES_MAX}")
        applied = await self._log.propose(entry)
        assert isinstance(applied, Applied)
        return applied


def require_applied(applied: Applied) -> Applied:
    """Raise for a refused group: ``Stale`` if the object had moved on, else ``Rejected`` with the reason."""
    for refusal in applied.refused:
        raise Stale() if refusal.is_stale else Rejected(refusal.reason)
    return applied
