"""One agent's session on the leading manager: what is still to be told to it, and in which order.

Nothing is queued that can be derived: a session remembers *which* tasks and objects may have changed, and
``next_messages`` turns that into messages from the store's present state when the stream can take them. So a
slow agent costs a set of ids, never a growing queue. Assignment messages are chained: ``results_in`` of one
is ``applies_to`` of the next, so that the agent notices a lost one.
"""

from __future__ import annotations

import asyncio
from collections import deque

from manager.assignments import Assignable, Item, NodeAssignments, Removed
from manager.audience import Audience
from manager.discovery import RecordBook, RecordKey
from manager.node_records import RecordRemoved
from manager.store.view import View
from swarmpy import codec
from swarmpy.limits import (
    ASSIGNMENT_BYTES_MAX,
    ASSIGNMENT_CHANGES_MAX,
    AUTOSCALE_PERIOD_S,
    DISCOVERY_CACHE_RECORDS_MAX,
    SESSION_QUEUE_MESSAGES_MAX,
)
from swarmpy.model.discovery import (
    DiscoveryRecord,
    NetworkEndpoint,
    NetworkService,
    NetworkSettings,
    NodePeer,
    RecordKind,
)
from swarmpy.model.ids import SECOND_NS, NodeId, SessionId, TaskId
from swarmpy.model.objects import Config, Kind, Network, Revision, Secret, Task
from swarmpy.pb import discovery_pb2, types_pb2
from swarmpy.pb import dispatcher_pb2 as pb


class Shared:
    """What all sessions of one dispatcher have in common: who holds which network, and records that are
    derived and encoded once for all of them."""

    def __init__(self) -> None:
        self.audience: Audience[Session] = Audience()
        self.book = RecordBook()
        self._encoded: dict[tuple[type, str], tuple[DiscoveryRecord, pb.AssignmentChange]] = {}

    def change_of(self, record: DiscoveryRecord) -> pb.AssignmentChange:
        """The record's message, made once while the record stays the same."""
        key = (type(record), record.record_id)
        known = self._encoded.get(key)
        if known is not None and known[0] is record:
            return known[1]
        change = _record_change(record)
        if len(self._encoded) >= DISCOVERY_CACHE_RECORDS_MAX:
            self._encoded.clear()
        self._encoded[key] = record, change
        return change


