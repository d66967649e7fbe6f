"""What a new leader doubts, and for how long nodes that it has not heard of are left alone."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace
from world import START, World, make_node, seconds

from manager.reconcile.nodes import DOUBTED_MESSAGE, RESTARTING_MESSAGE, doubted
from swarmpy.limits import (
    DISCONNECT_GRACE_S,
    OUTAGE_DIALS_S,
    OUTAGE_LONG_S,
    RESTART_GRACE_S,
    SESSION_BACKOFF_FRACTION,
    SESSION_BACKOFF_MAX_S,
    UNKNOWN_GRACE_PER_NODE_S,
    UNKNOWN_GRACE_S,
)
from swarmpy.model.ids import Timestamp
from swarmpy.model.objects import Node
from swarmpy.model.states import NodeState

UNKNOWN_S = UNKNOWN_GRACE_S + UNKNOWN_GRACE_PER_NODE_S
"""In a cluster of one."""
LONGEST_S = UNKNOWN_S + SESSION_BACKOFF_MAX_S + OUTAGE_DIALS_S


def down_after(node: Node, *, outage_s: float) -> float:
    """Seconds from a new leader's start to the node being called down, if its agent never comes."""
    world = World(node)
    world.pass_time(1000.0)
    took_over = world.now
    status = doubted(node, now=world.now, epoch=2, outage_s=outage_s, cluster_size=1)
    if status is not None:
        world.change_node(node.id, status=status)
    for _ in range(3):
        world.live()
        if world.node(node.id).status.state is NodeState.DOWN:
            break
        world.now = Timestamp(world.next_wake() or world.now)
    assert world.node(node.id).status.state is NodeState.DOWN
    return (world.now - took_over) / seconds(1)


def node_in(state: NodeState, *, since: float = 0.0, message: str = "") -> Node:
    """``since``: seconds after the world's start; a new leader takes over after 1,000."""
    node = make_node("n1", state=state)
    status = replace(node.status, since=Timestamp(START + seconds(since)), message=message, epoch=1)
    return replace(node, status=status)


@pytest.mark.parametrize(
    ("outage_s", "expected_s"),
    [
        (0.0, UNKNOWN_S),
        (1.5, UNKNOWN_S),
        (OUTAGE_LONG_S, UNKNOWN_S),
        (20.0, UNKNOWN_S + 20.0 * SESSION_BACKOFF_FRACTION + OUTAGE_DIALS_S),
        (60.0, LONGEST_S),
        (86_400.0, LONGEST_S),
        (math.inf, LONGEST_S),
    ],
)
def test_the_grace_of_nodes_grows_with_the_outage(outage_s: float, expected_s: float) -> None:
    assert down_after(node_in(NodeState.READY), outage_s=outage_s) == pytest.approx(expected_s)


def test_what_an_earlier_leader_doubted_is_doubted_anew() -> None:
    """There was nobody that its agent could have found since."""
    assert down_after(node_in(NodeState.UNKNOWN), outage_s=1.0) == pytest.approx(UNKNOWN_S)


def test_a_longer_grace_that_was_promised_is_kept() -> None:
    """As after a recovery, which lies in the future too."""
    node = node_in(NodeState.UNKNOWN, since=1030.0)
    assert down_after(node, outage_s=60.0) == pytest.approx(30.0 + UNKNOWN_S)


@pytest.mark.parametrize("message", ["", RESTARTING_MESSAGE])
def test_a_disconnected_node_is_not_given_up_for_the_time_without_a_leader(message: str) -> None:
    node = node_in(NodeState.DISCONNECTED, since=900.0, message=message)
    assert down_after(node, outage_s=2.0) == 0.0, "another leader would have said so by now"
    assert down_after(node, outage_s=60.0) == pytest.approx(LONGEST_S)


@pytest.mark.parametrize(
    ("message", "grace_s"), [("", DISCONNECT_GRACE_S), (RESTARTING_MESSAGE, RESTART_GRACE_S)]
)
def test_after_a_change_of_leaders_a_disconnected_node_has_what_is_left(message: str, grace_s: float) -> None:
    node = node_in(NodeState.DISCONNECTED, since=999.0, message=message)
    assert down_after(node, outage_s=2.0) == pytest.approx(grace_s - 1.0)


@pytest.mark.parametrize("state", [NodeState.DOWN, NodeState.UNSPECIFIED])
def test_what_is_down_or_was_never_here_stays_so(state: NodeState) -> None:
    assert doubted(node_in(state), now=START, epoch=2, outage_s=math.inf, cluster_size=1) is None


def test_what_the_record_says() -> None:
    status = doubted(node_in(NodeState.READY), now=START, epoch=2, outage_s=0.0, cluster_size=1)
    assert status is not None
    assert (status.state, status.message, status.addr) == (NodeState.UNKNOWN, DOUBTED_MESSAGE, "10.1.0.1")
    assert (status.since, status.epoch) == (START, 2)
