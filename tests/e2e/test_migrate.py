"""From a real Docker swarm to a lab: ``swarmpy migrate``, as a user moves over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_run import Run
from docker_engine import DockerEngine, box_tar, docker_engine
from lab_cli import Cli, running, wait_running
from lab_services import lab_of

from swarmpy.cli.migrate import CHANGES
from swarmpy.lab.cluster import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow]
BOX = ("box", "sleep", "1000")
DETACHED = ("--detach", "--no-resolve-image")


@pytest.fixture(scope="module")
def docker() -> Iterator[DockerEngine]:
    """A swarm with something of everything that is moved."""
    with docker_engine() as engine:
        engine.good("network", "create", "--driver", "overlay", "--subnet", "10.77.0.0/24", "back")
        engine.good("secret", "create", "pw", "-", data=b"unreadable")
        engine.good("config", "create", "cf", "-", data=b"hello")
        node = engine.good("node", "ls", "-q")
        engine.good("node", "update", "--label-add", "zone=a", node)
        web = ("--network", "name=back,alias=front", "--secret", "pw", "--config", "source=cf,target=/cf")
        held = ("--constraint", f"node.id=={node}", "--constraint", "node.labels.zone==a")
        engine.good("service", "create", *DETACHED, "--name", "web", *web, *held, *BOX)
        engine.good("service", "create", *DETACHED, "--name", "host", "--network", "host", *BOX)
        engine.good(
            "service", "create", *DETACHED, "--name", "all", "--mode", "global", "--label", "x=y", *BOX
        )
        engine.good(
            "service", "create", *DETACHED, "--name", "job", "--mode", "replicated-job", "box", "true"
        )
        yield engine


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=0) as lab:
        yield lab


def spec(lab: Lab, name: str) -> Any:
    return lab.call("node-1", "GET", f"/services/{name}")["Spec"]


def test_a_docker_swarm_moves_over(
    docker: DockerEngine, lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "box.tar"
    image.write_bytes(box_tar())
    run = Run(lab.docker_host("node-1"), capsys)
    assert run("image", "load", str(image), "--name", "box").code == 0
    here = lab.call("node-1", "GET", "/nodes/self")["Description"]["Hostname"]
    there = docker.good("node", "inspect", "self", "--format", "{{.Description.Hostname}}")
    command = ("migrate", "--from", docker.host, "--node", f"{there}={here}")

    planned = run(*command, "--plan")
    assert planned.code == CHANGES
    assert "Secrets to supply:\n  pw" in planned.out
    refused = run(*command)
    assert refused.code == 1
    assert "nothing was changed" in refused.err
    assert lab.call("node-1", "GET", "/configs") == []

    (tmp_path / "pw").write_bytes(b"supplied")
    moved = run(*command, "--secrets-dir", str(tmp_path))
    assert moved.code == 0, moved
    assert "Not asked for: service job" in moved.err
    wait_running(lab, "web", 1)
    wait_running(lab, "host", 1)
    wait_running(lab, "all", 1)
    [network] = lab.call("node-1", "GET", '/networks?filters={"name":["back"]}')
    assert network["IPAM"]["Config"][0]["Subnet"] == "10.77.0.0/24"
    web = spec(lab, "web")["TaskTemplate"]
    assert web["Networks"] == [{"Target": network["Id"], "Aliases": ["front"]}]
    assert web["ContainerSpec"]["Args"] == ["sleep", "1000"]
    assert spec(lab, "all")["Labels"] == {"x": "y"}
    [task] = running(lab, "web")
    assert Cli(lab).good("exec", task["ID"], "cat", "/cf", "/run/secrets/pw") == "hellosupplied"

    again = run(*command)
    assert again.code == 0, again
    assert "Everything that can be moved is here already" in again.out
    assert docker.good("service", "ls", "-q").count("\n") == 3, "the source is only read"


def test_who_is_no_swarm_manager_cannot_be_moved_from(
    lab: Lab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = Run(lab.docker_host("node-1"), capsys)
    nobody = run("migrate", "--from", f"unix://{tmp_path}/none.sock")
    assert nobody.code == 1
    assert "Cannot connect" in nobody.err
    itself = run("migrate", "--from", lab.docker_host("node-1"))
    assert itself.code == 2
    with docker_engine(is_swarm=False) as engine:
        alone = run("migrate", "--from", engine.host)
    assert alone.code == 1
    assert "Give the socket of a manager." in alone.err
