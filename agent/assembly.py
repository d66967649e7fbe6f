"""Assignments as the core takes them, from the messages that they come in.

A large COMPLETE set comes in parts, and takes effect as a whole: what it leaves out is not the node's any
more. So parts are kept until the last one is there. A message that does not follow the one before is passed
on alone; the core sees by its numbers that something was lost, and ends the session. One ``Assembly`` serves
one session.
"""

from __future__ import annotations

from agent import events
from swarmpy import codec
from swarmpy.model.discovery import (
    NetworkEndpoint,
    NetworkService,
    NetworkSettings,
    NodePeer,
    RecordKind,
)
from swarmpy.model.objects import Config, Kind, Network, Revision, Secret, Task
from swarmpy.pb import discovery_pb2, types_pb2
from swarmpy.pb import dispatcher_pb2 as pb

_KINDS = {types_pb2.Kind.Value(f"KIND_{kind.name}"): kind for kind in Kind}
_RECORD_KINDS = {discovery_pb2.RecordKind.Value(f"RECORD_KIND_{kind.name}"): kind for kind in RecordKind}
_Held = (
    Task
    | Revision
    | Secret
    | Config
    | Network
    | NetworkSettings
    | NodePeer
    | NetworkService
    | NetworkEndpoint
)
_ASSIGNABLE: dict[str, type[_Held]] = {
    "task": Task,
    "revision": Revision,
    "secret": Secret,
    "config": Config,
    "network": Network,
    "network_settings": NetworkSettings,
    "peer": NodePeer,
    "network_service": NetworkService,
    "network_endpoint": NetworkEndpoint,
}


class Assembly:
    def __init__(self) -> None:
        self._parts: list[pb.AssignmentUpdate] = []
        """The beginning of a COMPLETE set, in order."""

    def take(self, update: pb.AssignmentUpdate) -> events.AssignmentsReceived | None:
        """What the core is to be told now that this message is here."""
        if update.type == pb.AssignmentUpdate.COMPLETE:
            self._parts.clear()
        elif self._parts and update.applies_to != self._parts[-1].results_in:
            self._parts.clear()
            return received([update])
        elif not self._parts:
            return received([update])
        self._parts.append(update)
        if update.continues:
            return None
        parts, self._parts = self._parts, []
        return received(parts)


def received(parts: list[pb.AssignmentUpdate]) -> events.AssignmentsReceived:
    """Messages that follow one another, as one."""
    return events.AssignmentsReceived(
        is_complete=parts[0].type == pb.AssignmentUpdate.COMPLETE,
        applies_to=parts[0].applies_to,
        results_in=parts[-1].results_in,
        changes=tuple(
            change for part in parts for item in part.changes if (change := _change(item)) is not None
        ),
    )


def _change(item: pb.AssignmentChange) -> events.AssignmentChange | None:
    name = item.WhichOneof("change")
    if name == "removal":
        return events.Removal(_KINDS[item.removal.kind], item.removal.id)
    if name == "record_removal":
        kind = _RECORD_KINDS.get(item.record_removal.kind)
        return events.RecordRemoval(kind, item.record_removal.id) if kind is not None else None
    if name is None:
        return None  # something newer than this agent
    return codec.from_pb(_ASSIGNABLE[name], getattr(item, name))
