"""One cluster whose nodes run tasks each in its own way: native, oci, podman and docker, side by side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import suite_image
from lab_cli import Cli, running, wait_for, wait_running
from lab_services import DEADLINE_S, new_name

from swarmpy.lab import engine_http, process
from swarmpy.lab.cluster import Lab
from swarmpy.lab.layout import Host

NODES: Final = {"node-1": "native", "node-2": "oci", "node-3": "podman", "node-4": "docker"}
TOOLS: Final = ("conmon", "podman", "dockerd", "runc")
PORT: Final = 8087
SERVE: Final = (
    "mkdir -p /tmp/www; hostname > /tmp/www/index.html; cat /run/secrets/word; echo $VERSION;"
    " exec httpd -f -v -p 8000 -h /tmp/www"
)

Json = dict[str, Any]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.fail(f"{missing} not installed; .ci/run installs them")
    archive = suite_image.write_archive(tmp_path_factory.mktemp("images") / "suite.tar")
    with Lab.up(managers=1, workers=3, name=new_name(), executors=NODES) as lab:
        cli = Cli(lab)
        for name in NODES:
            loaded = cli.good("image", "load", "--input", str(archive), at=name)
            assert f"Loaded image: {suite_image.IMAGE}" in loaded, (name, loaded)
        cli.good("network", "create", "--driver", "overlay", "inner")
        assert cli("secret", "create", "word", "-", text="hush\n").code == 0
        cli.create(
            "web",
            *("--mode", "global", "--network", "inner", "--secret", "word", "--publish", f"{PORT}:8000"),
            *("--env", "VERSION=1", "--update-parallelism", "2", "--update-monitor", "100ms"),
            *("--no-resolve-image", suite_image.IMAGE, "/bin/sh", "-c", SERVE),
        )
        wait_running(lab, "web", len(NODES), on=tuple(NODES))
        yield lab


@pytest.fixture
def cli(lab: Lab) -> Cli:
    return Cli(lab)


def engine_socket(host: Host) -> Path:
    if host.executor == "podman":
        return host.data_dir / "podman.sock"
    return Path(f"/proc/{process.init_pid(host)}/root/run/docker.sock")


def containers(host: Host) -> list[Json]:
    """As the engine itself tells them."""
    reply = engine_http.request(
        engine_socket(host), "GET", "/v1.40/containers/json?all=1", timeout_s=DEADLINE_S
    )
    assert reply.is_ok, reply
    found: list[Json] = reply.body
    return found


class Answers:
    """Whoever has answered under an address so far."""

    def __init__(self, lab: Lab, url: str) -> None:
        self._lab = lab
        self._url = url
        self._seen: set[str] = set()

    def more(self) -> set[str]:
        said = self._lab.exec("node-1", ["curl", "-s", "--max-time", "5", self._url], timeout_s=20.0)
        self._seen |= {said.stdout.strip()} - {""}
        return self._seen


def pids(lab: Lab) -> dict[str, tuple[str, int]]:
    """Of each node's task: its id and its process."""
    tasks = running(lab, "web")
    return {task["Node"]: (task["ID"], task["Status"]["ContainerStatus"]["PID"]) for task in tasks}


def test_each_node_says_what_runs_its_tasks(lab: Lab, cli: Cli) -> None:
    rows = cli.good("node", "ls", "--format", "{{.Hostname}}={{.Executor}}").split()
    assert sorted(rows) == sorted(f"{name}={executor}" for name, executor in NODES.items())
    assert "Executor:\t\tpodman" in cli.good("node", "inspect", "--pretty", "node-3")
    plugins = json.loads(cli.good("node", "inspect", "node-4"))[0]["Description"]["Engine"]["Plugins"]
    assert {"Type": "Executor", "Name": "docker"} in plugins
    for name, executor in NODES.items():
        info = lab.call(name, "GET", "/info")
        assert (info["DefaultRuntime"], ["Executor", executor] in info["DriverStatus"]) == (executor, True)


