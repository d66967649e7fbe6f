"""``node drain|pause|activate``, ``node inspect --pretty``, ``rebalance``, and the flags of placement."""

from __future__ import annotations

import pytest
from api_node import FIRST, FakeCluster
from cli_run import Run
from msgspec.structs import replace

from swarmpy.model.changes import Update
from swarmpy.model.ids import NodeId, ServiceId, Timestamp
from swarmpy.model.objects import Node, Service
from swarmpy.model.specs import DiscreteGenericResource, GenericResource
from swarmpy.model.states import PlacementStrategy, TaskState

SECOND = NodeId("n2bbbbbbbbbbbbbbbbbbbbbbb")
TASK = "task1aaaaaaaaaaaaaaaaaaaaa"


def create(run: Run, *flags: str) -> ServiceId:
    result = run("service", "create", "--detach", *flags, "host")
    assert result.code == 0, result
    return ServiceId(result.out.strip())


def node_of(cluster: FakeCluster, id_: NodeId) -> Node:
    node = cluster.store.node(id_)
    assert node is not None
    return node


def service_of(cluster: FakeCluster, id_: ServiceId) -> Service:
    service = cluster.store.service(id_)
    assert service is not None
    return service


def test_availability_in_one_word(run: Run, cluster: FakeCluster) -> None:
    cluster.add_node(SECOND, "node-2")
    for verb, availability in (("drain", "drain"), ("pause", "pause"), ("activate", "active")):
        assert run("node", verb, "node-2").out == "node-2\n"
        assert node_of(cluster, SECOND).spec.availability == availability
    both = run("node", "drain", "node-1", "nobody", "node-2")
    assert (both.code, both.out) == (1, "node-1\nnode-2\n")
    assert "node nobody not found" in both.err


def test_drain_waits_until_the_node_is_empty(run: Run, cluster: FakeCluster) -> None:
    assert run("node", "drain", "--wait", "node-1").out == "node-1\n"


def test_drain_says_what_is_left_and_why(run: Run, cluster: FakeCluster) -> None:
    id_ = create(run, "--name", "web")
    cluster.add_task(TASK, id_)
    cluster.report(TASK, TaskState.RUNNING)
    late = run("node", "drain", "--wait", "--timeout", "10ms", "node-1")
    assert (late.code, late.out) == (1, "")
    assert "node-1: 1 task left" in late.err
    assert "1 of the tasks on node node-1 did not end within 10ms:" in late.err
    assert f"web.1 ({TASK[:12]}) runs, and nothing takes over from it yet" in late.err
    cluster.order(TASK, TaskState.SHUTDOWN)
    late = run("node", "drain", "--wait", "--quiet", "--timeout", "10ms", "node-1")
    assert "is stopping" in late.err
    assert "left" not in late.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["drain", "--timeout", "5s", "node-1"], "--timeout is for --wait"),
        (["drain", "--wait", "--timeout", "0s", "node-1"], "must be more than 0"),
        (["drain", "--wait", "--timeout", "soon", "node-1"], "soon"),
        (["drain"], "requires at least 1 argument"),
        (["inspect", "--pretty", "--format", "json", "node-1"], "--format is incompatible"),
        (["update", "--stop-after", "never", "node-1"], "never"),
    ],
)
def test_wrong_command_lines(run: Run, cluster: FakeCluster, argv: list[str], words: str) -> None:
    result = run("node", *argv)
    assert result.code == 2
    assert words in result.err


def test_pretty(run: Run, cluster: FakeCluster) -> None:
    assert run("node", "update", "--stop-after", "5m", "--label-add", "zone=a", "node-1").code == 0
    node = node_of(cluster, FIRST)
    gpus = GenericResource(discrete_resource_spec=DiscreteGenericResource(kind="gpu", value=2))
    resources = replace(node.description.resources, generic_resources=(gpus,))
    cluster.change(Update(object=replace(node, description=replace(node.description, resources=resources))))
    lines = run("node", "inspect", "--pretty", "self").lines
    assert lines[0] == f"ID:\t\t\t{FIRST}"
    for line in (
        " - zone=a",
        " State:\t\t\tReady",
        " Availability:         \tActive",
        " Leader:\t\tYes",
        " CPUs:\t\t\t2",
        " Memory:\t\t4GiB",
        " Stops tasks after:\t5m0s without a manager",
    ):
        assert line in lines, lines


def test_a_wish_that_is_negative_is_refused(run: Run, cluster: FakeCluster) -> None:
    refused = run("node", "update", "--stop-after", "-5m", "node-1")
    assert refused.code != 0
    assert node_of(cluster, FIRST).spec.stop_after == 0


# --- rebalance


def test_rebalance_asks_and_waits(run: Run, cluster: FakeCluster) -> None:
    id_ = create(run, "--name", "web", "--replicas", "2")
    assert run("rebalance", "--detach", "web").code == 0
    asked = service_of(cluster, id_)
    assert asked.rebalance_asked_at > 0
    skipped = run("rebalance")
    assert (skipped.code, skipped.out) == (0, "")
    assert skipped.err == "web: left alone, since not all of its tasks run\n"
    late = run("rebalance", "--timeout", "10ms", "web")
    assert late.code == 1
    assert "not even within 10ms: web" in late.err
    cluster.change(Update(object=replace(service_of(cluster, id_), rebalance_asked_at=Timestamp(0))))
    assert "Rebalance" not in run("service", "inspect", "web").out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mode", "global"], "only tasks of replicated services can be moved"),
        (["--placement-strategy", "binpack"], "it has no even spread to restore"),
    ],
)
def test_what_cannot_be_rebalanced(run: Run, cluster: FakeCluster, flags: list[str], words: str) -> None:
    create(run, "--name", "web", *flags)
    refused = run("rebalance", "web")
    assert refused.code == 1
    assert words in refused.err
    never = run("service", "create", "--detach", "--name", "other", "--rebalance", *flags, "host")
    assert never.code == 1
    assert "rebalance" in never.err


def test_flags_of_placement(run: Run, cluster: FakeCluster) -> None:
    packed = service_of(cluster, create(run, "--name", "a", "--placement-strategy", "binpack"))
    placement = packed.spec.task_template.placement
    assert placement is not None
    assert placement.strategy is PlacementStrategy.BINPACK
    even = create(run, "--name", "b", "--rebalance", "--constraint", "node.labels.zone in (a, b)")
    assert service_of(cluster, even).spec.rebalance
    run("service", "update", "--detach", "--rebalance=false", "b")
    assert not service_of(cluster, even).spec.rebalance
    refused = run("service", "create", "--detach", "--constraint", "node.labels.zone in a", "host")
    assert "write KEY in (a, b)" in refused.err
    refused = run("service", "create", "--detach", "--generic-resource", "gpu=UUID1", "host")
    assert "Named Generic Resources is not supported for service create or update" in refused.err
