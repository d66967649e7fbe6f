"""The docker CLI, as it comes, against a lab's sockets: what people have in their fingers and their scripts.

Two managers and a worker, shared; every test removes its services.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from docker_cli import DockerCli
from lab_cli import Said, running, wait_for, wait_running
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

DOCKER = shutil.which("docker")
pytestmark = pytest.mark.skipif(DOCKER is None, reason="there is no docker CLI here")
SLEEP = ("host", "sleep", "100000")


class Docker:
    """``docker("node", "ls")`` against the first host, or another."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self._folder = folder

    def __call__(self, *words: str, at: str = "node-1") -> Said:
        return DockerCli(DOCKER or "docker", self.lab.docker_host(at), self._folder)(*words)

    def good(self, *words: str, at: str = "node-1") -> str:
        said = self(*words, at=at)
        assert said.code == 0, f"docker {' '.join(words)}: {said}"
        return said.out

    def json(self, *words: str) -> Any:
        return json.loads(self.good(*words))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=2, workers=1) as lab:
        yield lab


@pytest.fixture
def docker(lab: Lab, tmp_path: Path) -> Iterator[Docker]:
    docker = Docker(lab, tmp_path)
    yield docker
    names = docker.good("service", "ls", "-q").split()
    if names:
        docker.good("service", "rm", *names)
        wait_for(lab.tasks, lambda tasks: not tasks, what="no task should be left")


def test_info_and_version(docker: Docker) -> None:
    info = docker.good("info")
    assert "Swarm: active" in info
    assert "Managers: 2" in info
    assert "Nodes: 3" in info
    assert docker.good("info", "--format", "{{.Swarm.ControlAvailable}}", at="node-3").strip() == "false"
    assert docker.good("version", "--format", "{{.Server.APIVersion}}").strip() == "1.47"


def test_nodes(docker: Docker) -> None:
    rows = docker.good(
        "node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}"
    )
    assert sorted(line.strip() for line in rows.splitlines()) == [
        "node-1 Ready Active Leader",
        "node-2 Ready Active Reachable",
        "node-3 Ready Active",
    ]
    assert "* " in docker.good("node", "ls")
    assert docker.json("node", "inspect", "node-3")[0]["Spec"]["Role"] == "worker"
    assert "Hostname:" in docker.good("node", "inspect", "--pretty", "self")
    assert docker.good("node", "update", "--label-add", "zone=a", "node-3").strip() == "node-3"
    assert docker.json("node", "inspect", "node-3")[0]["Spec"]["Labels"] == {"zone": "a"}
    docker.good("node", "update", "--label-rm", "zone", "node-3")


def test_the_life_of_a_service(docker: Docker) -> None:
    created = docker.good(
        "service", "create", "--name", "web", "--replicas", "3", "--label", "tier=front", *SLEEP
    )
    assert "verify: Service" in created
    assert len(running(docker.lab, "web")) == 3

    listed = docker.good("service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}}")
    assert listed.strip() == "web replicated 3/3 host:latest"
    shown = docker.good(
        "service", "ps", "web", "--format", "{{.Name}} {{.Node}} {{.DesiredState}} {{.CurrentState}}"
    )
    assert [line.split()[:3] for line in shown.splitlines()] == [
        [f"web.{slot}", node, "Running"] for slot, node in sorted(slots(docker.lab, "web").items())
    ]
    assert docker.json("service", "inspect", "web")[0]["Spec"]["Labels"] == {"tier": "front"}
    assert "Replicas:\t3" in docker.good("service", "inspect", "--pretty", "web")

    assert "verify: Service" in docker.good("service", "scale", "web=5")
    assert len(running(docker.lab, "web")) == 5
    before = {task["ID"] for task in running(docker.lab, "web")}
    docker.good("service", "update", "--detach", "--env-add", "A=1", "--update-parallelism", "0", "web")
    wait_for(
        lambda: {task["ID"] for task in running(docker.lab, "web")},
        lambda now: len(now) == 5 and not now & before,
        what="all tasks should be replaced",
    )
    spec = docker.json("service", "inspect", "web")[0]["Spec"]
    assert spec["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=1"]

    docker.good("service", "rollback", "--detach", "web", at="node-2")
    wait_for(
        lambda: docker.json("service", "inspect", "web")[0]["Spec"]["TaskTemplate"]["ContainerSpec"],
        lambda container: "Env" not in container,
    )
    assert docker.good("service", "rm", "web").strip() == "web"
    assert docker.good("service", "ls", "-q") == ""


