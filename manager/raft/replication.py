"""What a leader sends one follower next: entries, a piece of a snapshot, or a mere heartbeat.

Replaces the library's sending, which goes round in circles while a snapshot is not there yet and queues
without bound towards a slow member. Here a member whose queue is long gets only heartbeats until it is short.
"""

from __future__ import annotations

import math
from typing import Any

from manager.raft.codec import Entry
from manager.raft.journal import Journal
from manager.raft.messages import Message
from manager.raft.snapshotter import Snapshotter
from manager.raft.transport import PeerTransport
from swarmpy.limits import RAFT_APPEND_PERIOD_S, RAFT_BACKLOG_BYTES_MAX, RAFT_COMMIT_NOTICE_S


class Replication:
    def __init__(
        self, journal: Journal, snapshotter: Snapshotter, transport: PeerTransport, *, batch_bytes: int
    ) -> None:
        self._journal, self._snapshotter, self._transport = journal, snapshotter, transport
        self._batch_bytes = batch_bytes
        self._held_back: set[str] = set()
        """Peers for which something was left for later, because their queue was long."""
        self._sent_at: dict[str, float] = {}
        self._told = (0, 0)
        """The log's end and the commit index that the last round told everyone."""
        self._told_at = -math.inf

    def begin_round(self, commit_index: int, now: float) -> None:
        """Everyone is sent to now."""
        self._told = self._journal.last, commit_index
        self._told_at = now

    def has_news(self, commit_index: int, now: float) -> bool:
        """Whether everyone must be sent to now.

        That more is committed mostly goes along with the next entries, at no cost. Only a follower that waits
        for what it forwarded must hear of it at once.
        """
        last, told = self._told
        if self._journal.last != last or commit_index == told:
            return self._journal.last != last
        return self._transport.forwarded_index > told or now - self._told_at >= RAFT_COMMIT_NOTICE_S

    def may_resume(self, peer: str) -> bool:
        """Whether ``peer`` was held back and its queue is short again."""
        return peer in self._held_back and not self._is_full(peer)

    def send(self, node: Any, next_index: int, head: Message, now: float) -> int:
        """Send what ``node`` needs from ``next_index`` on; the index that comes next afterwards.

        ``head`` holds the fields that all messages of this round share.
        """
        self._held_back.discard(node.id)
        if self._is_full(node.id):
            self._held_back.add(node.id)
            if now - self._sent_at.get(node.id, -math.inf) >= RAFT_APPEND_PERIOD_S:
                self._send_heartbeat(node, next_index, head, now)
            return next_index
        self._sent_at[node.id] = now
        if next_index > self._journal.first:
            return self._send_entries(node, next_index, head)
        return self._send_snapshot(node, next_index, head, now)

    def _send_heartbeat(self, node: Any, next_index: int, head: Message, now: float) -> None:
        self._sent_at[node.id] = now
        if next_index > self._journal.first:
            self._transport.send(node, head | self._place(next_index) | {"entries": []})
        else:
            self._transport.send(node, head | {"serialized": None})

    def _send_entries(self, node: Any, next_index: int, head: Message) -> int:
        is_first = True
        while is_first or next_index <= self._journal.last:
            if not is_first and self._is_full(node.id):
                self._held_back.add(node.id)
                break
            is_first = False
            entries: list[Entry] = []
            if next_index <= self._journal.last:
                entries = self._journal.batch(next_index, self._batch_bytes)
            if not self._transport.send(node, head | self._place(next_index) | {"entries": entries}):
                break
            if entries:
                next_index = entries[-1][1] + 1
        return next_index

    def _send_snapshot(self, node: Any, next_index: int, head: Message, now: float) -> int:
        """One piece; the next comes with the next tick, since to read and pack it takes the loop's time."""
        chunk = self._snapshotter.next_chunk(node.id, now)
        if chunk is None:
            raise AssertionError("the log was trimmed without a snapshot")
        piece = {"serialized": (chunk.data, chunk.offset, chunk.is_last)}
        if not self._transport.send(node, head | piece):
            self._snapshotter.cancel(node.id)
            return next_index
        if chunk.is_last:
            return chunk.last_index + 1
        self._held_back.add(node.id)
        return next_index

    def _place(self, next_index: int) -> Message:
        return {"prevLogIdx": next_index - 1, "prevLogTerm": self._journal.term_at(next_index - 1)}

    def _is_full(self, peer: str) -> bool:
        return self._transport.backlog(peer) > RAFT_BACKLOG_BYTES_MAX
