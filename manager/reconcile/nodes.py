"""Node health: when a node that is not heard of is down, and when its tasks are given up.

The dispatcher writes what it sees: READY while a session is open, DISCONNECTED when it ended, UNKNOWN for
all nodes when a new leader starts. This loop writes what follows from silence: each of the two has a grace,
after which the node is DOWN (and its tasks are replaced). Tasks of a node that was down for
``NODE_ORPHAN_S``, or that was removed, are ORPHANED: no agent will report on them.

Times are data on the node (``status.since``), so a new leader waits out what is left. DOWN is written under
the epoch in which the silence was seen, so it can't overwrite what a later leader has heard. The dispatcher
in turn reports READY again if a node is called DOWN while its session is open.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from manager.reconcile.plan import NOTHING, Note, Plan
from manager.reconcile.slots import age
from manager.store.view import View
from swarmpy.limits import (
    DISCONNECT_GRACE_S,
    NODE_ORPHAN_S,
    PLAN_GROUPS_MAX,
    RESTART_GRACE_S,
    UNKNOWN_GRACE_PER_NODE_S,
    UNKNOWN_GRACE_S,
)
from swarmpy.model.changes import Group, NodeReport, Report
from swarmpy.model.ids import SECOND_NS, NodeId, Timestamp
from swarmpy.model.objects import Node, Task, TaskStatus
from swarmpy.model.states import NodeState, Owner, TaskState, is_terminal

RESTARTING_MESSAGE: Final = "restarting"
"""``status.message`` of a disconnected node whose daemon announced a planned restart."""
DOWN_MESSAGE: Final = "heartbeat failure"
UNKNOWN_DOWN_MESSAGE: Final = 'heartbeat failure for node in "unknown" state'
ORPHANED_MESSAGE: Final = "node is down for too long, or was removed: nobody can tell what became of the task"

_DISCONNECT_GRACE_NS: Final = int(DISCONNECT_GRACE_S * SECOND_NS)
_RESTART_GRACE_NS: Final = int(RESTART_GRACE_S * SECOND_NS)
_UNKNOWN_GRACE_NS: Final = int(UNKNOWN_GRACE_S * SECOND_NS)
_UNKNOWN_GRACE_PER_NODE_NS: Final = int(UNKNOWN_GRACE_PER_NODE_S * SECOND_NS)
_ORPHAN_NS: Final = int(NODE_ORPHAN_S * SECOND_NS)


class NodeHealth:
    """Its keys are node ids, also of removed nodes that tasks still name."""

    name = "nodes"

    def keys(self, view: View) -> Iterable[str]:
        named: set[str] = {task.node_id for task in view.tasks() if task.node_id}
        return sorted(named | {node.id for node in view.nodes()})

    def dirty(self, view: View, old: object | None, new: object | None) -> Iterable[str]:
        match new if new is not None else old:
            case Node(id=node_id):
                is_same_status = isinstance(old, Node) and isinstance(new, Node) and old.status == new.status
                return () if is_same_status else (node_id,)
            case Task(node_id=node_id) if node_id and new is not None and view.node(node_id) is None:
                return (node_id,)  # placed while its node was being removed
        return ()

    def reconcile(self, view: View, key: str, now: Timestamp) -> Plan:
        node = view.node(NodeId(key))
        if node is None:
            return _orphan(view, NodeId(key), now)
        if node.status.state == NodeState.DOWN:
            gives_up_at = _since(node) + _ORPHAN_NS
            if now >= gives_up_at:
                return _orphan(view, node.id, now)
            return Plan(wake_at=Timestamp(gives_up_at)) if _live_tasks(view, node.id) else NOTHING
        grace = _grace(node, cluster_size=len(view.nodes()))
        if grace is None:
            return NOTHING
        down_at = _since(node) + grace
        return _down(node, now) if now >= down_at else Plan(wake_at=Timestamp(down_at))


def _since(node: Node) -> int:
    return node.status.since or node.created_at


def _grace(node: Node, *, cluster_size: int) -> int | None:
    """How long the node may stay in its state; None: as long as it likes."""
    match node.status.state:
        case NodeState.DISCONNECTED:
            is_restart = node.status.message == RESTARTING_MESSAGE
            return _RESTART_GRACE_NS if is_restart else _DISCONNECT_GRACE_NS
        case NodeState.UNKNOWN | NodeState.UNSPECIFIED:
            return _UNKNOWN_GRACE_NS + cluster_size * _UNKNOWN_GRACE_PER_NODE_NS
        case _:
            return None


def _down(node: Node, now: Timestamp) -> Plan:
    was_unknown = node.status.state != NodeState.DISCONNECTED
    status = replace(
        node.status,
        state=NodeState.DOWN,
        since=now,
        message=UNKNOWN_DOWN_MESSAGE if was_unknown else DOWN_MESSAGE,
    )
    report = NodeReport(node_id=node.id, status=status)
    return Plan(
        groups=(Group(owner=Owner.ORCHESTRATOR, changes=(report,)),),
        notes=(Note(event="node_down", facts={"node_id": node.id, "reason": status.message}),),
    )


def _live_tasks(view: View, node_id: NodeId) -> list[Task]:
    return [task for task in view.tasks_of_node(node_id) if not is_terminal(task.status.state)]


def _orphan(view: View, node_id: NodeId, now: Timestamp) -> Plan:
    tasks = sorted(_live_tasks(view, node_id), key=age)
    status = TaskStatus(timestamp=now, state=TaskState.ORPHANED, message=ORPHANED_MESSAGE)
    groups = tuple(
        Group(owner=Owner.ORCHESTRATOR, changes=(Report(task_id=task.id, status=status),))
        for task in tasks[:PLAN_GROUPS_MAX]
    )
    return Plan(groups=groups, is_partial=len(tasks) > PLAN_GROUPS_MAX)