def slots(lab: Lab, service: str) -> dict[int, str]:
    return {task["Slot"]: task["Node"] for task in running(lab, service)}


def test_logs(docker: Docker) -> None:
    docker.good(
        "service", "create", "--detach", "--name", "talk", "host", "sh", "-c", "echo hello; sleep 100000"
    )
    wait_running(docker.lab, "talk", 1)

    for at in ("node-1", "node-2"):
        shown = wait_for(partial(docker.good, "service", "logs", "talk", at=at))
        assert shown.split("|")[0].startswith("talk.1.")
        assert shown.split("|")[1].strip() == "hello"
    assert docker.good("service", "logs", "--raw", "--tail", "1", "talk").strip() == "hello"


def test_a_service_with_everything(docker: Docker) -> None:
    docker.good(
        "service", "create", "--detach", "--name", "full",
        *("--replicas", "2", "--constraint", "node.role==worker", "--env", "A=b", "--workdir", "/tmp"),
        *("--user", "nobody", "--limit-memory", "64m", "--limit-cpu", "0.5", "--limit-pids", "50"),
        *("--reserve-memory", "16m", "--restart-condition", "on-failure", "--restart-max-attempts", "3"),
        *("--restart-delay", "1s", "--stop-signal", "SIGINT", "--stop-grace-period", "2s", "--init"),
        *("--update-parallelism", "2", "--update-order", "start-first"),
        *("--update-failure-action", "rollback", "--hostname", "{{.Task.Name}}"),
        *("--replicas-max-per-node", "2", "--container-label", "x=y"),
        *SLEEP,
    )  # fmt: skip
    wait_running(docker.lab, "full", 2, on=["node-3", "node-3"])

    template = docker.json("service", "inspect", "full")[0]["Spec"]["TaskTemplate"]
    assert template["ContainerSpec"]["StopSignal"] == "SIGINT"
    assert template["Resources"]["Limits"] == {"NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20, "Pids": 50}
    assert template["RestartPolicy"]["MaxAttempts"] == 3
    assert template["Placement"]["MaxReplicas"] == 2


def test_join_tokens(docker: Docker) -> None:
    old = docker.good("swarm", "join-token", "-q", "worker").strip()
    assert old.startswith("SWMTKN-1-")
    assert f"docker swarm join --token {old} 10.200.0.11:2377" in docker.good("swarm", "join-token", "worker")

    new = docker.good("swarm", "join-token", "--rotate", "-q", "worker").strip()

    assert new != old
    assert docker.good("swarm", "join-token", "-q", "worker", at="node-2").strip() == new


def test_promote_demote_drain(docker: Docker) -> None:
    docker.good("node", "promote", "node-3")
    wait_for(lambda: docker("node", "ls", "-q", at="node-3").code == 0, what="node-3 should be a manager")
    docker.good("node", "demote", "node-3")
    wait_for(lambda: docker("node", "ls", "-q", at="node-3").code == 1, what="node-3 should be a worker")
    wait_for(
        lambda: docker.good("node", "ls", "--format", "{{.ManagerStatus}}").split().count("Reachable") == 1
    )

    docker.good("node", "update", "--availability", "drain", "node-3")
    docker.good("service", "create", "--detach", "--name", "web", "--replicas", "4", *SLEEP)
    tasks = wait_running(docker.lab, "web", 4)
    assert "node-3" not in {task["Node"] for task in tasks}
    docker.good("node", "update", "--availability", "active", "node-3")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["service", "create", "--constraint", "node.role=x", "host"], "constraint expected one operator"),
        (["service", "create", "--name", "a b", "host"], "name must be valid as a DNS name component"),
        (["service", "inspect", "nope"], "no such service: nope"),
        (["node", "inspect", "nope"], "node nope not found"),
        (["swarm", "init"], "This node is already part of a swarm."),
        (
            ["swarm", "leave"],
            "You are attempting to leave the swarm on a node that is participating as a manager.",
        ),
        (["node", "rm", "node-3"], "is not down and can't be removed"),
    ],
)
def test_what_docker_says_when_it_is_refused(docker: Docker, words: list[str], told: str) -> None:
    said = docker(*words)

    assert said.code == 1, said
    assert told in said.err


def test_a_worker_refers_to_managers(docker: Docker) -> None:
    said = docker("service", "ls", at="node-3")
    assert said.code == 1
    assert "This node is not a swarm manager. Worker nodes can't be used to view or modify" in said.err
