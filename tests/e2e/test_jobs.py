"""Jobs on real daemons: completions and how many at a time, failures, another run, nodes, what is refused."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from lab_cli import Cli, Json, error, processes, reason, state, tasks_of, wait_for
from lab_services import lab_of

from swarmpy.lab.cluster import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=1) as lab:
        yield lab


def completed(cli: Cli, name: str, *, run: int = 0) -> list[int]:
    """The slots of a run that are done."""
    return sorted(
        task["Slot"]
        for task in tasks_of(cli.lab, name)
        if state(task) == "complete" and task["JobIteration"].get("Index", 0) == run
    )


def replicas(cli: Cli, name: str) -> str:
    return cli.good("service", "ls", "--filter", f"name={name}", "--format", "{{.Replicas}}").strip()


def status(cli: Cli, name: str) -> tuple[int, int, int]:
    """How many tasks run, may run at a time, and are done."""
    filters = quote(json.dumps({"name": [name]}))
    (service,) = cli.lab.call(cli.at, "GET", f"/services?status=1&filters={filters}")
    found = service["ServiceStatus"]
    return found["RunningTasks"], found["DesiredTasks"], found["CompletedTasks"]


def test_a_job_is_done_slot_by_slot_and_each_run_of_it_anew(cli: Cli) -> None:
    mark = f"{os.getpid()}.81"
    work = f'trap "exit 0" TERM; while :; do sleep 0.05; done # {mark}'
    size = ("--mode", "replicated-job", "--replicas", "3", "--max-concurrent", "2")
    cli.create("count", *size, "host", "sh", "-c", work)
    finish(cli, mark, run=0)
    assert replicas(cli, "count") == "0/2 (3/3 completed)"

    cli.good("service", "update", "--detach", "--force", "count")
    finish(cli, mark, run=1)
    assert Counter(task["JobIteration"].get("Index", 0) for task in tasks_of(cli.lab, "count")) == {
        0: 3,
        1: 3,
    }


def finish(cli: Cli, mark: str, *, run: int) -> None:
    """Have the tasks end well, one after the other; there are never more than two."""
    wait_for(lambda: status(cli, "count"), lambda counts: counts == (2, 2, 0), what="a run should begin")
    for left in (3, 2, 1):
        pids = wait_processes(mark, min(left, 2))
        os.kill(min(pids), signal.SIGTERM)
        wait_completed(cli, run, 4 - left)
    assert completed(cli, "count", run=run) == [0, 1, 2]


def wait_processes(mark: str, count: int) -> set[int]:
    return wait_for(lambda: processes(mark), lambda pids: len(pids) == count, what=f"{count} at work")


def wait_completed(cli: Cli, run: int, count: int) -> None:
    wait_for(
        lambda: completed(cli, "count", run=run), lambda slots: len(slots) == count, what=f"{count} done"
    )


def test_a_job_that_fails_is_tried_again_as_its_policy_says_and_told_of(cli: Cli) -> None:
    policy = ("--restart-condition", "on-failure", "--restart-max-attempts", "1", "--restart-delay", "0s")
    said = cli(
        "service",
        "create",
        "--name",
        "bad",
        "--mode",
        "replicated-job",
        *policy,
        "host",
        "sh",
        "-c",
        "exit 3",
    )
    assert said.code == 1
    assert said.err.strip().endswith("does not start it again: task: non-zero exit (3)")
    tasks = tasks_of(cli.lab, "bad")
    assert Counter(map(state, tasks)) == {"failed": 2}
    assert {reason(task) for task in tasks} == {"task: non-zero exit (3)"}
    assert status(cli, "bad") == (0, 1, 0)


def test_a_global_job_runs_on_every_node(cli: Cli) -> None:
    said = cli.good("service", "create", "--name", "all", "--mode", "global-job", "host", "true")
    assert said.splitlines()[-1] == "job complete"
    assert sorted(task["Node"] for task in tasks_of(cli.lab, "all")) == ["node-1", "node-2"]
    assert replicas(cli, "all") == "0/0 (2/2 completed)"


def test_a_job_whose_node_dies_goes_on_elsewhere(cli: Cli) -> None:
    mark = f"{os.getpid()}.82"
    policy = ("--restart-condition", "on-failure", "--restart-max-attempts", "1")
    cli.create("move", "--mode", "replicated-job", "--replicas", "2", *policy, "host", "sleep", mark)
    wait_for(lambda: at_work(cli, "move"), lambda tasks: {t["Node"] for t in tasks} == {"node-1", "node-2"})
    cli.lab.kill("node-2")
    found = wait_for(
        lambda: at_work(cli, "move"),
        lambda tasks: len(tasks) == 2 and {t["Node"] for t in tasks} == {"node-1"},
        what="both should run on node-1",
    )
    assert sorted(task["Slot"] for task in found) == [0, 1]
    assert all("Restart" not in task or not task["Restart"]["Attempt"] for task in found)
    cli.lab.start("node-2")
    cli.lab.wait_ready()
    wait_for(lambda: processes(mark), lambda pids: len(pids) == 2, what="what was lost should be stopped")


def at_work(cli: Cli, name: str) -> list[Json]:
    return [t for t in tasks_of(cli.lab, name) if t["DesiredState"] == "complete" and state(t) == "running"]


def test_a_cron_job_says_when_it_runs(cli: Cli) -> None:
    schedule = ("--schedule", "30 4 1 1 *", "--timezone", "Europe/Berlin")
    said = cli.good("service", "create", "--name", "tidy", "--mode", "cron", *schedule, "host", "true")
    told = said.splitlines()[-1]
    assert told.startswith("cron job: next run at ")
    assert told.endswith("-01-01 03:30:00 UTC")
    assert cli.good("service", "runs", "tidy").splitlines()[0].split() == [
        "RUN",
        "TICK",
        "STARTED",
        "TOOK",
        "STATE",
    ]
    assert cli.good("service", "update", "--suspend", "tidy").splitlines()[-1] == "cron job: suspended"
    assert cli.good("service", "update", "--suspend=false", "tidy").splitlines()[-1] == told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ("--mode", "replicated-job", "--update-delay", "1s"),
            "Jobs may not have an update config",
        ),
        (("--mode", "cron", "--schedule", "61 * * * *"), "cron: minute: 61 is not between 0 and 59"),
    ],
)
def test_what_is_refused(cli: Cli, flags: tuple[str, ...], told: str) -> None:
    said = cli("service", "create", *flags, "host", "true")
    assert said.code == 1
    assert said.err.strip() == error(f"rpc error: code = InvalidArgument desc = {told}")
