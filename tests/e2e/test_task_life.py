"""Tasks outlive their daemon, what happened meanwhile is told, and nothing is left of those that are gone.

One manager and one worker, shared; every test removes its services and leaves both daemons running.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from lab_cli import (
    Cli,
    processes,
    reason,
    running,
    state,
    tasks_of,
    wait_ended,
    wait_for,
    wait_node,
    wait_running,
    wait_states,
)
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

ON_WORKER: Final = ("--constraint", "node.hostname==node-2")
STAY: Final = "while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=1) as lab:
        yield lab


def only_process(mark: str) -> int:
    return wait_for(lambda: processes(mark), lambda pids: len(pids) == 1, what=f"one process {mark}").pop()


@pytest.fixture
def patient(cli: Cli) -> Iterator[None]:
    """A swarm that waits ten times as long for a daemon that died: its start may take seconds."""
    cli.good("swarm", "update", "--dispatcher-heartbeat", "50s")
    yield
    cli.good("swarm", "update", "--dispatcher-heartbeat", "5s")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("node", ["node-1", "node-2"])
@pytest.mark.parametrize("way", ["stopped", "killed"])
def test_a_task_runs_on_while_its_daemon_is_away(cli: Cli, node: str, way: str) -> None:
    mark = f"{os.getpid()}.51"
    cli.create("web", "--constraint", f"node.hostname=={node}", "host", "sleep", mark)
    before = wait_running(cli.lab, "web", 1, on=[node])[0]
    pid = only_process(mark)

    if way == "killed":
        cli.lab.kill(node)
    else:
        assert cli.lab.stop(node)
    assert processes(mark) == {pid}
    cli.lab.start(node)
    cli.lab.wait_ready()

    after = wait_running(cli.lab, "web", 1, on=[node])[0]
    assert after["ID"] == before["ID"]
    assert processes(mark) == {pid}
    assert len(tasks_of(cli.lab, "web")) == 1
    assert cli.good("service", "logs", "web") == ""


def test_an_end_during_the_daemons_absence_is_told_when_it_returns(cli: Cli) -> None:
    mark = f"{os.getpid()}.52"
    cli.create(
        "job",
        *("--restart-condition", "none", *ON_WORKER, "host"),
        *("sh", "-c", f'trap "echo bye; exit 7" TERM; {STAY} # {mark}'),
    )
    wait_running(cli.lab, "job", 1)
    pid = only_process(mark)

    assert cli.lab.stop("node-2")  # an announced absence: the task is not replaced elsewhere
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: processes(mark), lambda pids: not pids, what="the task should have ended")
    cli.lab.start("node-2")

    task = wait_ended(cli.lab, "job")
    assert (state(task), reason(task)) == ("failed", "task: non-zero exit (7)")
    assert task["Status"]["ContainerStatus"]["ExitCode"] == 7
    assert cli.good("service", "logs", "--raw", "job") == "bye\n"


def test_a_task_that_died_meanwhile_is_started_again(cli: Cli) -> None:
    mark = f"{os.getpid()}.53"
    cli.create("web", *ON_WORKER, "host", "sleep", mark)
    wait_running(cli.lab, "web", 1)
    pid = only_process(mark)

    assert cli.lab.stop("node-2")
    os.kill(pid, signal.SIGKILL)
    cli.lab.start("node-2")

    wait_for(lambda: processes(mark), lambda pids: len(pids) == 1 and pid not in pids, what="a new process")
    tasks = wait_states(cli.lab, "web", ["running", "failed"])
    assert reason(next(task for task in tasks if state(task) == "failed")) == "task: non-zero exit (137)"


def test_what_was_removed_during_the_daemons_absence_is_stopped_when_it_returns(cli: Cli) -> None:
    mark = f"{os.getpid()}.54"
    cli.create("web", *ON_WORKER, "host", "sleep", mark)
    wait_running(cli.lab, "web", 1)
    pid = only_process(mark)

    cli.lab.kill("node-2")
    cli.good("service", "rm", "web")
    assert processes(mark) == {pid}
    cli.lab.start("node-2")

    wait_for(lambda: processes(mark), lambda pids: not pids, what="the task should be stopped")
    wait_for(lambda: tasks_of(cli.lab), lambda tasks: not tasks, what="no task should be left")


def test_a_power_failure_ends_tasks_and_they_are_started_again(cli: Cli) -> None:
    mark = f"{os.getpid()}.55"
    cli.create("web", *ON_WORKER, "host", "sleep", mark)
    wait_running(cli.lab, "web", 1)

    cli.lab.kill("node-2", host=True)
    wait_node(cli.lab, "node-2", "down")
    assert processes(mark) == set()
    cli.lab.start("node-2")

    wait_running(cli.lab, "web", 1, on=["node-2"])
    only_process(mark)


# --- what is left


def left_on(lab: Lab, name: str) -> dict[str, list[str]]:
    """All that tasks have on a host: namespaces, links, mounts, control groups, folders, processes."""
    host = lab.host(name)

    def listed(*argv: str) -> list[str]:
        done = lab.exec(name, list(argv))
        assert done.returncode == 0, done.stderr
        return sorted(done.stdout.split("\n"))

    parent = host.cgroup_parent.lstrip("/")
    groups = [str(path) for root in cgroup_roots() for path in (root / parent).glob("*/")]
    return {
        "namespaces": listed("ip", "netns", "list"),
        "links": sorted(line.split()[0] for line in listed("ip", "-brief", "link") if line),
        "mounts": sorted(line.split()[1] for line in listed("cat", "/proc/self/mounts") if line),
        "control groups": sorted(groups),
        "task folders": sorted(path.name for path in (host.data_dir / "tasks").glob("*")),
        "rules": listed("nft", "list", "ruleset"),
    }


def cgroup_roots() -> list[Path]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [Path(line.split()[1]) for line in lines if line.split()[2] in ("cgroup", "cgroup2")]


def has_task(left: dict[str, list[str]]) -> bool:
    """Whether anything of a task is there: its folder, its control groups, its network."""
    netns = "/run/swarmpy/netns/"
    networks = [mount for mount in left["mounts"] if mount.startswith(netns) and mount[len(netns)] != "."]
    return bool(left["task folders"] or left["control groups"] or networks)


def test_nothing_is_left_of_services_that_are_gone(cli: Cli) -> None:
    cli.create("first", "--replicas", "2", "host", "true")  # what is made once stays
    wait_for(lambda: tasks_of(cli.lab, "first"), lambda tasks: any(state(t) == "complete" for t in tasks))
    cli.remove("first")
    before = wait_for(
        lambda: {node: left_on(cli.lab, node) for node in ("node-1", "node-2")},
        lambda left: not any(map(has_task, left.values())),
        what="no task should be left",
    )
    mark = f"{os.getpid()}.56"
    cli.create("good", "--replicas", "6", "--limit-memory", "64m", "host", "sleep", mark)
    cli.create("bad", "--replicas", "2", "--restart-delay", "50ms", "host", "false")
    cli.create("deaf", "--stop-grace-period", "200ms", "host", "sh", "-c", f'trap "" TERM; {STAY} # {mark}')
    wait_running(cli.lab, "good", 6)
    wait_running(cli.lab, "deaf", 1)
    wait_for(lambda: tasks_of(cli.lab, "bad"), lambda tasks: len(tasks) >= 8, what="several failures")
    cli.lab.kill("node-2")
    cli.lab.start("node-2")
    during = left_on(cli.lab, "node-2")
    assert during["task folders"]

    cli.remove("good", "bad", "deaf")

    wait_for(
        lambda: {node: left_on(cli.lab, node) for node in ("node-1", "node-2")},
        lambda left: left == before,
        what=f"only this should be left: {before}",
    )
    assert processes(mark) == set()


def test_leaving_the_swarm_takes_everything_down(cli: Cli) -> None:
    mark = f"{os.getpid()}.57"
    cli.create("web", "--replicas", "2", *ON_WORKER, "host", "sleep", mark)
    wait_running(cli.lab, "web", 2)
    old = cli.lab.call("node-1", "GET", "/nodes/node-2")["ID"]

    cli.good("leave", at="node-2")

    left = left_on(cli.lab, "node-2")
    assert (left["task folders"], left["control groups"]) == ([], [])
    assert [link for link in left["links"] if not link.startswith(("lo", "eth0"))] == []
    assert processes(mark) == set()
    data = cli.lab.host("node-2").data_dir
    assert {path.name for path in data.iterdir()} & {"raft", "agent", "certificates", "state.json"} == set()

    wait_node(cli.lab, "node-2", "down")
    cli.good("node", "rm", old)
    token = cli.good("join-token", "-q", "worker").strip()
    cli.good("join", "--token", token, "10.200.0.11:2377", at="node-2")
    wait_running(cli.lab, "web", 2, on=["node-2"] * 2)
    assert len(running(cli.lab, "web")) == 2
