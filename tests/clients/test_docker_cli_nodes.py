"""The docker CLI on three nodes: joining, roles, availability, leaving; services that spread."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from docker_cli import DockerCli, docker_programs
from lab_cli import running, wait_for
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

CLI: Final = "docker CLI"
QUICK: Final = ("--update-monitor", "100ms", "--stop-grace-period", "100ms", "--no-resolve-image", "--quiet")
SLEEP: Final = ("box:1", "sleep", "100000")
OTHERS: Final = ("node-2", "node-3")
works = pytest.mark.works


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=2, has_swarm=False) as lab:
        yield lab


@pytest.fixture(scope="module", params=list(docker_programs()))
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def docker(
    lab: Lab, version: str, image_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerCli]:
    """On node-1. The others join as workers, by the command that the first prints, and leave at the end."""
    folder = tmp_path_factory.mktemp("docker")
    docker = DockerCli(docker_programs()[version], lab.docker_host("node-1"), folder)
    docker.good("swarm", "init", "--advertise-addr", lab.host("node-1").address)
    command = re.search(r"docker (swarm join .*)", docker.good("swarm", "join-token", "worker"))
    assert command is not None
    for name in OTHERS:
        joined = docker.at(lab.docker_host(name)).good(*command[1].split())
        assert joined.strip() == "This node joined a swarm as a worker."
    for name in ("node-1", *OTHERS):
        docker.at(lab.docker_host(name)).good("load", "-q", "-i", str(image_file))
    yield docker
    for name in OTHERS:
        docker.at(lab.docker_host(name)).good("swarm", "leave")
        wait_for(partial(_status, docker, name), lambda status: status == "Down")
        assert docker.good("node", "rm", name).strip() == name
    docker.good("swarm", "leave", "--force")


@pytest.fixture
def clean(docker: DockerCli, lab: Lab) -> Iterator[DockerCli]:
    """Services that a test leaves are removed."""
    yield docker
    names = docker.good("service", "ls", "-q").split()
    if names:
        docker.good("service", "rm", *names)
        wait_for(lab.tasks, lambda tasks: not tasks, what="no task should be left")


def _status(docker: DockerCli, name: str) -> str:
    return docker.good("node", "ls", "--filter", f"name={name}", "--format", "{{.Status}}").strip()


def _nodes(docker: DockerCli) -> list[str]:
    return docker.rows("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}")


@works(CLI, "`swarm join`, `node ls` and `node rm` with several nodes; a worker refers to managers")
def test_members(docker: DockerCli, lab: Lab) -> None:
    assert _nodes(docker) == ["node-1 Ready Leader", "node-2 Ready", "node-3 Ready"]
    info = docker.good("info")
    assert ("Managers: 1" in info, "Nodes: 3" in info) == (True, True)
    worker = docker.at(lab.docker_host("node-3"))
    assert "Is Manager: false" in worker.good("info")
    assert "Worker nodes can't be used to view or modify cluster state" in worker.bad("service", "ls")
    assert "is not down and can't be removed" in docker.bad("node", "rm", "node-3")


@works(CLI, "`node promote`, `node demote`; any manager answers")
def test_roles(docker: DockerCli, lab: Lab) -> None:
    second = docker.at(lab.docker_host("node-2"))
    assert (
        docker.good("node", "promote", "node-2").strip() == "Node node-2 promoted to a manager in the swarm."
    )
    wait_for(lambda: second("node", "ls").code == 0, what="node-2 should manage")
    wait_for(partial(_nodes, docker), lambda rows: rows[1] == "node-2 Ready Reachable")
    assert _nodes(second) == _nodes(docker)
    assert second.good("service", "create", "--detach", "--name", "from-two", *QUICK, *SLEEP)
    assert docker.good("service", "rm", "from-two").strip() == "from-two"
    assert docker.good("node", "demote", "node-2").strip() == "Manager node-2 demoted in the swarm."
    wait_for(lambda: second("node", "ls").code == 1, what="node-2 should manage no more")
    wait_for(partial(_nodes, docker), lambda rows: rows[1] == "node-2 Ready")


@works(CLI, "`node update --availability`; tasks spread, move, and are shown by `node ps` and `service ps`")
def test_services_spread_and_move(clean: DockerCli, lab: Lab) -> None:
    docker = clean
    docker.good("service", "create", "--name", "web", "--replicas", "6", *QUICK, *SLEEP)
    names = docker.rows("service", "ps", "web", "--format", "{{.Node}}")
    assert names == sorted(["node-1", "node-2", "node-3"] * 2)
    by_node = docker.rows("node", "ps", "node-2", "--format", "{{.Node}} {{.CurrentState}}")
    assert [row.split()[:2] for row in by_node] == [["node-2", "Running"]] * 2

    docker.good("node", "update", "--availability", "drain", "node-3")
    wait_for(
        lambda: [task["Node"] for task in running(lab, "web")],
        lambda now: sorted(now) == ["node-1"] * 3 + ["node-2"] * 3,
        what="node-3 should be left",
    )
    assert docker.rows("node", "ls", "--filter", "name=node-3", "--format", "{{.Availability}}") == ["Drain"]
    docker.good("node", "update", "--availability", "active", "node-3")

    docker.good("service", "create", "--name", "all", "--mode", "global", *QUICK, *SLEEP)
    assert docker.rows("service", "ls", "--filter", "mode=global", "--format", "{{.Replicas}}") == ["3/3"]


@works(CLI, "`service logs` from several nodes")
def test_logs_from_everywhere(clean: DockerCli) -> None:
    docker = clean
    talk = ("sh", "-c", "echo here; exec sleep 100000")
    docker.good("service", "create", "--name", "talk", "--mode", "global", *QUICK, "box:1", *talk)
    said = wait_for(partial(docker.good, "service", "logs", "talk"), lambda out: out.count("here") == 3)
    for name in ("node-1", *OTHERS):
        assert re.search(rf"^talk\.\w+\.\w+@{name} +\| here$", said, re.MULTILINE)
