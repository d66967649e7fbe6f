"""Containers by the docker CLI on one node: run, ps, inspect, logs, attach, exec -d, top, stats, events."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from docker_engine import IMAGE, box_tar
from lab_services import DEADLINE_S, lab_of

from swarmpy.lab.cluster import Lab
from swarmpy.model.ids import SECOND_NS
from swarmpy.runtime import SystemClock

NUMBERS: Final = 200_000


class Docker:
    """The CLI, against the lab's first node."""

    def __init__(self, lab: Lab) -> None:
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "DOCKER_HOST": lab.docker_host("node-1"),
        }

    def run(self, *words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = ["docker", *words]
        return subprocess.run(
            command, env=self.env, input=data, capture_output=True, check=False, timeout=DEADLINE_S
        )

    def good(self, *words: str, data: bytes = b"") -> str:
        done = self.run(*words, data=data)
        assert done.returncode == 0, done
        return done.stdout.decode()

    def until(self, words: tuple[str, ...], text: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while text not in (shown := self.good(*words)):
            assert time.monotonic() < deadline, shown
            time.sleep(0.05)


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    with lab_of(managers=1, workers=0) as lab:
        docker = Docker(lab)
        docker.good("import", "--change", 'CMD ["sleep","100000"]', "-", IMAGE, data=box_tar())
        script = "echo begun; echo wrong >&2; while read word; do echo got $word; done; exec sleep 1000"
        docker.good("run", "-d", "-i", "--name", "long", "--label", "a=b", IMAGE, "sh", "-c", script)
        yield docker


def test_runs_from_the_first_byte_to_the_last(docker: Docker) -> None:
    """However short, however much, and with input that ends."""
    for number in range(5):
        assert docker.good("run", "--rm", IMAGE, "echo", str(number)) == f"{number}\n"
    ended = docker.run("run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, b"out\n", b"err\n")
    assert docker.good("run", "--rm", "-i", IMAGE, "wc", "-c", data=bytes(1_000_000)).strip() == "1000000"
    printed = docker.good("run", "--rm", IMAGE, "seq", str(NUMBERS))
    assert printed == "".join(f"{number}\n" for number in range(1, NUMBERS + 1))


def test_lists_and_inspection(docker: Docker) -> None:
    row = docker.good(
        "ps", "--filter", "name=long", "--format", "{{.Names}} {{.State}} {{.Status}} {{.Command}}"
    )
    assert row.startswith("long running Up ")
    (shown,) = json.loads(docker.good("inspect", "--size", "long"))
    assert (shown["Name"], shown["Path"], shown["Config"]["Labels"]) == ("/long", "sh", {"a": "b"})
    assert shown["State"]["Pid"] > 0
    assert shown["SizeRootFs"] > 1_000_000
    assert docker.run("ps", "--filter", "nope=1").returncode == 1


def test_logs_and_being_attached(docker: Docker) -> None:
    done = docker.run("logs", "long")
    assert (done.stdout.splitlines()[0], done.stderr) == (b"begun", b"wrong\n")
    assert docker.good("logs", "--tail", "0", "long") == ""
    attached = subprocess.Popen(
        ["docker", "attach", "long"], env=docker.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert attached.stdin is not None
        assert attached.stdout is not None
        attached.stdin.write(b"word\n")
        attached.stdin.flush()
        assert attached.stdout.readline() == b"got word\n"
    finally:
        attached.kill()
        attached.wait()
    docker.until(("logs", "long"), "got word")


def test_detached_commands_processes_and_usage(docker: Docker) -> None:
    docker.good("exec", "-d", "long", "sleep", "4711")
    docker.until(("top", "long"), "sleep 4711")
    assert docker.good("top", "long", "aux").startswith("USER")
    assert "sleep 4711" in docker.good("top", "long", "-o", "pid,args")
    assert docker.run("exec", "long", "sh", "-c", "exit 5").returncode == 5
    rows: list[dict[str, Any]] = [
        json.loads(line)
        for line in docker.good("stats", "--no-stream", "--format", "json", "long").splitlines()
    ]
    assert rows[0]["Name"] == "long"
    assert int(rows[0]["PIDs"]) >= 2


def test_export_and_events(docker: Docker) -> None:
    archive = docker.run("export", "long")
    assert archive.returncode == 0, archive.stderr
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        names = {name.removeprefix("./") for name in tar.getnames()}
    assert "bin/busybox" in names
    assert not any(name.startswith("proc/") for name in names)
    assert docker.run("run", "--name", "brief", IMAGE, "sh", "-c", "exit 3").returncode == 3
    docker.good("rm", "brief")
    told = docker.good(
        *(
            "events",
            "--since",
            "1h",
            "--until",
            f"{SystemClock().now() / SECOND_NS:.9f}",
            "--filter",
            "type=container",
        ),
        *("--format", "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}"),
    )
    own = [line.removesuffix(" <no value>") for line in told.splitlines() if " brief" in line]
    assert own == ["create brief", "start brief", "die brief 3", "destroy brief"]
