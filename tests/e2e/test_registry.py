"""A registry and the clients of one: push, pull, digests, what nodes fetch by themselves, what takes up disk.

One manager and one worker. Each has the registry on its own loopback: two servers, one folder. Only node-1
gets the image; node-2 fetches it when a task needs it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from docker_engine import box_tar
from image_files import tar_of, write_docker_save
from lab_cli import Cli, state, wait_ended, wait_running
from lab_services import DEADLINE_S, lab_of
from registry_server import has_registry, registry_server

from swarmpy.lab import process
from swarmpy.lab.cluster import Lab

HOST = "127.0.0.1:5000"
LOCKED = "127.0.0.1:5001"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if not has_registry():
        pytest.fail("docker-registry is not installed; .ci/run installs it")
    folder = tmp_path_factory.mktemp("registry")
    layers = [box_tar(), tar_of(("etc/release", b"of the registry\n"))]
    saved = write_docker_save(folder / "bb.tar", layers, names=["bb:1"], Cmd=["cat", "/etc/release"])
    with lab_of(managers=1, workers=1) as lab, ExitStack() as stack:
        for name in ("node-1", "node-2"):
            pid = process.init_pid(lab.host(name))
            assert pid is not None
            inside = tuple(process.enter_network_argv(pid, ()))
            stack.enter_context(registry_server(inside=inside, port=5000, data=folder / "data"))
            locked = registry_server(inside=inside, port=5001, is_locked=True, data=folder / "locked")
            stack.enter_context(locked)
        Cli(lab).good("image", "load", "-i", str(saved))
        yield lab


def docker(
    lab: Lab, *words: str, folder: Path | None = None, at: str = "node-1"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *words],
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "DOCKER_HOST": lab.docker_host(at),
            "DOCKER_CONFIG": str(folder or "/nonexistent"),
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def good(lab: Lab, *words: str, folder: Path | None = None, at: str = "node-1") -> str:
    done = docker(lab, *words, folder=folder, at=at)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout


def test_push_remove_pull(lab: Lab) -> None:
    good(lab, "tag", "bb:1", f"{HOST}/team/bb:1")
    assert "digest: sha256:" in good(lab, "push", f"{HOST}/team/bb:1")
    digests = good(lab, "image", "ls", "--digests", "--format", "{{.Digest}}", f"{HOST}/team/bb")
    good(lab, "rmi", f"{HOST}/team/bb:1", "bb:1")
    assert good(lab, "image", "ls", "-q") == ""
    said = good(lab, "pull", f"{HOST}/team/bb:1")
    assert "Pull complete" in said
    assert f"Status: Downloaded newer image for {HOST}/team/bb:1" in said
    assert digests.strip() in good(lab, "image", "ls", "--digests")
    assert "Image is up to date" in good(lab, "pull", f"{HOST}/team/bb:1")
    failed = docker(lab, "pull", f"{HOST}/team/bb:9")
    assert failed.returncode == 1
    assert f"manifest for {HOST}/team/bb:9 not found" in failed.stderr


def test_a_service_is_pinned_and_nodes_fetch_what_they_lack(lab: Lab, cli: Cli) -> None:
    digest = good(lab, "image", "ls", "--digests", "--format", "{{.Digest}}", f"{HOST}/team/bb").strip()
    good(
        lab,
        *("service", "create", "--detach", "--quiet", "--name", "fetched", "--restart-condition", "none"),
        *("--constraint", "node.hostname==node-2", f"{HOST}/team/bb:1"),
    )
    task = wait_ended(lab, "fetched")
    assert state(task) == "complete", task
    assert task["Spec"]["ContainerSpec"]["Image"] == f"{HOST}/team/bb:1@{digest}"
    assert cli.good("service", "logs", "--raw", "fetched").strip() == "of the registry"
    assert f"{HOST}/team/bb@{digest}" in good(
        lab, "image", "ls", "--digests", "--format", "{{.Repository}}@{{.Digest}}", at="node-2"
    )


def test_an_image_that_no_registry_has_ends_the_task(lab: Lab, cli: Cli) -> None:
    done = docker(
        lab,
        "service",
        "create",
        "--detach",
        "--name",
        "none",
        "--restart-condition",
        "none",
        f"{HOST}/team/none:1",
    )
    assert done.returncode == 0
    assert "could not be accessed on a registry" in done.stderr
    task = wait_ended(lab, "none")
    assert (state(task), task["Status"]["Err"]) == ("rejected", f"No such image: {HOST}/team/none:1")


def test_who_may_and_who_may_not(lab: Lab, tmp_path: Path) -> None:
    good(lab, "tag", f"{HOST}/team/bb:1", f"{LOCKED}/bb:1")
    assert "no basic auth credentials" in docker(lab, "push", f"{LOCKED}/bb:1").stderr
    wrong = docker(lab, "login", "-u", "joe", "-p", "wrong", LOCKED, folder=tmp_path)
    assert wrong.returncode == 1
    assert "401 Unauthorized" in wrong.stderr
    assert "Login Succeeded" in good(lab, "login", "-u", "joe", "-p", "secret", LOCKED, folder=tmp_path)
    good(lab, "push", f"{LOCKED}/bb:1", folder=tmp_path)
    good(lab, "rmi", f"{LOCKED}/bb:1")
    assert docker(lab, "pull", f"{LOCKED}/bb:1").returncode == 1
    good(lab, "pull", f"{LOCKED}/bb:1", folder=tmp_path)


def test_nodes_ask_with_the_credentials_of_the_client(lab: Lab, tmp_path: Path) -> None:
    good(lab, "login", "-u", "joe", "-p", "secret", LOCKED, folder=tmp_path)
    words = ("--detach", "--quiet", "--restart-condition", "none", "--constraint", "node.hostname==node-2")
    good(lab, "service", "create", "--name", "without", *words, f"{LOCKED}/bb:1")
    assert state(wait_ended(lab, "without")) == "rejected"
    good(
        lab,
        *("service", "create", "--with-registry-auth", "--name", "with", *words, f"{LOCKED}/bb:1"),
        folder=tmp_path,
    )
    assert state(wait_ended(lab, "with")) == "complete"


def test_what_it_takes_up(lab: Lab, cli: Cli) -> None:
    cli.create("sleeper", "--constraint", "node.hostname==node-1", f"{HOST}/team/bb:1", "sleep", "1000")
    wait_running(lab, "sleeper", 1)
    rows = [json.loads(line) for line in good(lab, "system", "df", "--format", "{{json .}}").splitlines()]
    images = next(row for row in rows if row["Type"] == "Images")
    assert (images["TotalCount"], images["Active"]) == ("1", "1")
    assert "Build Cache" in good(lab, "system", "df")
    assert f"{HOST}/team/bb" in good(lab, "system", "df", "-v")
    refused = docker(lab, "rmi", "-f", good(lab, "image", "ls", "-q").split()[0])
    assert "(cannot be forced) - image is being used by running container" in refused.stderr
    assert "Total reclaimed space" in good(lab, "image", "prune", "-a", "-f")
    assert f"{HOST}/team/bb" in good(lab, "image", "ls")
    assert "Total reclaimed space" in good(lab, "volume", "prune", "-f")
