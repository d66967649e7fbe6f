"""A stack's life on real daemons: it comes up in order, changes service by service, rolls with its configs,
goes.

The tests are one story on one lab: each takes the stack as the one before has left it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from lab_cli import Cli, Said, running, tasks_of, wait_for, wait_running
from lab_services import lab_of

from swarmpy.lab.cluster import Lab

UNCHANGED: Final = "Stack st is as its files say: nothing to change"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with lab_of(managers=1, workers=1) as lab:
        yield lab


@pytest.fixture
def cli(lab: Lab) -> Cli:
    return Cli(lab)


@pytest.fixture(scope="module")
def mark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """db is healthy once this file is there."""
    return tmp_path_factory.mktemp("stack") / "healthy"


def document(mark: Path, *, level: str = "info", settings: str = "one", has_extra: bool = True) -> str:
    extra = "  extra: {image: host, command: sleep 100000, networks: [side]}\n" if has_extra else ""
    return f"""
services:
  db:
    image: host
    command: sleep 100000
    healthcheck: {{test: "test -e {mark}", interval: 300ms, start_interval: 300ms, start_period: 60s}}
    deploy: {{placement: {{constraints: [node.hostname == node-1]}}}}
  web:
    image: host
    command: sh -c "cat /settings; exec sleep 100000"
    environment: {{LEVEL: {level}}}
    configs: [settings]
    depends_on: {{db: {{condition: service_healthy}}}}
    deploy: {{replicas: 2, update_config: {{parallelism: 0}}}}
    stop_grace_period: 1s
{extra}
configs: {{settings: {{content: "settings {settings}\\n"}}}}
networks: {{side: }}
"""


def deploy(cli: Cli, text: str, *words: str) -> Said:
    return cli("stack", "deploy", "-c", "-", *words, "st", text=text)


def ids(cli: Cli, service: str) -> set[str]:
    return {task["ID"] for task in running(cli.lab, service)}


def test_a_stack_comes_up_in_the_order_of_its_dependencies(cli: Cli, mark: Path) -> None:
    planned = deploy(cli, document(mark), "--plan")
    assert (planned.code, planned.out.splitlines()[-1]) == (
        3,
        "6 to create, 0 to update, 0 to remove, 0 unchanged",
    )
    assert cli.good("service", "ls", "-q") == ""

    said = deploy(cli, document(mark), "--detach")
    assert said.code == 0, said
    wait_running(cli.lab, "st_extra", 1)
    wait_for(
        lambda: tasks_of(cli.lab, "st_db"),
        lambda tasks: any(task["Status"]["State"] == "starting" for task in tasks),
        what="db should wait to be healthy",
    )
    assert tasks_of(cli.lab, "st_web") == []

    mark.touch()
    said = deploy(cli, document(mark))
    assert (said.code, said.out.splitlines()[0]) == (0, UNCHANGED), said
    assert len(running(cli.lab, "st_web")) == 2
    assert cli.good("stack", "ls").split() == ["NAME", "SERVICES", "st", "3"]
    assert cli.good("stack", "services", "st", "--format", "{{.Name}} {{.Replicas}}").splitlines() == [
        "st_db 1/1",
        "st_extra 1/1",
        "st_web 2/2",
    ]


def test_a_change_of_one_service_restarts_that_one(cli: Cli, mark: Path) -> None:
    before = {name: ids(cli, name) for name in ("st_db", "st_extra", "st_web")}
    said = deploy(cli, document(mark, level="debug"), "--detach")
    assert said.out.splitlines() == [line for line in said.out.splitlines() if "service st_web" in line]
    wait_for(
        lambda: ids(cli, "st_web"),
        lambda now: len(now) == 2 and not now & before["st_web"],
        what="both tasks of web should be new",
    )
    assert {name: ids(cli, name) for name in ("st_db", "st_extra")} == {
        name: before[name] for name in ("st_db", "st_extra")
    }


def test_newer_contents_of_a_config_roll_the_service_that_uses_it(cli: Cli, mark: Path) -> None:
    text = document(mark, level="debug", settings="two")
    before = {name: ids(cli, name) for name in ("st_db", "st_web")}
    planned = cli("stack", "diff", "-c", "-", "st", text=text)
    assert (planned.code, planned.out.splitlines()) == (
        3,
        [
            "~ config st_settings",
            "    content: differs",
            "~ service st_web",
            "    ContainerSpec.Configs[st_settings].Version: 1 -> 2",
        ],
    )
    assert ids(cli, "st_web") == before["st_web"]

    assert deploy(cli, text, "--detach").code == 0
    wait_for(
        lambda: ids(cli, "st_web"),
        lambda now: len(now) == 2 and not now & before["st_web"],
        what="both tasks of web should be new",
    )
    wait_for(
        lambda: cli.good("service", "logs", "--raw", "st_web").splitlines().count("settings two"),
        lambda count: count == 2,
        what="both tasks should have read the newer contents",
    )
    assert ids(cli, "st_db") == before["st_db"]
    assert deploy(cli, text, "--detach").out.splitlines() == [UNCHANGED]


def test_what_no_file_names_is_pruned_and_the_stack_is_removed_whole(cli: Cli, mark: Path) -> None:
    said = deploy(cli, document(mark, level="debug", settings="two", has_extra=False), "--prune")
    assert said.code == 0, said
    removed = [line for line in said.out.splitlines() if line.startswith("Removing")]
    assert removed == ["Removing service st_extra", "Removing network st_side"]

    cli.good("stack", "rm", "st")
    assert cli.good("stack", "ls", "-q") == ""
    assert cli.good("config", "ls", "-q") == ""
    assert "st_" not in cli.good("network", "ls", "--format", "{{.Name}}")
    assert running(cli.lab, "") == []
