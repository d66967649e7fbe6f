"""``service logs``: lines of tasks wherever they ran, from any manager, whatever became of task and node.

Two managers and a worker, shared; every test removes its services and leaves all daemons running.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from lab_cli import (
    Cli,
    error,
    moment,
    processes,
    running,
    tasks_of,
    wait_ended,
    wait_for,
    wait_node,
    wait_running,
    wait_states,
)
from lab_services import lab_of

from swarmpy.lab import process
from swarmpy.lab.cluster import Lab

STAY = "while :; do sleep 0.2; done"
NODES = ("node-1", "node-2", "node-3")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=2, workers=1) as lab:
        yield lab


def lines(cli: Cli, *words: str, at: str = "") -> list[str]:
    return cli.good("service", "logs", *words, at=at).splitlines()


def say_and_stay(cli: Cli, name: str, script: str, *flags: str) -> None:
    cli.create(name, *flags, "host", "sh", "-c", f"{script}; {STAY}")


@contextmanager
def following(cli: Cli, service: str, *, at: str) -> Iterator[list[str]]:
    """The lines that ``service logs --follow`` has shown so far."""
    argv = cli.lab.exec_argv(at, ["swarmpy", "service", "logs", "--raw", "--follow", service])
    seen: list[str] = []
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env=process.environment(), start_new_session=True
    ) as follower:
        assert follower.stdout is not None
        lines = iter(follower.stdout.readline, "")
        reader = threading.Thread(target=lambda: seen.extend(line.rstrip("\n") for line in lines))
        reader.start()
        try:
            yield seen
        finally:
            os.killpg(follower.pid, signal.SIGKILL)
            reader.join()


def test_lines_of_all_nodes_from_every_manager_with_their_tasks_names(cli: Cli) -> None:
    say_and_stay(cli, "web", "echo one; echo two", "--replicas", "3")
    tasks = wait_running(cli.lab, "web", 3, on=NODES)
    wanted = sorted(
        f"web.{task['Slot']}.{task['ID'][:12]}@{task['Node']}    | {word}"
        for task in tasks
        for word in ("one", "two")
    )

    for manager in ("node-1", "node-2"):
        shown = wait_for(partial(lines, cli, "web", at=manager), lambda got: len(got) == 6)
        assert sorted(shown) == wanted
    told = cli.bad("service", "logs", "web", at="node-3")
    assert told.startswith(error("This node is not a swarm manager."))


def test_both_streams_are_told_apart(cli: Cli) -> None:
    cli.create("mixed", "--restart-condition", "none", "host", "sh", "-c", "echo out; echo err >&2")
    wait_ended(cli.lab, "mixed")

    said = cli("service", "logs", "--raw", "mixed")

    assert (said.code, said.out, said.err) == (0, "out\n", "err\n")


def test_tail_since_and_timestamps(cli: Cli) -> None:
    before = datetime.now(UTC)
    say_and_stay(cli, "count", "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; sleep 0.05; done")
    wait_running(cli.lab, "count", 1)
    every = [f"line {number}" for number in range(1, 10)]
    wait_for(lambda: lines(cli, "--raw", "count"), lambda shown: shown == every)

    assert lines(cli, "--raw", "--tail", "3", "count") == every[-3:]
    assert lines(cli, "--raw", "--tail", "0", "count") == []
    assert lines(cli, "--raw", "-n", "100", "count") == every
    assert lines(cli, "--raw", "--since", "10m", "count") == every
    assert lines(cli, "--raw", "--since", (before + timedelta(hours=1)).isoformat(), "count") == []

    stamped = lines(cli, "--raw", "--timestamps", "count")
    stamps = [line.partition(" ")[0] for line in stamped]
    assert [line.partition(" ")[2] for line in stamped] == every
    assert stamps == sorted(stamps)
    assert before - timedelta(seconds=1) < moment(stamps[0]) < datetime.now(UTC)
    assert lines(cli, "--raw", "--since", stamps[5], "count") == every[5:]


def test_the_log_of_an_ended_task_and_of_one_task_alone(cli: Cli) -> None:
    cli.create("again", "host", "sh", "-c", f"echo $$ was here; {STAY}", "--", "x")
    first = wait_running(cli.lab, "again", 1)[0]
    cli.good("service", "update", "--detach", "--force", "again")
    wait_states(cli.lab, "again", ["running", "shutdown"])
    second = running(cli.lab, "again")[0]

    for task in (first, second):
        assert len(lines(cli, "--raw", task["ID"])) == 1
        assert len(lines(cli, "--raw", task["ID"], at="node-2")) == 1
    assert len(lines(cli, "--raw", "again")) == 2


def test_following_shows_what_comes_and_ends_with_its_reader(cli: Cli) -> None:
    mark = f"{os.getpid()}.444"
    script = f'trap "echo rang" USR1; echo ready; {STAY} # {mark}'
    cli.create("bell", "host", "sh", "-c", script)
    wait_for(lambda: lines(cli, "--raw", "bell"), lambda shown: shown == ["ready"])
    with following(cli, "bell", at="node-2") as seen:
        wait_for(lambda: list(seen), lambda got: got == ["ready"], what="the follower reads")
        os.kill(wait_for(lambda: processes(mark), lambda pids: len(pids) == 1).pop(), signal.SIGUSR1)
        wait_for(lambda: list(seen), lambda got: got == ["ready", "rang"], what="what comes is shown")


def test_a_node_that_is_down_costs_its_lines_and_nothing_else(cli: Cli) -> None:
    say_and_stay(cli, "web", "echo hello", "--replicas", "3")
    wait_running(cli.lab, "web", 3, on=NODES)
    wait_for(lambda: lines(cli, "web"), lambda shown: len(shown) == 3)

    cli.lab.kill("node-3")
    wait_node(cli.lab, "node-3", "down")
    wait_running(cli.lab, "web", 3)
    said = wait_for(lambda: cli("service", "logs", "web"), lambda said: len(said.out.splitlines()) == 3)

    assert said.code == 1
    assert "node-3" not in said.out
    assert said.err.startswith(
        "warning: incomplete log stream. some logs could not be retrieved for the following reasons: "
    )
    assert "node node-3 is not available" in said.err

    cli.lab.start("node-3")
    wait_node(cli.lab, "node-3", "ready")
    wait_for(lambda: cli("service", "logs", "web"), lambda said: said.code == 0 and "@node-3" in said.out)


def test_a_log_that_is_large_arrives_whole_and_in_order(cli: Cli) -> None:
    cli.create("large", "--restart-condition", "none", "host", "seq", "-f", "%.0f of many", "1", "30000")
    wait_ended(cli.lab, "large")

    assert lines(cli, "--raw", "large", at="node-2") == [f"{number} of many" for number in range(1, 30001)]


def test_a_log_that_grows_for_ever_is_rotated(cli: Cli) -> None:
    cli.create(
        "flood", "--restart-condition", "none", "host", "seq", "-f", "%.0f padded " + "x" * 100, "1", "400000"
    )
    task = wait_ended(cli.lab, "flood")

    files = list(cli.lab.host(task["Node"]).data_dir.glob(f"**/{task['ID']}/**/*log*"))
    size = sum(file.stat().st_size for file in files if file.is_file())
    assert 10 << 20 < size < 31 << 20, files
    assert lines(cli, "--raw", "--tail", "1", "flood")[0].startswith("400000 padded ")
    assert len(tasks_of(cli.lab, "flood")) == 1


def test_a_service_without_tasks_has_no_lines(cli: Cli) -> None:
    cli.create("none", "--replicas", "0", "host")
    assert lines(cli, "none") == []