def test_they_reach_each_other_and_are_reached(lab: Lab, cli: Cli) -> None:
    """By the service's name and virtual address, by the tasks' addresses, by each node's published port."""
    hosts = set()
    for task in running(lab, "web"):
        script = (
            "cat /run/secrets/word; wget -q -O - http://web:8000/; "
            "for each in $(nslookup tasks.web | grep -o '10[.].*[.].*[.][0-9]*' | sort -u);"
            " do wget -q -O - http://$each:8000/; done"
        )
        word, through_vip, *each = cli.good("exec", task["ID"], "sh", "-c", script).split()
        assert word == "hush"
        assert through_vip in each
        assert len(set(each)) == len(each) == len(NODES)
        hosts |= set(each)
    assert len(hosts) == len(NODES)
    for host in lab.layout.hosts:
        answers = Answers(lab, f"http://{host.address}:{PORT}/")
        assert wait_for(answers.more, lambda found: len(found) >= 2) <= hosts
    words = cli.good("service", "logs", "--raw", "web").split("\n")
    assert words.count("hush") == len(NODES)


def test_daemons_are_killed_and_their_tasks_adopted(lab: Lab, cli: Cli) -> None:
    before = pids(lab)
    assert set(before) == set(NODES)
    for name in NODES:
        lab.kill(name)
    for name, (_, pid) in before.items():
        assert Path(f"/proc/{process.init_pid(lab.host(name))}/root/proc/{pid}").exists(), name
    for name in NODES:
        lab.start(name, wait=False)
    wait_for(lambda: [node["Status"]["State"] for node in lab.nodes()], lambda all_: set(all_) == {"ready"})
    wait_for(lambda: pids(lab), lambda now: now == before, what="the same tasks with the same processes")
    for task in running(lab, "web"):
        assert cli.good("exec", task["ID"], "cat", "/run/secrets/word") == "hush\n"


def test_a_rolling_update(lab: Lab, cli: Cli) -> None:
    before = pids(lab)
    cli.good("service", "update", "--env-add", "VERSION=2", "--no-resolve-image", "--detach", "web")

    def status() -> str:
        found = lab.call("node-1", "GET", "/services/web").get("UpdateStatus") or {}
        return str(found.get("State"))

    wait_for(status, lambda state: state == "completed")
    after = pids(lab)
    assert set(after) == set(NODES)
    assert not {task for task, _ in before.values()} & {task for task, _ in after.values()}
    for task in running(lab, "web"):
        assert "VERSION=2" in cli.good("exec", task["ID"], "env").split()
    for name in ("node-3", "node-4"):
        wait_for(partial(containers, lab.host(name)), lambda found: len(_alive(found)) == _wanted(found))


def _alive(found: list[Json]) -> list[Json]:
    return [each for each in found if each["State"] == "running"]


def _wanted(found: list[Json]) -> int:
    """One of the task; docker has a second one for its network."""
    return 2 if any("pause" in "".join(each["Names"]) for each in _alive(found)) else 1


def test_placed_by_the_executor_and_drained(lab: Lab, cli: Cli) -> None:
    one = ("--no-resolve-image", suite_image.IMAGE, "sleep", "3600")
    cli.create("one", "--replicas", "2", "--constraint", "node.executor==docker", *one)
    wait_running(lab, "one", 2, on=("node-4", "node-4"))
    cli.good("service", "update", "--detach", "--constraint-rm", "node.executor==docker", "one")
    cli.good("node", "drain", "node-4")
    wait_running(lab, "one", 2)
    assert "node-4" not in {task["Node"] for task in (*running(lab, "one"), *running(lab, "web"))}
    wait_for(lambda: _alive(containers(lab.host("node-4"))), lambda left: not left)


def test_a_daemon_without_its_engine_says_so(lab: Lab, tmp_path: Path) -> None:
    folders = ["--data-dir", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run")]
    said = lab.exec("node-1", ["swarmpy", "daemon", "--executor", "docker", *folders], timeout_s=DEADLINE_S)
    assert said.returncode == 1
    assert 'The executor "docker" cannot run tasks on this machine:\n  docker: docker' in said.stderr