class Session:
    """The downward half of one agent's stream. One writer drains it, the dispatcher feeds it."""

    def __init__(self, node_id: NodeId, session_id: SessionId, shared: Shared | None = None) -> None:
        self.node_id = node_id
        self.session_id = session_id
        self.is_leaving = False
        """The agent said goodbye: its absence is planned."""
        self.end_reason = ""
        self._common = shared if shared is not None else Shared()
        self._assignments = NodeAssignments(node_id, self._common.book)
        self._is_complete_due = True
        self._is_usage_due = True
        self._has_usage_order = False
        self._tasks: dict[TaskId, None] = {}
        self._shared: dict[tuple[Kind, str], None] = {}
        self._records: dict[RecordKey, None] = {}
        self._notices: deque[pb.ManagerMessage] = deque()
        self._chain = 0
        self._wake = asyncio.Event()
        self._closed = asyncio.Event()

    @property
    def backlog(self) -> dict[str, int]:
        """What is still to be told to the agent."""
        return {
            "session_notices": len(self._notices),
            "session_tasks": len(self._tasks),
            "session_records": len(self._records),
        }

    @property
    def progress(self) -> tuple[SessionId, int] | None:
        """The last assignment message, if after it there is nothing to tell of what is marked; else None."""
        is_behind = self._is_complete_due or self._tasks or self._shared or self._records
        return None if is_behind or self.is_closed else (self.session_id, self._chain)

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def close(self, reason: str, *, last: pb.ManagerMessage | None = None) -> None:
        """End the session after ``last``; what else was to be told is dropped. The first reason counts."""
        if last is not None:
            self._notices.append(last)
        self.end_reason = self.end_reason or reason
        self._closed.set()
        self._wake.set()
        self._common.audience.leave(self)

    def task_changed(self, task_id: TaskId) -> None:
        self._tasks[task_id] = None
        self._wake.set()

    def shared_changed(self, kind: Kind, id_: str) -> None:
        self._shared[(kind, id_)] = None
        self._wake.set()

    def record_changed(self, key: RecordKey) -> None:
        self._records[key] = None
        self._wake.set()

    def usage_wanted(self) -> None:
        """Which services' tasks are to be measured may have changed."""
        self._is_usage_due = True
        self._wake.set()

    def resync(self) -> None:
        """Anything may have changed: send a COMPLETE set again."""
        self._is_complete_due = True
        self._is_usage_due = True
        self._wake.set()

    def notify(self, message: pb.ManagerMessage) -> None:
        """Send a message that is not derived from assignments. An agent that takes none is cut off."""
        if len(self._notices) >= SESSION_QUEUE_MESSAGES_MAX:
            self.close("it takes no messages")
            return
        self._notices.append(message)
        self._wake.set()

    async def wait(self) -> None:
        """Until there is something to send, or the session was closed."""
        await self._wake.wait()
        self._wake.clear()

    def next_messages(self, view: View) -> list[pb.ManagerMessage]:
        """All that is to be told now, in order."""
        messages = list(self._notices)
        self._notices.clear()
        if not self.is_closed:
            messages.extend(self._assignment_messages(view))
            messages.extend(self._usage_order(view))
        return messages

    def _usage_order(self, view: View) -> list[pb.ManagerMessage]:
        """Nothing, to an agent that was never asked and is not to be."""
        is_due, self._is_usage_due = self._is_usage_due, False
        if not is_due:
            return []
        measured = sorted(service.id for service in view.services() if service.spec.autoscale is not None)
        if not measured and not self._has_usage_order:
            return []
        self._has_usage_order = bool(measured)
        order = pb.UsageOrder(service_ids=measured, period=int(AUTOSCALE_PERIOD_S * SECOND_NS))
        return [pb.ManagerMessage(usage_order=order)]

    def _assignment_messages(self, view: View) -> list[pb.ManagerMessage]:
        is_complete, self._is_complete_due = self._is_complete_due, False
        items: list[Item] = []
        if is_complete:
            items = self._assignments.complete(view)
        else:
            for key in self._shared:
                items.extend(self._assignments.refreshed(view, key))
            # records before tasks: who is told to stop has left names and virtual addresses before
            items.extend(self._assignments.records(view, self._records))
            items.extend(self._assignments.changes(view, self._tasks))
        self._shared.clear()
        self._records.clear()
        self._tasks.clear()
        self._common.audience.place(self, self._assignments.networks)
        if is_complete:
            return self._pack(items, pb.AssignmentUpdate.COMPLETE)
        return self._pack(items, pb.AssignmentUpdate.INCREMENTAL) if items else []

    def _pack(self, items: list[Item], type_: pb.AssignmentUpdate.Type.ValueType) -> list[pb.ManagerMessage]:
        """Messages of bounded size. The agent joins those of a COMPLETE set before it acts."""
        is_complete = type_ == pb.AssignmentUpdate.COMPLETE
        messages = []
        for part in _parts([self._change(item) for item in items]):
            update = pb.AssignmentUpdate(type=type_, applies_to=self._chain, results_in=self._chain + 1)
            update.changes.extend(part)
            update.continues = is_complete
            self._chain += 1
            messages.append(pb.ManagerMessage(assignments=update))
            type_ = pb.AssignmentUpdate.INCREMENTAL
        messages[-1].assignments.continues = False
        return messages

    def _change(self, item: Item) -> pb.AssignmentChange:
        if isinstance(item, NetworkEndpoint | NetworkService | NodePeer | NetworkSettings):
            return self._common.change_of(item)
        return _change(item)


def _parts(changes: list[pb.AssignmentChange]) -> list[list[pb.AssignmentChange]]:
    """At least one part, and as few as the bounds on a message allow. A large change may stand alone."""
    parts: list[list[pb.AssignmentChange]] = [[]]
    size = 0
    for change in changes:
        if len(parts[-1]) == ASSIGNMENT_CHANGES_MAX or size >= ASSIGNMENT_BYTES_MAX:
            parts.append([])
            size = 0
        parts[-1].append(change)
        size += change.ByteSize()
    return parts


WIRE_KIND = {kind: types_pb2.Kind.Value(f"KIND_{kind.name}") for kind in Kind}
WIRE_RECORD_KIND = {kind: discovery_pb2.RecordKind.Value(f"RECORD_KIND_{kind.name}") for kind in RecordKind}


def _change(item: Assignable | Removed | RecordRemoved) -> pb.AssignmentChange:
    change = pb.AssignmentChange()
    match item:
        case Task():
            codec.write_pb(item, change.task)
        case Revision():
            codec.write_pb(item, change.revision)
        case Secret():
            codec.write_pb(item, change.secret)
        case Config():
            codec.write_pb(item, change.config)
        case Network():
            codec.write_pb(item, change.network)
        case Removed():
            change.removal.kind = WIRE_KIND[item.kind]
            change.removal.id = item.id
        case RecordRemoved():
            change.record_removal.kind = WIRE_RECORD_KIND[item.kind]
            change.record_removal.id = item.id
    return change


def _record_change(record: DiscoveryRecord) -> pb.AssignmentChange:
    change = pb.AssignmentChange()
    match record:
        case NetworkSettings():
            codec.write_pb(record, change.network_settings)
        case NodePeer():
            codec.write_pb(record, change.peer)
        case NetworkService():
            codec.write_pb(record, change.network_service)
        case NetworkEndpoint():
            codec.write_pb(record, change.network_endpoint)
    return change
