"""Changes to the store: what control loops plan, what the API writes, what raft carries.

A ``Batch`` is one raft entry: small atomic groups, each applied whole or refused alone. A group is
refused when one of its changes does not fit the store: a base version that is no longer the object's,
a create of what exists, a task transition that its owner may not make.
"""

from __future__ import annotations

from swarmpy.model.ids import NodeId, TaskId, Timestamp
from swarmpy.model.objects import Kind, ManagerStatus, NodeDescription, NodeStatus, Object, TaskStatus
from swarmpy.model.states import Owner, TaskState
from swarmpy.model.value import Value


class Create(Value, frozen=True, kw_only=True):
    """Add ``object``; its id must be new (and its name, where names are unique)."""

    object: Object


class Update(Value, frozen=True, kw_only=True):
    """Replace the object, if its stored version still is ``object.version``.

    Merged fields are taken from the store, not from ``object``; a task's status is taken
    from ``object`` if it is ahead.
    """

    object: Object


class Delete(Value, frozen=True, kw_only=True):
    """Remove the object, if its stored version still is ``version`` (0: whatever it is)."""

    kind: Kind
    id: str
    version: int = 0


class Order(Value, frozen=True, kw_only=True):
    """Raise a task's desired state; lower or equal wishes change nothing and are not refused."""

    task_id: TaskId
    desired_state: TaskState


class Report(Value, frozen=True, kw_only=True):
    """Merge an observed task status: it holds if its (state, report) is ahead, else nothing changes."""

    task_id: TaskId
    status: TaskStatus


class NodeReport(Value, frozen=True, kw_only=True):
    """Merge what was observed of a node; absent parts stay. Refused if ``status.epoch`` is older."""

    node_id: NodeId
    status: NodeStatus | None = None
    description: NodeDescription | None = None
    manager_status: ManagerStatus | None = None
    is_manager_removed: bool = False


Change = Create | Update | Delete | Order | Report | NodeReport


class Group(Value, frozen=True, kw_only=True):
    """Changes that hold together or not at all. Later changes see earlier ones."""

    owner: Owner
    changes: tuple[Change, ...]


class Batch(Value, frozen=True, kw_only=True):
    """One raft entry.

    ``at`` stamps created and updated objects. ``epoch`` is the raft term of the proposing leader: a
    batch of a deposed leader is refused whole; 0 means that it is not fenced (API writes).
    ``request_id`` makes a repeated batch harmless: it is applied once.
    """

    groups: tuple[Group, ...] = ()
    at: Timestamp = Timestamp(0)
    epoch: int = 0
    request_id: str = ""
    base: int = 0
    """The store's version that the groups were planned on, one on top of the other. Higher versions that they
    name are predictions of what earlier groups come out as; 0: they predict nothing."""


class Refusal(Value, frozen=True, kw_only=True):
    """Why the group at ``index`` was not applied.

    ``is_stale``: what it was decided on had moved on, so whoever decides again comes to something else.
    ``code`` is the name of the gRPC code that the API answers with.
    """

    index: int
    reason: str
    is_stale: bool = False
    code: str = ""


class Applied(Value, frozen=True, kw_only=True):
    """The outcome of a batch: the store's version after it, and the groups that were refused."""

    version: int
    refused: tuple[Refusal, ...] = ()
