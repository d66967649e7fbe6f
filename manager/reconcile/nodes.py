"""Node health: when a node that is not heard of is down, and when its tasks are given up.

The dispatcher writes what it sees: READY while a session is open, DISCONNECTED when it ended, UNKNOWN for
all nodes when a new leader starts. This loop writes what follows from silence: each of the two has a grace,
after which the node is DOWN (and its tasks are replaced). Tasks of a node that was down for
``NODE_ORPHAN_S``, or that was removed, are ORPHANED: no agent will report on them.

The grace of a lost session grows with the cluster's heartbeat period, if that is longer than the default.

Times are data on the node (``status.since``). Only time in which a leader could have heard of a node counts:
what a new leader doubts begins its grace anew (``doubted``), and after a long outage of the quorum, when
agents look for a leader more rarely, later by as much as they may wait. DOWN is written under
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
    OUTAGE_DIALS_S,
    OUTAGE_LONG_S,
    PLAN_GROUPS_MAX,
    RESTART_GRACE_S,
    SESSION_BACKOFF_FRACTION,
    SESSION_BACKOFF_MAX_S,
    UNKNOWN_GRACE_PER_NODE_S,
    UNKNOWN_GRACE_S,
)
from swarmpy.model.changes import Group, NodeReport, Report
from swarmpy.model.defaults import HEARTBEAT_PERIOD, heartbeat_period
from swarmpy.model.ids import SECOND_NS, NodeId, Timestamp
from swarmpy.model.objects import Cluster, Node, NodeStatus, Task, TaskStatus
from swarmpy.model.states import NodeState, Owner, TaskState, is_terminal

RESTARTING_MESSAGE: Final = "restarting"
"""``status.message`` of a disconnected node whose daemon announced a planned restart."""
DOUBTED_MESSAGE: Final = 'Node moved to "unknown" state due to leadership change in cluster'
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
        grace = _grace(node, cluster_size=len(view.nodes()), patience=_patience(view.cluster()))
        if grace is None:
            return NOTHING
        down_at = _since(node) + grace
        return _down(node, now) if now >= down_at else Plan(wake_at=Timestamp(down_at))


def doubted(
    node: Node, *, now: Timestamp, epoch: int, outage_s: float, cluster_size: int
) -> NodeStatus | None:
    """What a new leader makes of a node that it has not heard of; None: its record stands as it is.

    ``outage_s``: how long there was no leader that the node's agent could have found.
    """
    status = node.status
    is_long = outage_s > OUTAGE_LONG_S
    heard_from = now + _patience_ns(outage_s) if is_long else now
    match status.state:
        case NodeState.READY:
            return NodeStatus(
                state=NodeState.UNKNOWN,
                message=DOUBTED_MESSAGE,
                addr=status.addr,
                since=Timestamp(heard_from),
                epoch=epoch,
            )
        case NodeState.UNKNOWN:
            return replace(status, since=Timestamp(max(status.since, heard_from)), epoch=epoch)
        case NodeState.DISCONNECTED if is_long:
            # it may have come back all the while, and nobody was there: it gets no less than the others
            least = heard_from + _unknown_grace(cluster_size) - _disconnect_grace(node)
            return replace(status, since=Timestamp(max(status.since, least)), epoch=epoch)
        case _:
            return None


def _patience_ns(outage_s: float) -> int:
    """How much later than after a change of leaders an agent may come."""
    wait_s = min(SESSION_BACKOFF_MAX_S, outage_s * SESSION_BACKOFF_FRACTION)
    return int((wait_s + OUTAGE_DIALS_S) * SECOND_NS)


def _since(node: Node) -> int:
    return node.status.since or node.created_at


def _patience(cluster: Cluster | None) -> float:
    """Who wants heartbeats more rarely than by default wants nodes called down later, too."""
    return max(1.0, heartbeat_period(cluster) / HEARTBEAT_PERIOD)


def _grace(node: Node, *, cluster_size: int, patience: float) -> int | None:
    """How long the node may stay in its state; None: as long as it likes."""
    match node.status.state:
        case NodeState.DISCONNECTED:
            return int(_disconnect_grace(node) * patience)
        case NodeState.UNKNOWN | NodeState.UNSPECIFIED:
            return _unknown_grace(cluster_size)
        case _:
            return None


def _disconnect_grace(node: Node) -> int:
    return _RESTART_GRACE_NS if node.status.message == RESTARTING_MESSAGE else _DISCONNECT_GRACE_NS


def _unknown_grace(cluster_size: int) -> int:
    return _UNKNOWN_GRACE_NS + cluster_size * _UNKNOWN_GRACE_PER_NODE_NS


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
