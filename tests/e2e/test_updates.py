"""Updates as users drive them: a canary over a change of leader, a deadline, revisions and the way back.

Three managers, shared. The pace, the overlaps and every way to fail are tested in the simulated
world; here it is about the commands, and about real processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lab_cli import Cli, reason, running, tasks_of, wait_for, wait_running
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

SLEEP = ("--stop-grace-period", "100ms", "host", "sleep", "100000")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=3, workers=0) as lab:
        yield lab


def update_status(cli: Cli, name: str, *, at: str = "node-1") -> dict[str, Any]:
    found: dict[str, Any] = cli.lab.call(at, "GET", f"/services/{name}").get("UpdateStatus") or {}
    return found


def variables(cli: Cli, name: str) -> list[str]:
    """What the environment of each running task says, sorted."""
    tasks = running(cli.lab, name)
    return sorted(",".join(task["Spec"]["ContainerSpec"].get("Env", [])) for task in tasks)


def wait_state(cli: Cli, name: str, state: str, *, at: str = "node-1") -> dict[str, Any]:
    return wait_for(
        lambda: update_status(cli, name, at=at),
        lambda status: status.get("State") == state,
        what=f"the update of {name} should be {state}",
    )


def test_a_canary_waits_over_a_change_of_leader_and_is_promoted(cli: Cli) -> None:
    cli.create("web", "--replicas", "3", "-e", "V=1", "--update-monitor", "200ms", *SLEEP)
    wait_running(cli.lab, "web", 3)
    said = cli("service", "update", "--env-add", "V=2", "--update-pause-after", "1", "web")
    assert said.code == 0
    assert (
        'service update paused: update paused after 1 of 3 tasks: "swarmpy service promote web"' in said.err
    )
    assert variables(cli, "web") == ["V=1", "V=1", "V=2"]

    leader = cli.lab.leader()
    cli.lab.kill(leader)
    other = next(name for name in ("node-1", "node-2", "node-3") if name != leader)
    cli.good("service", "scale", "-d", "web=4", at=other)
    wait_for(lambda: running(cli.lab, "web"), lambda tasks: len(tasks) == 4, what="four tasks should run")
    assert variables(cli, "web") == ["V=1", "V=1", "V=1", "V=2"], "nothing but a promotion goes on"
    assert update_status(cli, "web", at=other)["State"] == "paused"

    cli.good("service", "promote", "-d", "web", at=other)
    wait_state(cli, "web", "completed", at=other)
    assert variables(cli, "web") == ["V=2"] * 4
    cli.lab.start(leader)


def test_history_differences_and_the_way_back(cli: Cli) -> None:
    cli.create("web", "--replicas", "2", "-e", "V=1", "--update-monitor", "200ms", *SLEEP)
    wait_running(cli.lab, "web", 2)
    cli.good("service", "update", "-d", "--env-add", "V=2", "--update-parallelism", "0", "web")
    wait_state(cli, "web", "completed")
    cli.good("service", "update", "-d", "--limit-memory", "64m", "web")
    wait_state(cli, "web", "completed")
    lines = cli.good("service", "history", "--format", "{{.Number}} {{.Mark}} {{.Changes}}", "web")
    assert lines.splitlines() == [
        "3 current +limit-memory 64MiB",
        "2 previous env V 1 → 2, update-parallelism 1 → 0",
        "1  created",
    ]
    shown = cli.good("service", "diff", "web", "1").splitlines()
    assert shown[0] == "web: revision 1 → 3"
    assert ["env", "V", "1", "2"] in [line.split() for line in shown]
    assert ["limit-memory", "(not", "set)", "64MiB"] in [line.split() for line in shown]

    cli.good("service", "rollback", "-d", "--to", "1", "web")
    assert wait_state(cli, "web", "rollback_completed")["Message"] == "rollback completed"
    assert variables(cli, "web") == ["V=1", "V=1"]
    assert "is not kept: give one of 1, 2, 3" in cli.bad("service", "rollback", "--to", "9", "web")
    assert "has no update to abort" in cli.bad("service", "abort", "web")


def test_what_does_not_come_up_in_time_pauses_the_update_and_is_aborted(cli: Cli) -> None:
    cli.create("web", "--replicas", "2", "--rollback-monitor", "200ms", *SLEEP)
    wait_running(cli.lab, "web", 2)
    said = cli(
        "service", "update", "-q", "--reserve-memory", "900g", "--update-progress-deadline", "1s",
        "--update-order", "start-first", "web",
    )  # fmt: skip
    assert said.code == 1
    assert "service update paused: update paused due to no progress in 1s: task " in said.err
    assert "in slot 1 is pending: no suitable node (insufficient resources on 3 nodes)" in said.err
    assert len(running(cli.lab, "web")) == 2
    cli.good("service", "abort", "-d", "web")
    assert wait_state(cli, "web", "rollback_completed")["Message"] == "rollback completed"
    pretty = cli.good("service", "inspect", "--pretty", "web")
    assert " State:\t\trollback_completed\n" in pretty


def test_a_task_that_nothing_follows_says_why(cli: Cli) -> None:
    cli.create(
        "crash", "--restart-max-attempts", "1", "--restart-delay", "10ms", "host", "sh", "-c", "exit 3"
    )  # fmt: skip
    wait_for(
        lambda: tasks_of(cli.lab, "crash"),
        lambda tasks: any("Declined" in task.get("Restart", {}) for task in tasks),
        what="the last task should say why nothing follows it",
    )
    assert len(tasks_of(cli.lab, "crash")) == 2
    assert reason(tasks_of(cli.lab, "crash")[0]) == "task: non-zero exit (3)"
    shown = cli.good("service", "ps", "--no-trunc", "crash")
    assert '"task: non-zero exit (3); restart policy: 1 attempt used up"' in shown
