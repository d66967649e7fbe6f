"""The real docker CLI against our socket: the best test of compatibility. Skipped where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from api_node import FIRST, WORKER_TOKEN, FakeNode, serving
from image_files import tar_of, write_docker_save

from manager.api.control import LogLine
from swarmpy.model.ids import ServiceId, TaskId, Timestamp

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker CLI here")

Docker = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def docker(node: FakeNode, tmp_path: Path) -> Iterator[Docker]:
    socket = tmp_path / "api.sock"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DOCKER_HOST": f"unix://{socket}",
        "DOCKER_CONFIG": str(tmp_path),
    }

    def run(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *argv],
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    with serving(node, socket):
        yield run


def good(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_outside_a_swarm(docker: Docker) -> None:
    assert "Swarm: inactive" in good(docker("info"))
    assert "API version:      1.47" in good(docker("version"))
    refused = docker("node", "ls")
    assert refused.returncode == 1
    assert "This node is not a swarm manager." in refused.stderr


def test_a_swarms_life(docker: Docker, node: FakeNode) -> None:
    assert FIRST in good(docker("swarm", "init"))
    assert docker("swarm", "init").returncode == 1
    assert WORKER_TOKEN in good(docker("swarm", "join-token", "worker"))
    assert good(docker("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}")) == (
        "node-1 Ready Leader\n"
    )
    assert "Is Manager: true" in good(docker("info"))
    good(docker("node", "update", "--label-add", "a=b", "--availability", "drain", "node-1"))
    assert good(
        docker("node", "inspect", "self", "--format", "{{.Spec.Labels.a}} {{.Spec.Availability}}")
    ) == ("b drain\n")
    assert "Hostname:" in good(docker("node", "inspect", "--pretty", "self"))
    last = docker("node", "demote", "node-1")
    assert "attempting to demote the last manager of the swarm" in last.stderr
    good(docker("swarm", "update", "--task-history-limit", "2"))
    assert docker("swarm", "leave").returncode == 1
    good(docker("swarm", "leave", "--force"))


def test_a_services_life(docker: Docker, node: FakeNode) -> None:
    cluster = node.become_manager()
    created = docker(
        "service", "create", "--detach", "--name", "web", "--replicas", "3", "-e", "A=b", "-p", "8080:80",
        "--constraint", "node.role==manager", "--limit-memory", "64m", "host", "sleep", "100",
    )  # fmt: skip
    id_ = good(created).strip()
    assert "could not be accessed on a registry" in created.stderr, "the image's lookup is only a warning"
    cluster.add_task("task1aaaaaaaaaaaaaaaaaaaaa", id_)
    listed = json.loads(good(docker("service", "ls", "--format", "json")))
    assert (listed["Name"], listed["Replicas"], listed["Ports"]) == ("web", "1/3", "*:8080->80/tcp")
    (row,) = good(
        docker("service", "ps", "web", "--format", "{{.Name}} {{.Node}} {{.CurrentState}}")
    ).splitlines()
    assert row.startswith("web.1 node-1 Running")
    assert "Replicas:" in good(docker("service", "inspect", "--pretty", "web"))
    good(docker("service", "scale", "--detach", "web=5"))
    good(docker("service", "update", "--detach", "--env-add", "C=d", "web"))
    service = cluster.store.service(ServiceId(id_))
    assert service is not None
    assert service.spec.mode.replicated is not None
    assert service.spec.mode.replicated.replicas == 5
    good(docker("service", "rollback", "--detach", "web"))
    env = good(
        docker("service", "inspect", "web", "--format", "{{json .Spec.TaskTemplate.ContainerSpec.Env}}")
    )
    assert json.loads(env) == ["A=b"]
    assert good(docker("service", "rm", "web")) == "web\n"


def test_errors_read_as_dockers(docker: Docker, node: FakeNode) -> None:
    node.become_manager()
    good(docker("service", "create", "--detach", "--name", "web", "host"))
    taken = docker("service", "create", "--detach", "--name", "web", "host")
    assert taken.returncode == 1
    assert "name conflicts with an existing object: service web already exists" in taken.stderr
    assert "no such service: nope" in docker("service", "inspect", "nope").stderr
    assert (
        "constraint expected one operator"
        in docker("service", "create", "-d", "--constraint", "x", "host").stderr
    )


def test_secrets_configs_and_images(docker: Docker, node: FakeNode, tmp_path: Path) -> None:
    node.become_manager()
    good(docker("secret", "create", "s1", "-", stdin="hunter2"))
    good(docker("config", "create", "c1", "-", stdin="x=1"))
    assert "s1" in good(docker("secret", "ls"))
    good(docker("service", "create", "--detach", "--name", "web", "--secret", "s1", "--config", "c1", "host"))
    assert "is in use by the following service: web" in docker("secret", "rm", "s1").stderr
    file = write_docker_save(tmp_path / "image.tar", [tar_of(("x", b"x"))], names=["app:1"])
    assert good(docker("load", "-i", str(file))) == "Loaded image: app:1\n"
    assert "app" in good(docker("images"))
    good(docker("rmi", "app:1"))


def test_logs(docker: Docker, node: FakeNode) -> None:
    cluster = node.become_manager()
    id_ = good(docker("service", "create", "--detach", "--name", "web", "host")).strip()
    cluster.add_task("task1aaaaaaaaaaaaaaaaaaaaa", id_)
    cluster.log_lines = (
        LogLine(
            task_id=TaskId("task1aaaaaaaaaaaaaaaaaaaaa"),
            node_id=FIRST,
            service_id=ServiceId(id_),
            timestamp=Timestamp(1),
            data=b"hello\n",
        ),
    )
    assert good(docker("service", "logs", "web")) == "web.1.task1aaaaaaa@node-1    | hello\n"
    assert good(docker("service", "logs", "-t", "--raw", "web")) == "1970-01-01T00:00:00.000000001Z hello\n"


def test_networks(docker: Docker, node: FakeNode) -> None:
    good(docker("swarm", "init"))
    id_ = good(
        docker(
            *("network", "create", "-d", "overlay", "--attachable", "--subnet", "10.7.0.0/24"),
            *("--gateway", "10.7.0.254", "--opt", "encrypted", "--label", "a=b", "front"),
        )
    ).strip()
    listed = good(docker("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"))
    assert listed.splitlines() == [
        "bridge bridge local",
        "front overlay swarm",
        "host host local",
        "ingress overlay swarm",
        "none null local",
    ]
    assert good(docker("network", "ls", "-q", "--no-trunc", "--filter", "label=a")).strip() == id_
    shown = json.loads(good(docker("network", "inspect", "--verbose", "front")))[0]
    assert shown["IPAM"]["Config"] == [{"Subnet": "10.7.0.0/24", "Gateway": "10.7.0.254"}]
    assert shown["Options"] == {"encrypted": ""}
    assert docker("network", "create", "-d", "overlay", "front").stderr.strip() == (
        "Error response from daemon: network with name front already exists"
    )
    argv = ("service", "create", "--detach", "--quiet", "--no-resolve-image")
    good(docker(*argv, "--name", "web", "--network", "name=front,alias=www", "-p", "8080:80", "host", "true"))
    good(docker(*argv, "--name", "agent", "--network", "host", "host", "true"))
    (web,) = json.loads(good(docker("service", "inspect", "web")))
    assert web["Spec"]["TaskTemplate"]["Networks"] == [{"Target": id_, "Aliases": ["www"]}]
    (agent,) = json.loads(good(docker("service", "inspect", "agent")))
    assert agent["Spec"]["TaskTemplate"]["Networks"] == [{"Target": "host"}]
    good(docker("network", "create", "-d", "overlay", "back"))
    argv = ("service", "update", "--detach", "--quiet", "--no-resolve-image")
    good(docker(*argv, "--network-add", "back", "--network-rm", "front", "web"))
    refused = docker("network", "rm", "back")
    assert f"is in use by service {web['ID']}" in refused.stderr
    good(docker(*argv, "--network-rm", "host", "--network-add", "front", "agent"))
    assert docker(*argv, "--network-rm", "nosuch", "web").returncode == 1
    good(docker("service", "rm", "web", "agent"))
    good(docker("network", "rm", "front"))
    assert good(docker("network", "prune", "--force")) == "Deleted Networks:\nback\n\n"
    assert docker("network", "inspect", "nosuch").returncode == 1


def test_events(docker: Docker, node: FakeNode) -> None:
    node.become_manager()
    good(docker("events", "--until", "1s", "--filter", "type=service"))
