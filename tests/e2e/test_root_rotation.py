"""The root is changed under a running swarm, by the docker CLI and by ours: no task notices, nobody is lost.

Three managers and a worker, shared; the tests follow one another, each leaves the swarm whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_cli import DockerCli, docker_programs
from lab_cli import Cli, error, processes, wait_for, wait_node, wait_running
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

MANAGER = "10.200.0.11:2377"
WORKER = "node-4"
MARK = f"1000{os.getpid()}.41"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=3, workers=1) as lab:
        Cli(lab).create("web", "--replicas", "3", "--constraint", "node.role==manager", "host", "sleep", MARK)
        wait_running(lab, "web", 3)
        yield lab


def cluster(lab: Lab, at: str = "node-1") -> dict[str, Any]:
    found: dict[str, Any] = lab.call(at, "GET", "/swarm")
    return found


def is_followed(lab: Lab, at: str = "node-1") -> bool:
    """Whether every node has a certificate of the root in force, and trusts it alone."""
    now = cluster(lab, at)
    nodes = lab.call(at, "GET", "/nodes")
    return not now["RootRotationInProgress"] and all(
        node["Description"].get("TLSInfo") == now["TLSInfo"] and node["Status"]["State"] == "ready"
        for node in nodes
    )


@pytest.mark.parametrize("version", sorted(docker_programs()))
def test_dockers_display_ends_and_no_task_notices(lab: Lab, tmp_path: Path, version: str) -> None:
    docker = DockerCli(docker_programs()[version], lab.docker_host("node-1"), tmp_path)
    before, tasks, tokens = docker.good("swarm", "ca"), processes(MARK), cluster(lab)["JoinTokens"]
    assert len(tasks) == 3

    shown = docker.good("swarm", "ca", "--rotate")

    after = docker.good("swarm", "ca")
    assert after != before
    assert after.strip() in shown
    assert is_followed(lab)
    assert processes(MARK) == tasks
    assert set(cluster(lab)["JoinTokens"].values()).isdisjoint(tokens.values())


def test_a_dead_node_does_not_hold_it_up_and_a_dead_leader_does_not_stop_it(lab: Lab) -> None:
    tasks, before = processes(MARK), cluster(lab)["TLSInfo"]["TrustRoot"]
    lab.kill(WORKER)
    leader = lab.leader()
    Cli(lab).good("ca", "--rotate", "--detach", at=leader)
    lab.kill(leader)
    other = next(name for name in ("node-1", "node-2", "node-3") if name != leader)
    lab.start(leader)

    wait_for(
        lambda: cluster(lab, other)["RootRotationInProgress"],
        lambda is_rotating: not is_rotating,
        what="the rotation should end without the dead node",
    )
    assert cluster(lab, other)["TLSInfo"]["TrustRoot"] != before
    lab.start(WORKER)
    wait_for(lambda: is_followed(lab, other), bool, what="the node that was away should follow")
    # but for the dead leader's own, which is replaced if that is not back in time, as at any death
    assert len(processes(MARK) & tasks) >= 2


def test_the_old_token_is_refused_and_the_new_one_works(lab: Lab) -> None:
    cli = Cli(lab)
    old = cli.good("join-token", "--quiet", "worker").strip()
    cli.good("leave", "--force", at=WORKER)
    wait_node(lab, WORKER, "down")
    cli.good("node", "rm", "--force", WORKER)

    said = cli("ca", "--rotate")

    assert said.code == 0, said
    assert said.err.splitlines()[-1] == (
        "rotated certificates: 3 out of 3 nodes, rotated roots: 3 out of 3 nodes"
    )
    refused = cli.bad("join", "--token", old, MANAGER, at=WORKER)
    assert refused.startswith(error("remote CA does not match fingerprint. Expected: "))
    new = cli.good("join-token", "--quiet", "worker").strip()
    cli.good("join", "--token", new, MANAGER, at=WORKER)
    wait_node(lab, WORKER, "ready")
    assert is_followed(lab)
