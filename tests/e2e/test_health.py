"""Health checks and readiness with real commands in real tasks: who is in the names of a service, and when.

What the checks of a test say is a file on this machine: image ``host`` sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from lab_cli import Cli, Json, reason, state, tasks_of, wait_for, wait_running
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

ON_WORKER: Final = ("--constraint", "node.hostname==node-2")
STAY: Final = ("host", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
ASK: Final = "while :; do getent ahostsv4 tasks.web | grep -c STREAM; sleep 0.2; done"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=1) as lab:
        # waits ten times as long for a daemon that died: its start may take seconds
        Cli(lab).good("swarm", "update", "--dispatcher-heartbeat", "50s")
        yield lab


def health(task: Json) -> Json:
    found: Json = task["Status"].get("Health") or {}
    return found


def present(lab: Lab) -> list[Json]:
    """Tasks that are wished to run."""
    return [task for task in tasks_of(lab, "web") if task["DesiredState"] == "running"]


def wait_addresses(cli: Cli, count: int) -> None:
    """Until a task on the other node finds so many of the service."""
    wait_for(
        lambda: cli.good("service", "logs", "--raw", "--tail", "1", "client").strip(),
        lambda last: last == str(count),
        what=f"{count} tasks should be found by name",
    )


def test_who_is_asked_and_who_is_given_up(cli: Cli, tmp_path: Path) -> None:
    well, ready = tmp_path / "well", tmp_path / "ready"
    cli.good("network", "create", "-d", "overlay", "inner")
    cli.create(
        "client", "--network", "inner", "--constraint", "node.hostname==node-1", "host", "sh", "-c", ASK
    )
    cli.create(
        *("web", "--replicas", "2", "--network", "inner", *ON_WORKER),
        *("--health-cmd", f"test -e {well} || {{ echo lost >&2; false; }}"),
        *("--health-interval", "200ms", "--health-retries", "2", "--health-start-period", "1m"),
        *("--health-start-interval", "200ms"),
        *("--readiness-cmd", f"test -e {ready} || {{ echo busy; false; }}"),
        *("--readiness-interval", "200ms", "--readiness-retries", "1"),
        *STAY,
    )
    wait_for(
        lambda: [(state(task), health(task).get("Status")) for task in present(cli.lab)],
        lambda found: found == [("starting", "starting")] * 2,
        what="both should wait to be healthy",
    )
    assert "Starting (health: starting)" in cli.good("service", "ps", "web")

    well.touch()
    first = wait_running(cli.lab, "web", 2)
    assert all(health(task)["Unready"] for task in first)
    wait_for(
        lambda: cli.good("service", "ps", "web"),
        lambda text: text.count("Running (unready)") == 2 and text.count("busy") == 2,
    )
    wait_addresses(cli, 0)

    ready.touch()
    wait_addresses(cli, 2)
    assert [health(task) for task in running_web(cli)] == [{"Status": "healthy"}] * 2
    cli.lab.kill("node-2")
    cli.lab.start("node-2")
    cli.lab.wait_ready()
    wait_addresses(cli, 2)
    ready.unlink()
    wait_addresses(cli, 0)
    ready.touch()
    wait_addresses(cli, 2)
    assert {task["ID"] for task in running_web(cli)} == {task["ID"] for task in first}, "nobody was ended"

    well.unlink()
    failed = wait_for(
        lambda: [task for task in tasks_of(cli.lab, "web") if state(task) == "failed"],
        lambda found: {task["ID"] for task in first} <= {task["ID"] for task in found},
        what="both should have failed",
    )
    text = "dockerexec: unhealthy container"
    assert all(reason(task).endswith(text) and health(task)["Output"] == "lost" for task in failed)
    assert f"{text}: lost" in cli.good("service", "ps", "--no-trunc", "web")
    wait_addresses(cli, 0)

    well.touch()
    wait_running(cli.lab, "web", 2)
    wait_addresses(cli, 2)


def running_web(cli: Cli) -> list[Json]:
    return [task for task in present(cli.lab) if state(task) == "running"]


def test_what_makes_no_sense_is_refused(cli: Cli) -> None:
    said = cli.bad("service", "create", "--name", "web", "--health-interval", "1us", *STAY)
    assert "Interval in HealthConfig cannot be less than 1ms" in said
    said = cli.bad("service", "create", "--name", "web", "--readiness-retries", "1", *STAY)
    assert "Readiness needs a Test" in said


def test_a_check_is_taken_away(cli: Cli) -> None:
    cli.create("web", "--health-cmd", "false", "--health-interval", "1h", *STAY)
    wait_for(lambda: [state(task) for task in present(cli.lab)], lambda found: found == ["starting"])
    cli.good("service", "update", "--detach", "--no-healthcheck", "web")
    (task,) = wait_running(cli.lab, "web", 1)
    assert health(task) == {}
